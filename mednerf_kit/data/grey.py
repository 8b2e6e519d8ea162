"""What the grey values of a set of DRRs mean: polarity, and from transmission to line integrals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..core.errors import unknown_name
from ..imaging.geometry import Geometry

#: What the pictures of a set may be.
KINDS = ("line-integral", "transmission", "display")

#: Share of a picture's side that counts as its border.
BORDER = 0.06
#: Air is white where this share of the border lies at the upper end of the range …
AIR_SHARE = 0.05
#: … within this share of it, and where white stands out from the middle by this share more than
#: black does.
NEAR, CLEARLY = 0.02, 0.25


def from_transmission(values: np.ndarray, full_scale: float = 1.0) -> tuple[np.ndarray, str]:
    """Line integrals −ln(I/I₀) of transmission values of any shape, and what was taken for I₀.

    I₀ is 1 for floats that do not exceed it, else the 99.9th percentile of all views. A value of
    zero stands for half a grey level, or a millionth in floats.

    >>> integrals, note = from_transmission(np.array([1.0, 0.1353352832]))
    >>> integrals.round(3) + 0.0, note
    (array([0., 2.]), 'transmission: the minus logarithm was taken, a value of 1 is air')
    """
    is_float = full_scale == 1.0
    high = float(values.max())
    if is_float and high <= 1 + 1e-4:
        air, words = 1.0, "a value of 1 is air"
    else:
        air = float(np.percentile(values, 99.9))
        words = f"{air:.4g}, the 99.9th percentile, is air"
    floor = 1e-6 if is_float else 0.5 / air
    integrals = -np.log((values / max(air, 1e-12)).clip(floor, 1))
    return integrals, f"transmission: the minus logarithm was taken, {words}"


def read_as(
    kind: str | None, geometry: Geometry, *, invert: bool, scale: float
) -> tuple[Geometry, Callable[[np.ndarray, float], np.ndarray], tuple[str, ...]]:
    """How the pictures of a set become pictures linear in the line integral.

    Answers the geometry with their scale, a function of stored views and the end of their range,
    and what was assumed. ``scale`` is the line integral that is white where the logarithm of
    transmission is taken and the geometry has none.
    """
    if kind is not None and kind not in KINDS:
        raise unknown_name("input kind", kind, KINDS)
    notes: tuple[str, ...] = ()
    if kind == "transmission":
        scale = geometry.line_integral_scale or scale
        geometry = replace(geometry, line_integral_scale=scale)
        notes = (f"transmission: the minus logarithm was taken; white is {scale:g}",)
    elif kind == "display":
        geometry = replace(geometry, line_integral_scale=None)
        notes = ("films: grey values are not linear in the line integral, and have no scale",)

    def as_pictures(stored: np.ndarray, full_scale: float) -> np.ndarray:
        values = stored.astype(np.float32)
        values = full_scale - values if invert else values
        if kind != "transmission":
            return values / np.float32(full_scale)
        return (from_transmission(values, full_scale)[0] / np.float32(scale)).clip(0, 1)

    return geometry, as_pictures, notes


def air_is_bright(views: np.ndarray) -> bool:
    """Whether views [V, rows, cols] show air bright, as transmission and films do.

    Air lies at the border, if anywhere, all of it at one end of the range, and farther from the
    grey of the middle than the other end is.

    >>> disc = np.hypot(*np.mgrid[-8:9, -8:9]) < 5
    >>> air_is_bright(disc[None] * 1.0), air_is_bright(1.0 - disc[None])
    (False, True)
    """
    rows, cols = views.shape[1:]
    up, left = (max(1, round(BORDER * n)) for n in (rows, cols))
    border = np.ones((rows, cols), bool)
    border[up : rows - up, left : cols - left] = False
    low, high = float(views.min()), float(views.max())
    span = max(high - low, 1e-12)
    edges = views[:, border]
    middle = float(np.median(views[:, rows // 3 : rows - rows // 3, cols // 3 : cols - cols // 3]))
    darkest, brightest = (float(value) for value in np.percentile(edges, (10, 90)))
    stands_out = (brightest - middle) - (middle - darkest)
    at_white = float((edges >= high - NEAR * span).mean())
    return at_white >= AIR_SHARE and stands_out > CLEARLY * span
