"""What a DICOM radiograph says is no picture of the patient: padding, shutter and collimator."""

from __future__ import annotations

import numpy as np

from ...imaging.dicom_header import Header

LEAST_LEFT = 0.05  # of the picture: a mask that leaves less is in other units than pixels
CIRCLE_KEYWORDS = {"Shutter": "CircularShutter", "Collimator": "CircularCollimator"}
POLYGON_KEYWORDS = {"Shutter": "PolygonalShutter", "Collimator": "PolygonalCollimator"}
EDGES = ("UpperHorizontal", "LowerHorizontal", "LeftVertical", "RightVertical")


def padding(header: Header, pixels: np.ndarray, bits_allocated: int) -> np.ndarray | None:
    """Stored ``pixels`` [H, W] that equal Pixel Padding Value or lie in its range, None for none.

    The value's type may disagree with the pixels': it is read as they are, signed or not.
    """
    value = header.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = header.whole("PixelPaddingRangeLimit")
    span, half = 2**bits_allocated, 2 ** (bits_allocated - 1) if pixels.dtype.kind == "i" else 0
    ends = [(v + half) % span - half for v in (value, value if limit is None else limit)]
    padded = (pixels >= min(ends)) & (pixels <= max(ends))
    return padded if padded.any() else None


def shutter_and_collimator(
    header: Header, rows: int, cols: int
) -> tuple[np.ndarray | None, list[str]]:
    """Pixels [rows, cols] inside Display Shutter and Collimator, None for all; and what was done.

    Positions are rows and columns of the picture, counted from 1; an edge is inside, and of several
    shapes the part common to all.
    """
    inside, notes = None, []
    for name, part in (("Shutter", "Display Shutter"), ("Collimator", "Collimator")):
        shapes = [shape for shape in header.words(f"{name}Shape") if shape]
        masks = [mask for s in shapes if (mask := _shape(header, name, s, rows, cols)) is not None]
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
            inside = mask if inside is None else inside & mask
    return inside, notes


def _shape(header: Header, name: str, shape: str, rows: int, cols: int) -> np.ndarray | None:
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
        return (row - centre[0]) ** 2 + (col - centre[1]) ** 2 <= radius**2
    if shape == "POLYGONAL":
        vertices = header.numbers(f"VerticesOfThe{POLYGON_KEYWORDS[name]}")
        return _polygon(vertices, rows, cols) if len(vertices) >= 6 else None
    return None


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
