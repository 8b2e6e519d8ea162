"""The size of a picture against that of its intrinsics: turned upright, scaled, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...core.errors import UserError
from .pictures import stored_size

SAME_SHAPE = 0.01  # of the sides' ratio; of a small picture, one pixel


@dataclass(frozen=True)
class PictureSize:
    """How large a picture is, as it is read."""

    rows: int
    cols: int
    upright: bool = False  # it is turned as its EXIF orientation says
    orientation: int = 1  # EXIF's, of the file
    scale: float = 1.0  # its columns per column of its intrinsics


Size = tuple[float, float] | None  # rows and columns, where they are known


def sizes_for(
    paths: Sequence[Path], wanted: Sequence[Size], guesses: Sequence[Size] | None = None
) -> list[PictureSize]:
    """:func:`size_for` of each picture; one that is odd among them is left to be told so."""
    sizes: list[PictureSize] = []
    for i, (path, size) in enumerate(zip(paths, wanted, strict=True)):
        try:
            sizes.append(size_for(path, size, guesses[i] if guesses else None))
        except BadShape:
            (rows, cols), _ = stored_size(path)
            if not sizes or {rows, cols} == {sizes[0].rows, sizes[0].cols}:
                raise
            sizes.append(PictureSize(rows, cols))
    return sizes


class BadShape(UserError):
    """A picture whose shape is not that of its intrinsics."""


def size_for(path: Path, wanted: Size = None, guess: Size = None) -> PictureSize:
    """The size of a picture whose intrinsics are for ``wanted`` rows and columns.

    Photographs are often stored lying down, with an EXIF orientation; some programs measure them as
    they are stored, others upright. The shape of ``wanted`` tells which, or without it that of the
    ``guess``; where both have that shape they are read as they are stored. Raises UserError where
    neither has the wanted one.
    """
    (rows, cols), orientation = stored_size(path)
    if wanted is None:
        lies = guess and orientation > 4 and not same_shape(rows, cols, *guess)
        if guess and lies and same_shape(cols, rows, *guess):
            return PictureSize(cols, rows, True, orientation)
        return PictureSize(rows, cols, orientation=orientation)
    if same_shape(rows, cols, *wanted):
        return PictureSize(rows, cols, False, orientation, cols / wanted[1])
    if orientation > 4 and same_shape(cols, rows, *wanted):
        return PictureSize(cols, rows, True, orientation, rows / wanted[1])
    raise BadShape(
        f"got '{path}' of {cols}×{rows} pixels and intrinsics for {wanted[1]:g}×{wanted[0]:g}",
        "wanted the same shape, or a plain scale",
        "give the intrinsics of these pictures, or the pictures they belong to",
    )


def same_shape(rows: int, cols: int, wanted_rows: float, wanted_cols: float) -> bool:
    """Whether a picture may be one of the wanted size scaled, each side rounded.

    >>> same_shape(378, 504, 3024, 4032), same_shape(64, 64, 96, 128)
    (True, False)
    """
    if min(rows, cols, wanted_rows, wanted_cols) <= 0:
        return False
    high, wide = wanted_rows * cols / wanted_cols, wanted_cols * rows / wanted_rows
    return (
        abs(high - rows) <= max(1.0, SAME_SHAPE * rows)
        or abs(wide - cols) <= max(1.0, SAME_SHAPE * cols)
    ) and 0.9 < high / rows < 1.1


def size_notes(sizes: Sequence[PictureSize], expected: float | None = None) -> list[str]:
    """What was turned or scaled to fit the intrinsics, a sentence each.

    A scale is said where it is not the ``expected`` one.
    """
    notes = []
    turned = sum(size.upright for size in sizes)
    if turned:
        notes.append(
            f"{turned} pictures were turned upright by their EXIF orientation, to the shape of "
            "their intrinsics"
        )
    unsure = [s for s in sizes if not s.upright and s.orientation > 1]
    if unsure:
        notes.append(
            f"{len(unsure)} pictures carry the EXIF orientation {unsure[0].orientation} and are "
            "read as they are stored, as their intrinsics have it or do not tell"
        )
    scale = expected if expected is not None else 1.0
    scaled = [s.scale for s in sizes if abs(s.scale / scale - 1) > SAME_SHAPE]
    if scaled:
        notes.append(
            f"the intrinsics of {len(scaled)} pictures are for larger or smaller ones and were "
            f"scaled by {scaled[0]:.4g}"
        )
    return notes


def check_centres(centre_px: Tensor, full: tuple[int, int], root: Path) -> None:
    """Refuse principal points [V, 2] (x, y) outside of the pictures: cameras of larger ones."""
    rows, cols = full
    x, y = centre_px.mean(0).tolist()
    if not (-0.5 <= x <= cols - 0.5 and -0.5 <= y <= rows - 0.5):
        raise UserError(
            f"got a principal point at ({x:.4g}, {y:.4g}), outside of pictures of {cols}×{rows} "
            f"pixels in '{root}'",
            "wanted the cameras of these pictures",
            "give the pictures they were made for, and shrink them with --set scene.downscale=N",
        )
