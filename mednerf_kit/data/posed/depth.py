"""Depth that lies beside a scene, and monocular depth brought to its scale.

``depth_SPLIT.npz`` holds for each stem an array ``STEM`` [H, W], the distance along the unit ray,
nan where unknown, and if wanted ``STEM.conf`` in [0, 1]. ``depth/SPLIT/STEM.png``, or
``depth/STEM.png`` where no two splits share a stem, are 16-bit pictures, 0 unknown, with
``depth/depth.json`` {"scale": length of a grey level, "kind": "planar" or "distance"}. Lengths are
those of the scene's files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError
from ...core.files import atomic
from ...imaging.cameras import Cameras
from ..pictures import decode, stored_levels
from .arrays import ERRORS, read_array_map
from .pictures import fitted_map, resized_nearest

PARTS = ("train", "val", "test")
SIDE_CAR = "depth.json"


@dataclass(frozen=True)
class Depth:
    """Depth of V views, along the rays of the cameras."""

    depth: Tensor  # [V, H, W] float32, nan unknown
    confidence: Tensor | None  # [V, H, W]
    notes: tuple[str, ...] = ()


def depth_beside(
    root: Path,
    split: str,
    stems: Sequence[str],
    cameras: Cameras,
    *,
    shared: frozenset[str] = frozenset(),
    length: float = 1.0,
) -> Depth | None:
    """The depth beside a scene for these views, resized by nearest pixel; None where there is none.

    Arrays win over pictures.

    ``shared`` are stems that views of several splits have, whose pictures must lie in their split's
    folder. Distances in the files are those of the cameras' space times ``length``.
    """
    archives = {
        part: root / f"depth_{part}.npz" for part in (PARTS if split == "all" else (split,))
    }
    archives = {part: path for part, path in archives.items() if path.is_file()}
    if archives:
        maps, confidences = _from_archives(archives, stems)
    elif (folder := picture_folder(root)) is not None:
        maps, confidences = _from_pictures(folder, split, stems, cameras, shared), None
        if all(m is None for m in maps):
            return None
    else:
        return None
    size = (cameras.rows, cameras.cols)
    unknown = torch.full(size, torch.nan)
    distance = torch.stack(
        [
            unknown
            if m is None
            else fitted_map(m, size, f"depth of '{stem}'", "make it again for this picture")
            for stem, m in zip(stems, maps, strict=True)
        ]
    )
    view, yx = pixel_grid(cameras)
    distance = torch.where(distance > 0, distance / length, torch.nan)
    depth = cameras.along_ray(view, yx, distance)
    confidence = None
    if confidences is not None and any(c is not None for c in confidences):
        confidence = torch.stack(
            [torch.ones(size) if c is None else resized_nearest(c, *size) for c in confidences]
        ).clamp(0, 1)
    missing = sum(m is None for m in maps)
    notes = (f"no depth for {missing} of {len(stems)} views",) if missing else ()
    return Depth(depth, confidence, notes)


def picture_folder(root: Path) -> Path | None:
    """The folder of depth pictures: depth/, or depths/ where it says its scale."""
    if (root / "depth").is_dir():
        return root / "depth"
    return root / "depths" if (root / "depths" / SIDE_CAR).is_file() else None


def has_scale(root: Path, split: str) -> bool:
    """Whether depth beside a scene comes in a known unit: as arrays or with its scale."""
    folder = picture_folder(root)
    arrays = [root / f"depth_{part}.npz" for part in (PARTS if split == "all" else (split,))]
    return any(path.is_file() for path in arrays) or (
        folder is not None and (folder / SIDE_CAR).is_file()
    )


def _from_archives(
    archives: Mapping[str, Path], stems: Sequence[str]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Arrays of depth and of confidence by stem.

    A stem ``train/r_0`` of the split "all" is ``r_0`` of its part.
    """
    maps: dict[str, Tensor] = {}
    for part, path in archives.items():
        try:
            with np.load(path, allow_pickle=False) as file:
                for key in file.files:
                    values = torch.from_numpy(np.asarray(file[key], dtype=np.float32))
                    if values.ndim != 2:
                        raise ValueError(f"'{key}' has shape {list(values.shape)}, not [H, W]")
                    maps[f"{part}/{key}"] = maps[key] = values
        except ERRORS as error:
            raise UserError(
                f"got '{path}', which cannot be read ({error})",
                "wanted an array [H, W] for each stem",
                "write it again or remove it",
            ) from None
    if not any(stem in maps for stem in stems):
        raise UserError(
            f"got '{next(iter(archives.values()))}' without an array for '{stems[0]}'",
            "wanted the stems of the pictures as names",
            "write it again or remove it",
        )
    return [maps.get(stem) for stem in stems], [maps.get(f"{stem}.conf") for stem in stems]


