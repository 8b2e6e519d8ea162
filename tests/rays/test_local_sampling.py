"""L-NeRF's local sampling: where fine nodes go, what is left out, what its public code does."""

from __future__ import annotations

import math

import pytest
import torch
from sampler_cases import COARSE, coarse_level, edges_of, inside, one_ray, seeded, some_rays

from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.core.types import Rays, Samples
from mednerf_kit.rays.samplers.importance import Importance
from mednerf_kit.rays.samplers.l_nerf import Local
from mednerf_kit.rays.samplers.stratified import Stratified


def test_local_samples_only_where_the_weight_exceeds_the_threshold():
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    t = Local(n=50, kappa=1.0, threshold=0.6, merge=False)(rays, (samples, w), None).t
    passed = w > 0.6
    ruled = passed.any(-1)
    assert inside(t, passed, edges_of(samples, rays))[ruled].all()
    assert not inside(
        Importance(n=50, merge=False)(rays, (samples, w), None).t, passed, edges_of(samples, rays)
    )[ruled].all()


def test_local_threshold_may_be_a_share_of_the_rays_largest_weight():
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    faint = w * torch.tensor([1.0, 1e-3, 1.0, 1e-4, 1.0, 1.0])[:, None]
    t = Local(n=40, kappa=1.0, threshold=0.5, relative=True, merge=False)(
        rays, (samples, faint), None
    ).t
    cells = faint > 0.5 * faint.amax(-1, keepdim=True)
    assert inside(t, cells, edges_of(samples, rays)).all()


def test_local_falls_back_to_the_whole_ray_when_nothing_passes():
    rays = some_rays()
    samples, w = coarse_level("nothing", rays)
    found = Local(n=24, kappa=1.0, threshold=0.5, merge=False)(rays, (samples, w), None)
    torch.testing.assert_close(found.t, Stratified(n=24)(rays).t, atol=1e-5, rtol=0)


def test_local_kappa_scales_the_number_of_nodes():
    rays = some_rays()
    level = coarse_level("random", rays)
    assert Local(n=50, kappa=0.4, merge=False)(rays, level, None).t.shape[-1] == 20
    assert Local(n=1, kappa=0.1, merge=False)(rays, level, None).t.shape[-1] == 1


def test_local_explores_the_whole_ray_with_its_share():
    rays = some_rays()
    samples, w = coarse_level("spike", rays)
    t = Local(n=1000, kappa=1.0, threshold=0.5, explore=0.25, merge=False)(
        rays, (samples, w), None
    ).t[:, :-1]
    outside = ~inside(t, w[:, :-1] > 0.5, edges_of(samples, rays)[:, :-1])
    share = outside.float().mean(-1)
    assert (share - 0.25 * (COARSE - 1) / COARSE).abs().max() < 0.01


def test_local_at_the_studys_threshold_is_importance_with_fewer_nodes():
    rays = some_rays()
    level = coarse_level("random", rays)
    local = Local(n=50, kappa=0.4, threshold=0.0)(rays, level, None)
    importance = Importance(n=20)(rays, level, None)
    torch.testing.assert_close(local.t, importance.t, atol=1e-4, rtol=0)


def test_local_is_importance_sampling_during_its_warm_up():
    rays = some_rays()
    level = coarse_level("random", rays)
    sampler = Local(n=20, threshold=0.9, warmup=0.1)
    sampler.advance(0.05)
    assert torch.equal(sampler(rays, level, None).t, Importance(n=20)(rays, level, None).t)
    sampler.advance(0.1)
    after = sampler(rays, level, None)
    assert after.t.shape[-1] == COARSE + 8
    fresh = Local(n=20, threshold=0.9, warmup=0.1)
    assert torch.equal(fresh(rays, level, None).t, after.t), (
        "a sampler that is never told is past its warm-up"
    )


