"""Scores of pictures against closed forms and scikit-image."""

import math

import pytest
import torch
from smooth_images import rng, smooth

from mednerf_kit.core.errors import UserError
from mednerf_kit.metrics import image as image_metrics


@pytest.mark.parametrize("error", [0.3, 0.01, 1e-4])
def test_psnr_of_a_constant_error_is_closed_form(error):
    truth = torch.rand(2, 3, 12, 12, generator=rng(), dtype=torch.float64)
    assert image_metrics.psnr_db(truth + error, truth) == pytest.approx(
        torch.full((2, 3), -20 * math.log10(error))
    )


def test_psnr_is_per_view_and_identical_views_stay_finite():
    truth = torch.zeros(2, 8, 8)
    image = torch.stack([truth[0], truth[1] + 0.1])
    assert image_metrics.psnr_db(image, truth).tolist() == pytest.approx([120, 20])


def test_masked_psnr_counts_only_the_mask():
    truth = torch.zeros(8, 8)
    image = torch.zeros(8, 8)
    image[:, 4:] = 0.5
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, 2:6] = True
    assert float(image_metrics.psnr_db(image, truth, mask)) == pytest.approx(
        -10 * math.log10(0.25 / 2)
    )
    assert float(image_metrics.psnr_db(image, truth, ~mask)) == pytest.approx(
        -10 * math.log10(0.25 / 2)
    )
    assert math.isnan(float(image_metrics.psnr_db(image, truth, torch.zeros_like(mask))))


def test_gain_fit_is_the_best_gain_and_ignores_scale():
    truth, image = smooth(3, 24), smooth(3, 24, seed=1)
    fitted = image_metrics.gain_fitted_psnr_db(image, truth)
    gains = torch.linspace(0, 2, 401)[:, None, None, None]
    best = image_metrics.psnr_db(gains * image, truth).amax(0)
    assert torch.all(fitted >= best - 1e-4)
    assert fitted.tolist() == pytest.approx(best.tolist(), abs=1e-3)
    assert image_metrics.gain_fitted_psnr_db(0.3 * image, truth).tolist() == pytest.approx(
        fitted.tolist(), abs=1e-4
    )


def test_body_mask_is_a_brute_force_dilation():
    truth = (torch.rand(2, 15, 17, generator=rng()) > 0.97) * 0.5
    truth[0, 0, 0], truth[1, 7, 7] = 0.02, 0.5  # the threshold itself is outside
    expected = torch.zeros_like(truth, dtype=torch.bool)
    for v, y, x in (truth > 0.02).nonzero().tolist():
        expected[v, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = True
    assert torch.equal(image_metrics.body_mask(truth), expected)


@pytest.mark.parametrize("size", [(11, 11), (33, 47), (64, 64)])
def test_ssim_agrees_with_scikit_image(size):
    from skimage.metrics import structural_similarity

    truth = smooth(1, 64)[0, : size[0], : size[1]]
    image = (0.8 * truth + 0.15 * torch.rand(size, generator=rng(3))).clamp(0, 1)
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1,
    }
    expected = structural_similarity(
        truth.numpy().astype(float), image.numpy().astype(float), **options
    )
    assert float(image_metrics.ssim(image, truth)) == pytest.approx(expected, abs=1e-5)


def test_masked_ssim_averages_scikit_images_map():
    from skimage.metrics import structural_similarity

    truth, image = smooth(1, 40)[0], smooth(1, 40, seed=4)[0]
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1,
        "full": True,
    }
    _, full = structural_similarity(truth.double().numpy(), image.double().numpy(), **options)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:25, 3:20] = True
    # rows and columns whose window leaves the image are not counted
    expected = full[5:25, 5:20].mean()
    assert float(image_metrics.ssim(image, truth, mask)) == pytest.approx(expected, abs=1e-5)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(UserError, match="10×12"):
        image_metrics.ssim(torch.zeros(10, 12), torch.zeros(10, 12))


def test_every_metric_scores_every_view_and_prefers_the_truth():
    truth = smooth(6, 32).reshape(2, 3, 32, 32)
    worse = (truth + 0.1 * torch.randn(truth.shape, generator=rng())).clamp(0, 1)
    good, bad = image_metrics.scores(truth, truth), image_metrics.scores(worse, truth)
    assert set(good) == set(image_metrics.METRICS.entries)
    for name in good:
        assert good[name].shape == bad[name].shape == (2, 3)
        better = good[name] < bad[name] if name == "mae" else good[name] > bad[name]
        assert better.all() and torch.isfinite(good[name]).all(), name
        assert image_metrics.METRICS[name].__doc__
