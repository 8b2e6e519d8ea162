"""Metrics against closed forms, scikit-image and toy statistics whose truth is known."""

import math

import numpy as np
import pytest
import torch

from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.metrics import image as image_metrics

# enough for a test of the sliced Wasserstein distance
FEW = {"patches": 64, "directions": 32, "repeats": 2}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n, size, seed=0, blur=2.0):
    """Smooth random pictures in [0, 1], [n, size, size]."""
    noise = torch.randn(n, size, size, generator=rng(seed))
    frequency = torch.fft.fftfreq(size)
    low = torch.exp(-2 * (math.pi * blur) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    image = torch.fft.ifft2(torch.fft.fft2(noise) * low).real
    return (image - image.amin((1, 2), keepdim=True)) / (
        image.amax((1, 2), keepdim=True) - image.amin((1, 2), keepdim=True)
    )


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


def test_volume_errors_use_the_stated_range_and_the_3d_window():
    from skimage.metrics import structural_similarity

    truth = torch.rand(13, 14, 15, generator=rng()) * 2000 - 1000
    values = truth + 100 * torch.randn(truth.shape, generator=rng(1))
    errors = image_metrics.volume_errors(values, truth, 2000.0)
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
    assert image_metrics.volume_errors(values, truth, 100.0, mask=mask, with_ssim=False)[
        "mae"
    ] == pytest.approx(50)
    assert image_metrics.volume_errors(values, truth, 100.0, mask=~mask)["ssim_3d"] <= 1


def test_laplacian_pyramid_sums_back_to_the_image():
    images = smooth(2, 64)[:, None]
    levels = image_metrics.laplacian_pyramid(images)
    rebuilt = levels[-1]
    for level in reversed(levels[:-1]):
        spread = torch.zeros_like(level)
        spread[..., ::2, ::2] = rebuilt
        rebuilt = level + 4 * image_metrics._binomial(spread)
    assert torch.allclose(rebuilt, images, atol=1e-5)
    # a flat image has no details
    assert float(image_metrics.laplacian_pyramid(torch.ones(1, 1, 64, 64))[0].abs().max()) < 1e-5


def test_swd_is_zero_for_identical_sets_and_blind_to_order():
    sets = smooth(16, 32, blur=1.0)[:, None]
    other = smooth(16, 32, seed=5, blur=1.0)[:, None]
    assert set(image_metrics.sliced_wasserstein(sets, sets, rng(), **FEW).values()) == {0.0}
    straight, turned = (
        image_metrics.sliced_wasserstein(sets, x, rng(), **FEW) for x in (other, other.flip(0))
    )
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

    distances = [
        image_metrics.sliced_wasserstein(sharp, blurred(sigma), rng(), **FEW)["swd"]
        for sigma in (0.3, 0.6, 1.0, 2.0)
    ]
    assert distances == sorted(distances) and distances[-1] > 3 * distances[0]


def test_swd_refuses_unequal_sets():
    with pytest.raises(UserError, match="equal shapes"):
        image_metrics.sliced_wasserstein(
            torch.zeros(2, 1, 32, 32), torch.zeros(3, 1, 32, 32), rng()
        )


def test_calibration_reaches_its_level_on_unseen_gaussians():
    def toy(seed):
        spread = torch.rand(20000, generator=rng(seed)) + 0.1
        # spreads are 1.7 times too narrow
        return spread, spread * torch.randn(20000, generator=rng(seed + 100)) * 1.7

    spread, error = toy(0)
    factor = image_metrics.calibrate_scale(spread, error, level=0.9)
    assert factor == pytest.approx(1.7 * 1.6449, rel=0.03)  # the 95th percentile of a normal
    spread, error = toy(1)
    assert image_metrics.coverage(-factor * spread, factor * spread, error) == pytest.approx(
        0.9, abs=0.01
    )
    assert image_metrics.coverage(-1.6449 * spread, 1.6449 * spread, error) < 0.7


def test_calibration_keeps_to_the_mask_and_refuses_a_spread_of_zero():
    spread, error = torch.ones(10), torch.arange(10.0)
    mask = error < 5
    assert image_metrics.calibrate_scale(spread, error, 0.8, mask) == 3
    assert image_metrics.coverage(-3 * spread, 3 * spread, error, mask) == pytest.approx(0.8)
    # neither spread nor error: covered by any factor
    assert image_metrics.calibrate_scale(spread * (error > 0), error) == 8
    with pytest.raises(RunError, match="spread that is zero"):
        image_metrics.calibrate_scale(torch.zeros(10), error)


def test_spread_error_correlation_agrees_with_scipy():
    from scipy import stats

    spread = (torch.rand(500, generator=rng()) * 20).round()  # ties
    error = spread * torch.randn(500, generator=rng(1))
    mask = torch.arange(500) % 3 > 0
    ours = image_metrics.spread_error_correlation(spread, error, mask)
    x, y = spread[mask].numpy(), np.abs(error[mask].numpy())
    assert ours["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic)
    assert ours["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert math.isnan(
        image_metrics.spread_error_correlation(torch.ones(9), torch.arange(9.0))["pearson"]
    )


def test_lpips_says_why_it_is_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    value, reason = image_metrics.lpips_distance(torch.zeros(64, 64), torch.zeros(64, 64))
    assert value is None and str(tmp_path) in reason and reason.endswith(".")
    value, reason = image_metrics.lpips_distance(torch.zeros(16, 16), torch.zeros(16, 16))
    assert value is None and "32×32" in reason


def test_lpips_with_a_backbone_from_a_path(tmp_path, monkeypatch):
    pytest.importorskip("lpips")
    shapes = {
        0: (64, 3, 11, 11),
        3: (192, 64, 5, 5),
        6: (384, 192, 3, 3),
        8: (256, 384, 3, 3),
        10: (256, 256, 3, 3),
    }
    state = {
        f"features.{k}.weight": torch.randn(shape, generator=rng(k)) * 0.05
        for k, shape in shapes.items()
    }
    state |= {f"features.{k}.bias": torch.zeros(shape[0]) for k, shape in shapes.items()}

    truth = smooth(4, 64).reshape(2, 2, 64, 64)
    noisy = (truth + 0.2 * torch.rand(truth.shape, generator=rng())).clamp(0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(image_metrics, "_backbone", {tmp_path / "alexnet.pth": state}.get)
        value, reason = image_metrics.lpips_distance(
            torch.stack([truth, noisy]), truth, tmp_path / "alexnet.pth"
        )
    assert reason is None and value.shape == (2, 2, 2)
    assert value[0].abs().max() < 1e-6 and value[1].min() > 1e-3

    (tmp_path / "broken.pth").write_bytes(b"PK not weights")
    with pytest.raises(UserError, match="broken.pth"):
        image_metrics.lpips_distance(truth, truth, tmp_path / "broken.pth")
