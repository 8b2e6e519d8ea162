"""The eight ways a picture can lie, numbered as in EXIF, and pixels that are not square."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .checks import MOST_PIXELS
from .stored import StoredFilm

#: Quarter turns clockwise, then whether left and right change places, for each EXIF orientation
#: (tag 274; TIFF 6.0, page 36).
TURNS = {
    1: (0, False),
    2: (0, True),
    3: (2, False),
    4: (2, True),
    5: (1, True),
    6: (1, False),
    7: (3, True),
    8: (3, False),
}
WORDS = {1: "90° clockwise", 2: "180°", 3: "270° clockwise"}
#: Ratios of pixel width to height beyond this are taken for a mistake of the writer.
LARGEST_ASPECT = 4.0


def turned(pixels: np.ndarray, quarters: int, mirrored: bool = False) -> np.ndarray:
    """A picture [H, W] after quarter turns clockwise, then mirrored left to right.

    >>> turned(np.array([[1, 2], [3, 4]]), 1).tolist()
    [[3, 1], [4, 2]]
    >>> turned(np.array([[1, 2], [3, 4]]), 1, True).tolist()
    [[1, 3], [2, 4]]
    """
    pixels = np.rot90(pixels, -quarters)
    return np.ascontiguousarray(pixels[:, ::-1] if mirrored else pixels)


def turned_words(quarters: int, mirrored: bool) -> str:
    """What :func:`turned` did, for a note.

    >>> turned_words(3, True), turned_words(0, True)
    ('turned by 270° clockwise and mirrored left to right', 'mirrored left to right')
    """
    turn = f"turned by {WORDS[quarters]}" if quarters else ""
    return " and ".join(filter(None, [turn, "mirrored left to right" if mirrored else ""]))


def upright(film: StoredFilm, orientation: int) -> StoredFilm:
    """The film after the turn its orientation tag asks for; an unknown one asks for none."""
    quarters, mirrored = TURNS.get(orientation, (0, False))
    if not quarters and not mirrored:
        return film
    note = f"{turned_words(quarters, mirrored)} as its orientation tag says"
    return replace(
        film,
        pixels=turned(film.pixels, quarters, mirrored),
        exposed=None if film.exposed is None else turned(film.exposed, quarters, mirrored),
        notes=(*film.notes, note),
    )


def square_pixels(film: StoredFilm, width: float, height: float) -> StoredFilm:
    """The film with square pixels, where its own are ``width`` wide and ``height`` high.

    The longer side of a pixel is resampled linearly to the shorter one's length. Sizes
    that are missing, equal to a percent, or out of all proportion change nothing.
    """
    sizes = (width, height)
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        return film
    aspect = width / height
    if abs(aspect - 1) < 0.01 or not 1 / LARGEST_ASPECT <= aspect <= LARGEST_ASPECT:
        return film
    rows, cols = film.pixels.shape
    shape = (rows, round(cols * aspect)) if aspect > 1 else (round(rows / aspect), cols)
    if math.prod(shape) > MOST_PIXELS:
        return film
    note = f"pixels {aspect:.3g} times as wide as high: brought from {rows}×{cols} to square ones"
    exposed = None
    if film.exposed is not None:
        exposed = _resampled(film.exposed.astype(np.float32), shape) > 0.5
    pixels = _resampled(film.pixels.astype(np.float32), shape)
    if film.pixels.dtype.kind == "u":
        pixels = pixels.round().clip(0, film.full_scale)
    return replace(
        film,
        pixels=pixels.astype(film.pixels.dtype),
        exposed=exposed,
        notes=(*film.notes, f"{note} ({shape[0]}×{shape[1]})"),
    )


def _resampled(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    image = torch.from_numpy(values)[None, None]
    return interpolate(image, shape, mode="bilinear", align_corners=False)[0, 0].numpy()
