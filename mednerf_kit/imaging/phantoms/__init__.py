"""Procedural patients, one per seed: chest and knee, in HU, at any resolution."""

from __future__ import annotations

from .chest import chest
from .knee import knee
from .painter import PHANTOMS, Layer, Phantom, Pose

#: Changes whenever a seed's patient changes: the key of caches.
VERSION = "2"

__all__ = ["PHANTOMS", "VERSION", "Layer", "Phantom", "Pose", "chest", "knee", "phantom"]


def phantom(anatomy: str, seed: int) -> Phantom:
    """The patient of this seed: the same every time and at every resolution.

    >>> phantom("knee", 3).names[0]
    'skin'
    """
    return PHANTOMS[anatomy](seed=seed)
