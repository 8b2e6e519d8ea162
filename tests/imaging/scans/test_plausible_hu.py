"""Values that cannot be Hounsfield units are refused, whichever way they were changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.scans.quantity import check_hu, check_shifted, cut_off


def head(rng: np.random.Generator) -> np.ndarray:
    """HU of a soft ellipsoid with bone about it and an airway in it, blurred and noisy."""
    from scipy.ndimage import gaussian_filter

    z, y, x = np.mgrid[-1:1:24j, -1:1:40j, -1:1:40j]
    r = np.sqrt((x / 0.7) ** 2 + (y / 0.8) ** 2 + (z / 1.4) ** 2)
    values = np.where(r < 1, 40.0, -1000.0)
    values[(r > 0.85) & (r < 1)] = 900
    values[(x**2 + (y - 0.2) ** 2) < 0.02] = -950
    return gaussian_filter(values, 1) + rng.normal(0, 15, values.shape)


@pytest.mark.parametrize("shift", [1000, 1024])
@pytest.mark.parametrize("padding", [-1000, -1024, -500])
def test_units_above_air_with_padding_that_looks_like_air_are_refused(shift, padding):
    hu = head(np.random.default_rng(0))
    y, x = np.mgrid[-1:1:40j, -1:1:40j]
    check_hu(Path("a.nii"), np.where(x**2 + y**2 < 1, hu, -1024))
    shifted = np.where(x**2 + y**2 < 1, hu + shift, padding)
    with pytest.raises(UserError, match="units above air.*hu_plus_1000"):
        check_hu(Path("a.nii"), shifted)
    crisp = np.where(hu > 500, 1000.0, np.where(hu > -500, 0.0, -1000.0))
    with pytest.raises(UserError, match="units above air"):
        check_hu(Path("a.nii"), np.where(x**2 + y**2 < 1, crisp + shift, padding))


@pytest.mark.parametrize(("low", "high"), [(-500, 1300), (-450, 1050), (-850, 1500)])
def test_a_window_without_air_is_refused(low, high):
    hu = head(np.random.default_rng(0))
    with pytest.raises(UserError, match=f"from {low} to .* are the lowest: air was cut off"):
        check_hu(Path("a.nii"), hu.clip(low, high))


@pytest.mark.parametrize("high", [300, 500])
def test_a_window_without_bone_is_said(high):
    hu = np.round(head(np.random.default_rng(0)))
    assert cut_off(hu) == []
    assert cut_off(np.where(hu > 200, 600.0, hu)) == []  # a body of one density
    check_hu(Path("a.nii"), hu.clip(-1000, high))
    (said,) = cut_off(hu.clip(-1000, high))
    assert f"are {high}, the highest" in said


@pytest.mark.parametrize("shift", [1000, 1024])
def test_hounsfield_units_said_to_lie_above_air_are_refused(shift):
    hu = head(np.random.default_rng(0))
    with pytest.raises(UserError, match="air and lung in Hounsfield units.*leave --quantity out"):
        check_shifted(Path("a.nii"), hu)
    check_shifted(Path("a.nii"), hu + shift)
    padded = hu + shift
    padded[:, :9] = -1000
    check_shifted(Path("a.nii"), padded)


@pytest.mark.parametrize("change", [lambda hu: hu - 1024, lambda hu: hu - 1000, lambda hu: 10 * hu])
@pytest.mark.parametrize("padding", [None, -3024])
def test_values_below_air_are_refused(change, padding):
    changed = change(head(np.random.default_rng(0)))
    if padding is not None:
        changed[:, :4] = padding * 10
    with pytest.raises(UserError, match="below air and are no padding"):
        check_hu(Path("a.nii"), changed)
