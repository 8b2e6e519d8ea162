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
        """Millilitres of lung, airways and bowel gas: what tissue encloses, slice by slice."""
        tissue = self.dense & self.mask
        return float((_filled(tissue) & ~tissue).sum() * np.prod(self.voxel_mm) / 1000)

    def centroid_mm(self, volume: Volume) -> tuple[float, float, float]:
        """The mean position (x, y, z) of the filled body in the LPS coordinates of its CT."""
        at = [k.mean() for k in self.mask.nonzero()]  # z, y, x
        last = [step * (n - 1) for step, n in zip(self.steps, self.mask.shape, strict=True)]
        index = [min(step * k, end) for step, k, end in zip(self.steps, at, last, strict=True)]
        x, y, z = volume.affine[:3, :3] @ index[::-1] + volume.affine[:3, 3]
        return float(x), float(y), float(z)

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
    eroded = ~_dilated(~np.pad(dense, 4, mode="edge"), 6.0, voxel_mm, beyond=True)
    opened = _dilated(eroded, 6.0, voxel_mm)
    labels, count = ndimage.label(opened[4:-4, 4:-4, 4:-4])
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=2)[1:])
    body = _filled(_dilated(largest, 9.0, voxel_mm))
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


def _dilated(
    mask: np.ndarray, radius_mm: float, voxel_mm: Sequence[float], *, beyond: bool = False
) -> np.ndarray:
    """All voxels within a radius of the mask [d, h, w]; ``beyond`` says what lies around it.

    A ball is a stack of rows along x: the mask is widened a voxel at a time, and each width is laid
    on the rows of the ball that have it.
    """
    reach = [math.floor(radius_mm / mm) for mm in voxel_mm]
    padded = np.pad(mask, [(r, r) for r in reach], constant_values=beyond)
    wide, found = padded.copy(), np.zeros_like(mask)
    depth, height, width = mask.shape
    inner = slice(reach[2], reach[2] + width)
    z, y = np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    left = radius_mm**2 - (z * voxel_mm[0]) ** 2 - (y * voxel_mm[1]) ** 2
    half = np.where(left >= 0, np.sqrt(left.clip(0)) // voxel_mm[2], -1)  # of the ball's rows
    for x in range(reach[2] + 1):
        if x:
            wide[..., x:] |= padded[..., :-x]
            wide[..., :-x] |= padded[..., x:]
        for k, j in np.argwhere(half == x):
            found |= wide[k : k + depth, j : j + height, inner]
    return found


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask [d, h, w] with all that it encloses in a slice across z."""
    from scipy import ndimage

    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(~mask, in_slice)
    outside = np.zeros(count + 1, bool)
    for edge in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[np.unique(edge)] = True
    outside[0] = False  # the mask itself
    return ~outside[labels]
