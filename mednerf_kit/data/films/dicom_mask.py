"""What a DICOM radiograph says is no picture of the patient: padding, shutter and collimator."""

from __future__ import annotations

import numpy as np

from ...imaging.dicom_header import Header
from .dicom_header import (
    OVERLAY_COLS,
    OVERLAY_DATA,
    OVERLAY_GROUPS,
    OVERLAY_ORIGIN,
    OVERLAY_ROWS,
)

LEAST_LEFT = 0.05  # of the picture: a mask that leaves less is in other units than pixels
CIRCLE_KEYWORDS = {"Shutter": "CircularShutter", "Collimator": "CircularCollimator"}
POLYGON_KEYWORDS = {"Shutter": "PolygonalShutter", "Collimator": "PolygonalCollimator"}
EDGES = ("UpperHorizontal", "LowerHorizontal", "LeftVertical", "RightVertical")


def padding(header: Header, pixels: np.ndarray, words: np.ndarray, bits: int) -> np.ndarray | None:
    """Stored ``pixels`` [H, W] that equal Pixel Padding Value or lie in its range, None for none.

    The value's type may disagree with the pixels': it is read as they are, signed or not. A value
    beyond their ``bits`` is looked for in the whole ``words`` [H, W], unsigned.
    """
    value = header.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = header.whole("PixelPaddingRangeLimit")
    span = 2 ** (8 * words.dtype.itemsize)
    values = [v % span for v in (value, value if limit is None else limit)]
    if pixels.dtype.kind == "i":
        values = [v - span if v >= span // 2 else v for v in values]
        fits = all(-(2 ** (bits - 1)) <= v < 2 ** (bits - 1) for v in values)
    else:
        fits = all(v < 2**bits for v in values)
    if not fits:
        pixels, values = words, [v % span for v in values]
    padded = (pixels >= min(values)) & (pixels <= max(values))
    return padded if padded.any() else None


def shutter_and_collimator(
    header: Header, rows: int, cols: int, height: float = 1.0
) -> tuple[np.ndarray | None, list[str]]:
    """Pixels [rows, cols] inside Display Shutter and Collimator, None for all; and what was done.

    Positions are rows and columns of the picture, counted from 1; an edge is inside, and of several
    shapes the part common to all. ``height`` of a pixel over its width is what makes a circle
    round, whose radius counts columns. A shutter may also be a bitmap: an overlay that is 1 where
    it covers the picture.
    """
    inside, notes = None, []
    for name, part in (("Shutter", "Display Shutter"), ("Collimator", "Collimator")):
        shapes = [shape for shape in header.words(f"{name}Shape") if shape]
        masks = [
            mask
            for s in shapes
            if (mask := _shape(header, name, s, rows, cols, height)) is not None
        ]
        if not shapes:
            continue
        if len(masks) < len(shapes):
            notes.append(f"the {part} has no readable shape and is left out")
            continue
        mask = np.logical_and.reduce(masks)
        if mask.mean() < LEAST_LEFT:
            notes.append(
                f"the {part} would leave {mask.mean():.0%} of the picture and is not believed"
            )
        elif not mask.all():
            notes.append(f"the {part} leaves {mask.mean():.0%} of the picture")
            both = mask if inside is None else inside & mask
            if both.mean() < LEAST_LEFT:
                notes.append(
                    "the Display Shutter and the Collimator contradict each other and are "
                    "not believed"
                )
                return None, notes
            inside = both
    return inside, notes


def _shape(
    header: Header, name: str, shape: str, rows: int, cols: int, height: float
) -> np.ndarray | None:
    """One shape as a mask [rows, cols]; None where a number is missing."""
    row, col = np.ogrid[1 : rows + 1, 1 : cols + 1]
    if shape == "RECTANGULAR":
        edges = [header.number(f"{name}{edge}Edge") for edge in EDGES]
        found = [edge for edge in edges if edge is not None]
        if len(found) < len(edges):
            return None
        upper, lower, left, right = found
        return (row >= upper) & (row <= lower) & (col >= left) & (col <= right)
    if shape == "CIRCULAR":
        centre = header.numbers(f"CenterOf{CIRCLE_KEYWORDS[name]}")
        radius = header.number(f"RadiusOf{CIRCLE_KEYWORDS[name]}")
        if len(centre) != 2 or radius is None:
            return None
        return (height * (row - centre[0])) ** 2 + (col - centre[1]) ** 2 <= radius**2
    if shape == "POLYGONAL":
        vertices = header.numbers(f"VerticesOfThe{POLYGON_KEYWORDS[name]}")
        return _polygon(vertices, rows, cols) if len(vertices) >= 6 else None
    if shape == "BITMAP":
        return _outside_bitmap(header, rows, cols)
    return None


def _outside_bitmap(header: Header, rows: int, cols: int) -> np.ndarray | None:
    """Pixels [rows, cols] that the overlay of a bitmap shutter leaves open; None without one."""
    group = header.whole("ShutterOverlayGroup")
    if group is None or group not in OVERLAY_GROUPS:
        return None
    high, wide = (header.whole(group << 16 | tag) for tag in (OVERLAY_ROWS, OVERLAY_COLS))
    origin = header.numbers(group << 16 | OVERLAY_ORIGIN) or [1.0, 1.0]
    words = header.integers(group << 16 | OVERLAY_DATA)
    if not high or not wide or not 0 < high * wide <= 16 * len(words) or len(origin) != 2:
        return None
    bits = np.unpackbits(words.astype("<u2").view(np.uint8), bitorder="little")
    overlay = bits[: high * wide].reshape(high, wide) > 0
    open_ = np.ones((rows, cols), bool)
    top, left = (int(place) - 1 for place in origin)
    down, right = slice(max(top, 0), max(top + high, 0)), slice(max(left, 0), max(left + wide, 0))
    shown = open_[down, right]
    first = max(-top, 0), max(-left, 0)
    shown &= ~overlay[first[0] :, first[1] :][: shown.shape[0], : shown.shape[1]]
    return open_


def _polygon(vertices: list[float], rows: int, cols: int) -> np.ndarray:
    """The inside of a polygon of (row, column) pairs, its outline included."""
    from PIL import Image, ImageDraw

    picture = Image.new("1", (cols, rows))
    # far outside they only say a direction, and the drawing takes 32-bit numbers
    limit = 4.0 * max(rows, cols)
    points = [
        (float(np.clip(col - 1, -limit, limit)), float(np.clip(row - 1, -limit, limit)))
        for row, col in zip(vertices[::2], vertices[1::2], strict=False)
    ]
    ImageDraw.Draw(picture).polygon(points, fill=1, outline=1)
    return np.asarray(picture)
