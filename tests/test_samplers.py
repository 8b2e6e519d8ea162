"""Samplers: one contract over the whole registry, then what each of them promises beside it."""

from __future__ import annotations

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Rays, Samples
from mednerf_kit.rays.samplers import SAMPLERS, Importance, Local, Stratified, stratum_edges

COARSE = 12
KINDS = ["even", "spike", "nothing", "one_nothing", "random", "tiny"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_rays(batch: int = 2, count: int = 5) -> Rays:
    """Rays of many lengths, the last of which misses the support."""
    near = 1 + torch.rand(batch, count, generator=seeded(1))
    far = near + 0.1 + 3 * torch.rand(batch, count, generator=seeded(2))
    far[:, -1] = near[:, -1]
    direction = torch.nn.functional.normalize(torch.randn(batch, count, 3, generator=seeded(3)), dim=-1)
    return Rays(torch.zeros(batch, count, 3), direction, near, far)


def weights(kind: str, rays: Rays) -> torch.Tensor:
    w = torch.rand(*rays.near.shape, COARSE, generator=seeded(4))
    if kind == "even":
        w = torch.ones_like(w) / COARSE
    elif kind == "spike":
        w = torch.zeros_like(w)
        w[..., 7] = 1.0
    elif kind == "nothing":
        w = torch.zeros_like(w)
    elif kind == "one_nothing":
        w[:, 1] = 0
    elif kind == "tiny":
        w = w * 1e-9
    return w


def coarse_level(kind: str, rays: Rays, generator: torch.Generator | None = None) -> tuple[Samples, torch.Tensor]:
    return Stratified(n=COARSE)(rays, None, generator), weights(kind, rays)


def inside(t: torch.Tensor, cells: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Whether each node lies in a cell that ``cells`` marks."""
    t = t[..., None]
    return ((t >= edges[..., None, :-1] - 1e-5) & (t <= edges[..., None, 1:] + 1e-5) & cells[..., None, :]).any(-1)


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(SAMPLERS.entries))
def test_every_sampler_is_a_quadrature_rule(name, kind, seed):
    rays = some_rays()
    samples, w = coarse_level(kind, rays, None if seed is None else seeded(seed + 10))
    found = SAMPLERS.build({"name": name, "n": 16})(
        rays, (samples, w.requires_grad_(True)), None if seed is None else seeded(seed)
    )
    t, dt = found.t, found.dt
    assert t.shape == dt.shape and t.shape[:2] == rays.near.shape
    assert t.isfinite().all() and dt.isfinite().all()
    assert (t.diff(dim=-1) >= -1e-6).all() and (dt >= -1e-6).all()
    assert (t >= rays.near[..., None] - 1e-5).all() and (t <= rays.far[..., None] + 1e-5).all()
    torch.testing.assert_close(dt.sum(-1), rays.far - rays.near, atol=1e-5, rtol=1e-5)
    assert not t.requires_grad and not dt.requires_grad
    assert (dt[:, -1].abs() < 1e-5).all(), "a ray that misses the support has no length"


@pytest.mark.parametrize("name", sorted(SAMPLERS.entries))
def test_every_sampler_is_deterministic(name):
    rays = some_rays()
    level = coarse_level("random", rays)
    sampler = SAMPLERS.build(name)
    assert torch.equal(sampler(rays, level, None).t, sampler(rays, level, None).t)
    assert torch.equal(sampler(rays, level, seeded(3)).t, sampler(rays, level, seeded(3)).t)
    assert not torch.equal(sampler(rays, level, seeded(3)).t, sampler(rays, level, seeded(4)).t)


@pytest.mark.parametrize("name", sorted(SAMPLERS.entries))
def test_no_ray_depends_on_its_partners_in_the_batch(name):
    rays = some_rays()
    samples, w = coarse_level("one_nothing", rays)
    whole = SAMPLERS.build(name)(rays, (samples, w), None)
    for i in range(rays.near.shape[1]):
        one = Rays(*(v[1:, i : i + 1] for v in (rays.origin, rays.direction, rays.near, rays.far)))
        alone = SAMPLERS.build(name)(one, (Samples(samples.t[1:, i : i + 1], samples.dt[1:, i : i + 1]), w[1:, i : i + 1]), None)
        torch.testing.assert_close(alone.t[0, 0], whole.t[1, i], rtol=0, atol=1e-6)
        torch.testing.assert_close(alone.dt[0, 0], whole.dt[1, i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS.entries) - {"stratified"}))
def test_a_refining_sampler_needs_a_coarser_level(name):
    with pytest.raises(UserError, match=f"'{name}' on the first level.*stratified"):
        SAMPLERS.build(name)(some_rays(), None, None)


def test_stratified_takes_midpoints_and_one_node_per_stratum():
    rays = some_rays()
    step = ((rays.far - rays.near) / 8)[..., None]
    still = Stratified(n=8)(rays)
    torch.testing.assert_close(still.t, rays.near[..., None] + (torch.arange(8) + 0.5) * step)
    place = ((Stratified(n=8)(rays, None, seeded()).t - rays.near[..., None]) / step)[:, :-1]
    assert (place.floor() == torch.arange(8)).float().mean() > 0.99  # a node may round onto the next edge


@pytest.mark.parametrize("name", sorted(SAMPLERS.entries))
@pytest.mark.parametrize("n", [0, -4])
def test_every_sampler_wants_at_least_one_sample(name, n):
    with pytest.raises(UserError, match=f"{n} samples"):
        SAMPLERS.build({"name": name, "n": n})


def test_stratum_edges_tile_the_ray():
    rays = some_rays()
    edges = stratum_edges(Stratified(n=6)(rays), rays)
    torch.testing.assert_close(edges[..., 0], rays.near)
    torch.testing.assert_close(edges[..., -1], rays.far)


def test_importance_gives_every_cell_its_share_of_nodes():
    rays, n = some_rays(), 1200
    samples, w = coarse_level("random", rays)
    t = Importance(n=n, merge=False)(rays, (samples, w), None).t[:, :-1]
    edges = stratum_edges(samples, rays)[:, :-1]
    counted = torch.stack([((t >= edges[..., k, None]) & (t < edges[..., k + 1, None])).sum(-1) for k in range(COARSE)], -1)
    share = (w / w.sum(-1, keepdim=True))[:, :-1]
    assert (counted - n * share).abs().max() <= 2


@pytest.mark.parametrize("make", [Importance, lambda **o: Local(kappa=1.0, threshold=0.5, **o)])
def test_merging_keeps_the_coarse_nodes(make):
    rays = some_rays()
    samples, w = coarse_level("spike", rays)
    merged, bare = (make(n=8, merge=m)(rays, (samples, w), None).t for m in (True, False))
    assert bare.shape[-1] == 8
    torch.testing.assert_close(merged, torch.cat([samples.t, bare], -1).sort(-1).values)


def test_local_samples_only_where_the_weight_exceeds_the_threshold():
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    t = Local(n=50, kappa=1.0, threshold=0.6, merge=False)(rays, (samples, w), None).t
    passed = w > 0.6
    ruled = passed.any(-1)
    assert inside(t, passed, stratum_edges(samples, rays))[ruled].all()
    assert not inside(Importance(n=50, merge=False)(rays, (samples, w), None).t, passed, stratum_edges(samples, rays))[
        ruled
    ].all()


def test_local_threshold_may_be_a_share_of_the_rays_largest_weight():
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    faint = w * torch.tensor([1.0, 1e-3, 1.0, 1e-4, 1.0])[:, None]
    t = Local(n=40, kappa=1.0, threshold=0.5, relative=True, merge=False)(rays, (samples, faint), None).t
    cells = faint > 0.5 * faint.amax(-1, keepdim=True)
    assert inside(t, cells, stratum_edges(samples, rays)).all()


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
    t = Local(n=1000, kappa=1.0, threshold=0.5, explore=0.25, merge=False)(rays, (samples, w), None).t[:, :-1]
    outside = ~inside(t, w[:, :-1] > 0.5, stratum_edges(samples, rays)[:, :-1])
    share = outside.float().mean(-1)
    assert (share - 0.25 * (COARSE - 1) / COARSE).abs().max() < 0.01


@pytest.mark.parametrize("name", sorted(SAMPLERS.entries))
def test_an_unknown_option_offers_the_nearest(name):
    with pytest.raises(UserError, match="did you mean 'n'"):
        SAMPLERS.build({"name": name, "nn": 3})
