"""Distances of sets of features, against closed forms and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from random_priors import seeded
from scipy.linalg import sqrtm

from mednerf_kit.core.errors import UserError
from mednerf_kit.metrics.distances import frechet_distance, kernel_distance, precision_recall


def exact_gaussian(n: int, mean: torch.Tensor, factor: torch.Tensor, seed: int) -> torch.Tensor:
    """n points whose sample mean and covariance are exactly ``mean`` and ``factor factorᵀ``."""
    x = torch.randn(n, len(mean), generator=seeded(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return white @ factor.T + mean


@pytest.mark.parametrize("n", [9, 300])
def test_frechet_distance_of_known_gaussians(n):
    stds_a, stds_b = (
        torch.tensor([1.0, 2.0, 0.5, 3.0]).double(),
        torch.tensor([2.0, 2.0, 1.5, 0.1]).double(),
    )
    # commuting covariances: a closed form
    turn = torch.linalg.qr(torch.randn(4, 4, generator=seeded(), dtype=torch.float64)).Q
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5]).double()
    a = exact_gaussian(n, torch.zeros(4).double(), turn @ stds_a.diag(), 1)
    b = exact_gaussian(n + 7, shift, turn @ stds_b.diag(), 2)
    closed = float(shift.square().sum() + (stds_a - stds_b).square().sum())
    assert frechet_distance(a, b) == pytest.approx(closed, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(closed, rel=1e-9)


# full rank, and fewer pictures than features
@pytest.mark.parametrize(("n", "m"), [(40, 60), (4, 60), (4, 3)])
def test_frechet_distance_is_that_with_the_root_of_a_matrix(n, m):
    a, b = torch.randn(n, 6, generator=seeded(1)), 2 * torch.randn(m, 6, generator=seeded(2)) + 0.3
    ca, cb = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    root = np.real(sqrtm(ca @ cb + 1e-12 * np.eye(6)))
    wanted = float((a.double().mean(0) - b.double().mean(0)).square().sum()) + np.trace(
        ca + cb - 2 * root
    )
    assert frechet_distance(a, b) == pytest.approx(wanted, abs=2e-4)


def test_a_set_is_at_no_distance_from_itself():
    x = 100 + torch.randn(50, 80, generator=seeded())
    assert frechet_distance(x, x[torch.randperm(50, generator=seeded())]) == pytest.approx(
        0, abs=1e-6
    )
    assert precision_recall(x, x.clone()) == (1.0, 1.0)


def test_kernel_distance_is_the_double_sum():
    a, b = (
        torch.randn(5, 3, generator=seeded(1)).double(),
        torch.randn(5, 3, generator=seeded(2)).double() + 1,
    )

    def k(x, y):
        return float((x @ y / 3 + 1) ** 3)

    within = sum(k(x[i], x[j]) for x in (a, b) for i, j in itertools.permutations(range(5), 2)) / 20
    across = sum(k(x, y) for x in a for y in b) / 25
    value, deviation = kernel_distance(a, b, seeded())
    assert value == pytest.approx(within - 2 * across, rel=1e-9)
    assert deviation is None  # both sets whole: there is one subset only


def test_kernel_distance_is_unbiased_and_its_subsets_are_capped():
    draws = torch.randn(200, 2, 20, 4, generator=seeded())
    values = torch.tensor([kernel_distance(a, b, seeded())[0] for a, b in draws])
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(len(values))
    assert float(values.min()) < 0 < float(values.max())
    whole, spread = kernel_distance(
        *torch.randn(2, 300, 4, generator=seeded(1)), seeded(), subsets=10, size=50
    )
    assert spread > 0 and abs(whole) < 0.5
    # 20 against 4000
    larger, spread = kernel_distance(
        draws[0, 0], draws[:, 0].flatten(0, 1) + 2, seeded(), subsets=5
    )
    assert larger > 1 and math.isfinite(spread)


def test_precision_and_recall_of_clusters():
    """Reals in two clusters: fakes in one of them are right but miss half; fakes in a third place
    are wrong in every way.
    """
    cluster = 0.1 * torch.randn(60, 2, generator=seeded())
    left, right, away = (
        cluster[20 * k : 20 * k + 20] + torch.tensor(place)
        for k, place in enumerate([(0.0, 0), (9.0, 0), (0.0, 9)])
    )
    reals = torch.cat([left, right])
    precision, recall = precision_recall(reals, left + 1e-4)
    assert precision == 1.0 and recall == pytest.approx(0.5)
    assert precision_recall(reals, away) == (0.0, 0.0)
    precision, recall = precision_recall(left, torch.cat([left + 1e-4, away]))
    assert precision == pytest.approx(0.5) and recall == 1.0


def test_precision_is_the_brute_force_share(monkeypatch):
    monkeypatch.setattr("mednerf_kit.metrics.distances.CHUNK", 7)
    reals, points = (
        torch.randn(30, 3, generator=seeded(1)).double(),
        torch.randn(40, 3, generator=seeded(2)).double() + 0.7,
    )
    radius = [sorted(float((x - y).norm()) for y in reals)[3] for x in reals]
    inside = [
        any(float((p - x).norm()) <= r for x, r in zip(reals, radius, strict=True)) for p in points
    ]
    assert precision_recall(reals, points)[0] == pytest.approx(sum(inside) / 40)


@pytest.mark.parametrize(
    "distance", [frechet_distance, lambda a, b: kernel_distance(a, b, seeded()), precision_recall]
)
def test_sets_too_small_are_refused(distance):
    with pytest.raises(UserError, match="got sets of 1 and 9 pictures"):
        distance(torch.zeros(1, 2), torch.zeros(9, 2))