def test_skipping_masked_cells_is_exact_when_they_are_empty():
    """A block of three cells: kept cells are integrated exactly, and only they are asked."""
    rays = some_rays()
    samples, w = coarse_level("nothing", rays)
    w[..., 4:7] = 0.2
    found = Local(n=20, kappa=0.5, skip_masked=True)(rays, (samples, w), None)
    block = 3 * (rays.far - rays.near) / COARSE
    torch.testing.assert_close(found.dt.sum(-1), block, atol=1e-5, rtol=1e-5)
    assert ((found.dt > 0).sum(-1)[:, :-1] == 3 + 10).all()
    assert inside(found.t, w > 0.1, edges_of(samples, rays))[found.dt > 0].all()
    whole = Local(n=20, kappa=0.5)(rays, (samples, w), None)
    assert ((whole.dt > 0).sum(-1)[:, :-1] == COARSE + 10).all()


@pytest.mark.parametrize("seed", [None, 0])
def test_skipping_with_exploration_covers_what_was_left_out(seed):
    rays = some_rays()
    samples, w = coarse_level("nothing", rays)
    w[..., 4:7] = 0.2
    sampler = Local(n=20, kappa=1.0, skip_masked=True, explore=0.25)
    found = sampler(rays, (samples, w), None if seed is None else seeded(seed))
    kept = inside(found.t, w > 0.1, edges_of(samples, rays))[:, :-1]
    cell = ((rays.far - rays.near) / COARSE)[:, :-1]
    dt = found.dt[:, :-1]
    assert ((~kept & (dt > 0)).sum(-1) == 5).all() and ((kept & (dt > 0)).sum(-1) == 3 + 15).all()
    torch.testing.assert_close(torch.where(kept, dt, 0.0).sum(-1), 3 * cell, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(torch.where(kept, 0.0, dt).sum(-1), 9 * cell, atol=1e-5, rtol=1e-4)


def test_what_skipping_loses_is_bounded_by_the_threshold():
    """The weight of the cells left out is below S times the threshold, whatever the weights."""
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    w = w.pow(6)
    found = Local(n=20, threshold=0.1, skip_masked=True)(rays, (samples, w), None)
    left_out = ~inside(
        samples.t, torch.ones_like(w, dtype=torch.bool) & (w >= 0.1), edges_of(samples, rays)
    )
    assert (w * left_out).sum(-1).max() < 0.1 * COARSE
    assert ((found.dt > 0).sum(-1)[:, :-1] == 8 + (w >= 0.1).sum(-1)[:, :-1]).all()


def surface(rays: Rays, samples: Samples, centre: float, width: float) -> torch.Tensor:
    """Weights of a bell of ``width`` around ``centre``."""
    return (
        torch.exp(-0.5 * ((samples.t - centre) / width).square())
        / (math.sqrt(2 * math.pi) * width)
        * samples.dt
    )


def test_released_code_drops_a_quarter_of_the_evaluations_and_what_lies_behind():
    """64+128: 64 + 62 fine-pass nodes instead of 64 + 128, −25.8 % in all; in test mode nothing
    behind the surface's middle.
    """
    rays = one_ray(2.0, 6.0)
    coarse = Stratified(n=64)(rays)
    level = coarse, surface(rays, coarse, 4.0, 0.15)
    released = Local(n=128, compat="released")(rays, level, None)
    assert (64 + released.t.shape[-1]) / 256 == 190 / 256 == pytest.approx(1 - 0.258, abs=1e-3)
    fine = released.t[0][~torch.isin(released.t[0], coarse.t[0])]
    assert len(fine) == 62 and (fine > 4.0).sum() == 0
    many = expanded(coarse, 50), level[1].expand(50, -1)
    jittered = Local(n=128, compat="released")(one_ray(2.0, 6.0, count=50), many, seeded())
    behind = (jittered.t > 4.0).sum(-1) - (coarse.t > 4.0).sum()
    assert behind.float().mean() == pytest.approx(31, abs=3), (
        "random numbers are spread over the whole CDF"
    )


def expanded(samples: Samples, count: int) -> Samples:
    return Samples(samples.t.expand(count, -1), samples.dt.expand(count, -1))


def test_released_code_has_one_window_for_all_rays():
    rays = one_ray(2.0, 6.0, count=2)
    coarse = Stratified(n=64)(rays)
    w = torch.stack([surface(rays, coarse, c, 0.1)[0] for c in (3.0, 5.0)])
    sampler = Local(n=128, threshold=1e-3, compat="released")
    both = sampler(rays, (coarse, w), None).t[0]
    alone = sampler(one_ray(2.0, 6.0), (Samples(coarse.t[:1], coarse.dt[:1]), w[:1]), None).t[0]
    assert len(alone) < len(both)
    nothing = Local(n=9, threshold=0.9, compat="released")(
        rays, (coarse, torch.zeros_like(w)), None
    )
    torch.testing.assert_close(nothing.t[:, :9], torch.full((2, 9), 2.0))
    torch.testing.assert_close(nothing.dt.sum(-1), torch.full((2,), 4.0))


def seen(rays: Rays, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour [R, 3] and weights of soft-edged blocks (density 60, edges 0.01 wide) in gaudy colours
    on white.
    """
    dice = seeded(0)
    centre, half = (
        1.6 * torch.rand(14, 3, generator=dice) - 0.8,
        0.05 + 0.25 * torch.rand(14, 3, generator=dice),
    )
    x = rays.origin[:, None] + samples.t[..., None] * rays.direction[:, None]
    outside = torch.full(x.shape[:-1], torch.inf)
    for c, r in zip(centre, half, strict=True):
        outside = outside.minimum(((x - c).abs() - r).amax(-1))
    picture = emission_absorption(
        60 * torch.sigmoid(-outside / 0.01) * samples.dt, 0.5 + 0.5 * (9 * x).sin(), 1.0
    )
    return picture.image, picture.w


@pytest.fixture(scope="module")
def blocks() -> tuple[Rays, torch.Tensor]:
    """400 rays from 4 away, and their colours by 3000 even nodes."""
    dice = seeded(1)
    origin = 4 * torch.nn.functional.normalize(torch.randn(400, 3, generator=dice), dim=-1)
    direction = torch.nn.functional.normalize(
        2 * torch.rand(400, 3, generator=dice) - 1 - origin, dim=-1
    )
    rays = Rays(origin, direction, torch.full((400,), 2.0), torch.full((400,), 6.0))
    return rays, seen(rays, Stratified(n=3000)(rays))[0]


def accuracy(rays: Rays, truth: torch.Tensor, *fine, n: int = 64) -> tuple[float, float]:
    """PSNR in dB of the quadrature alone, and evaluations per ray, after n even coarse nodes."""
    samples = Stratified(n=n)(rays)
    image, w = seen(rays, samples)
    asked = n
    for sampler in fine:
        samples = sampler(rays, (samples, w), None)
        image, w = seen(rays, samples)
        asked += (samples.dt > 0).sum().item() / len(truth)
    return -10 * math.log10((image - truth).square().mean().item()), asked


def test_what_evaluations_buy_on_blocks(blocks):
    """The table of docs/theory.md: as many evaluations, better spent."""
    importance, at_256 = accuracy(*blocks, Importance(n=128))
    local, at_local = accuracy(*blocks, Local(n=128))
    skipping, at_skipping = accuracy(*blocks, Local(n=128, kappa=0.7, skip_masked=True))
    released, at_released = accuracy(*blocks, Local(n=128, compat="released"))
    even, _ = accuracy(*blocks, n=64)
    assert (at_256, at_local, at_released) == (256, 179, 190) and at_skipping < 0.7 * 256
    assert importance > skipping > local + 2 and skipping > importance - 4
    assert local > released + 8 and released > even, (
        "half the random numbers are missing in test mode"
    )
