"""What the values of a scan mean: said by the user, by the file, or taken for Hounsfield units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from ...core.errors import UserError
from ..voxels import Quantity, blocks

#: What a file's values may be; on reading they become one of the three a volume knows.
StoredQuantity = Literal["hu", "hu_plus_1000", "hu_plus_1024", "mu_per_mm", "mu_per_cm", "relative"]
CONVERSIONS: dict[str, tuple[Quantity, float, float]] = {  # quantity, factor, summand
    "hu": ("hu", 1.0, 0.0),
    "hu_plus_1000": ("hu", 1.0, -1000.0),
    "hu_plus_1024": ("hu", 1.0, -1024.0),
    "mu_per_mm": ("mu_per_mm", 1.0, 0.0),
    "mu_per_cm": ("mu_per_mm", 0.1, 0.0),
    "relative": ("relative", 1.0, 0.0),
}
AIR_HU = (-1100.0, -200.0)  # air, lung and their mixtures with tissue
MOST_HU = 32767.0  # nothing in a patient has more: scanners store metal up to here
LEAST_HU = -65536.0  # padding of 16 bits under any slope that scanners use lies above
#: Shares of the voxels that are no padding: of 68 CTs at least 0.21 lie between padding and tissue
#: and at most 0.012 around 1000 HU; shifted by 1000, none and at least 0.054.
LEAST_BETWEEN, SHIFTED_AIR, SHIFTED_TISSUE = 0.01, 0.03, 0.04
MOST_AIR_OF_SHIFTED = 0.1
DENSE_HU, MOST_DENSE = 4000.0, 0.1  # metal, and the largest share of a scan that may be metal
#: Values were cut off where that share of them is one and the same: below, it should be air.
CUT_AIR_HU, CUT_BELOW, CUT_METAL_HU, CUT_ABOVE = -900.0, 0.01, 2000.0, 1e-3
#: Share of the highest value's voxels that lie within so much below it where it is a cut.
LIKE_OTHERS, NEAR_HU = 0.2, 100
#: Beyond padding, of 7 CTs none lies below, and 4.5 % at least are soft tissue.
BELOW_HU, FAR_BELOW_HU, MOST_BELOW, LEAST_SOFT = -1100.0, -1500.0, 0.03, 0.03
MOST_MU_PER_MM = 5.0  # nothing in a patient has more: iron at 60 keV has 0.9
SAY = f"say its quantity with --quantity {', '.join(CONVERSIONS)}".replace(", rel", " or rel")


def converted(values: np.ndarray, stored: StoredQuantity) -> tuple[np.ndarray, Quantity]:
    """Values as one of the quantities of a volume.

    >>> converted(np.array([0.0, 1024.0]), "hu_plus_1024")
    (array([-1024.,     0.]), 'hu')
    """
    quantity, factor, summand = CONVERSIONS[stored]
    if (factor, summand) == (1, 0):
        return values, quantity
    return values * values.dtype.type(factor) + values.dtype.type(summand), quantity


def check_hu(path: Path, values: np.ndarray, unit: str = "") -> None:
    """Refuse values that cannot be Hounsfield units; ``unit`` is the one that the file names.

    Hounsfield units of a patient have air or lung among them. Attenuation in any unit, shifted and
    normalised values, all of which begin about 0, have nothing there.
    """
    if unit:
        raise _refusal(path, f"values in '{unit}' by its header", "wanted Hounsfield units")
    low, high = float(values.min()), float(values.max())
    between = f"values from {low:g} to {high:g}"
    if not any(((b > AIR_HU[0]) & (b < AIR_HU[1])).any() for b in blocks(values)):
        raise _refusal(
            path,
            f"{between} and none between {AIR_HU[0]:g} and {AIR_HU[1]:g}",
            "wanted Hounsfield units, in which air is about -1000 and lung about -800",
        )
    if low < LEAST_HU:
        raise _refusal(
            path, between, f"wanted Hounsfield units, of which none is below {LEAST_HU:g}"
        )
    if _looks_shifted(values, low):
        raise _refusal(
            path,
            f"{between}, of which nothing but the padding of {low:g} is air if 0 is water",
            "wanted Hounsfield units; these look like units above air, in which water is 1000",
        )
    if low > CUT_AIR_HU and (cut := float((values == low).mean())) > CUT_BELOW:
        raise _refusal(
            path,
            f"{between}, of which {cut:.1%} are the lowest: air was cut off",
            "wanted Hounsfield units down to air, which is about -1000",
        )
    if _looks_lowered(values, low):
        raise _refusal(
            path,
            f"{between}, many of which are below air and are no padding",
            "wanted Hounsfield units; these look rescaled twice (1024 too low) or multiplied",
        )
    dense = sum(int((b > DENSE_HU).sum()) for b in blocks(values)) / values.size
    if high > MOST_HU or dense > MOST_DENSE:
        raise _refusal(
            path,
            f"{between}, of which {dense:.1%} are above {DENSE_HU:g}",
            "wanted Hounsfield units, in which only metal is above that",
        )


def cut_off(values: np.ndarray) -> list[str]:
    """What is to be said of Hounsfield units whose dense voxels were cut off.

    Of a body of one density most voxels are the highest, too, but few have the values just below.

    >>> cut_off(np.minimum(np.arange(-1000.0, 500.0), 400.0))
    ['6.7% of the voxels are 400, the highest: denser ones, as of bone, seem to have been cut off']
    """
    high = float(values.max())
    if high >= CUT_METAL_HU or (share := float((values == high).mean())) <= CUT_ABOVE:
        return []
    below = values[(values > high - NEAR_HU) & (values < high)]
    if (
        below.size < LIKE_OTHERS * share * values.size
        or len(np.unique(below.round())) < NEAR_HU / 2
    ):
        return []
    return [
        f"{share:.1%} of the voxels are {high:g}, the highest: denser ones, as of bone, seem to "
        "have been cut off"
    ]


def _shares(values: np.ndarray, low: float) -> Callable[[float, float], float]:
    """The share of values between two numbers, of those above the lowest, which may be padding."""
    count = max(1, int((values > low).sum()))

    def share(first: float, last: float) -> float:
        return float(((values > max(first, low)) & (values < last)).sum()) / count

    return share


def _looks_lowered(values: np.ndarray, low: float) -> bool:
    """Whether values beside padding lie below air, where nothing does: less 1024, or multiplied."""
    if low >= BELOW_HU:
        return False
    share = _shares(values, low)
    if share(-np.inf, FAR_BELOW_HU) > MOST_BELOW:
        return True
    return share(-np.inf, BELOW_HU) > MOST_BELOW and share(-200, 200) < LEAST_SOFT


def _looks_shifted(values: np.ndarray, low: float) -> bool:
    """Whether values are units above air, padded with a negative number that looks like air.

    Without the lowest value there is then nothing about air and lung, much about 0, which is air,
    and much about 1000, which is tissue and in Hounsfield units would be bone.
    """
    share = _shares(values, low)
    return (
        share(*AIR_HU) < LEAST_BETWEEN
        and share(-100, 100) > SHIFTED_AIR
        and share(800, 1200) > SHIFTED_TISSUE
    )


def check_shifted(path: Path, values: np.ndarray) -> None:
    """Refuse values said to be units above air that are Hounsfield units: many are air's."""
    share = _shares(values, float(values.min()))(*AIR_HU)
    if share > MOST_AIR_OF_SHIFTED:
        raise UserError(
            f"got '{path}', of which {share:.0%} is air and lung in Hounsfield units",
            "wanted units above air, of which none but padding is far below 0",
            "leave --quantity out, or say hu",
        )


def check_mu(path: Path, values: np.ndarray) -> None:
    """Refuse values that are too large for attenuation per mm."""
    if (high := float(values.max())) > MOST_MU_PER_MM:
        raise _refusal(
            path,
            f"attenuation up to {high:g} per mm",
            "wanted about 0.02 for water",
        )


def _refusal(path: Path, what: str, wanted: str) -> UserError:
    return UserError(f"got '{path}' with {what}", wanted, SAY)
