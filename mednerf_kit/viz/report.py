"""One self-contained HTML page about one X-ray: it needs no network and can be mailed.

The page knows nothing about priors and training: whoever fills :class:`ReportContent` decides what
the numbers are. Its frame, style and script lie beside this module: report.html, .css and .js.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import DISCLAIMER
from ..core.files import write_text
from ..core.resampling import area_resized
from ..imaging.geometry import nearest_view
from . import figures
from .colours import GREY, HEAT, SIGNED

#: What the spread is and is not, for reports that bring no text of their own.
UNCERTAINTY_MEANING = (
    "Many volumes explain one X-ray equally well. Several codes were fitted to the same input, and "
    "the spread is the standard deviation of what they show, and of what changes when structures "
    "lie nearer to the tube or farther from it, which the input does not tell. A wide spread says: "
    "here the input did not decide, the prior filled in.",
    "A narrow spread is no guarantee. All codes share one prior and its blind spots: anatomy or "
    "disease the prior never saw can be missing from every sample, with little spread. Only an "
    "interval calibrated on other patients has a stated coverage.",
)
SCRUB_COLUMNS = 9  # a single row of 72 frames would be wider than a browser's largest texture
SCRUB_FRAME_PX = 256  # longest side of a frame that the slider shows
STRIP_VIEWS, STRIP_COLUMNS, STRIP_FRAME_PX = 12, 6, 144


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """What the page shows; all but the pictures of the input may be left empty.

    Images lie in [0, 1]; spreads are standard deviations in the unit of what they belong to.
    """

    title: str
    targets: Tensor  # [K, H, W] the X-rays that were given
    projections: Tensor  # [K, H, W] the model's view at the same angles
    input_angles_deg: Sequence[float]  # [K]
    orbit: Tensor | None = None  # [V, H, W]
    orbit_angles_deg: Sequence[float] = ()  # [V]
    orbit_spread: Tensor | None = None  # [V, H, W]
    volume: Tensor | None = None  # [D, H, W] = [z, y, x] in LPS
    volume_spread: Tensor | None = None  # [D, H, W]
    volume_unit: str = "relative attenuation"
    # of the volume, in its unit; None: its 0.5th to 99.5th percentile
    window: tuple[float, float] | None = None
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)  # z, y, x
    # name -> value and unit; a value of None or NaN reads "not available"
    numbers: Mapping[str, tuple[float | str | None, str]] = field(default_factory=dict)
    # name -> text or number
    provenance: Mapping[str, float | str | None] = field(default_factory=dict)
    # caption -> bytes of a PNG
    plots: Mapping[str, bytes] = field(default_factory=dict)
    uncertainty_meaning: Sequence[str] = UNCERTAINTY_MEANING
    warnings: Sequence[str] = ()
    measured: Tensor | None = None  # [D, H, W] in [0, 1], the share that the X-rays determined
    measured_text: str = ""  # the same in words, for the whole volume
    null_space: Tensor | None = None  # [D, H, W] in the volume's unit, with both signs
    # [K, H, W] prior against X-ray before it was taken in, standard deviations
    disagreement: Tensor | None = None
    disagreement_limit: float = 1.0  # beyond it a place is named


def write_report(path: str | Path, content: ReportContent) -> None:
    """Write the page atomically; every string is escaped and every picture inlined.

    >>> import tempfile
    >>> x = torch.zeros(1, 8, 8)
    >>> content = ReportContent(title="<b>", targets=x, projections=x, input_angles_deg=[270])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(f"{folder}/r.html", content)
    ...     "&lt;b&gt;" in Path(f"{folder}/r.html").read_text()
    True
    """
    write_text(path, report_html(content))


def report_html(content: ReportContent) -> str:
    """The page as text.

    Header, warnings, input, orbit, volume, what was measured, uncertainty, numbers and provenance,
    in this order.
    """
    body = [_header(content) + _warnings(content), _input_section(content)]
    if content.orbit is not None:
        body.append(_orbit_section(content, content.orbit))
    if content.volume is not None:
        body.append(_volume_section(content, content.volume))
    if content.measured is not None or content.disagreement is not None:
        body.append(_measured_section(content))
    body += [_uncertainty_section(content), _numbers_section(content), _provenance_section(content)]
    return _page_file("report.html").format(
        title=escape(content.title),
        style=_page_file("report.css"),
        body="\n".join(body),
        disclaimer=escape(DISCLAIMER),
        script=_page_file("report.js"),
    )


@cache
def _page_file(name: str) -> str:
    """One of the page's files, which lie beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


