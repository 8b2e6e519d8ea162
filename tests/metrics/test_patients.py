"""What a few patients say of the next: intervals against theory and against drawn patients."""

from __future__ import annotations

import pytest
import torch
from smooth_images import rng

from mednerf_kit.metrics.patients import (
    bootstrap_interval,
    conformal_quantile,
    factor_for_coverage,
)


def test_a_bootstrap_interval_is_that_of_the_normal_law_for_many_patients():
    values = 20 + 2 * torch.randn(400, generator=rng(0), dtype=torch.float64)
    low, high = bootstrap_interval(values, rng(1))
    half = 1.96 * float(values.std()) / 20
    assert low == pytest.approx(float(values.mean()) - half, abs=0.03)
    assert high == pytest.approx(float(values.mean()) + half, abs=0.03)
    assert bootstrap_interval(values, rng(1)) == (low, high)


def test_patients_without_a_value_do_not_count_and_one_has_no_interval():
    nan = float("nan")
    assert bootstrap_interval(torch.tensor([1.0, nan, 1.0]), rng(0)) == (1.0, 1.0)
    assert bootstrap_interval(torch.tensor([1.0, nan]), rng(0)) is None


@pytest.mark.parametrize("n", [9, 19, 34])
def test_the_next_patient_is_below_the_conformal_quantile_as_often_as_promised(n):
    scores = torch.randn(4000, n + 1, generator=rng(n)).exp()
    held = [conformal_quantile(row[:-1]) >= float(row[-1]) for row in scores]
    assert 0.885 <= sum(held) / len(held) <= 0.9 + 1 / (n + 1) + 0.015


def test_too_few_patients_promise_nothing():
    assert conformal_quantile(torch.arange(8.0)) is None
    assert conformal_quantile(torch.arange(2.0), 0.5) == 1.0


@pytest.mark.parametrize("n", [12, 34])
def test_further_patients_are_covered_on_average_most_of_the_times(n):
    """The mean coverage of the whole population, whose patients' spreads differ by exp(0.5 N)."""
    normal = torch.distributions.Normal(0.0, 1.0)
    half = normal.icdf(0.5 + 0.5 * (torch.arange(50) + 0.5) / 50)
    population = (0.5 * torch.randn(4000, generator=rng(0))).exp()
    means = []
    for trial in range(60):
        scales = population[torch.randint(4000, (n,), generator=rng(100 + trial))]
        factor = factor_for_coverage(scales[:, None] * half)
        means.append(float((2 * normal.cdf(factor / population) - 1).mean()))
    assert sum(m >= 0.9 for m in means) / 60 > 0.85
    assert 0.9 < sum(means) / 60 < 0.97
