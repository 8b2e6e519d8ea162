"""Pictures people look at: contact sheets, error maps, slices, plots, PNG files and orbit videos.

Input is tensors in [0, 1]; output is uint8 arrays (grey [H, W] or colour [H, W, 3]), bytes of a
PNG, or a whole file on disk.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import DISCLAIMER
from ..core.errors import RunError, UserError
from ..core.files import atomic
from ..core.resampling import area_resized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# : Colour scales as equally spaced sRGB stops. SIGNED is ColorBrewer's RdBu, HEAT follows
# matplotlib's magma: colour-blind safe.
GREY = ((0, 0, 0), (255, 255, 255))
SIGNED = (
    (5, 48, 97),
    (33, 102, 172),
    (146, 197, 222),
    (255, 255, 255),
    (244, 165, 130),
    (178, 24, 43),
    (103, 0, 31),
)
HEAT = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
Stops = Sequence[tuple[int, int, int]]

# the columns of the error-by-angle table that are plotted unless told otherwise
ANGLE, QUANTITY = "angle_deg", "psnr_db"
GIF_WIDTH_PX = 960  # at most


def to_uint8(image: Tensor) -> np.ndarray:
    """An image in [0, 1] of any shape as uint8, rounded; what lies outside is clipped, NaN becomes
    0.

    >>> to_uint8(torch.tensor([-1.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    return (
        (image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255 + 0.5)
        .to(torch.uint8)
        .cpu()
        .numpy()
    )


def coloured(values: Tensor, window: tuple[float, float], stops: Stops) -> np.ndarray:
    """Values [...] on a colour scale from the window's low to its high end -> uint8 [..., 3]; what
    lies outside is clipped.

    >>> coloured(torch.tensor([0.0, 5.0]), (0, 10), ((0, 0, 0), (200, 100, 0))).tolist()
    [[0, 0, 0], [100, 50, 0]]
    """
    low, high = window
    place = (
        ((values.detach().cpu().double().nan_to_num(low) - low) / max(high - low, 1e-12))
        .clamp(0, 1)
        .numpy()
    )
    at = np.linspace(0, 1, len(stops))
    return np.stack(
        [np.interp(place, at, channel) + 0.5 for channel in zip(*stops, strict=True)], -1
    ).astype(np.uint8)


def nice_limit(values: Tensor) -> float:
    """The least of 1, 2, 5 × 10ⁿ that covers 99 % of |values|: a limit for a scale that a person
    can remember.

    >>> nice_limit(torch.tensor([0.13, -0.17]))
    0.2
    """
    size = values.detach().cpu().double().abs().flatten().nan_to_num(0.0)
    top = float(size.kthvalue(max(1, math.ceil(0.99 * len(size)))).values)
    if top <= 0:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(top))
    return float(
        f"{next((m * decade for m in (1, 2, 5) if m * decade >= top * (1 - 1e-6)), 10 * decade):.6g}"
    )


def signed_error_picture(pred: Tensor, truth: Tensor, limit: float = 0.2) -> np.ndarray:
    """pred − truth [H, W] -> uint8 [H, W, 3]: blue is too dark, white is right, red is too bright,
    saturated at ±limit.

    >>> signed_error_picture(torch.zeros(1, 1), torch.zeros(1, 1)).tolist()
    [[[255, 255, 255]]]
    """
    return coloured(pred - truth, (-limit, limit), SIGNED)


def strip(
    images: Tensor, columns: int, labels: Sequence[str] | None = None, *, gap_px: int = 2
) -> np.ndarray:
    """A contact sheet of views [V, H, W] (or colours [V, H, W, 3]), row by row, each under its
    label -> uint8 [H', W', 3].

    >>> strip(torch.zeros(5, 8, 8), 3).shape
    (18, 28, 3)
    """
    tiles = to_uint8(images)
    if tiles.ndim == 3:
        tiles = tiles[..., None].repeat(3, -1)
    views, height, width = tiles.shape[:3]
    band = 0 if labels is None else 15
    rows = math.ceil(views / columns)
    sheet = np.full(
        (rows * (height + band + gap_px) - gap_px, columns * (width + gap_px) - gap_px, 3),
        255,
        np.uint8,
    )
    corners = [
        (k // columns * (height + band + gap_px), k % columns * (width + gap_px))
        for k in range(views)
    ]
    for tile, (y, x) in zip(tiles, corners, strict=True):
        sheet[y + band : y + band + height, x : x + width] = tile
    if labels is None:
        return sheet
    texts = [
        (x + width / 2, y + band / 2, label) for (y, x), label in zip(corners, labels, strict=True)
    ]
    return _written(sheet, texts, 11, (40, 40, 40))


def three_slices(
    volume: Tensor,
    at: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
) -> list[Tensor]:
    """Axial, coronal and sagittal slice of a volume [D, H, W] = [z, y, x] in LPS, as they hang on a
    reading-room screen.

    Radiological convention: the patient's left on the image's right, anterior up (axial) or left
    (sagittal), superior up. ``at`` is the voxel (z, y, x), the middle one by default; pixels become
    square in the smallest of ``spacing_mm`` (z, y, x).
    """
    z, y, x = at or tuple(n // 2 for n in volume.shape)
    result = []
    for plane, axes in (
        (volume[z], (1, 2)),
        (volume[:, y].flip(0), (0, 2)),
        (volume[:, :, x].flip(0), (0, 1)),
    ):
        size = [
            max(1, round(volume.shape[axis] * spacing_mm[axis] / min(spacing_mm))) for axis in axes
        ]
        result.append(
            functional.interpolate(
                plane[None, None].float(), size, mode="bilinear", align_corners=False
            )[0, 0]
        )
    return result


def slices_picture(
    volume: Tensor,
    window: tuple[float, float],
    *,
    at: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
    stops: Stops = GREY,
    tile_px: int = 288,
) -> np.ndarray:
    """The :func:`three_slices` side by side in one window (low, high), with orientation letters ->
    uint8 [H, W, 3].

    R/L, A/P and S/I stand at the edges they name. Every slice fits a black square of ``tile_px`` at
    one common scale.

    >>> slices_picture(torch.zeros(4, 4, 4), (0, 1), tile_px=50).shape
    (50, 158, 3)
    """
    slices = three_slices(volume, at, spacing_mm)
    scale = tile_px / max(max(s.shape) for s in slices)
    gap = 4
    picture = np.full((tile_px, 3 * tile_px + 2 * gap, 3), 255, np.uint8)
    letters: list[tuple[float, float, str]] = []
    for k, (plane, ends) in enumerate(zip(slices, ("RLAP", "RLSI", "APSI"), strict=True)):
        size = [max(1, round(n * scale)) for n in plane.shape]
        plane = functional.interpolate(
            plane[None, None], size, mode="bilinear", align_corners=False
        )[0, 0]
        x, y = k * (tile_px + gap), (tile_px - size[0]) // 2
        picture[:, x : x + tile_px] = stops[0]
        inner = x + (tile_px - size[1]) // 2
        picture[y : y + size[0], inner : inner + size[1]] = coloured(plane, window, stops)
        centre, edge = tile_px / 2, 11
        places = (
            (x + edge, centre),
            (x + tile_px - edge, centre),
            (x + centre, edge),
            (x + centre, tile_px - edge),
        )
        letters += [(*place, letter) for place, letter in zip(places, ends, strict=True)]
    return _written(picture, letters, 15, (255, 214, 102), outline_px=1)


def png_bytes(picture: np.ndarray, note: str = "") -> bytes:
    """A uint8 picture (grey or colour) or a uint16 grey one as a PNG file in memory, ``note`` in
    its Comment field.
    """
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if note:
        info.add_text("Comment", note)
    memory = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(memory, "png", pnginfo=info)
    return memory.getvalue()


def jpeg_bytes(picture: np.ndarray, quality: int = 90) -> bytes:
    """A uint8 picture as a JPEG file in memory: for previews only, never for measurement."""
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(
        memory, "jpeg", quality=quality, subsampling=0
    )
    return memory.getvalue()


def write_png8(path: str | Path, image: Tensor | np.ndarray, note: str = DISCLAIMER) -> None:
    """Write an image [H, W] or [H, W, 3] in [0, 1] (or a uint8 picture as it is) as an 8-bit PNG,
    atomically.
    """
    _write(path, png_bytes(image if isinstance(image, np.ndarray) else to_uint8(image), note))


def write_png16(path: str | Path, image: Tensor, note: str = DISCLAIMER) -> None:
    """Write an image [H, W] in [0, 1] as a 16-bit grey PNG (65535 is 1), atomically."""
    counts = image.detach().double().nan_to_num(0.0).clamp(0, 1) * 65535
    _write(path, png_bytes(counts.round().cpu().numpy().astype(np.uint16), note))


def write_orbit_video(path: str | Path, frames: Tensor, fps: float = 20) -> None:
    """Write views [V, H, W] (or [V, H, W, 3]) in [0, 1] as H.264 in yuv420p, which every player
    reads, atomically.

    Odd sizes get one more row or column, a copy of the last. Raises :class:`RunError` when ffmpeg
    is missing or fails.
    """
    import imageio.v3

    pictures = to_uint8(frames)
    height, width = pictures.shape[1:3]
    pictures = np.pad(
        pictures,
        [(0, 0), (0, height % 2), (0, width % 2)] + [(0, 0)] * (pictures.ndim - 3),
        mode="edge",
    )
    extra = ["-metadata", f"comment={DISCLAIMER}", "-movflags", "+faststart"]
    with atomic(path) as temporary:
        try:
            imageio.v3.imwrite(
                temporary,
                pictures,
                plugin="FFMPEG",
                is_batch=True,
                fps=fps,
                codec="libx264",
                pixelformat="yuv420p",
                quality=8,
                macro_block_size=2,
                ffmpeg_log_level="error",
                output_params=extra,
            )
        # what imageio says when there is no ffmpeg
        except (RuntimeError, ImportError, ValueError) as error:
            raise RunError(
                f"could not write '{path}' ({error})",
                "wanted ffmpeg with libx264",
                "install it with: pip install 'imageio[ffmpeg]'",
            ) from error
        if temporary.stat().st_size == 0:
            raise OSError("ffmpeg wrote nothing")


def write_gif(path: str | Path, frames: Tensor, fps: float = 20) -> None:
    """Write views [V, H, W] (or [V, H, W, 3]) in [0, 1] as a GIF that repeats for ever, atomically;
    at most 960 px wide.

    Needs no film library.
    """
    import imageio.v3

    if frames.shape[2] > GIF_WIDTH_PX:
        rows = round(frames.shape[1] * GIF_WIDTH_PX / frames.shape[2])
        colours = frames if frames.ndim == 4 else frames[..., None]
        frames = area_resized(colours.movedim(-1, 1), rows, GIF_WIDTH_PX).movedim(1, -1)
        frames = frames if frames.shape[-1] == 3 else frames[..., 0]
    with atomic(path) as temporary:
        imageio.v3.imwrite(
            temporary, to_uint8(frames), plugin="pillow", duration=1000 / fps, loop=0
        )


def curve_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    marks: Iterable[float] = (),
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> bytes:
    """Named curves (x, y) in one plot -> bytes of a PNG; ``marks`` are dotted verticals, ``bands``
    (low, high) shade a curve.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, (name, (x, y)) in enumerate(curves.items()):
        colour = ("#1f5fa8", "#c4572b", "#3a8a5c", "#7b5aa6", "#8a7a2f", "#5f6b7a")[k % 6]
        axes.plot(x, y, label=name, color=colour, linewidth=1.8, marker="o" if len(x) == 1 else "")
        if bands and name in bands:
            axes.fill_between(x, *bands[name], color=colour, alpha=0.15, linewidth=0)
    for mark in marks:
        axes.axvline(mark, color="#5f6b7a", linewidth=1, linestyle=":")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color="#e4e8ee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1 or bands:
        axes.legend(frameon=False, fontsize=9)
    return _figure_bytes(figure)


def error_by_angle_plot(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    y_label: str = "PSNR, dB",
    input_angles_deg: Iterable[float] = (),
) -> bytes:
    """Rows of the error-by-angle CSV -> bytes of a PNG: mean over patients per view angle, first
    column shaded.

    Every row holds ``angle_deg`` and the ``columns`` to draw (column -> its name in the legend; by
    default ``psnr_db`` alone), as numbers or as the text of a CSV; empty cells are left out. Input
    angles are dotted: they are shown, never scored.
    """
    table = [dict(row) for row in rows]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    bands: dict[str, tuple[list[float], list[float]]] = {}
    for column, name in (columns or {QUANTITY: "mean"}).items():
        at: dict[float, list[float]] = {}
        for row in table:
            if row.get(column) not in (None, ""):
                at.setdefault(float(row[ANGLE]), []).append(float(row[column]))
        if not at:
            raise UserError(
                f"got a table without values of '{column}'",
                f"wanted rows of {ANGLE} and {column}",
                "check the CSV",
            )
        angles = sorted(at)
        if not curves and any(len(values) > 1 for values in at.values()):
            name += " (shaded: worst to best patient)"
            bands[name] = ([min(at[a]) for a in angles], [max(at[a]) for a in angles])
        curves[name] = (angles, [float(np.mean(at[a])) for a in angles])
    return curve_plot(
        curves, "view angle, degrees (dotted: input)", y_label, marks=input_angles_deg, bands=bands
    )


def _figure_bytes(figure: Figure) -> bytes:
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return memory.getvalue()


def _write(path: str | Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def _written(
    picture: np.ndarray,
    texts: Iterable[tuple[float, float, str]],
    size_px: int,
    colour: tuple[int, int, int],
    outline_px: int = 0,
) -> np.ndarray:
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=size_px)
    for x, y, text in texts:
        draw.text(
            (x, y),
            text,
            fill=colour,
            font=font,
            anchor="mm",
            stroke_width=outline_px,
            stroke_fill=(0, 0, 0),
        )
    return np.asarray(canvas)
