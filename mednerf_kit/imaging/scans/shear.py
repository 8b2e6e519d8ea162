"""Slices that are shifted against each other, as a tilted gantry leaves them, put upright."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from ..voxels import SQUARE


def right_angled(
    values: np.ndarray, affine: np.ndarray, air: float
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Voxels [D, H, W] on axes at right angles, their affine [4, 4], and what was done.

    The affine's axes A are taken to right angles one after the other (A·P = Q·R with a permutation
    P), in the order that leads nearest to the world's axes: what is tilted is shifted along one of
    its own axes and need not be turned afterwards. Values are interpolated linearly, with air
    around. A singular affine is left to those who check it.
    """
    axes = affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or (spacing <= 0).any():
        return values, affine, []
    unit = axes / spacing
    if np.abs(unit.T @ unit - np.eye(3)).max() <= SQUARE or abs(np.linalg.det(unit)) < 0.1:
        return values, affine, []
    from scipy.ndimage import affine_transform

    q = max((_square(axes, order) for order in permutations(range(3))), key=_nearness)
    steps = np.diag(q.T @ axes)
    shift = (q.T @ axes) / steps[:, None]  # voxel index to index on the new grid
    size = np.array(values.shape[::-1])
    corners = np.array(list(np.ndindex(2, 2, 2))) * (size - 1) @ shift.T
    low = np.floor(corners.min(0) + 1e-6)
    new_size = (np.ceil(corners.max(0) - 1e-6) - low + 1).astype(int)
    back = np.linalg.inv(shift)
    turned = affine_transform(
        values,
        back[::-1, ::-1],
        (back @ low)[::-1],
        output_shape=tuple(new_size[::-1]),
        order=1,
        mode="grid-constant",
        cval=air,
    )
    placed = np.eye(4)
    placed[:3, :3] = q * steps
    placed[:3, 3] = affine[:3, 3] + placed[:3, :3] @ low
    angle = np.degrees(np.arcsin(np.abs(unit.T @ unit - np.eye(3)).max()))
    return (
        turned,
        placed,
        [f"its axes are {angle:.1f}° from right angles, as with a tilted gantry: it was resampled"],
    )


def _square(axes: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """Unit axes [3, 3] at right angles: the first keeps its direction, the others follow."""
    q, r = np.linalg.qr(axes[:, order])
    return (q * np.sign(np.diag(r)))[:, np.argsort(order)]


def _nearness(axes: np.ndarray) -> float:
    """How near unit axes lie to the world's: 1 if they run along them."""
    return float(np.abs(axes).max(axis=0).min().round(6))
