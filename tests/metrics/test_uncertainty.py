"""Coverage, calibration and correlation against toy statistics whose truth is known."""

import math

import numpy as np
import pytest
import torch
from smooth_images import rng

from mednerf_kit.core.errors import RunError
from mednerf_kit.metrics import uncertainty


def test_calibration_reaches_its_level_on_unseen_gaussians():
    def toy(seed):
        spread = torch.rand(20000, generator=rng(seed)) + 0.1
        # spreads are 1.7 times too narrow
        return spread, spread * torch.randn(20000, generator=rng(seed + 100)) * 1.7

    spread, error = toy(0)
    factor = uncertainty.calibrate_scale(spread, error, level=0.9)
    assert factor == pytest.approx(1.7 * 1.6449, rel=0.03)  # the 95th percentile of a normal
    spread, error = toy(1)
    assert uncertainty.coverage(-factor * spread, factor * spread, error) == pytest.approx(
        0.9, abs=0.01
    )
    assert uncertainty.coverage(-1.6449 * spread, 1.6449 * spread, error) < 0.7


def test_calibration_keeps_to_the_mask_and_refuses_a_spread_of_zero():
    spread, error = torch.ones(10), torch.arange(10.0)
    mask = error < 5
    assert uncertainty.calibrate_scale(spread, error, 0.8, mask) == 3
    assert uncertainty.coverage(-3 * spread, 3 * spread, error, mask) == pytest.approx(0.8)
    # neither spread nor error: covered by any factor
    assert uncertainty.calibrate_scale(spread * (error > 0), error) == 8
    with pytest.raises(RunError, match="spread that is zero"):
        uncertainty.calibrate_scale(torch.zeros(10), error)


def test_errors_that_are_normal_with_the_spread_reach_the_ceiling_of_the_correlation():
    spread = 1 + torch.rand(200_000, generator=rng())
    error = spread * torch.randn(200_000, generator=rng(1))
    found = uncertainty.spread_error_correlation(spread, error)
    assert found["pearson"] == pytest.approx(found["pearson_ceiling"], abs=0.01)
    # a spread that tells nothing has the same ceiling and does not come near
    found = uncertainty.spread_error_correlation(spread, error.roll(1))
    assert found["pearson"] == pytest.approx(0, abs=0.01)
    assert found["pearson_ceiling"] > 0.2


def test_spread_error_correlation_agrees_with_scipy():
    from scipy import stats

    spread = (torch.rand(500, generator=rng()) * 20).round()  # ties
    error = spread * torch.randn(500, generator=rng(1))
    mask = torch.arange(500) % 3 > 0
    ours = uncertainty.spread_error_correlation(spread, error, mask)
    x, y = spread[mask].numpy(), np.abs(error[mask].numpy())
    assert ours["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(
        uncertainty.spread_error_correlation(torch.ones(9), torch.arange(9.0))["pearson"]
    )
