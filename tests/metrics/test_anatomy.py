"""Regions and measures of a chest of boxes, whose answers are counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.metrics.anatomy import (
    REGIONS,
    chest_measures,
    dice,
    region_labels,
    region_scores,
)
from mednerf_kit.metrics.volume import window_errors

SPACING_MM = (4.0, 5.0, 6.0)  # x, y, z


def chest(heart: int = 6) -> torch.Tensor:
    """A body 40 × 30 voxels, two lungs 12 voxels wide and 20 deep about a heart, a spine."""
    hu = torch.full((24, 40, 50), -1000.0)
    hu[2:22, 5:35, 5:45] = 40.0
    middle = 25
    hu[6:18, 10:30, middle - heart // 2 - 12 : middle - heart // 2] = -800.0
    hu[6:18, 10:30, middle + heart // 2 : middle + heart // 2 + 12] = -800.0
    hu[2:22, 31:34, 23:27] = 700.0
    return hu


def test_every_voxel_has_its_region():
    labels = region_labels(chest())
    counts = {name: int((labels == k).sum()) for k, name in enumerate(REGIONS)}
    lung, bone, body = 2 * 12 * 20 * 12, 20 * 3 * 4, 20 * 30 * 40
    assert counts == {
        "air": 24 * 40 * 50 - body,
        "lung": lung,
        "soft_tissue": body - lung - bone,
        "bone": bone,
    }


def test_measures_are_those_of_the_boxes():
    found = chest_measures(chest(), SPACING_MM)
    assert found["lung_volume_ml"] == pytest.approx(2 * 12 * 20 * 12 * 4 * 5 * 6 / 1000)
    assert (found["heart_width_mm"], found["thorax_width_mm"]) == (6 * 4, 30 * 4)
    assert found["cardiothoracic_ratio"] == pytest.approx(6 / 30)
    assert found["thorax_depth_mm"] == 30 * 5
    assert chest_measures(chest(10), SPACING_MM)["heart_width_mm"] == 10 * 4


def test_a_knee_has_no_lungs_to_measure():
    solid = torch.full((8, 20, 20), -1000.0)
    solid[:, 5:15, 5:15] = 60.0
    assert all(math.isnan(v) for v in chest_measures(solid, SPACING_MM).values())
    assert math.isnan(dice(solid > 1000, solid > 1000))


def test_errors_by_region_are_those_that_were_made():
    truth = chest()
    labels = region_labels(truth)
    estimate = truth.clone()
    for name, off in {"lung": 100.0, "soft_tissue": -30.0, "bone": -200.0}.items():
        estimate[labels == REGIONS.index(name)] += off
    estimate[6:18, 10:30, 10:16] = 40.0  # a lung half opaque
    found = region_scores(estimate, truth)
    assert found["bias_air_hu"] == 0 and found["mae_soft_tissue_hu"] == pytest.approx(30)
    assert found["bias_bone_hu"] == pytest.approx(-200) and found["bone_dice"] == 1
    kept = 1 - 6 / 24
    assert found["lung_dice"] == pytest.approx(2 * kept / (1 + kept))
    assert found["mae_lung_hu"] == pytest.approx(kept * 100 + (1 - kept) * 840)


def test_the_window_clips_and_leaves_the_air_around_out():
    truth = chest()
    estimate = truth.clone()
    estimate[truth == 700] = 3000.0  # 1024 in the window
    box = 20 * 30 * 40
    mse = (1024 - 700) ** 2 * (20 * 3 * 4) / box / 2048**2
    found = window_errors(estimate, truth)
    assert found["psnr_window_db"] == pytest.approx(-10 * math.log10(mse), abs=1e-3)
    assert 0.9 < found["ssim_window"] < 1
    wide = torch.nn.functional.pad(estimate, (9, 9, 9, 9), value=-1000.0)
    around = torch.nn.functional.pad(truth, (9, 9, 9, 9), value=-1000.0)
    assert window_errors(wide, around)["psnr_window_db"] == found["psnr_window_db"]
