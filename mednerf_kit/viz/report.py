"""One self-contained HTML page about one projected X-ray: it opens from the disk, needs no network
and can be mailed.

The page knows nothing about training: whoever fills :class:`ReportContent` decides what the numbers
are.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import DISCLAIMER
from ..core.files import write_text
from ..core.resampling import area_resized
from ..imaging.geometry import nearest_view
from . import figures
from .figures import GREY, HEAT, SIGNED

#: What the spread is and is not, for reports that bring no text of their own.
UNCERTAINTY_MEANING = (
    "Many volumes explain one X-ray equally well. Several codes were fitted to the same input, "
    "and the spread is the standard "
    "deviation of what they show. A wide spread says: here the input did not decide, the prior "
    "filled in.",
    "A narrow spread is no guarantee. All codes share one prior and its blind spots: anatomy or "
    "disease the prior never saw can "
    "be missing from every sample, with little spread. Only an interval calibrated on other "
    "patients has a stated coverage.",
)
SCRUB_COLUMNS = 9  # a single row of 72 frames would be wider than a browser's largest texture
SCRUB_FRAME_PX = 256
STRIP_VIEWS = 12


@dataclass(frozen=True, kw_only=True)
class ReportContent:
    """What the page shows. Images lie in [0, 1]; spreads are standard deviations in the unit of
    what they belong to.

    ``numbers`` maps a name to (value, unit) and ``provenance`` a name to text or a number; a value
    of None or NaN reads "not available". ``plots`` maps a caption to the bytes of a PNG. Everything
    may be left empty except the pictures of the input.
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
    numbers: Mapping[str, tuple[float | str | None, str]] = field(default_factory=dict)
    provenance: Mapping[str, float | str | None] = field(default_factory=dict)
    plots: Mapping[str, bytes] = field(default_factory=dict)
    uncertainty_meaning: Sequence[str] = UNCERTAINTY_MEANING
    warnings: Sequence[str] = ()


def write_report(path: str | Path, content: ReportContent) -> None:
    """Write the page atomically; every string is escaped and every picture inlined.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     x = torch.zeros(1, 8, 8)
    ...     write_report(f"{folder}/r.html", ReportContent(title="<b>", targets=x, projections=x, input_angles_deg=[270]))
    ...     "&lt;b&gt;" in Path(f"{folder}/r.html").read_text()
    True
    """
    write_text(path, report_html(content))


def report_html(content: ReportContent) -> str:
    """The page as text: header, warnings, input, orbit, volume, uncertainty, numbers and
    provenance.
    """
    body = [_header(content), _input_section(content)]
    if content.orbit is not None:
        body.append(_orbit_section(content, content.orbit))
    if content.volume is not None:
        body.append(_volume_section(content, content.volume))
    body += [_uncertainty_section(content), _numbers_section(content), _provenance_section(content)]
    return PAGE.format(
        title=escape(content.title),
        style=STYLE,
        body="\n".join(body),
        disclaimer=escape(DISCLAIMER),
        script=SCRIPT,
    )


def _header(content: ReportContent) -> str:
    warnings = "".join(f"<li>{escape(text)}</li>" for text in content.warnings)
    listed = (
        f'<section class="warn"><h2>Warnings</h2><ul>{warnings}</ul></section>' if warnings else ""
    )
    given = ", ".join(_degrees(a) for a in content.input_angles_deg)
    rays = "X-ray" if len(content.input_angles_deg) == 1 else "X-rays"
    return (
        f"<header><h1>{escape(content.title)}</h1><p>{len(content.input_angles_deg)} {rays} "
        f"given, at {given}. "
        "Everything else on this page is an estimate.</p><p "
        f'class="disclaimer">{escape(DISCLAIMER)}</p></header>{listed}'
    )


