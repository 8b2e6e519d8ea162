"""Which pixels are supervised: one contract over the registry, the shapes of patches, and looking values up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Pixels
from mednerf_kit.rays.selectors import SELECTORS, Patch, RandomRays, StridedPatch, look_up

VIEWS, ROWS, COLS = 3, 20, 14
SHAPE = {"views": VIEWS, "rows": ROWS, "cols": COLS}
SIZE = {"random": {"n": 64}, "patch": {"size": 8}, "strided_patch": {"size": 8}}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str):
    return SELECTORS.build({"name": name, **SIZE.get(name, {})}, **SHAPE)


@pytest.mark.parametrize("name", sorted(SELECTORS.entries))
def test_every_selector_stays_in_the_pictures_with_mean_weight_one(name):
    selector, generator = build(name), seeded()
    for step in range(50):
        pixels = selector.select(step, generator)
        assert pixels.view.shape == pixels.weight.shape == pixels.yx.shape[:-1] and pixels.yx.shape[-1] == 2
        assert pixels.view.dtype == torch.int64 and pixels.view.min() >= 0 and pixels.view.max() < VIEWS
        assert (pixels.yx > -1e-4).all() and (pixels.yx < torch.tensor([ROWS - 1, COLS - 1]) + 1e-4).all()
        assert pixels.weight.mean().item() == pytest.approx(1, abs=1e-5) and (pixels.weight >= 0).all()


@pytest.mark.parametrize("name", sorted(SELECTORS.entries))
def test_every_selector_is_deterministic_by_seed(name):
    one, same, other = (build(name).select(0, seeded(s)) for s in (5, 5, 6))
    assert torch.equal(one.yx, same.yx) and torch.equal(one.view, same.view)
    assert not torch.equal(one.yx, other.yx)


@pytest.mark.parametrize("name", sorted(SELECTORS.entries))
def test_every_selector_reaches_every_view(name):
    selector, generator = build(name), seeded()
    seen = {int(v) for step in range(60) for v in selector.select(step, generator).view}
    assert seen == set(range(VIEWS))


def test_random_pixels_are_centres_spread_evenly():
    pixels = RandomRays(n=40_000, **SHAPE).select(0, seeded())
    assert torch.equal(pixels.yx, pixels.yx.round())
    index = (pixels.view * ROWS + pixels.yx[:, 0].long()) * COLS + pixels.yx[:, 1].long()
    counts = torch.bincount(index, minlength=VIEWS * ROWS * COLS).float()
    expected = 40_000 / (VIEWS * ROWS * COLS)
    assert (counts - expected).square().sum() / expected < 1.2 * len(counts), "a chi-square test of evenness"


@pytest.mark.parametrize("stride", [1, 2])
def test_a_patch_is_a_square_of_one_view(stride):
    pixels = Patch(size=6, stride=stride, **SHAPE).select(0, seeded(1))
    grid = pixels.yx.reshape(6, 6, 2)
    assert (pixels.view == pixels.view[0]).all()
    assert (grid[1:, :, 0] - grid[:-1, :, 0] == stride).all() and (grid[:, 1:, 1] - grid[:, :-1, 1] == stride).all()
    assert (grid[:, :1, 0] == grid[:, :, 0]).all() and (grid[:1, :, 1] == grid[:, :, 1]).all()
    assert torch.equal(grid, grid.round())


def test_patches_reach_every_corner():
    selector, generator = Patch(size=8, **SHAPE), seeded()
    corners = torch.stack([selector.select(step, generator).yx[0] for step in range(800)])
    assert corners.amin(0).tolist() == [0, 0] and corners.amax(0).tolist() == [ROWS - 8, COLS - 8]


def test_a_patch_as_large_as_the_picture_is_the_picture():
    pixels = Patch(size=5, views=1, rows=5, cols=5).select(0, seeded())
    picture = torch.rand(1, 5, 5, generator=seeded())
    torch.testing.assert_close(look_up(picture, pixels).reshape(5, 5), picture[0])


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
    view, y, x = torch.meshgrid(torch.arange(VIEWS), torch.arange(ROWS), torch.arange(COLS), indexing="ij")
    pixels = Pixels(view, torch.stack([y, x], -1).float(), torch.ones(view.shape))
    assert torch.equal(look_up(images, pixels), images)


def test_looking_up_between_centres_is_bilinear():
    images = torch.rand(VIEWS, ROWS, COLS, generator=seeded())
    yx = torch.rand(200, 2, generator=seeded(1)) * torch.tensor([ROWS - 1, COLS - 1])
    view = torch.randint(VIEWS, (200,), generator=seeded(2))
    found = look_up(images, Pixels(view, yx, torch.ones(200)))
    wanted = [ndimage.map_coordinates(images[v].numpy(), p[:, None].numpy(), order=1)[0] for v, p in zip(view, yx, strict=True)]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


def test_looking_up_outside_takes_the_border():
    images = torch.rand(1, 4, 4, generator=seeded())
    pixels = Pixels(torch.zeros(2, dtype=torch.int64), torch.tensor([[-3.0, 1.0], [9.0, 9.0]]), torch.ones(2))
    torch.testing.assert_close(look_up(images, pixels), torch.stack([images[0, 0, 1], images[0, 3, 3]]))


def test_looking_up_in_a_picture_of_one_row():
    images = torch.arange(5.0)[None, None]
    pixels = Pixels(torch.zeros(2, dtype=torch.int64), torch.tensor([[0.0, 1.5], [0.0, 4.0]]), torch.ones(2))
    assert look_up(images, pixels).tolist() == [1.5, 4.0]


def test_gradients_flow_to_the_pictures():
    images = torch.zeros(1, 3, 3, requires_grad=True)
    look_up(images, Pixels(torch.zeros(1, dtype=torch.int64), torch.tensor([[0.25, 1.5]]), torch.ones(1))).sum().backward()
    torch.testing.assert_close(images.grad[0, :2, 1:], torch.tensor([[0.375, 0.375], [0.125, 0.125]]))
    assert images.grad.sum().item() == pytest.approx(1)
