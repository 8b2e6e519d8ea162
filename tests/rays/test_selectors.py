"""Which pixels are supervised: one contract over the registry, the shapes of patches, and looking
values up.
"""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
from scipy import ndimage

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Pixels
from mednerf_kit.rays.selectors import drawing, pixel_maps
from mednerf_kit.rays.selectors.base import SELECTORS, sample_bilinear
from mednerf_kit.rays.selectors.patches import Patch, StridedPatch
from mednerf_kit.rays.selectors.quadtree import z_order
from mednerf_kit.rays.selectors.uniform import RandomRays

VIEWS, ROWS, COLS = 3, 20, 14
SHAPE = {"views": VIEWS, "rows": ROWS, "cols": COLS}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene() -> dict:
    """Views with edges and flat parts, and masks of their middle."""
    blocks = (
        torch.rand(VIEWS, 5, 7, 3, generator=seeded(9))
        .repeat_interleave(4, 1)
        .repeat_interleave(2, 2)
    )
    blocks[:, 12:] = 0.5
    masks = torch.zeros(VIEWS, ROWS, COLS)
    masks[:, 5:15, 3:9] = 1
    return {**SHAPE, "images": blocks, "masks": masks}


def build(name: str, facts: dict | None = None, **options):
    """A selector of 60 rays, or of a patch of 8×8."""
    known = inspect.signature(SELECTORS[name]).parameters
    size = {key: value for key, value in (("n", 60), ("size", 8), ("grid", 4)) if key in known}
    return SELECTORS.build({"name": name, **size, **options}, **(facts or scene()))


def truth() -> torch.Tensor:
    """A squared error at every pixel, larger to the lower right."""
    ramp = torch.linspace(0.1, 1, ROWS)[:, None] * torch.linspace(0.1, 1, COLS)
    return (ramp * torch.rand(VIEWS, ROWS, COLS, generator=seeded(3))).square()


def trained(
    selector, steps: int, rng: torch.Generator, until: float = 1.0
) -> list[tuple[Pixels, torch.Tensor]]:
    """Show a selector ``truth`` for so many steps; every batch with the weights the loss would
    use.
    """
    errors, seen = truth(), []
    for step in range(steps):
        selector.advance(until * step / steps)
        if selector.wants_full_error_every and step % selector.wants_full_error_every == 0:
            selector.observe_full(errors)
        pixels = selector.select(step, rng)
        error = sample_bilinear(errors, pixels)
        weight = selector.weigh(pixels, error)
        gradient = (
            torch.randn((len(error), 2), generator=rng) * error[:, None]
            if selector.wants_gradient
            else None
        )
        selector.observe(pixels, error, gradient)
        seen.append((pixels, weight))
    return seen


CORRECTED = ("egra", "context", "mask", "error_map", "imap", "quadtree")
EVERY = [(name, {}) for name in sorted(SELECTORS.entries) if name not in CORRECTED]
EVERY += [(name, {"correction": c}) for name in CORRECTED for c in (0.0, 0.5, 1.0)]
EVERY += [
    ("egra", {"shift": True}),
    ("error_map", {"refresh": "exact", "every": 20}),
    ("soft_mining", {"start": "edges"}),
    ("latin_hypercube", {"over": "view"}),
    ("expansive", {"scale": "add"}),
    ("expansive", {"scale": "plain"}),
    ("quadtree", {"correction": 1.0, "context_share": 0.0, "threshold": 0.3, "uniform_from": 1.0}),
]


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_selector_stays_in_the_pictures_with_mean_weight_one(name, options):
    batches = trained(build(name, **options), 60, seeded())
    for pixels, weight in batches:
        assert (
            pixels.view.shape == pixels.weight.shape == pixels.yx.shape[:-1]
            and pixels.yx.shape[-1] == 2
        )
        assert (
            pixels.view.dtype == torch.int64
            and pixels.yx.dtype == pixels.weight.dtype == torch.float32
        )
        assert pixels.view.min() >= 0 and pixels.view.max() < VIEWS
        assert (pixels.yx > -1e-4).all() and (
            pixels.yx < torch.tensor([ROWS - 1, COLS - 1]) + 1e-4
        ).all()
        assert weight.isfinite().all() and (weight >= 0).all()
    means = torch.stack([weight.mean() for _, weight in batches])
    exact = name not in CORRECTED or 0 <= options.get("correction", 1.0) < 1 or name == "mask"
    assert means.mean().item() == pytest.approx(
        1, abs=1e-5 if exact else 4 * float(means.std()) / len(means) ** 0.5
    )


