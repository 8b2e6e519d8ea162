"""The sliced Wasserstein distance of sets of pictures, and its pyramid."""

import pytest
import torch
from smooth_images import rng, smooth

from mednerf_kit.core.errors import UserError
from mednerf_kit.metrics.distances import _binomial, laplacian_pyramid, sliced_wasserstein

# enough for a test of the sliced Wasserstein distance
FEW = {"patches": 64, "directions": 32, "repeats": 2}


def test_laplacian_pyramid_sums_back_to_the_image():
    images = smooth(2, 64)[:, None]
    levels = laplacian_pyramid(images)
    rebuilt = levels[-1]
    for level in reversed(levels[:-1]):
        spread = torch.zeros_like(level)
        spread[..., ::2, ::2] = rebuilt
        rebuilt = level + 4 * _binomial(spread)
    assert torch.allclose(rebuilt, images, atol=1e-5)
    # a flat image has no details
    assert float(laplacian_pyramid(torch.ones(1, 1, 64, 64))[0].abs().max()) < 1e-5


def test_swd_is_zero_for_identical_sets_and_blind_to_order():
    sets = smooth(16, 32, blur=1.0)[:, None]
    other = smooth(16, 32, seed=5, blur=1.0)[:, None]
    assert set(sliced_wasserstein(sets, sets, rng(), **FEW).values()) == {0.0}
    straight, turned = (sliced_wasserstein(sets, x, rng(), **FEW) for x in (other, other.flip(0)))
    assert straight == pytest.approx(turned, rel=1e-3)
    assert straight["swd"] == pytest.approx((straight["swd_32"] + straight["swd_16"]) / 2)


def test_swd_grows_with_blur():
    sharp = smooth(12, 64, blur=0.6)[:, None]

    def blurred(sigma):
        taps = torch.exp(-0.5 * (torch.arange(-6, 7) / sigma) ** 2)
        kernel = (taps[:, None] * taps / taps.sum() ** 2)[None, None]
        return torch.nn.functional.conv2d(
            torch.nn.functional.pad(sharp, (6,) * 4, mode="reflect"), kernel
        )

    found = [
        sliced_wasserstein(sharp, blurred(sigma), rng(), **FEW)["swd"]
        for sigma in (0.3, 0.6, 1.0, 2.0)
    ]
    assert found == sorted(found) and found[-1] > 3 * found[0]


def test_swd_refuses_unequal_sets():
    with pytest.raises(UserError, match="equal shapes"):
        sliced_wasserstein(torch.zeros(2, 1, 32, 32), torch.zeros(3, 1, 32, 32), rng())
