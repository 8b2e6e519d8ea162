"""Scores of fitted scenes against closed forms, hand-made depths and a ball whose pictures are
known.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
from ball_scene import FROM, RADIUS, SAMPLES, Ball, ball_fit, xray_fit

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.pictures import read_png
from mednerf_kit.metrics import scene
from mednerf_kit.scene.evaluate import evaluate_scene, scored_views, view_means
from mednerf_kit.scene.load import render_views

KEYS = {
    "psnr_db",
    "ssim",
    "lpips",
    "depth_l1",
    "n_views",
    "data_range",
    "evals_per_ray",
    "train_seconds",
    "peak_mib",
    "per_view",
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_known_shift_has_a_known_psnr_over_all_channels():
    truth = torch.rand(2, 16, 16, 3, generator=rng()) * 0.5
    shift = torch.tensor([0.1, 0.0, 0.2])
    scores = scene.image_scores(truth + shift, truth)
    mse = (0.01 + 0.04) / 3
    assert scores["mse"] == pytest.approx(torch.full((2,), mse), rel=1e-4)
    assert scores["psnr_db"] == pytest.approx(torch.full((2,), -10 * math.log10(mse)), rel=1e-4)
    assert scores["mae"] == pytest.approx(torch.full((2,), 0.1), rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_of_colours_is_scikit_images(channels):
    from skimage.metrics import structural_similarity

    truth = torch.rand(1, 24, 31, channels, generator=rng())
    image = (0.7 * truth + 0.3 * torch.rand(truth.shape, generator=rng(1))).clamp(0, 1)
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1,
        "channel_axis": -1,
    }
    expected = structural_similarity(
        truth[0].double().numpy(), image[0].double().numpy(), **options
    )
    assert float(scene.image_scores(image, truth)["ssim"]) == pytest.approx(expected, abs=1e-5)


def test_eight_bits_are_those_of_a_png(tmp_path):
    from mednerf_kit.viz import figures

    image = torch.rand(9, 7, 3, generator=rng()) * 1.2 - 0.1
    figures.write_png8(tmp_path / "a.png", image)
    assert torch.equal(scene.eight_bit(image), read_png(tmp_path / "a.png"))


def test_depth_scores_by_hand():
    nan = torch.nan
    truth = torch.tensor([[[2.0, 2.0, 4.0, 4.0, nan]], [[nan] * 5]])
    # factors 1.2, 1.3, nothing, 1.212, not scored
    depth = torch.tensor([[[2.4, 2.6, nan, 3.3, 9.0]], [[1.0] * 5]])
    opacity = torch.tensor([[[1.0, 1.0, 0.0, 0.4, 1.0]], [[1.0] * 5]])
    found = {k: v.tolist() for k, v in scene.depth_scores(depth, truth, opacity).items()}
    assert found["depth_l1"][0] == pytest.approx((0.4 + 0.6 + 0.7) / 3, rel=1e-5)
    assert found["depth_rmse"][0] == pytest.approx(math.sqrt((0.16 + 0.36 + 0.49) / 3), rel=1e-5)
    assert found["depth_delta"][0] == pytest.approx(2 / 4) and found["depth_seen"][
        0
    ] == pytest.approx(2 / 4)
    assert all(math.isnan(values[1]) for values in found.values())


def test_iou_of_two_squares():
    a, b = torch.zeros(2, 20, 20), torch.zeros(2, 20, 20)
    a[0, :10, :10], b[0, :10, 5:15] = 1, 0.6
    iou = scene.opacity_iou(a, b)
    assert float(iou[0]) == pytest.approx(50 / 150) and math.isnan(float(iou[1]))


def test_the_edge_band_is_a_brute_force_neighbourhood_of_the_outline():
    alpha = torch.zeros(1, 24, 26)
    alpha[0, 6:18, 9:20] = 0.9
    inside = alpha[0] > 0.5
    expected = torch.zeros(24, 26, dtype=torch.bool)
    for y in range(24):
        for x in range(26):
            near = (
                inside[max(0, y - 1) : y + 2, x].unique(),
                inside[y, max(0, x - 1) : x + 2].unique(),
            )
            if max(map(len, near)) == 2:
                expected[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = True
    assert torch.equal(scene.edge_band(torch.zeros(1, 24, 26, 3), alpha)[0], expected)


def test_without_alpha_the_edge_band_follows_the_picture():
    truth = torch.zeros(1, 30, 30, 3)
    truth[:, :, 15:] = 0.8
    columns = scene.edge_band(truth)[0, 10:20].all(0).nonzero().flatten().tolist()
    assert columns and set(columns) <= set(range(11, 19)) and len(columns) == 7
    assert not scene.edge_band(torch.full_like(truth, 0.3)).any()


def test_edge_psnr_sees_errors_at_the_border_only():
    truth, mask = torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :, 4] = True
    image = truth.clone()
    image[:, :, 4], image[:, :, 0] = 0.1, 1.0
    assert float(scene.masked_psnr_db(image, truth, mask)) == pytest.approx(20, abs=1e-4)
    assert math.isnan(float(scene.masked_psnr_db(image, truth, mask & False)))


@pytest.mark.parametrize("n", [200, 1000])
def test_the_rise_of_a_bell_is_that_of_the_normal_distribution(n):
    sigma, step = 0.2, 4.0 / n
    t = (torch.arange(n) + 0.5) * step
    w = torch.exp(-0.5 * ((t - 2) / sigma) ** 2)
    for total in (1.0, 0.6):
        width = scene.rise_width(total * w / w.sum(), t, torch.full_like(t, step))
        assert float(width) == pytest.approx(2 * 1.28155 * sigma, rel=2e-3)


def test_the_rise_ignores_samples_that_are_not_there_and_empty_rays():
    t, dt = torch.tensor([1.0, 1.5, 1.5, 2.0, 3.0]), torch.tensor([0.5, 0.0, 0.0, 0.5, 0.5])
    w = torch.tensor([[0.5, 0, 0, 0.5, 0], [0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0]])
    widths = scene.rise_width(w, t.expand(3, -1), dt.expand(3, -1))
    assert widths.tolist() == pytest.approx(
        [(2.0 + 0.3 * 0.5) - (1.0 - 0.3 * 0.5), 0.4, 0], abs=1e-6
    )


def test_views_are_chosen_evenly_and_checked():
    assert scored_views(200, None, 5) == [0, 40, 80, 120, 160]
    assert scored_views(3, None, 9) == [0, 1, 2] and scored_views(9, [8, 2], 1) == [8]
    for views, limit in (([9], None), ([-1], None), (None, 0), ([], None)):
        with pytest.raises(UserError):
            scored_views(9, views, limit)


def test_the_summary_averages_what_there_is():
    rows = [
        {"stem": "a", "psnr_db": 20.0, "ssim": 0.25, "depth_l1": None},
        {"stem": "b", "psnr_db": 26.0, "ssim": 0.75, "depth_l1": 0.5},
    ]
    found = view_means(rows)
    assert (found["psnr_db"], found["psnr_spread_db"], found["depth_l1"], found["alpha_iou"]) == (
        23,
        3,
        0.5,
        None,
    )
    assert (found["ssim"], found["ssim_spread"]) == (0.5, 0.25)


def test_a_ball_is_scored_as_its_samples_allow():
    fit = ball_fit()
    found = evaluate_scene(fit)
    cell = 3.0 / SAMPLES
    assert set(found) >= KEYS and json.dumps(found, allow_nan=False)
    assert (
        found["n_views"],
        found["data_range"],
        found["evals_per_ray"],
        found["train_seconds"],
    ) == (3, 1.0, SAMPLES, 12.5)
    assert found["psnr_db"] > 30 and found["ssim"] > 0.95 and found["alpha_iou"] > 0.97
    assert found["edge_psnr_db"] > 30
    assert found["depth_l1"] < cell and found["depth_delta"] > 0.98 and found["depth_seen"] > 0.98
    assert 0 < found["sharpness"] < cell  # a hard surface rises within one cell
    assert found["peak_mib"] > 10 and found["frames_per_second"] > 0
    assert found["rays_per_second"] == pytest.approx(found["frames_per_second"] * 1600)
    assert [row["stem"] for row in found["per_view"]] == ["test/r_0", "test/r_1", "test/r_2"]
    assert found["psnr_db"] == pytest.approx(sum(row["psnr_db"] for row in found["per_view"]) / 3)
    assert found["lpips"] is None and found["lpips_note"].endswith(".")


def test_a_fit_scored_against_its_own_pictures_is_perfect_and_eight_bits_are_not():
    fit = ball_fit(views=1)
    own = render_views(fit, fit.known.cameras)
    fit = replace(
        fit, known=replace(fit.known, images=own.image, depth=own.depth, alpha=own.opacity)
    )
    found = evaluate_scene(fit)
    assert (found["psnr_db"], found["depth_l1"], found["alpha_iou"], found["psnr_spread_db"]) == (
        120,
        0,
        1,
        0,
    )
    rounded = evaluate_scene(fit, eight_bit=True)
    assert (
        found["ssim"] == pytest.approx(1) and 55 < rounded["psnr_db"] < 70 and rounded["eight_bit"]
    )


def test_softer_surfaces_are_less_sharp():
    widths = [
        evaluate_scene(ball_fit(views=1, field=Ball(peak=peak)))["sharpness"]
        for peak in (200.0, 10.0, 4.0)
    ]
    assert widths == sorted(widths)
    # exp(−4 t) falls from 0.9 to 0.1, but for short chords
    assert widths[-1] == pytest.approx(math.log(9) / 4, rel=0.15)


def test_line_integrals_have_no_surface_to_score():
    found = evaluate_scene(xray_fit(views=2), limit=1)
    assert found["n_views"] == 1 and found["psnr_db"] > 20
    assert all(found[key] is None for key in ("depth_l1", "alpha_iou", "sharpness"))
    assert "not for diagnosis" in found["note"]


def test_an_empty_fit_is_scored_without_nan():
    found = evaluate_scene(ball_fit(views=1, field=Ball(peak=0.0)))
    assert json.dumps(found, allow_nan=False)
    assert (
        found["depth_l1"] is None
        and found["depth_delta"] == 0
        and found["sharpness"] is None
        and found["alpha_iou"] == 0
    )


def test_exact_depth_is_the_distance_along_the_ray():
    scene = ball_fit(views=1, size=41).known
    assert float(scene.depth[0, 20, 20]) == pytest.approx(FROM - RADIUS, abs=1e-5)
