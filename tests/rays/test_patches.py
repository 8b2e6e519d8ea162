"""Square patches: their shapes and places."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from selector_cases import COLS, ROWS, SHAPE, seeded

from mednerf_kit.core.errors import UserError
from mednerf_kit.rays.selectors.base import SELECTORS, sample_bilinear
from mednerf_kit.rays.selectors.patches import AnnealedPatch, Patch, StridedPatch, smallest_scale


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


def test_patches_grow_finer():
    assert smallest_scale(999) == 0.9 and smallest_scale(10**6) == 0.25
    assert smallest_scale(100_000) == pytest.approx(math.exp(-0.75))
    patch = AnnealedPatch(size=8, views=2, rows=32, cols=32)
    for step, low in ((0, 0.9), (10**6, 0.25)):
        widths = [
            float(yx[:, 0].max() - yx[:, 0].min()) / 31
            for yx in (patch.select(step, seeded(s)).yx for s in range(40))
        ]
        assert min(widths) >= low - 1e-5 and max(widths) <= 1 + 1e-5 and min(widths) < low + 0.15
