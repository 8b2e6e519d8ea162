"""Drawing pixels from chances, and where a picture has detail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from selector_cases import COLS, ROWS, VIEWS, seeded

from mednerf_kit.rays.selectors import drawing, pixel_maps


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
