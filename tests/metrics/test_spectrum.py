"""Power by spatial frequency: where a wave's power lies, and what blur and noise do to it."""

from __future__ import annotations

import math

import pytest
import torch
from smooth_images import rng

from mednerf_kit.metrics.spectrum import BANDS, band_name, band_powers, power_kept


def wave(cycles: float, size: int = 128) -> torch.Tensor:
    x = torch.arange(size) / size
    return torch.sin(2 * math.pi * cycles * x).expand(size, size)


@pytest.mark.parametrize(("cycles", "band"), [(2.5, 0), (6, 1), (12, 2), (24, 3), (48, 4)])
def test_a_wave_has_its_power_in_its_own_octave_both_ways(cycles, band):
    for picture in (wave(cycles), wave(cycles).T):
        shares = band_powers(picture) / band_powers(picture).sum()
        assert int(shares.argmax()) == band and shares[band] > 0.9


def test_power_is_that_of_parseval():
    """All of a windowed picture's power lies in the rings, the mean and the corners."""
    picture = wave(12) + wave(3).T
    window = torch.hann_window(128)[:, None] * torch.hann_window(128)
    whole = (picture * window).square().sum() * 128**2
    assert float(band_powers(picture, [(0, 64)]) / whole) == pytest.approx(1, abs=1e-4)


def test_a_cut_edge_is_no_detail():
    """A ramp leaps at the picture's border; a periodic transform would see power everywhere."""
    ramp = torch.linspace(0, 1, 128).expand(128, 128)
    shares = band_powers(ramp) / band_powers(ramp).sum()
    assert shares[2:].sum() < 1e-5


def test_a_blur_loses_fine_bands_and_the_mean_of_samples_what_they_do_not_share():
    truth = torch.rand(4, 64, 64, generator=rng(0))
    blurred = torch.nn.functional.avg_pool2d(truth[:, None], 3, 1, 1)[:, 0]
    kept = power_kept(blurred, truth)
    assert kept[4].isnan() and kept[0] > 0.9 > kept[2] > kept[3]
    members = torch.rand(8, 4, 64, 64, generator=rng(1))
    alone = torch.stack([power_kept(m, truth) for m in members]).mean(0)
    torch.testing.assert_close(alone[2:4], torch.ones(2), rtol=0, atol=0.1)
    torch.testing.assert_close(
        power_kept(members.mean(0), truth)[2:4], torch.full((2,), 1 / 8), rtol=0, atol=0.03
    )
    assert [band_name(band) for band in BANDS] == ["1-4", "4-8", "8-16", "16-32", "32-64"]