# Sections


def _header(content: ReportContent) -> str:
    given = ", ".join(_degrees(angle) for angle in content.input_angles_deg)
    count = len(content.input_angles_deg)
    return (
        f"<header><h1>{escape(content.title)}</h1>"
        f"<p>{count} {'X-ray' if count == 1 else 'X-rays'} given, at {given}. "
        "Everything else on this page is an estimate.</p>"
        f'<p class="disclaimer">{escape(DISCLAIMER)}</p></header>'
    )


def _warnings(content: ReportContent) -> str:
    if not content.warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in content.warnings)
    return f'<section class="warn"><h2>Warnings</h2><ul>{items}</ul></section>'


def _input_section(content: ReportContent) -> str:
    limit = figures.nice_limit(content.projections - content.targets)
    bar = _colour_bar(SIGNED, (-limit, limit), "too dark", "too bright")
    rows = []
    for target, projection, angle in zip(
        content.targets, content.projections, content.input_angles_deg, strict=True
    ):
        at = f" at {_degrees(angle)}"
        error = figures.signed_error_picture(projection, target, limit)
        panels = [
            _figure(_png(figures.to_uint8(target)), f"Target: the X-ray given{at}"),
            _figure(_png(figures.to_uint8(projection)), f"Projection: the model's view{at}"),
            _figure(_png(error), "Signed error: projection − target", bar),
        ]
        rows.append(_row("three", panels))
    note = "How well the input itself is matched says little about the views that nobody saw."
    return _section("Input and projection", *rows, f'<p class="note">{note}</p>')