def _input_section(content: ReportContent) -> str:
    limit = figures.nice_limit(content.projections - content.targets)
    rows = []
    for target, projection, angle in zip(
        content.targets, content.projections, content.input_angles_deg, strict=True
    ):
        at = f" at {_degrees(angle)}"
        error = figures.signed_error_picture(projection, target, limit)
        rows.append(
            '<div class="row three">'
            + _figure(_png(figures.to_uint8(target)), f"Target: the X-ray given{at}")
            + _figure(_png(figures.to_uint8(projection)), f"Projection: the model's view{at}")
            + _figure(
                _png(error),
                "Signed error: projection − target",
                _bar(SIGNED, (-limit, limit), "too dark", "too bright"),
            )
            + "</div>"
        )
    note = "How well the input itself is matched says little about the views that nobody saw."
    return (
        f'<section><h2>Input and projection</h2>{"".join(rows)}<p class="note">{note}</p></section>'
    )


def _orbit_section(content: ReportContent, orbit: Tensor) -> str:
    angles = [float(a) for a in content.orbit_angles_deg]
    inputs = {nearest_view(angles, a) for a in content.input_angles_deg}
    names = [_degrees(a) + (" (input)" if k in inputs else "") for k, a in enumerate(angles)]
    count = min(STRIP_VIEWS, len(angles))
    shown = [k * len(angles) // count for k in range(count)]
    sheet = figures.strip(_shrunk(orbit[shown], 144), 6, [names[k] for k in shown], gap_px=4)
    start = nearest_view(angles, content.input_angles_deg[0])
    panes = [
        _scrub_pane(figures.to_uint8(_shrunk(orbit, SCRUB_FRAME_PX)), "The model's view", start)
    ]
    if content.orbit_spread is not None:
        limit = figures.nice_limit(content.orbit_spread)
        heat = figures.coloured(_shrunk(content.orbit_spread, SCRUB_FRAME_PX), (0, limit), HEAT)
        panes.append(
            _scrub_pane(
                heat,
                "Its spread (standard deviation)",
                start,
                _bar(HEAT, (0, limit), "image units"),
            )
        )
    slider = (
        f'<label class="slider">View angle <output>{escape(names[start])}</output><input '
        'type="range" min="0" '
        f'max="{len(angles) - 1}" value="{start}" data-names="{escape("|".join(names))}" '
        'aria-label="view angle"></label>'
    )
    return (
        '<section><h2>Orbit</h2><div class="scrub"><div class="row '
        f'two">{"".join(panes)}</div>{slider}</div>'
        + _figure(_png(sheet), f"{len(shown)} of {len(angles)} views, by view angle")
        + "</section>"
    )


def _volume_section(content: ReportContent, volume: Tensor) -> str:
    window = content.window or _percentile_window(volume)
    slices = figures.slices_picture(volume, window, spacing_mm=content.spacing_mm)
    size = " × ".join(f"{n}" for n in reversed(volume.shape))
    spacing = " × ".join(f"{mm:.3g}" for mm in reversed(content.spacing_mm))
    caption = f"Axial, coronal and sagittal slice through the middle; {size} voxels (x, y, z) of {spacing} mm. R: patient's right."
    return f"<section><h2>Volume</h2>{_figure(_png(slices), caption, _bar(GREY, window, content.volume_unit))}</section>"


def _uncertainty_section(content: ReportContent) -> str:
    parts = []
    if content.orbit is not None and content.orbit_spread is not None:
        angles = [float(a) for a in content.orbit_angles_deg]
        widest = int(content.orbit_spread.flatten(1).mean(1).argmax())
        limit = figures.nice_limit(content.orbit_spread)
        shown = [
            (nearest_view(angles, content.input_angles_deg[0]), "at the input"),
            (widest, "where it is widest"),
        ]
        panels = [
            _figure(
                _png(figures.coloured(content.orbit_spread[k], (0, limit), HEAT)),
                f"Spread {where}, {_degrees(angles[k])}",
                _bar(HEAT, (0, limit), "image units"),
            )
            for k, where in shown
        ]
        panels.append(
            _figure(
                _png(figures.to_uint8(content.orbit[widest])),
                f"The view it belongs to, {_degrees(angles[widest])}",
            )
        )
        parts.append(f'<div class="row three">{"".join(panels)}</div>')
    if content.volume_spread is not None:
        limit = figures.nice_limit(content.volume_spread)
        slices = figures.slices_picture(
            content.volume_spread, (0, limit), spacing_mm=content.spacing_mm, stops=HEAT
        )
        parts.append(
            _figure(
                _png(slices),
                "Spread of the volume, same slices",
                _bar(HEAT, (0, limit), content.volume_unit),
            )
        )
    meaning = "".join(f"<p>{escape(text)}</p>" for text in content.uncertainty_meaning)
    title = "<h2>Uncertainty</h2>" if parts else ""
    return f"<section>{title}{''.join(parts)}<h2>What the uncertainty means</h2>{meaning}</section>"


def _numbers_section(content: ReportContent) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td "
        f"class='number'>{escape(_text(value))}</td><td>{escape(unit)}</td></tr>"
        for name, (value, unit) in content.numbers.items()
    )
    table = f"<table><thead><tr><th>Number</th><th class='number'>Value</th><th>Unit</th></tr></thead><tbody>{rows}</tbody></table>"
    plots = "".join(_figure(_uri("png", data), caption) for caption, data in content.plots.items())
    return (
        f"<section><h2>Numbers</h2>{table if rows else ''}{plots}</section>"
        if rows or plots
        else ""
    )