@pytest.mark.parametrize(
    ("name", "options"), [entry for entry in EVERY if build(entry[0], **entry[1]).unbiased]
)
def test_a_selector_that_claims_it_is_unbiased_while_it_learns(name, options):
    batches = trained(build(name, **options), 200, seeded(7))
    means = torch.stack(
        [(weight * sample_bilinear(truth().sqrt(), pixels)).mean() for pixels, weight in batches]
    ).double()
    epoch = VIEWS * ROWS * COLS // 60
    means = (
        means[: len(means) // epoch * epoch].view(-1, epoch).mean(1)
        if name == "shuffled"
        else means
    )
    off = float(means.mean() - truth().sqrt().mean())
    assert abs(off) < 4 * float(means.std()) / len(means) ** 0.5 + 1e-6


def test_what_claims_to_be_unbiased_is_what_corrects_fully():
    claims = {name for name, options in EVERY if build(name, **options).unbiased}
    assert claims == {"random", "shuffled", "latin_hypercube", *CORRECTED}
    assert not any(build(name, correction=c).unbiased for name in CORRECTED for c in (0.0, 0.5))


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_selector_is_deterministic_by_seed(name, options):
    one, same, other = (trained(build(name, **options), 12, seeded(s))[-1][0] for s in (5, 5, 6))
    assert (
        torch.equal(one.yx, same.yx)
        and torch.equal(one.view, same.view)
        and torch.equal(one.weight, same.weight)
    )
    assert not torch.equal(one.yx, other.yx)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_a_selector_continues_from_its_state(name, options):
    selector, generator = build(name, **options), seeded()
    trained(selector, 20, generator, until=0.5)
    copied, again = build(name, **options), seeded()
    copied.load_state_dict(copy.deepcopy(selector.state_dict()))
    again.set_state(generator.get_state())
    ahead, same = (trained(s, 10, g)[-1][0] for s, g in ((selector, generator), (copied, again)))
    assert (
        torch.equal(ahead.yx, same.yx)
        and torch.equal(ahead.view, same.view)
        and torch.equal(ahead.weight, same.weight)
    )


@pytest.mark.parametrize("name", sorted(SELECTORS.entries))
def test_every_selector_reaches_every_view(name):
    seen = {int(v) for pixels, _ in trained(build(name), 60, seeded()) for v in pixels.view}
    assert seen == set(range(VIEWS))


def test_random_pixels_are_centres_spread_evenly():
    pixels = RandomRays(n=40_000, **SHAPE).select(0, seeded())
    assert torch.equal(pixels.yx, pixels.yx.round())
    index = (pixels.view * ROWS + pixels.yx[:, 0].long()) * COLS + pixels.yx[:, 1].long()
    counts = torch.bincount(index, minlength=VIEWS * ROWS * COLS).float()
    expected = 40_000 / (VIEWS * ROWS * COLS)
    assert (counts - expected).square().sum() / expected < 1.2 * len(counts), (
        "a chi-square test of evenness"
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_patch_is_a_square_of_one_view(stride):
    pixels = Patch(size=6, stride=stride, **SHAPE).select(0, seeded(1))
    grid = pixels.yx.reshape(6, 6, 2)
    assert (pixels.view == pixels.view[0]).all()
    assert (grid[1:, :, 0] - grid[:-1, :, 0] == stride).all() and (
        grid[:, 1:, 1] - grid[:, :-1, 1] == stride
    ).all()
    assert (grid[:, :1, 0] == grid[:, :, 0]).all() and (grid[:1, :, 1] == grid[:, :, 1]).all()
    assert torch.equal(grid, grid.round())


def test_patches_reach_every_corner():
    selector, generator = Patch(size=8, **SHAPE), seeded()
    corners = torch.stack([selector.select(step, generator).yx[0] for step in range(800)])
    assert corners.amin(0).tolist() == [0, 0] and corners.amax(0).tolist() == [ROWS - 8, COLS - 8]


def test_a_patch_as_large_as_the_picture_is_the_picture():
    pixels = Patch(size=5, views=1, rows=5, cols=5).select(0, seeded())
    picture = torch.rand(1, 5, 5, generator=seeded())
    torch.testing.assert_close(sample_bilinear(picture, pixels).reshape(5, 5), picture[0])


@pytest.mark.parametrize("options", [{"size": 15}, {"size": 8, "stride": 2}])
def test_a_patch_larger_than_the_picture_is_refused(options):
    with pytest.raises(UserError, match="20×14"):
        Patch(**options, **SHAPE)


def test_strided_patches_range_from_contiguous_to_the_whole():
    selector, generator = StridedPatch(size=6, **SHAPE), seeded()
    strides = []
    for step in range(400):
        grid = selector.select(step, generator).yx.reshape(6, 6, 2)
        gaps = torch.cat([grid.diff(dim=0)[..., 0].flatten(), grid.diff(dim=1)[..., 1].flatten()])
        assert gaps.max() - gaps.min() < 1e-4
        strides.append(float(gaps.mean()))
    longest = (COLS - 1) / 5
    assert 1 <= min(strides) < 1.02 and longest - 0.02 < max(strides) <= longest + 1e-4
    assert np.mean(strides) == pytest.approx((1 + longest) / 2, abs=0.1)


def test_looking_up_is_exact_on_centres():
    images = torch.rand(VIEWS, ROWS, COLS, generator=seeded())
    view, y, x = torch.meshgrid(
        torch.arange(VIEWS), torch.arange(ROWS), torch.arange(COLS), indexing="ij"
    )
    pixels = Pixels(view, torch.stack([y, x], -1).float(), torch.ones(view.shape))
    assert torch.equal(sample_bilinear(images, pixels), images)


def test_looking_up_between_centres_is_bilinear():
    images = torch.rand(VIEWS, ROWS, COLS, generator=seeded())
    yx = torch.rand(200, 2, generator=seeded(1)) * torch.tensor([ROWS - 1, COLS - 1])
    view = torch.randint(VIEWS, (200,), generator=seeded(2))
    found = sample_bilinear(images, Pixels(view, yx, torch.ones(200)))
    wanted = [
        ndimage.map_coordinates(images[v].numpy(), p[:, None].numpy(), order=1)[0]
        for v, p in zip(view, yx, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_looking_up_outside_takes_the_border():
    images = torch.rand(1, 4, 4, generator=seeded())
    pixels = Pixels(
        torch.zeros(2, dtype=torch.int64), torch.tensor([[-3.0, 1.0], [9.0, 9.0]]), torch.ones(2)
    )
    torch.testing.assert_close(
        sample_bilinear(images, pixels), torch.stack([images[0, 0, 1], images[0, 3, 3]])
    )


def test_looking_up_in_a_picture_of_one_row():
    images = torch.arange(5.0)[None, None]
    pixels = Pixels(
        torch.zeros(2, dtype=torch.int64), torch.tensor([[0.0, 1.5], [0.0, 4.0]]), torch.ones(2)
    )
    assert sample_bilinear(images, pixels).tolist() == [1.5, 4.0]


def test_looking_up_colours_is_looking_up_each_channel():
    images = torch.rand(VIEWS, ROWS, COLS, 3, generator=seeded())
    pixels = Pixels(torch.tensor([0, 2]), torch.tensor([[3.25, 4.5], [7.0, 0.75]]), torch.ones(2))
    torch.testing.assert_close(
        sample_bilinear(images, pixels),
        torch.stack([sample_bilinear(images[..., c], pixels) for c in range(3)], -1),
    )


def test_gradients_flow_to_the_pictures():
    images = torch.zeros(1, 3, 3, requires_grad=True)
    sample_bilinear(
        images,
        Pixels(torch.zeros(1, dtype=torch.int64), torch.tensor([[0.25, 1.5]]), torch.ones(1)),
    ).sum().backward()
    torch.testing.assert_close(
        images.grad[0, :2, 1:], torch.tensor([[0.375, 0.375], [0.125, 0.125]])
    )
    assert images.grad.sum().item() == pytest.approx(1)


def places(batches: list[tuple[Pixels, torch.Tensor]]) -> torch.Tensor:
    return torch.cat([drawing.index_of(pixels, ROWS, COLS) for pixels, _ in batches])


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


def test_chances_follow_the_cumulative_sum():
    chances = torch.tensor([0.0, 1.0, 0.0, 3.0, 4.0])
    found = drawing.invert(drawing.cumulative(chances), drawing.uniform(40_000, seeded()))
    np.testing.assert_allclose(torch.bincount(found, minlength=5) / 40_000, chances / 8, atol=0.01)
    start, end = torch.full((1000,), 1), torch.full((1000,), 4)
    found = drawing.invert(drawing.cumulative(chances), drawing.uniform(1000, seeded()), start, end)
    np.testing.assert_allclose(
        torch.bincount(found, minlength=5) / 1000, [0, 0.25, 0, 0.75, 0], atol=0.05
    )


def test_systematic_numbers_fill_every_interval():
    assert torch.equal((drawing.systematic(10, seeded()) * 10).long(), torch.arange(10))


@pytest.mark.parametrize(("down", "across"), [(4, 3), (20, 14), (1, 1), (7, 5)])
def test_tiles_hold_the_pixels_they_draw(down, across):
    tiles = drawing.Tiles(ROWS, COLS, down, across)
    yx = torch.stack(
        torch.meshgrid(torch.arange(ROWS), torch.arange(COLS), indexing="ij"), -1
    ).view(-1, 2)
    assert torch.equal(torch.bincount(tiles.of(yx), minlength=tiles.count), tiles.pixels)
    tile = torch.arange(tiles.count).repeat_interleave(50 + 5000 // tiles.count)
    drawn = tiles.draw(tile, seeded())
    assert (
        torch.equal(tiles.of(drawn), tile)
        and len({tuple(p) for p in drawn.tolist()}) == ROWS * COLS
    )


def test_places_and_pixels_are_inverse():
    place = torch.arange(VIEWS * ROWS * COLS)
    assert torch.equal(
        drawing.index_of(drawing.at(place, ROWS, COLS, torch.ones(len(place))), ROWS, COLS), place
    )


def test_edges_are_those_of_kornia():
    from kornia.filters import canny

    picture = pixel_maps.gray(
        torch.rand(8, 9, 1, generator=seeded()).repeat_interleave(5, 0).repeat_interleave(5, 1)
    )
    for low, high in ((30, 40), (100, 160)):
        wanted = canny(picture[None, None], low / 255, high / 255, kernel_size=(1, 1))[1][0, 0] > 0
        assert wanted.any() and torch.equal(
            pixel_maps.canny_edges(picture, low=low, high=high), wanted
        )


def test_spread_is_the_standard_deviation_of_nine_pixels():
    picture = pixel_maps.gray(torch.rand(6, 7, 3, generator=seeded()))
    spread = ndimage.generic_filter(picture.double().numpy(), np.std, size=3, mode="mirror")
    np.testing.assert_allclose(
        pixel_maps.local_spread(picture), (spread + 1e-6) / (spread + 1e-6).sum(), rtol=1e-4
    )
    torch.testing.assert_close(
        pixel_maps.local_spread(torch.zeros(4, 5)), torch.full((4, 5), 1 / 20).double()
    )


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_anchors_cover_their_share_with_the_strongest_edges(share):
    picture = torch.zeros(40, 40)
    picture[10:20, 5:15], picture[25:35, 20:38] = 1.0, 0.3
    picture += 0.004 * torch.rand(40, 40, generator=seeded()).mul(8).round()
    mask = pixel_maps.anchors(pixel_maps.gray(picture[..., None]), share=share)
    assert int(mask.sum()) == round(share * 1600)
    outline = torch.zeros(40, 40, dtype=torch.bool)
    outline[8:22, 3:17] = True
    outline[12:18, 7:13] = False
    assert (mask & outline).sum() >= min(int(mask.sum()), 76), "the bright square comes first"


def test_a_picture_with_few_edges_has_few_anchors():
    picture = torch.zeros(40, 40)
    picture[10:20, 5:15] = 1
    mask = pixel_maps.anchors(picture, share=0.25)
    assert 36 <= int(mask.sum()) <= 160


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


BAD = [
    ("shuffled", {"n": 0}, "batch"),
    ("latin_hypercube", {"n": 2}, "3 views"),
    ("egra", {"edge_chance": 1.5}, "edge_chance = 1.5"),
    ("egra", {"canny_low": 50.0, "canny_high": 40.0}, "canny_low = 50"),
    ("egra", {"correction": -1.0}, "correction = -1"),
    ("context", {"share": 2.0}, "share = 2"),
    ("mask", {"share": 1.0}, "strictly"),
    ("mask", {"n": 1}, "one ray on each side"),
    ("error_map", {"grid": 15}, "15×15 tiles"),
    ("error_map", {"keep": float("nan")}, "keep = nan"),
    ("error_map", {"every": 0}, "every = 0"),
    ("imap", {"n": 5}, "pilot"),
    ("imap", {"blocks": 30}, "30×30"),
    ("imap", {"pilot": 0.0}, "strictly"),
    ("quadtree", {"depth": 4}, "depth = 4"),
    ("quadtree", {"threshold": -0.1}, "threshold"),
    ("quadtree", {"closed_rays": 0}, "closed_rays = 0"),
    ("soft_mining", {"n": 2}, "3 views"),
    ("soft_mining", {"n": 900}, "900 walkers"),
    ("soft_mining", {"alpha": 1.1}, "alpha = 1.1"),
    ("expansive", {"anchors": 0.0}, "anchors = 0"),
    ("expansive", {"anchors": 1.0}, "anchors = 1"),
    ("expansive", {"anchor_rays": 0.0}, "anchor_rays = 0"),
    ("expansive", {"anchor_rays": 1.0}, "anchor_rays = 1"),
    ("expansive", {"n": 2}, "kinds of rays"),
    ("expansive", {"rendered": 1.5}, "rendered = 1.5"),
    ("expansive", {"anchor_weight": 0.0, "source_weight": 0.0}, "both 0"),
]


@pytest.mark.parametrize(("name", "options", "words"), BAD)
def test_an_option_out_of_range_is_refused_in_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value) and "wanted" in str(caught.value)


@pytest.mark.parametrize("name", ["egra", "expansive"])
def test_a_view_without_a_single_edge_is_refused(name):
    facts = scene()
    facts["images"][1] = 0.5
    with pytest.raises(UserError, match="view 1 without a single edge"):
        build(name, facts)


@pytest.mark.parametrize("name", ["context", "soft_mining", "quadtree", "error_map", "imap"])
def test_blank_views_are_no_trouble_to_the_others(name):
    facts = scene()
    facts["images"][:] = 1.0
    selector = build(name, facts)
    for step in range(30):
        pixels = selector.select(step, seeded(step))
        selector.observe(pixels, torch.zeros(len(pixels.view)), torch.zeros_like(pixels.yx))
        assert pixels.weight.isfinite().all()


MISFITS = [
    (None, "without masks"),
    (torch.ones(VIEWS, ROWS, COLS + 1), "3×20×15"),
    (torch.zeros(VIEWS, ROWS, COLS), "nothing"),
    (torch.ones(VIEWS, ROWS, COLS), "everything"),
]


@pytest.mark.parametrize(("masks", "words"), MISFITS)
def test_masks_that_do_not_fit_are_refused(masks, words):
    with pytest.raises(UserError, match=words):
        build("mask", {**scene(), "masks": masks})


@pytest.mark.parametrize("name", ["patch", "strided_patch", "annealed_patch"])
def test_many_patches_at_once_lie_like_single_ones(name):
    selector = SELECTORS.build(name, size=8, **SHAPE)
    many = selector.patches(400, 0, seeded())
    assert many.yx.shape == (400, 64, 2) and many.view.shape == many.weight.shape == (400, 64)
    assert (many.view == many.view[:, :1]).all() and len(many.view[:, 0].unique()) == SHAPE["views"]
    assert (
        many.yx.amin() >= 0
        and (
            many.yx.amax((0, 1)) <= torch.tensor([SHAPE["rows"] - 1.0, SHAPE["cols"] - 1.0]) + 1e-4
        ).all()
    )
    singles = torch.stack(
        [selector.select(0, generator).yx for generator in [seeded(1)] for _ in range(400)]
    )
    assert torch.allclose(many.yx.mean((0, 1)), singles.mean((0, 1)), atol=1.0)
    assert len(many.yx[:, 0].unique(dim=0)) > 50, "patches differ"