def _orbit_section(content: ReportContent, orbit: Tensor) -> str:
    angles = [float(angle) for angle in content.orbit_angles_deg]
    inputs = {nearest_view(angles, angle) for angle in content.input_angles_deg}
    names = [_degrees(a) + (" (input)" if k in inputs else "") for k, a in enumerate(angles)]
    start = nearest_view(angles, content.input_angles_deg[0])
    frames = figures.to_uint8(_shrunk(orbit, SCRUB_FRAME_PX))
    panes = [_scrub_pane(frames, "The model's view", start)]
    if content.orbit_spread is not None:
        window = (0, figures.nice_limit(content.orbit_spread))
        frames = figures.coloured(_shrunk(content.orbit_spread, SCRUB_FRAME_PX), window, HEAT)
        bar = _colour_bar(HEAT, window, "image units")
        panes.append(_scrub_pane(frames, "Its spread (standard deviation)", start, bar))
    count = min(STRIP_VIEWS, len(angles))
    shown = [k * len(angles) // count for k in range(count)]
    tiles, labels = _shrunk(orbit[shown], STRIP_FRAME_PX), [names[k] for k in shown]
    sheet = figures.strip(tiles, STRIP_COLUMNS, labels, gap_px=4)
    return _section(
        "Orbit",
        f'<div class="scrub">{_row("two", panes)}{_slider(names, start)}</div>',
        _figure(_png(sheet), f"{len(shown)} of {len(angles)} views, by view angle"),
    )


def _slider(names: Sequence[str], start: int) -> str:
    """The slider that turns the orbit, from view to view by their names."""
    return (
        f'<label class="slider">View angle <output>{escape(names[start])}</output>'
        f'<input type="range" min="0" max="{len(names) - 1}" value="{start}" '
        f'data-names="{escape("|".join(names))}" aria-label="view angle"></label>'
    )


def _volume_section(content: ReportContent, volume: Tensor) -> str:
    window = content.window or _percentile_window(volume)
    slices = figures.slices_picture(volume, window, spacing_mm=content.spacing_mm)
    size = " × ".join(f"{n}" for n in reversed(volume.shape))
    spacing = " × ".join(f"{mm:.3g}" for mm in reversed(content.spacing_mm))
    caption = (
        f"Axial, coronal and sagittal slice through the middle; {size} voxels (x, y, z) of "
        f"{spacing} mm. R: patient's right."
    )
    bar = _colour_bar(GREY, window, content.volume_unit)
    return _section("Volume", _figure(_png(slices), caption, bar))


def _measured_section(content: ReportContent) -> str:
    """What the X-rays determined, what no X-ray sees, and where they contradicted the prior."""
    parts = [f"<p>{escape(content.measured_text)}</p>"] if content.measured_text else []
    mm = content.spacing_mm
    if content.measured is not None:
        share = figures.slices_picture(content.measured, (0, 1), spacing_mm=mm, stops=HEAT)
        caption = "Share of the prior's variance that the X-rays removed, same slices"
        parts.append(_figure(_png(share), caption, _colour_bar(HEAT, (0, 1))))
    if content.null_space is not None:
        limit = figures.nice_limit(content.null_space)
        hidden = figures.slices_picture(
            content.null_space, (-limit, limit), spacing_mm=mm, stops=SIGNED
        )
        caption = "Null space: what could be changed without the X-rays noticing, same slices"
        bar = _colour_bar(SIGNED, (-limit, limit), "", content.volume_unit)
        parts.append(_figure(_png(hidden), caption, bar))
    if content.disagreement is not None:
        bar = _disagreement_bar(content.disagreement_limit)
        parts += [
            _figure(
                _png(figures.disagreement_picture(z, content.disagreement_limit)),
                f"Prior against the X-ray at {_degrees(angle)} before it was taken in; beyond "
                f"±{content.disagreement_limit:.3g} a place is named among the warnings",
                bar,
            )
            for z, angle in zip(content.disagreement, content.input_angles_deg, strict=True)
        ]
    return _section("What the X-rays determined", *parts)


def _disagreement_bar(limit: float) -> str:
    window = figures.disagreement_window(limit)
    return _colour_bar(SIGNED, window, "less attenuation", "standard deviations, more")


def _uncertainty_section(content: ReportContent) -> str:
    parts = []
    if content.orbit is not None and content.orbit_spread is not None:
        parts.append(_spread_row(content, content.orbit, content.orbit_spread))
    if content.volume_spread is not None:
        window = (0, figures.nice_limit(content.volume_spread))
        slices = figures.slices_picture(
            content.volume_spread, window, spacing_mm=content.spacing_mm, stops=HEAT
        )
        bar = _colour_bar(HEAT, window, content.volume_unit)
        parts.append(_figure(_png(slices), "Spread of the volume, same slices", bar))
    meaning = "".join(f"<p>{escape(text)}</p>" for text in content.uncertainty_meaning)
    title = "<h2>Uncertainty</h2>" if parts else ""
    return f"<section>{title}{''.join(parts)}<h2>What the uncertainty means</h2>{meaning}</section>"


def _spread_row(content: ReportContent, orbit: Tensor, spread: Tensor) -> str:
    """The views' spread at the input and where it is widest, and the view it is widest in."""
    angles = [float(angle) for angle in content.orbit_angles_deg]
    window = (0, figures.nice_limit(spread))
    bar = _colour_bar(HEAT, window, "image units")
    given = nearest_view(angles, content.input_angles_deg[0])
    widest = int(spread.flatten(1).mean(1).argmax())
    panels = [
        _figure(
            _png(figures.coloured(spread[k], window, HEAT)),
            f"Spread {where}, {_degrees(angles[k])}",
            bar,
        )
        for k, where in ((given, "at the input"), (widest, "where it is widest"))
    ]
    caption = f"The view it belongs to, {_degrees(angles[widest])}"
    panels.append(_figure(_png(figures.to_uint8(orbit[widest])), caption))
    return _row("three", panels)


def _numbers_section(content: ReportContent) -> str:
    parts = []
    if content.numbers:
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td class='number'>{escape(_text(value))}</td>"
            f"<td>{escape(unit)}</td></tr>"
            for name, (value, unit) in content.numbers.items()
        )
        head = "<tr><th>Number</th><th class='number'>Value</th><th>Unit</th></tr>"
        parts.append(f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>")
    parts += [_figure(_uri("png", data), caption) for caption, data in content.plots.items()]
    return _section("Numbers", *parts) if parts else ""


def _provenance_section(content: ReportContent) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>"
        for name, value in content.provenance.items()
    )
    return _section("Where it comes from", f"<table>{rows}</table>") if rows else ""