def _provenance_section(content: ReportContent) -> str:
    items = content.provenance.items()
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_text(value))}</td></tr>" for name, value in items
    )
    return f"<section><h2>Where it comes from</h2><table>{rows}</table></section>" if rows else ""


def _figure(source: str, caption: str, below: str = "") -> str:
    caption = escape(caption)
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}{below}</figcaption></figure>'


def _scrub_pane(frames: np.ndarray, caption: str, start: int, below: str = "") -> str:
    """Frames [V, H, W] or [V, H, W, 3] as one sheet behind a window of one frame: the slider only
    moves the sheet.
    """
    views, height, width = frames.shape[:3]
    rows = math.ceil(views / SCRUB_COLUMNS)
    sheet = np.zeros((rows * height, SCRUB_COLUMNS * width, *frames.shape[3:]), np.uint8)
    for k, frame in enumerate(frames):
        y, x = k // SCRUB_COLUMNS * height, k % SCRUB_COLUMNS * width
        sheet[y : y + height, x : x + width] = frame
    place = f"{start % SCRUB_COLUMNS / (SCRUB_COLUMNS - 1):.4%} {start // SCRUB_COLUMNS / max(rows - 1, 1):.4%}"
    style = (
        f"aspect-ratio:{width}/{height};background-image:url({_uri('jpeg', figures.jpeg_bytes(sheet))});"
        f"background-size:{SCRUB_COLUMNS * 100}% {rows * 100}%;background-position:{place}"
    )
    caption = escape(caption)
    data = f'data-columns="{SCRUB_COLUMNS}" data-rows="{rows}"'
    window = f'<div class="frame" role="img" aria-label="{caption}" {data} style="{style}"></div>'
    return f"<figure>{window}<figcaption>{caption}{below}</figcaption></figure>"


def _bar(
    stops: figures.Stops, window: tuple[float, float], low_note: str = "", high_note: str = ""
) -> str:
    """A colour bar with its limits; one note is the unit, two describe the ends."""
    colours = ",".join("#{:02x}{:02x}{:02x}".format(*stop) for stop in stops)
    low, high = (
        f"{v:+.4g}".replace("-", "−").removeprefix("+" * (window[0] != -window[1])) for v in window
    )
    ends = (f"{low} {low_note}", "0", f"{high} {high_note}") if high_note else (low, low_note, high)
    spans = "".join(f"<span>{escape(end)}</span>" for end in ends)
    return f'<div class="bar" style="background:linear-gradient(90deg,{colours})"></div><div class="ends">{spans}</div>'


