"""The pictures of a scene: any file Pillow knows, on the background, made smaller by area."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import natural_key
from ...core.resampling import area_resized
from ...imaging.cameras import Cameras
from ..pictures import decode, rows_and_cols, unit_colours
from .lens import Lens, undistorted
from .types import Scene

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")  # in upper or lower case


@dataclass(frozen=True)
class Pictures:
    """V pictures of one size."""

    images: Tensor  # [V, H, W, 3] float16 in [0, 1], composited
    alpha: Tensor | None  # [V, H, W] float16
    full: tuple[int, int]  # rows and columns on the disk
    background: float

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
) -> Pictures:
    """Read pictures of one size, undistorted, at 1/downscale, on the background.

    Transparent pixels count by their coverage; ``masks`` are coverage in files of their own.
    Without transparency the background is black unless asked for. Raises UserError for a missing or
    damaged file and for two sizes.
    """
    images: list[Tensor] = []
    covers: list[Tensor | None] = []
    full, level = (0, 0), own_background if background is None else background
    for i, path in enumerate(paths):
        values = read_picture(path)
        if masks is not None:
            values = torch.cat([values[..., :3], read_picture(masks[i])[..., :1]], -1)
        full = full if i else (values.shape[0], values.shape[1])
        if values.shape[:2] != full:
            raise UserError(
                f"got '{paths[0].name}' of {full[1]}×{full[0]} and '{path.name}' of "
                f"{values.shape[1]}×{values.shape[0]} pixels",
                "wanted one size in a scene",
                f"resize or remove the odd one in '{path.parent}'",
            )
        if values.shape[-1] == 4:
            values = torch.cat([values[..., :3] * values[..., 3:], values[..., 3:]], -1)
        if lenses is not None and lenses[i].distorts:
            values = undistorted(values, lenses[i])
        planes = smaller(values.movedim(-1, 0), downscale)
        covers.append(planes[3].half() if len(planes) == 4 else None)
        color = planes[:3] + (1 - planes[3]) * level if len(planes) == 4 else planes
        images.append(color.clamp(0, 1).half().movedim(0, -1))
    if all(cover is None for cover in covers):
        return Pictures(torch.stack(images), None, full, background or 0.0)
    whole = torch.ones(images[0].shape[:2], dtype=torch.float16)
    return Pictures(
        torch.stack(images), torch.stack([whole if c is None else c for c in covers]), full, level
    )


def read_picture(path: Path) -> Tensor:
    """One picture of any depth: [H, W, 3] in [0, 1], or [H, W, 4] with straight alpha."""
    if not path.is_file():
        raise missing(path)
    return decode(path, unit_colours, damaged=partial(damaged, path))


def picture_size(path: Path) -> tuple[int, int]:
    """Rows and columns of a picture, without reading its pixels."""
    if not path.exists():
        raise missing(path)
    return decode(path, rows_and_cols, damaged=partial(damaged, path))


def missing(path: Path) -> UserError:
    """The error for a frame without its picture."""
    return UserError(
        f"got no picture '{path}'",
        "wanted the frame that its pose belongs to",
        "copy it there, or take its pose away",
    )


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a picture that cannot be read."""
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
    """The file of a frame: as named, or with any picture suffix; else the bare name."""
    path = root / name
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return path
    # the usual spelling first: to look for every spelling, the folder is read
    for suffix in SUFFIXES:
        if (usual := path.with_name(path.name + suffix)).is_file():
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
        notes=tuple(notes),
        shared=shared,
    )
