"""From grey values to a picture in [0, 1], bone bright: one function for each input kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from .regions import stretched
from .stored import GreyKind

#: Of line integrals in a unit of their own: what lies above are a few pixels of metal.
DENSEST_PERCENT = 99.9


@dataclass
class Reading:
    """A film on its way to a picture, and what was assumed so far."""

    path: Path
    values: np.ndarray  # [H, W] float32: shares of full range, or floats as they are
    levels: float  # the value of full range as stored; 1 for floats
    mask: np.ndarray  # [H, W] float32 in [0, 1]: 0 where the film was not exposed
    invert: bool  # the polarity is to be turned over
    scale: float | None  # line integral of an image value of 1, where it is known
    in_own_unit: bool = False  # line integrals as a device counts them, in a unit of its own
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def is_float(self) -> bool:
        return self.levels == 1

    def seen(self, values: np.ndarray) -> np.ndarray:
        """The values of exposed pixels, or all where none is exposed."""
        found = values[self.mask > 0.5]
        return found if found.size else values.ravel()


def _unit(reading: Reading) -> np.ndarray:
    """Pixels in [0, 1] with the polarity wanted."""
    values = reading.values
    low, high = float(values.min()), float(values.max())
    if low < -1e-4 or high > 1 + 1e-4:
        raise UserError(
            f"got '{reading.path}' with values {low:.3g} to {high:.3g}",
            "wanted floats in [0, 1]",
            "divide by the set's line_integral_scale, or put it into a geometry.json beside the "
            "file; for a film prepared for display say --input-kind display",
        )
    values = values.clip(0, 1)
    return 1 - values if reading.invert else values


def _from_line_integral(reading: Reading) -> np.ndarray:
    if reading.is_float and reading.scale is not None:
        if reading.invert:
            raise UserError(
                f"got --invert for '{reading.path}', which holds line integrals",
                "wanted a picture in [0, 1]",
                "leave --invert out",
            )
        values = reading.values / np.float32(reading.scale)
        if values.min() < -1e-3:
            raise UserError(
                f"got '{reading.path}' with line integrals down to {reading.values.min():.3g}",
                "wanted none below 0",
                "correct the array",
            )
        reading.notes.append(
            f"read as line integrals and divided by {reading.scale:g}, the line_integral_scale "
            "beside the file"
        )
        return values
    values = _unit(reading)
    if reading.in_own_unit:
        densest = float(np.percentile(reading.seen(values), DENSEST_PERCENT))
        reading.notes.append(f"scaled so that the densest rays are 1 ({densest:.0%} of the range)")
        return values / max(densest, 1e-6)
    if values.max() < 0.25:
        reading.warnings.append(
            f"the brightest pixel is {values.max():.0%} of full range "
            "(12-bit values in a 16-bit file look like this)"
        )
    return values


def _from_transmission(reading: Reading) -> np.ndarray:
    values = _unit(reading)
    if reading.is_float:
        floor = 1e-6
    else:
        open_field = float(np.percentile(reading.seen(values), 99.9))
        floor = 0.5 / reading.levels  # half a grey level: what a stored 0 stands for
        reading.notes.append(
            f"took {open_field:.3g} of full range, the 99.9th percentile, for the unattenuated beam"
        )
        values = values / open_field
    integral = -np.log(values.clip(floor, 1))
    scale = reading.scale
    if scale is None:
        scale = float(reading.seen(integral).max())
        reading.notes.append(f"scaled so that the densest ray is 1 (line integral {scale:.2f})")
    return integral / scale


def _from_display(reading: Reading) -> np.ndarray:
    values = -reading.values if reading.invert else reading.values
    picture = stretched(values, reading.seen(values))
    reading.notes.append(
        "a film prepared for display is not linear in the line integral (its look-up curve is "
        "unknown): stretched between its 0.5th and 99.5th percentiles, so densities are qualitative"
    )
    return picture


CONVERT: dict[GreyKind, Callable[[Reading], np.ndarray]] = {
    "line-integral": _from_line_integral,
    "transmission": _from_transmission,
    "display": _from_display,
}