def _from_pictures(
    folder: Path, split: str, stems: Sequence[str], cameras: Cameras, shared: frozenset[str]
) -> list[Tensor | None]:
    """Depth pictures as distances along the unit ray."""
    side_car = folder / SIDE_CAR
    try:
        values = json.loads(side_car.read_bytes())
        scale, kind = float(values["scale"]), values["kind"]
        if not 0 < scale < math.inf or kind not in ("planar", "distance"):
            raise ValueError(f"scale {scale}, kind '{kind}'")
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"got depth pictures in '{folder}' without their scale",
            'wanted depth.json there: {"scale": scene units per grey level, "kind": "planar" or '
            '"distance"}',
            "write it or move the pictures away",
        ) from None
    maps: list[Tensor | None] = []
    for v, stem in enumerate(stems):
        path = next(
            (p for p in (folder / split / f"{stem}.png", folder / f"{stem}.png") if p.is_file()),
            None,
        )
        if path is None:
            maps.append(None)
            continue
        if path.parent == folder and stem in shared:
            raise UserError(
                f"got '{path}' in a scene with a view '{stem}' in several splits",
                f"wanted '{folder / split / path.name}'",
                "move the depth of each split into its folder",
            )
        grey = read_levels(path)
        distance = torch.where(grey > 0, grey * scale, torch.nan)
        if kind == "planar":
            own = cameras.resized(*grey.shape)
            view, yx = pixel_grid(own.take([v]))
            distance = distance * own.take([v]).planar_factor(view, yx)[0]
        maps.append(distance)
    return maps


def read_levels(path: Path) -> Tensor:
    """The grey levels of a depth picture as stored, [H, W] float32; of channels the first."""

    def unreadable(error: Exception) -> UserError:
        return UserError(
            f"got '{path}', which is damaged ({error})",
            "wanted a depth picture",
            "copy the file again",
        )

    return decode(path, stored_levels, damaged=unreadable)


def read_map(folder: Path, stem: str) -> Tensor:
    """A monocular map STEM.npy or STEM.png of a folder, [H, W] as stored: in no unit."""
    path = next((p for p in (folder / f"{stem}.npy", folder / f"{stem}.png") if p.is_file()), None)
    if path is None:
        raise UserError(
            f"got '{folder}' without a map of '{stem}'",
            f"wanted {stem}.png or {stem}.npy",
            "name maps as pictures are",
        )
    if path.suffix == ".png":
        return read_levels(path)
    return read_array_map(path)


def save_depth(
    path: str | Path, stems: Sequence[str], depth: Tensor, confidence: Tensor | None = None
) -> None:
    """Write ``depth_SPLIT.npz``: distances [V, H, W] along unit rays, and their confidence."""
    arrays = {stem: depth[v].numpy().astype(np.float32) for v, stem in enumerate(stems)}
    if confidence is not None:
        arrays |= {
            f"{stem}.conf": confidence[v].numpy().astype(np.float16) for v, stem in enumerate(stems)
        }
    with atomic(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)


def pixel_grid(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """View [V, H, W] and pixel [V, H, W, 2] of every pixel."""
    yx = torch.stack(
        torch.meshgrid(torch.arange(cameras.rows), torch.arange(cameras.cols), indexing="ij"), -1
    ).float()
    shape = (cameras.count, cameras.rows, cameras.cols)
    return torch.arange(cameras.count)[:, None, None].expand(shape), yx.expand(*shape, 2)


def fit_scale_shift(relative: Tensor, reference: Tensor, mask: Tensor) -> tuple[float, float]:
    """Scale a and shift b that bring a monocular map to a reference, by robust least squares.

    The error is that of a·relative + b; outliers are weighed down once.

    The second fit weighs each pixel with Cauchy's 1/(1 + (residual/1.48 MAD)²), so that a minority
    of outliers has little say. Give 1/depth as the reference of a map that predicts inverse depth.
    ``mask`` says which pixels count; nan never does.

    >>> fit_scale_shift(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 5.0, 7.0]), torch.ones(3))
    (2.0, 3.0)
    """
    known = (mask > 0) & relative.isfinite() & reference.isfinite()
    x, y = relative[known].double(), reference[known].double()
    if len(x) < 2 or float(x.std()) == 0:
        raise UserError(
            f"got {len(x)} pixels to fit a depth map's scale and shift",
            "wanted two that differ",
            "give a reference that overlaps it",
        )
    weight = torch.ones_like(x)
    for _ in range(2):
        mean_x, mean_y = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
        scale = (weight * (x - mean_x) * (y - mean_y)).sum() / (
            weight * (x - mean_x).square()
        ).sum().clamp_min(1e-300)
        residual = y - scale * (x - mean_x) - mean_y
        shift = mean_y - scale * mean_x
        spread = (1.4826 * residual.abs().median()).clamp_min(1e-6 * y.abs().max().clamp_min(1e-12))
        weight = 1 / (1 + (residual / spread).square())
    return round(float(scale), 9), round(float(shift), 9)
