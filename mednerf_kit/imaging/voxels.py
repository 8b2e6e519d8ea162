"""What voxel values mean and when their axes are square: known to readers without torch."""

from __future__ import annotations

from typing import Literal

Quantity = Literal["hu", "mu_per_mm", "relative"]
AIR = {"hu": -1000.0, "mu_per_mm": 0.0, "relative": 0.0}  # what lies outside a volume
SQUARE = 1e-3  # cosine up to which two axes are at right angles