def _shrunk(images: Tensor, most_px: int) -> Tensor:
    scale = most_px / max(images.shape[-2:])
    if scale >= 1:
        return images.float()
    rows, cols = (max(1, round(n * scale)) for n in images.shape[-2:])
    return area_resized(images, rows, cols)


def _percentile_window(volume: Tensor) -> tuple[float, float]:
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


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>{disclaimer} Images lie in [0, 1], bone bright, linear in the line integral; errors and spreads share the unit.</footer>
</main>
<script>{script}</script>
</body>
</html>
"""

STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #5a6675; --line: #e2e7ee; --warn: #b3541e; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f9; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 28px 20px 40px; }
header, section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px; margin-bottom: 18px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 12px; }
figure ~ h2, .row ~ h2 { margin-top: 22px; }
p { margin: 0 0 10px; }
header p:not(.disclaimer), .note { color: var(--soft); }
.note { font-size: 14px; margin: 12px 0 0; }
.disclaimer { margin: 14px 0 0; padding: 12px 16px; border-left: 5px solid var(--warn); border-radius: 6px; background: #fdf3ec;
  color: #7d3710; font-size: 18px; font-weight: 650; }
.warn { border-color: #efc9b3; background: #fffaf6; }
.warn h2 { color: var(--warn); }
ul { margin: 0; padding-left: 20px; }
.row { display: grid; gap: 18px; align-items: start; }
.row + .row { margin-top: 18px; }
.three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.two { grid-template-columns: repeat(2, minmax(0, 330px)); justify-content: center; }
figure { margin: 0; min-width: 0; }
section > figure { margin-top: 18px; }
section > h2 + figure { margin-top: 0; }
img, .frame { display: block; width: 100%; border: 1px solid var(--line); border-radius: 6px; }
.frame { background-color: #000; background-repeat: no-repeat; }
figcaption { color: var(--soft); font-size: 13.5px; line-height: 1.4; margin-top: 7px; }
.bar { height: 10px; margin-top: 8px; border-radius: 5px; border: 1px solid var(--line); }
.ends { display: flex; justify-content: space-between; font-size: 12.5px; font-variant-numeric: tabular-nums; }
.slider { display: block; max-width: 678px; margin: 14px auto 4px; color: var(--soft); font-size: 14px; }
.slider output { color: var(--ink); font-weight: 650; font-variant-numeric: tabular-nums; }
.slider input { display: block; width: 100%; margin-top: 6px; accent-color: #1f5fa8; }
table { width: 100%; border-collapse: collapse; font-size: 14.5px; }
th, td { text-align: left; padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tbody th { font-weight: 500; width: 46%; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; }
.number { text-align: right; padding-right: 18px; font-variant-numeric: tabular-nums; white-space: nowrap; width: 22%; }
footer { color: var(--soft); font-size: 13px; text-align: center; padding-top: 6px; }
@media (max-width: 640px) { .three, .two { grid-template-columns: 1fr; } header, section { padding: 16px; } }
@media print { body { background: #fff; } .slider { display: none; } section { break-inside: avoid; } }
"""

SCRIPT = """
for (const slider of document.querySelectorAll('.slider input')) {
  const names = slider.dataset.names.split('|');
  slider.addEventListener('input', () => {
    const k = Number(slider.value);
    slider.parentElement.querySelector('output').textContent = names[k];
    for (const frame of slider.closest('.scrub').querySelectorAll('.frame')) {
      const columns = Number(frame.dataset.columns), rows = Number(frame.dataset.rows);
      const x = k % columns / (columns - 1), y = Math.floor(k / columns) / Math.max(rows - 1, 1);
      frame.style.backgroundPosition = `${100 * x}% ${100 * y}%`;
    }
  });
}
"""