# Pieces of HTML


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _row(columns: str, panels: Sequence[str]) -> str:
    """Panels side by side; ``columns`` is "two" or "three"."""
    return f'<div class="row {columns}">{"".join(panels)}</div>'


def _figure(source: str, caption: str, below: str = "") -> str:
    caption = escape(caption)
    image = f'<img src="{source}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}{below}</figcaption></figure>"


def _scrub_pane(frames: np.ndarray, caption: str, start: int, below: str = "") -> str:
    """Frames [V, H, W] or [V, H, W, 3] as one sheet behind a window of one frame.

    The slider only moves the sheet.
    """
    views, height, width = frames.shape[:3]
    rows = math.ceil(views / SCRUB_COLUMNS)
    sheet = np.zeros((rows * height, SCRUB_COLUMNS * width, *frames.shape[3:]), np.uint8)
    for k, frame in enumerate(frames):
        y, x = k // SCRUB_COLUMNS * height, k % SCRUB_COLUMNS * width
        sheet[y : y + height, x : x + width] = frame
    across = start % SCRUB_COLUMNS / (SCRUB_COLUMNS - 1)
    down = start // SCRUB_COLUMNS / max(rows - 1, 1)
    style = (
        f"aspect-ratio:{width}/{height};"
        f"background-image:url({_uri('jpeg', figures.jpeg_bytes(sheet))});"
        f"background-size:{SCRUB_COLUMNS * 100}% {rows * 100}%;"
        f"background-position:{across:.4%} {down:.4%}"
    )
    caption = escape(caption)
    data = f'data-columns="{SCRUB_COLUMNS}" data-rows="{rows}"'
    window = f'<div class="frame" role="img" aria-label="{caption}" {data} style="{style}"></div>'
    return f"<figure>{window}<figcaption>{caption}{below}</figcaption></figure>"


def _colour_bar(
    stops: figures.Stops, window: tuple[float, float], low_note: str = "", high_note: str = ""
) -> str:
    """A colour bar with its limits; one note is the unit, two describe the ends."""
    colours = ",".join("#{:02x}{:02x}{:02x}".format(*stop) for stop in stops)
    plus = "+" if window[0] != -window[1] else ""  # shown where the scale is symmetric
    low, high = (f"{v:+.4g}".replace("-", "−").removeprefix(plus) for v in window)
    ends = (f"{low} {low_note}", "0", f"{high} {high_note}") if high_note else (low, low_note, high)
    spans = "".join(f"<span>{escape(end)}</span>" for end in ends)
    bar = f'<div class="bar" style="background:linear-gradient(90deg,{colours})"></div>'
    return f'{bar}<div class="ends">{spans}</div>'


# Values


def _shrunk(images: Tensor, most_px: int) -> Tensor:
    """Images [V, H, W] whose longest side is at most ``most_px``."""
    scale = most_px / max(images.shape[-2:])
    if scale >= 1:
        return images.float()
    rows, cols = (max(1, round(n * scale)) for n in images.shape[-2:])
    return area_resized(images, rows, cols)


def _percentile_window(volume: Tensor) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile of (a million of) the voxels, to two digits."""
    values = volume.detach().cpu().flatten().double()
    values = values[:: max(1, len(values) // 1_000_000)]
    low, high = torch.quantile(values, torch.tensor([0.005, 0.995], dtype=values.dtype)).tolist()
    return float(f"{low:.2g}"), float(f"{high:.2g}")


def _degrees(angle: float) -> str:
    return f"{float(angle):g}°"


def _text(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "not available"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:#.4g}".rstrip(".") if isinstance(value, float) else str(value)


def _png(picture: np.ndarray) -> str:
    return _uri("png", figures.png_bytes(picture, DISCLAIMER))


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
