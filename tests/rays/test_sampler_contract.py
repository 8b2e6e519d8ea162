"""Samplers: one contract over the whole registry and its options."""

from __future__ import annotations

import math

import pytest
import torch
from sampler_cases import (
    COARSE,
    COVERING,
    KINDS,
    LEAVING_OUT,
    NAMES,
    REFINING,
    build,
    coarse_level,
    edges_of,
    one_ray,
    seeded,
    some_of,
    some_rays,
)

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Rays, Samples
from mednerf_kit.rays.samplers.stratified import Stratified


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize(("name", "options"), COVERING + LEAVING_OUT)
def test_every_sampler_is_a_quadrature_rule(name, options, seed):
    rays = some_rays()
    sampler = build(name, n=16, **options)
    if hasattr(sampler, "advance"):
        sampler.advance(0.2)
    for kind in KINDS:
        samples, w = coarse_level(kind, rays, None if seed is None else seeded(seed + 10))
        found = sampler(
            rays, (samples, w.requires_grad_(True)), None if seed is None else seeded(seed)
        )
        t, dt = found.t, found.dt
        assert t.shape == dt.shape and t.shape[:2] == rays.near.shape
        assert t.isfinite().all() and dt.isfinite().all()
        assert (t.diff(dim=-1) >= -1e-6).all() and (dt >= 0).all()
        assert (t >= rays.near[..., None] - 1e-5).all() and (t <= rays.far[..., None] + 1e-5).all()
        assert (dt.sum(-1) <= (rays.far - rays.near) * (1 + 1e-5) + 1e-5).all()
        if (name, options) in COVERING:
            torch.testing.assert_close(dt.sum(-1), rays.far - rays.near, atol=1e-5, rtol=1e-5)
        assert not t.requires_grad and not dt.requires_grad
        assert (dt[:, -1].abs() < 1e-5).all(), "a ray that misses the support has no length"


@pytest.mark.parametrize(("name", "options"), COVERING + LEAVING_OUT)
def test_rays_come_in_any_shape(name, options):
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    both = build(name, n=16, **options)(rays, (samples, w), None)
    flat = Rays(
        *(v.flatten(0, 1) for v in (rays.origin, rays.direction, rays.near, rays.far)),
        depth=rays.depth.flatten(),
    )
    level = Samples(samples.t.flatten(0, 1), samples.dt.flatten(0, 1)), w.flatten(0, 1)
    one = build(name, n=16, **options)(flat, level, None)
    (
        torch.testing.assert_close(one.t, both.t.flatten(0, 1)),
        torch.testing.assert_close(one.dt, both.dt.flatten(0, 1)),
    )


NODES = [
    ("stratified", {"n": 7}, 7),
    ("importance", {"n": 7}, COARSE + 7),
    ("importance", {"n": 7, "merge": False}, 7),
    ("local", {"n": 50}, COARSE + 20),
    ("local", {"n": 50, "kappa": 1.3, "explore": 0.2}, COARSE + 65),
    ("local", {"n": 50, "skip_masked": True, "explore": 0.2}, COARSE + 20),
    ("local", {"n": 50, "merge": False, "skip_masked": True, "explore": 0.2}, 20),
    ("local", {"n": 1, "kappa": 0.1, "merge": False, "skip_masked": True, "explore": 1.0}, 1),
    ("local", {"n": 50, "compat": "released"}, COARSE + COARSE - 2),
    ("guided", {"n": 7, "share": 0.75}, 7),
    ("guided", {"n": 1, "share": 1.0}, 1),
    ("occupancy", {"n": 7}, 7),
    ("occupancy", {"n": 1}, 1),
    ("occupancy", {"n": 40, "keep": 7}, 7),
    ("occupancy", {"n": 40, "keep": 7, "refine": 5}, 12),
]


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("name", "options", "count"), NODES)
def test_the_number_of_nodes_is_what_was_asked_for(name, options, count, seed):
    rays = some_rays()
    found = build(name, **options)(
        rays, coarse_level("random", rays), None if seed is None else seeded(seed)
    )
    assert found.t.shape[-1] == found.dt.shape[-1] == count


@pytest.mark.parametrize(("name", "options"), COVERING + LEAVING_OUT)
def test_every_sampler_is_deterministic(name, options):
    rays = some_rays()
    level = coarse_level("random", rays)
    sampler = build(name, **options)
    assert torch.equal(sampler(rays, level, None).t, sampler(rays, level, None).t)
    assert torch.equal(sampler(rays, level, seeded(3)).t, sampler(rays, level, seeded(3)).t)
    assert not torch.equal(sampler(rays, level, seeded(3)).t, sampler(rays, level, seeded(4)).t)


