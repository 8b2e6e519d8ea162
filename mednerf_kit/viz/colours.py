"""Colour scales as equally spaced sRGB stops, without torch: for figures and for the workbench.

SIGNED is ColorBrewer's RdBu, HEAT follows matplotlib's magma and SHARE its viridis: all are safe
for the colour-blind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Stops = Sequence[tuple[int, int, int]]

GREY: Stops = ((0, 0, 0), (255, 255, 255))
SIGNED: Stops = (
    (5, 48, 97),
    (33, 102, 172),
    (146, 197, 222),
    (255, 255, 255),
    (244, 165, 130),
    (178, 24, 43),
    (103, 0, 31),
)
HEAT: Stops = ((0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191))
SHARE: Stops = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


def on_scale(values: np.ndarray, window: Sequence[float], stops: Stops) -> np.ndarray:
    """Values [...] on a colour scale from the window's low to its high end: float [..., 3].

    What lies outside is clipped.

    >>> on_scale(np.array([0.0, 5.0]), (0, 10), ((0, 0, 0), (200, 100, 0))).tolist()
    [[0.0, 0.0, 0.0], [100.0, 50.0, 0.0]]
    """
    low, high = window
    place = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(place, at, channel) for channel in zip(*stops, strict=True)], -1)
