"""The area filter: constants and means stay, whole factors are plain block means."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from mednerf_kit.core.resampling import area_matrix, area_resized


@pytest.mark.parametrize("n_in, n_out", [(128, 64), (100, 37), (37, 100), (5, 5)])
def test_area_filter_keeps_constants_and_the_mean(n_in, n_out):
    weights = area_matrix(n_in, n_out)
    assert torch.allclose(weights.sum(1), torch.ones(n_out), atol=1e-6)
    if n_out <= n_in:
        image = torch.rand(n_in, n_in, generator=torch.Generator().manual_seed(0))
        assert area_resized(image, n_out, n_out).mean() == pytest.approx(
            float(image.mean()), abs=1e-6
        )
    ramp = (torch.arange(n_in) + 0.5) / n_in
    inner = slice(n_out // 8, -n_out // 8)
    assert torch.allclose(
        (weights @ ramp)[inner], ((torch.arange(n_out) + 0.5) / n_out)[inner], atol=0.1 / n_in
    )


def test_by_a_whole_factor_it_is_the_mean_of_blocks():
    images = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))
    blocks = interpolate(images[:, None], (6, 5), mode="area")[:, 0]
    torch.testing.assert_close(area_resized(images, 6, 5), blocks)
    assert torch.equal(area_resized(images, 12, 20), images), "its own size changes nothing"


def test_a_part_of_a_pixel_counts_for_that_part():
    assert area_resized(torch.tensor([[6.0, 0.0, 0.0]]), 1, 2).tolist() == [[4.0, 0.0]]
