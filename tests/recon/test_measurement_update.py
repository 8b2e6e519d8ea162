"""The measurement update against linear algebra: means, covariances, masks, several films."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.recon.field_volume import FieldProjector, FieldVolume
from mednerf_kit.recon.measurement_update import (
    Covariance,
    FilmEquations,
    centred,
    conjugate_gradients,
    correlated,
    gaussian_taps,
    null_space,
    updated,
)

SIDE, PX = 6, 5
SIGMA = 0.02


def seeded(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def projector_of(*angles_deg: float, side: int = SIDE, px: int = PX) -> FieldProjector:
    geometry = DEFAULTS["chest"].resized(px).at(angles_deg)
    return FieldProjector(FieldVolume.of(torch.zeros(side, side, side), geometry), geometry)


@pytest.fixture(scope="module")
def covariance() -> Covariance:
    rng = seeded(1)
    deviations = 0.05 * torch.randn(2, SIDE, SIDE, SIDE, generator=rng)
    return Covariance(deviations, 0.1 * torch.rand(SIDE, SIDE, SIDE, generator=rng) + 0.02, 1.0)


def matrix(linear, *shape: int) -> torch.Tensor:
    """A linear function of [1, *shape] as the matrix [out, in], in double precision."""
    unit = torch.eye(torch.Size(shape).numel()).view(-1, 1, *shape)
    return torch.stack([linear(one).flatten() for one in unit], 1).double()


def dense(covariance, projector, root):
    """A, C and R of a problem as matrices."""
    a = matrix(projector.forward, SIDE, SIDE, SIDE)
    return a, matrix(covariance.times, SIDE, SIDE, SIDE), root.flatten().double()


@pytest.mark.parametrize("angles_deg", [(270.0,), (270.0, 0.0, 40.0)])
def test_the_mean_is_that_of_the_posterior(covariance, angles_deg):
    projector = projector_of(*angles_deg)
    root = torch.full((len(angles_deg), PX, PX), 1 / SIGMA)
    root[:, :2, 1] = 0  # masked pixels
    root[0, 3] *= 0.5
    a, c, r = dense(covariance, projector, root)
    film = 0.1 * torch.randn(1, *root.shape, generator=seeded(2))
    found = FilmEquations(covariance, projector, root).gain(root * film, 300)
    seen = r > 0
    noise = torch.diag(r[seen] ** -2)
    inner = torch.linalg.solve(a[seen] @ c @ a[seen].T + noise, film.flatten().double()[seen])
    wanted = c @ a[seen].T @ inner
    allowed = 3e-3 * float(wanted.abs().max())
    torch.testing.assert_close(found.flatten().double(), wanted, rtol=0, atol=allowed)


def test_the_members_spread_as_the_posterior(covariance):
    """An ensemble drawn from N(m, C) has the exact mean and covariance after the update."""
    projector, count = projector_of(270.0), 800
    root = torch.full((1, PX, PX), 1 / SIGMA)
    middle = 5.0  # far from zero: nothing is cut
    weights = centred(count, torch.Size([2]), seeded(3))
    low = torch.einsum("mk,kdhw->mdhw", weights, covariance.deviations)
    members = middle + low
    film = 0.05 * torch.randn(1, 1, PX, PX, generator=seeded(4))
    innovation = film - projector.forward(low)
    equations = FilmEquations(covariance, projector, root)
    found = updated(members, innovation, equations, seeded(5), steps=30, member_steps=30)
    a, c, _ = dense(covariance, projector, root)
    gain = c @ a.T @ torch.linalg.inv(a @ c @ a.T + SIGMA**2 * torch.eye(PX * PX).double())
    mean = middle + (gain @ film.flatten().double())
    torch.testing.assert_close(found.mean(0).flatten().double(), mean, rtol=0, atol=1e-3)
    left = found[0].flatten().double()
    torch.testing.assert_close(left, mean, rtol=0, atol=1e-3)  # the best guess gets no noise
    after = torch.cov(found[1:].flatten(1).double().T)
    exact = c - gain @ a @ c
    scale = exact.diagonal().sqrt()
    assert float(((after - exact) / (scale[:, None] * scale)).abs().max()) < 0.2
    ratio = after.diagonal().sum() / exact.diagonal().sum()
    assert float(ratio) == pytest.approx(1, abs=0.03)


def test_the_preconditioner_only_makes_it_faster(covariance):
    projector = projector_of(270.0, 0.0)
    root = torch.full((2, PX, PX), 1 / SIGMA)
    equations = FilmEquations(covariance, projector, root)
    b = torch.randn(3, 2, PX, PX, generator=seeded(6))
    exact, fast = (
        conjugate_gradients(equations, b, steps=400, tolerance=1e-6, precondition=how)
        for how in (torch.clone, equations.precondition)
    )
    torch.testing.assert_close(exact, fast, rtol=1e-2, atol=1e-3 * float(exact.abs().max()))
    x, y = torch.randn(2, 1, 2, PX, PX, generator=seeded(7))
    for symmetric in (equations, equations.precondition):
        torch.testing.assert_close(
            (symmetric(x) * y).sum(), (x * symmetric(y)).sum(), rtol=1e-3, atol=1e-3
        )


def test_a_film_that_says_nothing_leaves_members_as_they_are(covariance):
    projector = projector_of(270.0)
    members = torch.rand(1, SIDE, SIDE, SIDE, generator=seeded(8))
    film = torch.randn(1, 1, PX, PX, generator=seeded(9))
    for root in (torch.zeros(1, PX, PX), torch.full((1, PX, PX), 1e-6)):
        equations = FilmEquations(covariance, projector, root)
        found = updated(members, film, equations, seeded(10), steps=10, member_steps=4)
        torch.testing.assert_close(found, members, rtol=0, atol=1e-5)


def test_one_member_has_a_local_part_alone():
    member = torch.rand(1, SIDE, SIDE, SIDE, generator=seeded(11))
    found = Covariance.of(member, floor=0.2, length_voxels=1.0, low_rank=0.1)
    assert found.deviations.shape == (0, SIDE, SIDE, SIDE)
    assert float(found.spread.min()) > 0


def test_nothing_is_made_of_nothing():
    members = torch.zeros(3, 24, 24, 24)
    members[:, :8] = 1.0
    members[1, :8] = 1.3
    found = Covariance.of(members, floor=0.2, length_voxels=1.0, low_rank=0.1)
    assert float(found.spread[16:].max()) == 0
    expected = (members[:, 0, 0, 0].var() ** 0.5).item()
    middle = float(found.spread[2, 12, 12])
    assert middle == pytest.approx(expected, rel=0.3)


def test_the_local_part_has_the_stated_variance_and_correlation():
    side, spread = 16, 0.3
    covariance = Covariance(torch.zeros(0, side, side, side), torch.full((side,) * 3, spread), 1.5)
    unit = torch.zeros(1, side, side, side)
    unit[0, 8, 8, 8] = 1
    column = covariance.local(unit)[0]
    assert float(column[8, 8, 8]) == pytest.approx(spread**2, rel=1e-3)
    for away in (1, 2):
        wanted = spread**2 * torch.exp(torch.tensor(-0.5 * (away / 1.5) ** 2))
        assert float(column[8, 8 + away, 8]) == pytest.approx(float(wanted), rel=0.05)
    drawn = covariance.draw(200, seeded(12))
    assert float(drawn[0].abs().max()) == 0 and float(drawn.mean(0).abs().max()) < 1e-5
    inside = drawn[1:, 4:12, 4:12, 4:12]
    assert float(inside.std()) == pytest.approx(spread, rel=0.03)


def test_draws_bring_what_members_do_not_differ_by_already():
    members = torch.ones(40, 16, 16, 32)
    members[:, :, :, :16] += 0.3 * torch.randn(40, 16, 16, 16, generator=seeded(15))
    found = Covariance.of(members, floor=0.1, length_voxels=1.0, low_rank=0.1)
    assert float(found.spread[8, 8, 4]) == pytest.approx(0.3, rel=0.1)
    drawn = found.draw(200, seeded(16))[1:]
    assert float(drawn[..., 2:8].abs().max()) < 2e-3, "members differ by more than the floor"
    alone = drawn[:, 6:10, 6:10, 23:26]
    assert float(alone.std()) == pytest.approx(0.1, rel=0.1), "the floor alone"
    wider = found.inflated(torch.full((16, 16, 32), 2.0)).draw(200, seeded(17))[1:]
    assert float(wider[:, 6:10, 6:10, 4:8].std()) == pytest.approx(0.3 * 3**0.5, rel=0.1)


def test_shifted_sums_are_a_convolution():
    x = torch.rand(2, 5, 6, 7, generator=seeded(13))
    taps = gaussian_taps(1.2)
    kernel = taps[:, None, None] * taps[:, None] * taps
    wanted = torch.nn.functional.conv3d(x[:, None], kernel[None, None], padding=len(taps) // 2)
    torch.testing.assert_close(correlated(x, taps), wanted[:, 0])


def test_the_null_space_is_what_no_film_sees():
    side, px = 16, 16
    projector = projector_of(270.0, 0.0, side=side, px=px)
    rng = seeded(14)
    body = torch.zeros(side, side, side)
    body[4:12, 4:12, 4:12] = 1
    values = body * torch.rand(side, side, side, generator=rng)
    masks = torch.ones(2, px, px)
    hidden = null_space(values, body, projector, masks, steps=100)
    before, left = (projector.forward(x).norm() for x in (values, hidden))
    assert float(left) < 0.01 * float(before)
    assert float(hidden.norm()) > 0.1 * float(values.norm())
    assert float((hidden * (1 - body)).abs().max()) == 0
    seen = values - hidden
    assert abs(float((seen * hidden).sum())) < 0.02 * float(values.square().sum()), "orthogonal"
