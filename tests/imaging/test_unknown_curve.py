"""The prior over tone curves: curves rise, and real ones lie well inside it."""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.imaging.film.curves import Gamma, Gsdf, Linear, Sigmoid, Transmission, Window
from mednerf_kit.imaging.film.unknown_curve import END, OFFSET_STD, UnknownCurve

U = torch.linspace(0, 1, 101)


@pytest.fixture(scope="module")
def curve() -> UnknownCurve:
    return UnknownCurve.of_real_curves()


def fitted(curve: UnknownCurve, grey: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """z [Q] of least squares with a small share of |z|², and the curve it gives."""
    z = torch.zeros(1, curve.parameters, requires_grad=True)
    adam = torch.optim.Adam([z], lr=0.1)
    for _ in range(250):
        loss = (curve(z, U[None]) - grey).square().mean() + 1e-6 * z.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return z.detach()[0], curve(z.detach(), U[None])[0]


@pytest.mark.parametrize(
    "real",
    [
        Linear(),
        Gamma(gamma=0.6),
        Gamma(gamma=2.2),
        Sigmoid(),
        Sigmoid(slope=10.0, centre=0.35),
        Window(),
        Transmission(),
        Gsdf(),
    ],
    ids=lambda real: repr(real),
)
def test_a_real_curve_is_reached_and_likely(curve, real):
    """Within 2 % of the range, at most 1.6 standard deviations a number."""
    z, found = fitted(curve, real(U))
    assert float((found - real(U)).square().mean().sqrt()) < 0.02
    assert float(z.norm()) < 1.6 * math.sqrt(curve.parameters)


def test_curves_rise_whatever_z_is(curve):
    z = 3 * torch.randn(50, curve.parameters, generator=torch.Generator().manual_seed(0))
    assert bool((curve(z, U.expand(50, -1)).diff(dim=-1) >= 0).all())


def test_the_first_number_moves_black(curve):
    z = torch.zeros(2, curve.parameters)
    z[1, 0] = 2.0
    grey = curve(z, torch.zeros(2, 1))
    assert grey[:, 0].tolist() == pytest.approx([0, 2 * OFFSET_STD], abs=1e-6)


def test_beyond_the_table_nothing_moves(curve):
    grey = curve(torch.zeros(1, curve.parameters), torch.tensor([[-0.1, 0.0, END, END + 1]]))[0]
    assert grey[0] == grey[1] and grey[2] == grey[3] > grey[1]


def test_the_gradient_is_that_of_finite_differences(curve):
    z = (0.5 * torch.ones(1, curve.parameters)).requires_grad_(True)
    u = torch.tensor([[0.33]], requires_grad=True)
    by_z, by_u = torch.autograd.grad(curve(z, u).sum(), (z, u))
    step = 1e-2
    for k in (0, 1, 3):
        moved = z.detach().repeat(2, 1)
        moved[0, k] += step
        moved[1, k] -= step
        high, low = curve(moved, u.detach().expand(2, 1))[:, 0].tolist()
        assert float(by_z[0, k]) == pytest.approx((high - low) / (2 * step), rel=2e-2, abs=1e-4)
    high, low = (float(curve(z, u + d).detach()) for d in (1e-3, -1e-3))
    assert float(by_u) == pytest.approx((high - low) / 2e-3, rel=2e-2)


def test_the_prior_is_the_same_at_every_call(curve):
    again = UnknownCurve.of_real_curves()
    assert again is curve


def test_the_middle_of_the_prior_makes_a_dense_ray_white(curve):
    """Real curves were drawn with white at u of 0.55 to 0.95: at 0.75 their middle is nearly white,
    brighter than u itself, which is where it would be without their mean."""
    grey = curve(torch.zeros(1, curve.parameters), torch.tensor([[0.0, 0.75]]))[0]
    assert grey[0] == 0 and 0.8 < grey[1] < 1.05
