"""The pictures of a scene: any file Pillow knows and OpenEXR, on the background, made smaller."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from os.path import isfile  # false, and no error, for a name that is too long
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import natural_key
from ...core.memory import check_room
from ...core.resampling import area_resized
from ...imaging.cameras import Cameras
from ..pictures import decode, rows_and_cols, unit_colours
from .lens import Lens, undistorted
from .linear import ERRORS, is_linear, linear_size, read_linear, tone_mapped
from .masks import is_photograph_of_holes, mask_note
from .reading import Masks, Reading, ToneMap
from .types import Scene

if TYPE_CHECKING:
    from PIL.Image import Image

# in upper or lower case
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".exr", ".webp")
ORIENTATION = 274  # the tag of EXIF and TIFF
COVERED = 0.999  # of a pixel's area: where a mask touches it, it does not count


@dataclass(frozen=True)
class Pictures:
    """V pictures of one size."""

    images: Tensor  # [V, H, W, 3] float16 in [0, 1], composited
    alpha: Tensor | None  # [V, H, W] float16
    full: tuple[int, int]  # rows and columns on the disk
    background: float
    valid: Tensor | None = None  # [V, H, W] bool, pixels that no mask covers

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns as read."""
        return self.images.shape[1], self.images.shape[2]


def read_pictures(
    paths: Sequence[Path],
    *,
    downscale: int = 1,
    background: float | None = None,
    masks: Sequence[Path] | None = None,
    lenses: Sequence[Lens] | None = None,
    own_background: float = 1.0,
    upright: Sequence[bool] | None = None,
    ignored: Sequence[MaskFile | None] | None = None,
    mask_use: Masks | None = None,
    holes: bool = False,
    tone_map: ToneMap | None = None,
) -> Pictures:
    """Read pictures of one size, undistorted, at 1/downscale, on the background.

    Transparent pixels count by their coverage; ``masks`` are coverage in files of their own, and
    ``ignored`` are masks of pixels that do not count, used as ``mask_use`` says. With ``holes``
    transparency inside an opaque border is such a mask. Without transparency the background is
    black unless asked for. ``upright`` pictures are turned as their EXIF orientation says. Raises
    UserError for a missing or damaged file and for two sizes.
    """
    images: list[Tensor] = []
    covers: list[Tensor | None] = []
    counted: list[Tensor | None] = []
    full, level = (0, 0), own_background if background is None else background
    for i, path in enumerate(paths):
        values = read_picture(path, upright=bool(upright and upright[i]), tone_map=tone_map)
        if masks is not None:
            values = torch.cat([values[..., :3], read_picture(masks[i])[..., :1]], -1)
        if i == 0:
            full = (values.shape[0], values.shape[1])
            check_scene_room(len(paths), *(max(1, side // downscale) for side in full))
        if values.shape[:2] != full:
            raise UserError(
                f"got '{paths[0].name}' of {full[1]}×{full[0]} and '{path.name}' of "
                f"{values.shape[1]}×{values.shape[0]} pixels",
                "wanted one size in a scene",
                f"resize or remove the odd one in '{path.parent}'",
            )
        mask = ignored[i] if ignored is not None else None
        if mask is not None and upright and upright[i]:
            mask = replace(mask, orientation=stored_size(path)[1])
        values, counts = apply_mask(values, mask, mask_use, holes=holes)
        if values.shape[-1] == 4:
            values = torch.cat([values[..., :3] * values[..., 3:], values[..., 3:]], -1)
        if lenses is not None and lenses[i].bends_pictures:
            values = undistorted(values, lenses[i])
            counts = None if counts is None else undistorted(counts[..., None], lenses[i])[..., 0]
        planes = smaller(values.movedim(-1, 0), downscale)
        counted.append(None if counts is None else smaller(counts[None], downscale)[0] > COVERED)
        covers.append(planes[3].half() if len(planes) == 4 else None)
        color = planes[:3] + (1 - planes[3]) * level if len(planes) == 4 else planes
        images.append(color.clamp(0, 1).half().movedim(0, -1))
    valid = stacked(counted, torch.ones(images[0].shape[:2], dtype=torch.bool))
    valid = None if valid is None or bool(valid.all()) else valid
    alpha = stacked(covers, torch.ones(images[0].shape[:2], dtype=torch.float16))
    level = level if alpha is not None else background or 0.0
    return Pictures(torch.stack(images), alpha, full, level, valid)


def check_scene_room(views: int, rows: int, cols: int) -> None:
    """Refuse pictures that memory cannot hold, of which there are two when they are stacked."""
    check_room(
        f"{views} pictures of {cols}×{rows}",
        2 * 2 * 3 * views * rows * cols,
        "choose a larger --downscale (of a recipe: scene.downscale), or fewer scene.views",
    )


def read_photographs(
    paths: Sequence[Path],
    reading: Reading,
    *,
    downscale: int | None = None,
    lenses: Sequence[Lens] | None = None,
    upright: Sequence[bool] | None = None,
    ignored: Sequence[MaskFile | None] | None = None,
    holes: bool = False,
) -> Pictures:
    """:func:`read_pictures` as a :class:`~.reading.Reading` says.

    ``downscale`` is what is left of it.
    """
    return read_pictures(
        paths,
        downscale=reading.downscale if downscale is None else downscale,
        background=reading.background,
        lenses=lenses,
        upright=upright,
        ignored=ignored,
        mask_use=reading.masks,
        holes=holes,
        tone_map=reading.tone_map,
    )


def stacked(values: Sequence[Tensor | None], missing: Tensor) -> Tensor | None:
    """What views have, stacked, with ``missing`` for those without; None where none has any."""
    if all(value is None for value in values):
        return None
    return torch.stack([missing if value is None else value for value in values])


@dataclass(frozen=True)
class MaskFile:
    """A picture of which pixels count: those above half its white, or with ``inverted`` black."""

    path: Path
    inverted: bool = False
    orientation: int = 1  # EXIF's, of its picture, where that was turned upright


def apply_mask(
    values: Tensor, mask: MaskFile | None, use: Masks | None, *, holes: bool
) -> tuple[Tensor, Tensor | None]:
    """A picture [H, W, 3 or 4] with its mask as alpha, or beside it as 0 and 1 [H, W]; or neither.

    The second is 1 where a pixel counts.
    """
    counts = None
    if mask is not None and use != "off":
        counts = read_mask(mask, (values.shape[0], values.shape[1]))
        if use == "background":
            alpha = counts[..., None] * (values[..., 3:] if values.shape[-1] == 4 else 1.0)
            return torch.cat([values[..., :3], alpha], -1), None
    if values.shape[-1] == 4 and use != "background":
        alpha = values[..., 3]
        if use == "ignore" or (use is None and holes and is_photograph_of_holes(alpha)):
            opaque = (alpha > 0.5).float()
            return values[..., :3], opaque if counts is None else counts * opaque
    return values, counts


def read_mask(mask: MaskFile, size: tuple[int, int]) -> Tensor:
    """A mask as 0 and 1 [H, W] at a picture's size, which may be larger or smaller.

    It may have been made for the picture as it is stored. Transparent is black, and in a file of
    the levels 0 and 1 white is 1.
    """
    if not isfile(mask.path):
        raise UserError(
            f"got no mask '{mask.path}'",
            "wanted the one that its frame names",
            "copy it there, or leave masks out with --set scene.masks=off",
        )
    values = read_picture(mask.path)
    levels = values[..., :3].amax(-1) * (values[..., 3] if values.shape[-1] == 4 else 1.0)
    largest = float(levels.max())
    white = largest if largest < 1.5 / 255 else 1.0
    counts = (levels == 0 if mask.inverted else (levels > 0.5 * white)).float()
    if (counts.shape[0] < counts.shape[1]) != (size[0] < size[1]):
        counts = as_upright(counts, mask.orientation)
    return fitted_map(
        counts,
        size,
        f"the mask '{mask.path}'",
        "make it again, or leave masks out with --set scene.masks=off",
    )


def fitted_map(values: Tensor, size: tuple[int, int], what: str, do: str) -> Tensor:
    """A map [H, W] of a picture at the picture's size; raises UserError for another shape."""
    if values.shape == size:
        return values
    if not 0.98 < (values.shape[0] * size[1]) / (values.shape[1] * size[0]) < 1.02:
        raise UserError(
            f"got {what} of {values.shape[1]}×{values.shape[0]} pixels for a picture of "
            f"{size[1]}×{size[0]}",
            "wanted the same shape",
            do,
        )
    return resized_nearest(values, *size)


def as_upright(values: Tensor, orientation: int) -> Tensor:
    """A map [H, W] of a picture stored lying, turned by its EXIF orientation: 5 to 8, or as it is.

    >>> as_upright(torch.tensor([[1, 2], [3, 4]]), 6).tolist()  # by 90° clockwise
    [[3, 1], [4, 2]]
    """
    turned = {
        5: values.mT,
        6: values.rot90(-1, (0, 1)),
        7: values.mT.flip(0, 1),
        8: values.rot90(1, (0, 1)),
    }
    return turned.get(orientation, values)


def resized_nearest(values: Tensor, rows: int, cols: int) -> Tensor:
    """A map [H, W] at another size, each pixel the value at its centre.

    Depth must not be averaged across an edge.
    """
    y, x = (
        ((torch.arange(n) + 0.5) * old / n).long()
        for n, old in zip((rows, cols), values.shape, strict=True)
    )
    return values[y[:, None], x]


def read_picture(path: Path, *, upright: bool = False, tone_map: ToneMap | None = None) -> Tensor:
    """One picture of any depth: [H, W, 3] in [0, 1], or [H, W, 4] with straight alpha.

    Linear ones are tone mapped (:mod:`.linear`); ``upright`` ones turned by their orientation.
    """
    if not isfile(path):
        raise missing(path)
    if is_linear(path):
        try:
            return tone_mapped(read_linear(path), path, tone_map)
        except ERRORS as error:
            raise damaged(path, error) from None
    return decode(
        path, upright_colours if upright else unit_colours, damaged=partial(damaged, path)
    )


def upright_colours(picture: Image) -> Tensor:
    """A rule: colours as :func:`~..pictures.unit_colours`, turned by the EXIF orientation."""
    from PIL import ImageOps

    return unit_colours(ImageOps.exif_transpose(picture))


def picture_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture as it is stored, without reading its pixels."""
    return stored_size(path)[0]


def stored_size(path: Path) -> tuple[tuple[int, int], int]:
    """Rows and columns of a picture as it is stored, and its EXIF orientation (1 is upright)."""
    if not isfile(path):
        raise missing(path)
    if is_linear(path):
        try:
            return linear_size(path), 1
        except ERRORS as error:
            raise damaged(path, error) from None
    return decode(
        path,
        lambda picture: (rows_and_cols(picture), orientation(picture)),
        damaged=partial(damaged, path),
    )


def orientation(picture: Image) -> int:
    """A rule: the EXIF orientation, 1 to 8; 1 where there is none.

    It is 1 of TIFF too, which Pillow turns upright itself.
    """
    if picture.format == "TIFF":
        return 1
    found = picture.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def missing(path: Path) -> UserError:
    """The error for a frame without its picture, which may be there under another suffix."""
    alike = [p.name for p in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")) if p != path]
    return UserError(
        f"got no picture '{path}'" + (f", but '{alike[0]}'" if alike else ""),
        "wanted the frame that its pose belongs to",
        "copy it there, or take its pose away",
    )


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a picture that cannot be read."""
    if path.suffix and path.suffix.lower() not in SUFFIXES:
        return UserError(
            f"got '{path}', a file of a kind that is not read",
            f"wanted one of {', '.join(SUFFIXES)}",
            "convert it",
        )
    why = (
        "which is empty"
        if path.is_file() and not path.stat().st_size
        else f"which is damaged ({error})"
    )
    return UserError(f"got '{path}', {why}", "wanted a picture", "copy the file again")


def smaller(values: Tensor, downscale: int) -> Tensor:
    """Planes [..., H, W] at 1/downscale: each new pixel is the mean over its area."""
    if downscale == 1:
        return values
    rows, cols = (max(1, n // downscale) for n in values.shape[-2:])
    return area_resized(values, rows, cols)


def find_picture(root: Path, name: str) -> Path:
    """The file of a frame: as named, or with any picture suffix; else the bare name.

    Of a path of another machine the end is looked for in the scene.
    """
    tails = (found for tail in tails_elsewhere(name) if isfile(found := picture_at(root / tail)))
    path = picture_at(root / name)
    return path if isfile(path) else next(tails, path)


def tails_elsewhere(name: str) -> list[str]:
    """What is left of an absolute path, of one with a drive or of one that goes up.

    The first folders are taken away one by one, and one folder is left.

    >>> tails_elsewhere("C:/scene/images/a.png"), tails_elsewhere("images/a.png")
    (['scene/images/a.png', 'images/a.png'], [])
    """
    parts = PurePosixPath(name).parts
    if not (name.startswith("/") or (parts and (parts[0] == ".." or parts[0][1:2] == ":"))):
        return []
    return [str(PurePosixPath(*parts[k:])) for k in range(1, len(parts) - 1)]


def picture_at(path: Path) -> Path:
    """The picture of this name, or of it with any picture suffix; else the bare name."""
    if path.suffix.lower() in SUFFIXES and isfile(path):
        return path
    # the usual spelling first: to look for every spelling, the folder is read
    for suffix in SUFFIXES:
        if isfile(usual := path.with_name(path.name + suffix)):
            return usual
    others = sorted(path.parent.glob(f"{glob.escape(path.name)}.*"))
    return next(
        (found for found in others if found.stem == path.name and found.suffix.lower() in SUFFIXES),
        path,
    )


def pictures_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """The pictures of a folder in natural order, with ``deep`` those of the folders in it too."""
    found = folder.glob("**/*" if deep else "*")
    return sorted(
        (p for p in found if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")),
        key=natural_key,
    )


def no_pictures(root: Path, places: str) -> UserError:
    """The error for a scene without pictures in the places where its format has them."""
    return UserError(
        f"got no pictures in '{root}'",
        f"wanted *{', *'.join(SUFFIXES)} in {places}",
        "copy them there",
    )


def scene_of(
    pictures: Pictures,
    root: Path,
    kind: str,
    split: str,
    stems: Sequence[str],
    cameras: Cameras,
    box: Tensor,
    *,
    depth: Tensor | None = None,
    confidence: Tensor | None = None,
    facts: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
    shared: frozenset[str] = frozenset(),
    to_world: Tensor | None = None,
) -> Scene:
    """A folder's coloured pictures as a scene of format ``kind``, seen by cameras of their size."""
    return Scene(
        name=root.resolve().name,
        format=kind,
        split=split,
        stems=tuple(stems),
        images=pictures.images,
        alpha=pictures.alpha,
        depth=depth,
        confidence=confidence,
        cameras=cameras,
        box=box,
        background=pictures.background,
        facts=facts or {},
        notes=(*notes, *mask_note(pictures.valid)),
        shared=shared,
        valid=pictures.valid,
        to_world=to_world,
    )
