"""Errors of volumes against scikit-image."""

import math

import pytest
import torch
from smooth_images import rng

from mednerf_kit.metrics.volume import volume_errors


def test_volume_errors_use_the_stated_range_and_the_3d_window():
    from skimage.metrics import structural_similarity

    truth = torch.rand(13, 14, 15, generator=rng()) * 2000 - 1000
    values = truth + 100 * torch.randn(truth.shape, generator=rng(1))
    errors = volume_errors(values, truth, 2000.0)
    mse = float(((values - truth) ** 2).double().mean())
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 2000,
    }
    assert errors["psnr_3d_db"] == pytest.approx(10 * math.log10(2000**2 / mse), abs=1e-4)
    assert errors["ssim_3d"] == pytest.approx(
        structural_similarity(truth.numpy(), values.numpy(), **options), abs=1e-3
    )
    assert errors["mae"] == pytest.approx(float((values - truth).abs().mean()))


def test_volume_errors_inside_a_mask():
    truth, mask = torch.zeros(12, 12, 12), torch.zeros(12, 12, 12, dtype=torch.bool)
    values = truth.clone()
    values[:6], mask[:6] = 50.0, True
    assert volume_errors(values, truth, 100.0, mask=mask, with_ssim=False)["mae"] == pytest.approx(
        50
    )
    assert volume_errors(values, truth, 100.0, mask=~mask)["ssim_3d"] <= 1
