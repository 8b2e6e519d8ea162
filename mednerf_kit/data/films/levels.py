"""Grey values of any number type as the types a :class:`~.stored.StoredFilm` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from .checks import check_finite

#: Values below zero up to this share of the largest one are noise about zero.
NOISE_BELOW_ZERO = 0.02


def levels(path: Path, values: np.ndarray, bits: int) -> dict[str, Any]:
    """The fields ``pixels``, ``full_scale``, ``bits`` and ``notes`` of a film's grey values [H, W].

    True is white. Floats of any width become float32. Unsigned integers of up to 16 ``bits`` keep
    their values. Signed ones that stay above zero use the upper half of their type; where they go
    below, the whole type, its lowest value standing for 0, unless it is noise about zero. Longer
    integers that hold 16-bit values are read as such, others are divided by the end of their range.

    Raises UserError for NaN, infinite and other numbers.

    >>> found = levels(Path("a"), np.array([[0, 32767]], dtype=np.int16), 16)
    >>> found["pixels"].tolist(), found["full_scale"]
    ([[0, 32767]], 32767.0)
    >>> found = levels(Path("a"), np.array([[-32768, 0]], dtype=np.int16), 16)
    >>> found["pixels"].tolist(), found["full_scale"]
    ([[0, 32768]], 65535.0)
    """
    kind = values.dtype.kind
    if kind == "b":
        values, kind = 255 * values.astype(np.uint8), "u"
    if kind == "f":
        with np.errstate(over="ignore"):
            pixels = values.astype(np.float32)
        check_finite(path, pixels)
        return {"pixels": pixels, "full_scale": 1.0, "bits": min(bits, 64), "notes": ()}
    if kind not in "iu":
        raise UserError(
            f"got '{path}' of type {values.dtype}",
            "wanted integers or floats",
            "convert the array",
        )
    if values.size == 0:
        raise UserError(f"got '{path}' without pixels", "wanted an X-ray", "export it again")
    low, high = int(values.min()), int(values.max())
    if bits > 16 and low >= 0 and high <= 65535:
        note = f"{bits}-bit pixels that hold 16-bit values: read as 16 bit"
        return _levels(values, 65535, bits, note)
    if kind == "u":
        return _levels(values, 2**bits - 1, bits)
    half = 2 ** (bits - 1)
    if low >= 0:
        return _levels(values, half - 1, bits)
    if -low <= NOISE_BELOW_ZERO * high:
        note = f"signed pixels down to {low}, a little below zero: taken for 0"
        return _levels(values.clip(min=0), half - 1, bits, note)
    note = f"signed pixels from {low}: the lowest value of {bits} bits, {-half}, was taken for 0"
    return _levels(values.astype(np.int64) + half, 2 * half - 1, bits, note)


def _levels(values: np.ndarray, full_scale: int, bits: int, *notes: str) -> dict[str, Any]:
    """Integers from 0 to ``full_scale``: as uint8 or uint16, beyond these as shares of it."""
    if full_scale > 65535:
        pixels, full_scale = (values / full_scale).astype(np.float32), 1
    else:
        pixels = values.astype(np.uint8 if full_scale <= 255 else np.uint16)
    return {"pixels": pixels, "full_scale": float(full_scale), "bits": bits, "notes": notes}
