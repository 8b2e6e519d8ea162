"""Selectors: what each method promises beside the contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from selector_cases import COLS, ROWS, SHAPE, VIEWS, build, places, scene, seeded, trained, truth

from mednerf_kit.core.types import Pixels
from mednerf_kit.rays.selectors import pixel_maps
from mednerf_kit.rays.selectors.base import sample_bilinear
from mednerf_kit.rays.selectors.quadtree import z_order
from mednerf_kit.rays.selectors.uniform import RandomRays


def test_random_pixels_are_centres_spread_evenly():
    pixels = RandomRays(n=40_000, **SHAPE).select(0, seeded())
    assert torch.equal(pixels.yx, pixels.yx.round())
    index = (pixels.view * ROWS + pixels.yx[:, 0].long()) * COLS + pixels.yx[:, 1].long()
    counts = torch.bincount(index, minlength=VIEWS * ROWS * COLS).float()
    expected = 40_000 / (VIEWS * ROWS * COLS)
    assert (counts - expected).square().sum() / expected < 1.2 * len(counts), (
        "a chi-square test of evenness"
    )


def test_an_epoch_takes_every_pixel_once():
    total = VIEWS * ROWS * COLS
    batches = trained(build("shuffled"), 2 * total // 60, seeded())
    for epoch in places(batches).view(2, total):
        assert epoch.unique().numel() == total
    assert not torch.equal(*places(batches).view(2, total))


def test_an_incomplete_last_batch_is_dropped():
    batches = trained(build("shuffled", n=500), 2, seeded())
    assert all(
        len(pixels.view) == 500 and places([(pixels, weight)]).unique().numel() == 500
        for pixels, weight in batches
    )


def test_a_latin_hypercube_visits_every_stratum_of_every_axis():
    pixels = build("latin_hypercube", n=60 * 7).select(0, seeded())
    for values, size in (
        (pixels.view, VIEWS),
        (pixels.yx[:, 0].long(), ROWS),
        (pixels.yx[:, 1].long(), COLS),
    ):
        assert torch.bincount(values, minlength=size).tolist() == [60 * 7 // size] * size
    pixels = build("latin_hypercube", n=3 * COLS + 2, over="view").select(0, seeded())
    for view in range(VIEWS):
        assert pixels.yx[pixels.view == view, 1].sort().values.tolist() == list(range(COLS))


def test_edges_are_drawn_as_often_as_their_chance_says():
    options = {"n": 60_000, "edge_chance": 0.5, "flat_chance": 0.1}
    edges = pixel_maps.edge_maps(
        scene()["images"], lambda p: pixel_maps.canny_edges(p, low=30, high=40)
    )
    counts = torch.bincount(
        places([(build("egra", **options).select(0, seeded()), torch.ones(1))]),
        minlength=edges.numel(),
    )
    on, off = (
        counts.view(edges.shape)[edges].double().mean(),
        counts.view(edges.shape)[~edges].double().mean(),
    )
    assert float(on / off) == pytest.approx(0.55 / 0.05, rel=0.05)
    shifted = torch.bincount(
        places([(build("egra", **options, shift=True).select(0, seeded()), torch.ones(1))]),
        minlength=840,
    )
    mass = [
        float(shifted.view(VIEWS, -1)[edges.view(VIEWS, -1).roll(by, 1)].sum()) for by in range(12)
    ]
    assert 6 <= int(np.argmax(mass)) <= 9 and max(mass) > 1.5 * mass[0], (
        "one shift for the whole batch, within each view"
    )


def test_a_mask_gets_its_share_of_the_rays():
    pixels = build("mask", share=0.75).select(0, seeded())
    assert float(sample_bilinear(scene()["masks"], pixels).mean()) == 0.75


@pytest.mark.parametrize("refresh", ["tiles", "exact"])
def test_an_error_map_draws_by_the_error(refresh):
    selector, errors = (
        build("error_map", n=50_000, grid=2, refresh=refresh, every=7, explore=0.0, keep=0.0),
        torch.zeros(VIEWS, ROWS, COLS),
    )
    errors[1, :10, 7:], errors[2, 10:, :7] = 0.04, 0.16
    pixels = selector.select(0, seeded())
    selector.observe(pixels, sample_bilinear(errors, pixels))
    if refresh == "exact":
        assert selector.wants_full_error_every == 7 and selector.evaluations == 0
        selector.observe_full(errors)
        assert selector.evaluations == errors.numel()
    pixels = selector.select(1, seeded(1))
    found = sample_bilinear(errors, pixels)
    assert (found > 0).all() and float((found > 0.1).float().mean()) == pytest.approx(
        2 / 3, abs=0.01
    )
    assert (pixels.weight * found.sqrt()).std() < 1e-3, (
        "importance: every ray carries the same error"
    )


def test_an_unseen_tile_counts_as_a_large_error_and_a_seen_one_as_its_mean():
    selector = build("error_map", grid=2, keep=0.25)
    pixels = Pixels(
        torch.tensor([0, 0, 1]), torch.tensor([[0.0, 0.0], [1.0, 2.0], [19.0, 13.0]]), torch.ones(3)
    )
    selector.observe(pixels, torch.tensor([0.04, 0.16, 0.25]))
    wanted = torch.ones(VIEWS, 4)
    wanted[0, 0], wanted[1, 3] = 0.25 + 0.75 * 0.3, 0.25 + 0.75 * 0.5
    torch.testing.assert_close(selector.errors, wanted)


def test_imap_shares_rays_out_by_block_error():
    selector = build("imap", n=900, blocks=2, frames=3, pilot=1 / 3)
    errors = (
        torch.tensor([1.0, 4.0, 9.0, 16.0]).repeat_interleave(2).view(2, 2, 2)[..., 0].square()
        / 1000
    )
    errors = (
        torch.kron(errors.sqrt(), torch.ones(ROWS // 2, COLS // 2)).square().expand(VIEWS, -1, -1)
    )
    pixels = selector.select(0, seeded())
    selector.observe(pixels, sample_bilinear(errors, pixels))
    pixels = selector.select(1, seeded(1))
    block = selector.tiles.of(pixels.yx).view(3, 300)[:, 100:]
    share = errors[0, :: ROWS // 2, :: COLS // 2].sqrt().flatten()
    for frame in block:
        np.testing.assert_allclose(
            torch.bincount(frame, minlength=4), 200 * share / share.sum(), atol=1.01
        )
    assert sorted(pixels.view.view(3, 300)[:, 0].tolist()) == [0, 1, 2]


def test_quadtree_cells_are_nested_runs():
    cell, first = z_order(20, 14, 3)
    assert (
        torch.equal(torch.bincount(cell, minlength=64), first.diff()) and (first.diff() > 0).all()
    )
    quarter = (cell // 16).view(20, 14)
    assert (
        (quarter[:10, :7] == 0).all()
        and (quarter[:10, 7:] == 1).all()
        and (quarter[10:, :7] == 2).all()
    )


def test_a_quadtree_splits_where_errors_stay_and_closes_the_rest():
    selector = build(
        "quadtree",
        depth=1,
        max_depth=3,
        threshold=0.05,
        closed_rays=5,
        context_share=0.0,
        uniform_from=1.0,
    )
    errors, generator = torch.zeros(VIEWS, ROWS, COLS), seeded()
    errors[0, 1:5, :3] = 1.0
    for step in range(80):
        pixels = selector.select(step, generator)
        selector.observe(pixels, sample_bilinear(errors, pixels))
    assert (selector.depth[1:] == 1).all() and selector.closed[1:].all()
    depth = selector.depth[0][selector.cell].view(ROWS, COLS)
    assert depth[2, 1] == 3 and (depth[10:] == 1).all() and (depth[5:10, :7] == 2).all()
    assert not selector.closed[0][selector.cell].view(ROWS, COLS)[2, 1]
    plan = selector.planned()
    assert len(plan.view) == 4 + 4 + 3 + 3 + 4 and plan.rays < 100, (
        "an epoch is far shorter than the picture"
    )
    picture = selector.overlay(0)
    assert picture.shape == (ROWS, COLS, 3) and picture.min() >= 0 and picture.max() <= 1
    assert (picture == torch.tensor([1.0, 0.2, 0.1])).all(-1).any() and (
        picture == torch.tensor([0.3, 0.5, 1.0])
    ).all(-1).any()


def test_a_quadtree_is_uniform_at_the_end():
    selector = build("quadtree", n=20_000, uniform_from=0.5)
    selector.advance(0.6)
    counts = torch.bincount(
        places([(selector.select(0, seeded()), torch.ones(1))]), minlength=840
    ).double()
    assert float(counts.var() / counts.mean()) == pytest.approx(1, abs=0.2), "Poisson"


def walkers(**options):
    return build("soft_mining", **{"n": 300, "explore": 0.0, "idle": 0.0, **options})


def test_walkers_follow_the_gradient_and_keep_their_view():
    selector, generator = walkers(step_size=4096.0, noise=0.0), seeded()
    first = selector.select(0, generator)
    before = selector.place.clone()
    error = torch.full((300,), 0.25)
    weight = torch.full((300,), 2.0)
    selector.observe(
        Pixels(first.view, first.yx, weight), error, torch.tensor([0.05, 0.0]).expand(300, 2)
    )
    second = selector.select(1, generator)
    stayed = before[:, 0] + 0.1 < 1
    torch.testing.assert_close(selector.place[stayed], before[stayed] + torch.tensor([0.1, 0.0]))
    assert torch.equal(first.view, second.view) and torch.bincount(first.view).tolist() == [
        100,
        100,
        100,
    ]
    assert 0 < stayed.sum() < 300 and (selector.place < 1).all()


def test_walkers_gather_in_proportion_to_the_error():
    """Langevin's stationary law for drift c·∇log(error) and noise √(2c) is the error itself: here a
    Gaussian hill.
    """
    selector, generator = walkers(n=600, step_size=4096 * 2e-3 * ROWS, noise=0.0632), seeded()
    spots = []
    for step in range(150):
        pixels = selector.select(step, generator)
        place = (selector.place - 0.5) / 0.15
        error = (-0.5 * place.square().sum(-1)).exp()
        slope = -place / 0.15 * error[:, None] / ROWS
        selector.observe(pixels, error, slope)
        if step > 50:
            spots.append(selector.place.clone())
    spread = torch.cat(spots).sub(0.5).std(0)
    np.testing.assert_allclose(spread, 0.15, rtol=0.15)


def test_idle_and_lost_walkers_start_again_at_edges_and_explorers_anywhere():
    selector, generator = walkers(idle=0.1, explore=0.2, noise=0.0, step_size=0.0), seeded()
    pixels = selector.select(0, generator)
    before = selector.place.clone()
    error = torch.arange(300.0) / 300
    selector.observe(pixels, error, torch.zeros(300, 2))
    selector.select(1, generator)
    moved = (selector.place != before).any(-1)
    assert moved[:30].all() and not moved[30:240].any() and moved[240:].all()


def test_soft_weights_take_back_a_share_of_the_emphasis():
    selector = walkers(alpha=0.6, warmup_steps=100)
    pixels = selector.select(0, seeded())
    error = torch.rand(300, generator=seeded()) * 0.01 + 0.5
    assert torch.equal(selector.weigh(pixels, error), torch.ones(300))
    selector.select(50, seeded())
    torch.testing.assert_close(
        selector.weigh(pixels, error).log().diff(), -0.15 * error.log().diff(), atol=0.01, rtol=0.5
    )
    selector.select(1000, seeded())
    extreme = torch.cat([torch.zeros(1), torch.ones(299)])
    weight = selector.weigh(pixels, extreme)
    assert (
        weight.isfinite().all()
        and float(weight.max() / weight.min()) < 50
        and float(weight.mean()) == pytest.approx(1)
    )


def test_expansive_renders_fewer_rays_and_is_unbiased_at_first_only():
    selector, errors, generator = (
        build("expansive", n=2000, rendered=0.5, anchors=0.25),
        truth(),
        seeded(),
    )
    means = {}
    for progress in (0.0, 1.0):
        selector.advance(progress)
        batches = [selector.select(0, generator) for _ in range(60)]
        means[progress] = float(
            torch.stack([(p.weight * sample_bilinear(errors, p)).mean() for p in batches]).mean()
        )
        assert all(
            len(p.view) == 1000 and float(p.weight.mean()) == pytest.approx(1) for p in batches
        )
    inside = errors.flatten()[selector.strata.inside.long()].mean()
    outside = errors.flatten()[selector.strata.outside.long()].mean()
    assert means[0.0] == pytest.approx(float(errors.mean()), rel=0.02)
    assert means[1.0] == pytest.approx(float(inside + outside) / 2, rel=0.02)


def test_expansive_without_a_source_or_anchors_in_the_loss_has_no_nan():
    for options in ({"anchor_weight": 0.0}, {"source_weight": 0.0}):
        weight = build("expansive", **options).select(0, seeded()).weight
        assert (
            weight.isfinite().all()
            and float(weight.mean()) == pytest.approx(1)
            and (weight == 0).any()
        )
