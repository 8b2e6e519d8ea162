"""The patient in a CT: body without table, bone alone, and the air inside.

The body is found on a grid of about 3 mm: voxels above −400 HU, opened by a ball of 6 mm (which
takes sheets such as a table's off), the largest connected piece, grown back by 9 mm and filled
slice by slice across z (lungs, bowel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from .volume import AIR, Volume

BONE_HU = 150.0  # above it a voxel is taken for bone: spongy bone begins about there
TISSUE_HU = -400.0  # between lung and soft tissue
GRID_MM = 3.0  # on which the body is found


@dataclass(frozen=True)
class Body:
    """Where the patient is, on every few voxels of a CT."""

    mask: np.ndarray  # [d, h, w] bool: the body, filled
    dense: np.ndarray  # [d, h, w] bool: what is above TISSUE_HU
    steps: tuple[int, int, int]  # voxels from one of these to the next, (z, y, x)
    voxel_mm: tuple[float, float, float]  # (z, y, x)

    @property
    def air_ml(self) -> float:
        """Millilitres of lung, airways and bowel gas inside the body."""
        return float((self.mask & ~self.dense).sum() * np.prod(self.voxel_mm) / 1000)

    def expanded(self, shape: tuple[int, int, int]) -> Tensor:
        """The mask on the CT's own voxels: bool [D, H, W]."""
        body = self.mask
        for dim, (step, n) in enumerate(zip(self.steps, shape, strict=True)):
            body = body.repeat(step, dim).take(range(n), dim)
        return torch.from_numpy(body)


def find_body(volume: Volume) -> Body:
    """The body in an :meth:`aligned <Volume.aligned>` CT in HU; a UserError where there is none."""
    from scipy import ndimage

    spacing = volume.spacing_mm[::-1]
    steps = [max(1, round(GRID_MM / mm)) for mm in spacing]
    voxel_mm = [step * mm for step, mm in zip(steps, spacing, strict=True)]
    dense = volume.values[:: steps[0], :: steps[1], :: steps[2]].numpy() > TISSUE_HU
    opened = ndimage.binary_opening(np.pad(dense, 4, mode="edge"), _ball(6.0, voxel_mm))[
        4:-4, 4:-4, 4:-4
    ]
    labels, count = ndimage.label(opened)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=2)[1:])
    body = ndimage.binary_dilation(largest, _ball(9.0, voxel_mm))
    body = np.stack([ndimage.binary_fill_holes(piece) for piece in body])
    if not count or 2 * (dense & body).sum() < dense.sum():
        raise UserError(
            "got a CT in which no body was found",
            "wanted most voxels above -400 HU in one solid piece",
            "leave the table in",
        )
    return Body(
        body, dense, (steps[0], steps[1], steps[2]), (voxel_mm[0], voxel_mm[1], voxel_mm[2])
    )


def body_only(volume: Volume, body: Body | None = None) -> Volume:
    """The volume with everything but the patient (table, cushions, clothes) set to air.

    ``body`` is that of the volume, where it has been found already.
    """
    volume = volume.aligned().to_hu()
    inside = (body or find_body(volume)).expanded(volume.shape)
    return replace(volume, values=volume.values.masked_fill(~inside, AIR["hu"]))


def bone_only(volume: Volume) -> Volume:
    """The volume with all but bone set to air: what is denser than :data:`BONE_HU`."""
    hu = volume.to_hu()
    return replace(hu, values=hu.values.where(hu.values > BONE_HU, AIR["hu"]))


def _ball(radius_mm: float, voxel_mm: Sequence[float]) -> np.ndarray:
    """The voxels within a radius, as a structuring element."""
    reach = [math.floor(radius_mm / v) for v in voxel_mm]
    z, y, x = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    return (z * voxel_mm[0]) ** 2 + (y * voxel_mm[1]) ** 2 + (x * voxel_mm[2]) ** 2 <= radius_mm**2
