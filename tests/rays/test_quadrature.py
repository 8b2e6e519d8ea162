"""Quadrature along a ray: cells of nodes, gaps between them, inverse transform of weights."""

from __future__ import annotations

import pytest
import torch
from sampler_cases import (
    COARSE,
    COVERING,
    build,
    coarse_level,
    edges_of,
    inside,
    one_ray,
    seeded,
    some_rays,
)

from mednerf_kit.core.types import Samples
from mednerf_kit.rays.samplers.base import (
    by_weight,
    cells,
    spread,
    together,
)
from mednerf_kit.rays.samplers.importance import Importance
from mednerf_kit.rays.samplers.l_nerf import Local
from mednerf_kit.rays.samplers.stratified import Stratified


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("name", "options"), COVERING)
def test_cells_of_a_covering_rule_tile_the_ray(name, options, seed):
    rays = some_rays()
    found = build(name, n=16, **options)(
        rays, coarse_level("random", rays), None if seed is None else seeded(seed)
    )
    start, length = cells(rays, found)
    torch.testing.assert_close(length.sum(-1), rays.far - rays.near, atol=2e-3, rtol=0)
    assert (start >= rays.near[..., None] - 1e-5).all() and (
        start + length <= rays.far[..., None] + 1e-5
    ).all()
    assert (start[..., 1:] >= (start + length)[..., :-1] - 1e-5).all(), "no two cells overlap"
    here = length > 0
    assert (((found.t >= start - 1e-5) & (found.t <= start + length + 1e-5)) | ~here).all(), (
        "a node lies in its cell"
    )


def test_cells_know_the_gaps_of_a_rule():
    rays = one_ray(0.0, 10.0)
    t = torch.tensor([[0.5, 1.5, 4.5, 5.5, 9.5]])
    start, length = cells(rays, Samples(t, torch.tensor([[1.0, 1.0, 1.0, 0.0, 1.0]])))
    assert start[0, [0, 1, 2, 4]].tolist() == [0, 1, 4, 9] and length[0].tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("merge", [True, False])
def test_nothing_is_asked_or_stood_for_in_a_gap(merge):
    rays = one_ray(0.0, 10.0)
    t, dt = torch.arange(10.0)[None] + 0.5, torch.tensor([[0.0, 1, 1, 0, 0, 0, 1, 0, 0, 0]])
    start, length = cells(rays, Samples(t, dt))
    w = dt * torch.tensor([1.0, 0.2, 0.5, 1, 1, 1, 0.3, 1, 1, 1])
    found = by_weight(rays, Samples(t, dt), start, length, w, 40, merge=merge, rng=seeded())
    assert inside(found.t, dt > 0, edges_of(Stratified(n=10)(rays), rays))[found.dt > 0].all()
    assert found.dt.sum().item() == pytest.approx(3.0)
    in_the_last = (found.t > 6) & (found.t < 7)
    assert found.dt[in_the_last].sum().item() == pytest.approx(1.0, abs=0.06)


def test_two_parts_are_spread_and_put_together():
    start, length = torch.tensor([[0.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    outer, inner = (
        spread(start, length, 6, None),
        spread(torch.tensor([[1.0]]), torch.tensor([[2.0]]), 2, None),
    )
    assert (
        outer.t[0].tolist() == pytest.approx([0.25, 0.75, 3.25, 3.75, 4.25, 4.75])
        and outer.dt[0].tolist() == [0.5] * 6
    )
    both = together(inner, outer)
    assert both.t[0].tolist() == pytest.approx([0.25, 0.75, 1.5, 2.5, 3.25, 3.75, 4.25, 4.75])
    assert both.dt[0].tolist() == pytest.approx([0.5, 0.5, 1, 1, 0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("make", [Importance, lambda **o: Local(kappa=1.0, threshold=0.4, **o)])
def test_test_mode_nodes_lie_symmetrically_in_the_cumulative_weight(make):
    """Mean CDF of the nodes is one half, so nothing in front of or behind a surface is
    preferred.
    """
    rays = some_rays()
    samples, w = coarse_level("random", rays)
    t = make(n=30, merge=False)(rays, (samples, w), None).t[:, :-1]
    w = torch.where(w >= 0.4, w + 1e-5, 0.0) if make is not Importance else w
    cdf = torch.nn.functional.pad((w / w.sum(-1, keepdim=True)).cumsum(-1), (1, 0))[:, :-1]
    edges = edges_of(samples, rays)[:, :-1]
    k = (torch.searchsorted(edges.contiguous(), t.contiguous()) - 1).clamp(0, COARSE - 1)
    share = (t - edges.gather(-1, k)) / (edges.gather(-1, k + 1) - edges.gather(-1, k))
    at = cdf.gather(-1, k) + share * (cdf.gather(-1, k + 1) - cdf.gather(-1, k))
    torch.testing.assert_close(at.mean(-1), torch.full_like(at[..., 0], 0.5), atol=5e-3, rtol=0)


def test_importance_gives_every_cell_its_share_of_nodes():
    rays, n = some_rays(), 1200
    samples, w = coarse_level("random", rays)
    t = Importance(n=n, merge=False)(rays, (samples, w), None).t[:, :-1]
    edges = edges_of(samples, rays)[:, :-1]
    counted = torch.stack(
        [
            ((t >= edges[..., k, None]) & (t < edges[..., k + 1, None])).sum(-1)
            for k in range(COARSE)
        ],
        -1,
    )
    share = (w / w.sum(-1, keepdim=True))[:, :-1]
    assert (counted - n * share).abs().max() <= 2


@pytest.mark.parametrize("make", [Importance, lambda **o: Local(kappa=1.0, threshold=0.5, **o)])
def test_merging_keeps_the_coarse_nodes(make):
    rays = some_rays()
    samples, w = coarse_level("spike", rays)
    merged, bare = (make(n=8, merge=m)(rays, (samples, w), None).t for m in (True, False))
    assert merged.shape[-1] == COARSE + 8 and bare.shape[-1] == 8
    assert (merged[..., None] == samples.t[..., None, :]).any(-2).all()
    torch.testing.assert_close(
        merged, torch.cat([samples.t, bare], -1).sort(-1).values, atol=1e-5, rtol=0
    )