@pytest.mark.parametrize(
    ("name", "options"), [c for c in COVERING + LEAVING_OUT if "compat" not in c[1]]
)
def test_no_ray_depends_on_its_partners_in_the_batch(name, options):
    rays = some_rays()
    samples, w = coarse_level("one_nothing", rays)
    whole = build(name, **options)(rays, (samples, w), None)
    for i in range(rays.near.shape[1]):
        where = (slice(1, None), slice(i, i + 1))
        level = Samples(samples.t[where], samples.dt[where]), w[where]
        alone = build(name, **options)(some_of(rays, *where), level, None)
        torch.testing.assert_close(alone.t[0, 0], whole.t[1, i], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.dt[0, 0], whole.dt[1, i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", REFINING)
def test_a_refining_sampler_needs_a_coarser_level(name):
    with pytest.raises(UserError, match=f"'{name}' on the first level.*stratified"):
        build(name)(some_rays(), None, None)


@pytest.mark.parametrize("slope", [0.0, 1.0])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFINING])
def test_midpoints_integrate_a_line_exactly(name, slope):
    """The midpoint rule: Σ f(t) dt = ∫ f for f of degree 1, on rays whose strata do not straddle
    anything.
    """
    rays = some_rays()
    even = Rays(
        rays.origin,
        rays.direction,
        rays.near,
        rays.far,
        depth=torch.full_like(rays.near, torch.nan),
    )
    found = build(name, n=9)(even, None, None)
    truth = (rays.far - rays.near) * (1 + slope * 0.5 * (rays.far + rays.near))
    torch.testing.assert_close(
        ((1 + slope * found.t) * found.dt).sum(-1), truth, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stratified", {}),
        ("stratified", {"disparity": True}),
        ("guided", {}),
        ("guided", {"share": 0.75}),
        ("occupancy", {"n": 104}),
    ],
)
def test_jittered_rules_are_right_on_average(name, options):
    """2000 renders of ∫ sin²(3t) with some 10 nodes: their mean is the integral within four
    standard errors.
    """
    rays = one_ray(1.0, 4.0, depth=2.2, count=2000)
    found = build(name, **{"n": 10, **options})(rays, None, seeded())
    values = ((3 * found.t).sin().square() * found.dt).sum(-1)
    truth = 1.5 - (math.sin(24.0) - math.sin(6.0)) / 12
    # The first and last step of a shifted march are asked in their middle: exact to second order
    # only.
    slack = 0.05 if name == "occupancy" else 0.0
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(2000) + slack


@pytest.mark.parametrize(
    ("name", "options"),
    [c for c in COVERING if c[0] in ("importance", "local") and "compat" not in c[1]],
)
def test_refining_twice_converges_to_a_narrow_bell(name, options):
    """∫ exp(−(t−c)²/2s²) = √(2π) s: two levels of a refining sampler against one even level of as
    many nodes.
    """
    rays, s, c = one_ray(2.0, 6.0), 0.03, 3.7

    def error(t, dt):
        return abs(
            (torch.exp(-0.5 * ((t - c) / s).square()) * dt).sum().item()
            / (math.sqrt(2 * math.pi) * s)
            - 1
        )

    coarse = Stratified(n=64)(rays)
    w = torch.exp(-0.5 * ((coarse.t - c) / s).square()) * coarse.dt
    fine = build(name, n=64, **{**options, "warmup": 0.0} if name == "local" else options)(
        rays, (coarse, w), None
    )
    even = Stratified(n=40)(rays)  # 0.34: the bell falls between its nodes
    assert error(fine.t, fine.dt) < 0.3 * error(even.t, even.dt)


def test_stratified_takes_midpoints_and_one_node_per_stratum():
    rays = some_rays()
    step = ((rays.far - rays.near) / 8)[..., None]
    still = Stratified(n=8)(rays)
    torch.testing.assert_close(still.t, rays.near[..., None] + (torch.arange(8) + 0.5) * step)
    place = ((Stratified(n=8)(rays, None, seeded()).t - rays.near[..., None]) / step)[:, :-1]
    # a node may round onto the next edge
    assert (place.floor() == torch.arange(8)).float().mean() > 0.99


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, -4])
def test_every_sampler_wants_at_least_one_sample(name, n):
    with pytest.raises(UserError, match=f"got {n} "):
        build(name, n=n)


def test_disparity_is_even_in_one_over_t():
    rays = one_ray(2.0, 6.0)
    found = Stratified(n=8, disparity=True)(rays)
    torch.testing.assert_close((1 / found.t).diff(dim=-1), torch.full((1, 7), -(1 / 2 - 1 / 6) / 8))
    jittered = Stratified(n=8, disparity=True)(some_rays(), None, seeded())
    edges = edges_of(jittered, some_rays())
    assert (jittered.t >= edges[..., :-1] - 1e-5).all() and (
        jittered.t <= edges[..., 1:] + 1e-5
    ).all()
    with pytest.raises(UserError, match="near > 0"):
        Stratified(disparity=True)(one_ray(0.0, 1.0))
    missed = Stratified(disparity=True)(one_ray(0.0, 0.0))
    assert missed.t.abs().max() == missed.dt.abs().max() == 0


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("local", {"kappa": 0.0}, "kappa 0"),
        ("local", {"explore": 1.5}, "explore 1.5"),
        ("local", {"warmup": -0.1}, "warmup -0.1"),
        ("local", {"compat": "release"}, "did you mean 'released'"),
        ("guided", {"share": 2.0}, "share 2"),
        ("guided", {"window": 0.0}, "window 0"),
        ("guided", {"window_end": -1.0}, "window_end -1"),
    ],
)
def test_options_out_of_range_are_refused(name, options, says):
    with pytest.raises(UserError, match=says):
        build(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_offers_the_nearest(name):
    with pytest.raises(UserError, match="did you mean 'n'"):
        build(name, nn=3)
