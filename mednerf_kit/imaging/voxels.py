"""What voxel values mean and when their axes are square: known to readers without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

Quantity = Literal["hu", "mu_per_mm", "relative"]
AIR = {"hu": -1000.0, "mu_per_mm": 0.0, "relative": 0.0}  # what lies outside a volume
SQUARE = 1e-3  # cosine up to which two axes are at right angles
BLOCK = 1 << 18  # values that are looked at together: 1 MiB, which stays in a processor's cache


def blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    """The values [...] of a contiguous array a few at a time, flat.

    What is asked of a whole scan at once costs a copy of it.

    >>> [len(block) for block in blocks(np.zeros((3, BLOCK)))]
    [262144, 262144, 262144]
    """
    flat = values.reshape(-1)
    for first in range(0, flat.size, BLOCK):
        yield flat[first : first + BLOCK]
