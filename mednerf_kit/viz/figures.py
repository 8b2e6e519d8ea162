"""Pictures that people look at: contact sheets, error maps and slices, and their files.

Input is tensors in [0, 1]; output is uint8 arrays (grey [H, W] or colour [H, W, 3]), the bytes of a
PNG, or a whole file on disk.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .. import DISCLAIMER
from ..core.files import atomic, made_folder
from .colours import GREY, SIGNED, Stops, on_scale

LEFT_OUT = np.array([120.0, 0.0, 0.0])  # added to half the grey


def to_uint8(image: Tensor) -> np.ndarray:
    """An image in [0, 1] of any shape as uint8, rounded.

    What lies outside is clipped; NaN becomes 0.

    >>> to_uint8(torch.tensor([-1.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    levels = image.detach().float().nan_to_num(0.0).clamp(0, 1) * 255 + 0.5
    return levels.to(torch.uint8).cpu().numpy()


def coloured(values: Tensor, window: tuple[float, float], stops: Stops) -> np.ndarray:
    """Values [...] on a colour scale from the window's low to its high end: uint8 [..., 3].

    What lies outside is clipped; NaN is drawn as the low end.

    >>> coloured(torch.tensor([0.0, 5.0]), (0, 10), ((0, 0, 0), (200, 100, 0))).tolist()
    [[0, 0, 0], [100, 50, 0]]
    """
    known = values.detach().cpu().double().nan_to_num(window[0]).numpy()
    return (on_scale(known, window, stops) + 0.5).astype(np.uint8)


def nice_limit(values: Tensor) -> float:
    """The least of 1, 2, 5 × 10ⁿ that covers 99 % of |values|: a limit that a person can remember.

    It is 1 where all values are zero.

    >>> nice_limit(torch.tensor([0.13, -0.17]))
    0.2
    """
    size = values.detach().cpu().double().abs().flatten().nan_to_num(0.0)
    top = float(size.kthvalue(max(1, math.ceil(0.99 * len(size)))).values)
    if top <= 0:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(top))
    limits = (m * decade for m in (1, 2, 5, 10))
    covering = next((limit for limit in limits if limit >= top * (1 - 1e-6)), 10 * decade)
    return float(f"{covering:.6g}")


def signed_error_picture(pred: Tensor, truth: Tensor, limit: float = 0.2) -> np.ndarray:
    """pred − truth [H, W] as colours: uint8 [H, W, 3].

    Blue is too dark, white is right, red is too bright; the colours saturate at ±limit.

    >>> signed_error_picture(torch.zeros(1, 1), torch.zeros(1, 1)).tolist()
    [[[255, 255, 255]]]
    """
    return coloured(pred - truth, (-limit, limit), SIGNED)


def disagreement_window(limit: float) -> tuple[float, float]:
    """Of a map of disagreement: it saturates at one and a half times what is usual."""
    return -1.5 * limit, 1.5 * limit


def disagreement_picture(z: Tensor, limit: float) -> np.ndarray:
    """Standard deviations [H, W] as colours: uint8 [H, W, 3], red where an X-ray shows more."""
    return coloured(z, disagreement_window(limit), SIGNED)


def before_and_after(before: Tensor, after: Tensor, mask: Tensor) -> np.ndarray:
    """Two grey pictures in [0, 1] side by side, what ``mask`` leaves out of the second in red.

    Both keep their size: uint8 [H, W, 3], white where the smaller one ends.

    >>> one = torch.ones(2, 2)
    >>> before_and_after(one, 0 * one, one).shape
    (2, 12, 3)
    """
    grey = [coloured(image, (0, 1), GREY) for image in (before, after)]
    kept = mask.cpu().numpy()[..., None]
    grey[1] = (grey[1] * kept + (0.5 * grey[1] + LEFT_OUT) * (1 - kept)).astype(np.uint8)
    height = max(len(picture) for picture in grey)
    room = [
        ((0, height - len(picture)), (0, right), (0, 0))
        for picture, right in zip(grey, (8, 0), strict=True)
    ]
    return np.hstack(
        [np.pad(picture, r, constant_values=255) for picture, r in zip(grey, room, strict=True)]
    )


def strip(
    images: Tensor, columns: int, labels: Sequence[str] | None = None, *, gap_px: int = 2
) -> np.ndarray:
    """A contact sheet of views [V, H, W] (or colours [V, H, W, 3]): uint8 [H', W', 3].

    The views stand row by row in ``columns``, each under its label, ``gap_px`` of white apart.

    >>> strip(torch.zeros(5, 8, 8), 3).shape
    (18, 28, 3)
    """
    tiles = to_uint8(images)
    if tiles.ndim == 3:
        tiles = tiles[..., None].repeat(3, -1)
    views, height, width = tiles.shape[:3]
    band = 0 if labels is None else 15
    rows = math.ceil(views / columns)
    step_y, step_x = height + band + gap_px, width + gap_px
    sheet = np.full((rows * step_y - gap_px, columns * step_x - gap_px, 3), 255, np.uint8)
    corners = [(k // columns * step_y, k % columns * step_x) for k in range(views)]
    for tile, (y, x) in zip(tiles, corners, strict=True):
        sheet[y + band : y + band + height, x : x + width] = tile
    if labels is None:
        return sheet
    places = [(x + width / 2, y + band / 2) for y, x in corners]
    texts = [(*place, label) for place, label in zip(places, labels, strict=True)]
    return _with_texts(sheet, texts, _size_that_fits(labels, width), (40, 40, 40))


def _size_that_fits(texts: Sequence[str], width_px: float, most_px: int = 11) -> int:
    """The largest size up to ``most_px`` at which each text is no wider than its place.

    >>> _size_that_fits(["seed 0, 270° PA"], 128), _size_that_fits(["seed 0, 270° PA"], 64)
    (11, 9)
    """
    from PIL import ImageFont

    widest_px = max((ImageFont.load_default(size=100).getlength(text) for text in texts), default=1)
    return max(5, min(most_px, int(100 * width_px / max(widest_px, 1))))


def three_slices(
    volume: Tensor,
    at: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
) -> list[Tensor]:
    """Axial, coronal and sagittal slice of a volume [D, H, W] = [z, y, x] in LPS.

    Radiological convention: the patient's left on the image's right, anterior up (axial) or left
    (sagittal), superior up. ``at`` is the voxel (z, y, x), the middle one by default; pixels become
    square in the smallest of ``spacing_mm`` (z, y, x).
    """
    z, y, x = at or tuple(n // 2 for n in volume.shape)
    planes = [
        (volume[z], (1, 2)),
        (volume[:, y].flip(0), (0, 2)),
        (volume[:, :, x].flip(0), (0, 1)),
    ]
    sides = [n * mm / min(spacing_mm) for n, mm in zip(volume.shape, spacing_mm, strict=True)]
    return [
        _resampled(plane.float(), [max(1, round(sides[axis])) for axis in axes])
        for plane, axes in planes
    ]


def slices_picture(
    volume: Tensor,
    window: tuple[float, float],
    *,
    at: tuple[int, int, int] | None = None,
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
    stops: Stops = GREY,
    tile_px: int = 288,
) -> np.ndarray:
    """The :func:`three_slices` side by side, with orientation letters: uint8 [H, W, 3].

    R/L, A/P and S/I stand at the edges they name. Every slice fits a square of ``tile_px`` at one
    common scale, in the colours of ``stops`` from the window's low to its high end.

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
        plane = _resampled(plane, size)
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
    return _with_texts(picture, letters, 15, (255, 214, 102), outline_px=1)


def png_bytes(picture: np.ndarray, note: str = "") -> bytes:
    """A uint8 picture, or a uint16 grey one, as a PNG file in memory; ``note`` is its Comment."""
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
    """Write an image [H, W] or [H, W, 3] in [0, 1] as an 8-bit PNG, atomically.

    A uint8 picture is written as it is.
    """
    _write(path, png_bytes(image if isinstance(image, np.ndarray) else to_uint8(image), note))


def write_png16(path: str | Path, image: Tensor, note: str = DISCLAIMER) -> None:
    """Write an image [H, W] in [0, 1] as a 16-bit grey PNG (65535 is 1), atomically."""
    counts = image.detach().double().nan_to_num(0.0).clamp(0, 1) * 65535
    _write(path, png_bytes(counts.round().cpu().numpy().astype(np.uint16), note))


def write_views(folder: Path, views: Tensor) -> None:
    """Write views [V, H, W] as 16-bit ``view_000.png`` …; what is left of more views is removed."""
    made_folder(folder)
    for k, view in enumerate(views):
        write_png16(folder / f"view_{k:03d}.png", view)
    for path in folder.glob("view_[0-9][0-9][0-9].png"):
        if int(path.stem[-3:]) >= len(views):
            path.unlink()


def _write(path: str | Path, content: bytes) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def _resampled(plane: Tensor, size: list[int]) -> Tensor:
    """An image [H, W] at another size, bilinear."""
    batch = functional.interpolate(plane[None, None], size, mode="bilinear", align_corners=False)
    return batch[0, 0]


def _with_texts(
    picture: np.ndarray,
    texts: Iterable[tuple[float, float, str]],
    size_px: int,
    colour: tuple[int, int, int],
    outline_px: int = 0,
) -> np.ndarray:
    """A picture with texts (x, y, text) centred at these pixels."""
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
