"""The room of results, in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.view import slices
from mednerf_kit.view.catalogue import identity
from mednerf_kit.view.shown import Shown

VIEWS, PX = 8, 24


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result of an asymmetric body: a dense block at the patient's left, front and head."""
    home = tmp_path / "out" / "film"
    rng = np.random.default_rng(0)
    for folder in ("orbit", "truth", "orbit_spread"):
        (home / folder).mkdir(parents=True)
        for k in range(VIEWS):
            levels = rng.integers(0, 65536, (PX, PX)).astype(np.uint16)
            Image.fromarray(levels).save(home / folder / f"view_{k:03d}.png")
    angles = [45.0 * k for k in range(VIEWS)]
    (home / "orbit" / "geometry.json").write_text(json.dumps({"angles_deg": angles}))
    values = torch.full((20, 22, 24), -1000.0)
    values[4:16, 4:18, 4:20] = 0.0
    values[12:16, 4:8, 15:20] = 1000.0
    write_volume(Volume.centred(values, 4.0, "hu"), home / "volume.nii.gz")
    spread = Volume.centred((values > 0).float() * 50, 4.0, "relative")
    write_volume(spread, home / "uncertainty.nii.gz")
    rows = [{"angle_deg": a, "psnr_db": 20 + a / 45, "ssim": 0.5 + a / 900} for a in angles]
    rows[6] |= {"psnr_db": None, "ssim": None}
    metrics = {
        "volume": {"quantity": "hu"},
        "input_angles_deg": [270.0],
        "per_angle": rows,
        "psnr_db": 23.25,
        "ssim": 0.6,
        "warnings": ["this body is a box"],
        "measures": {"heart_width_mm": {"mean": 120.0, "unit": "mm", "bounds_90": [110, 130]}},
    }
    (home / "metrics.json").write_text(json.dumps(metrics))
    return home


def test_slices_stand_as_radiologists_look(result: Path) -> None:
    shown = Shown.at(result)
    window = (-1000.0, 1000.0)
    axial = slices.picture(shown, "axial", 13, window)[..., 0]
    coronal = slices.picture(shown, "coronal", 5, window)[..., 0]
    sagittal = slices.picture(shown, "sagittal", 17, window)[..., 0]
    # the block is bright at the left (right of the picture), front (top) and head (top)
    assert axial[5, 17] == 255 and axial[5, 6] == 128 and axial[16, 17] == 128
    assert coronal[5, 17] == 255 and coronal[5, 6] == 128 and coronal[14, 17] == 128
    assert sagittal[5, 5] == 255 and sagittal[5, 16] == 128 and sagittal[14, 5] == 128


def test_an_overlay_covers_by_its_strength(result: Path) -> None:
    shown = Shown.at(result)
    plain = slices.picture(shown, "axial", 13, (-1000.0, 1000.0))
    over = slices.picture(shown, "axial", 13, (-1000.0, 1000.0), "uncertainty", 0.5)
    assert np.array_equal(plain[16], over[16])  # no spread, nothing covered
    top = np.array(slices.COLOURS["heat"][-1])
    assert np.abs(over[5, 17] - (plain[5, 17] + top) / 2).max() <= 1


def test_nifti_keeps_values_and_places(result: Path, tmp_path: Path) -> None:
    from mednerf_kit.imaging.scans.read import read_volume

    shown = Shown.at(result)
    file = tmp_path / "shown.nii"
    file.write_bytes(slices.nifti(slices.voxels(shown, "volume")))
    back, stored = read_volume(file), read_volume(result / "volume.nii.gz")
    assert torch.allclose(back.values, stored.values, atol=0.05)
    assert np.allclose(back.affine, stored.affine, atol=1e-4)


def test_keys_turn_the_views(workbench: Callable[..., str], page: Any, result: Path) -> None:
    page.goto(f"{workbench(result)}#result?entry={identity(result)}")
    page.wait_for_selector("body[data-ready=result]")
    numbers = page.get_by_label("Numbers at this angle")
    assert "270° (PA)" in numbers.inner_text() and "given view" in numbers.inner_text()
    prediction = page.get_by_role("img", name="Prediction")
    middle = "(canvas) => canvas.getContext('2d').getImageData(5, 9, 1, 1).data[0]"
    stored = np.asarray(Image.open(result / "orbit" / "view_006.png"))
    assert prediction.evaluate(middle) == round(stored[9, 5] / 257)
    page.keyboard.press("ArrowRight")
    stored = np.asarray(Image.open(result / "orbit" / "view_007.png"))
    assert prediction.evaluate(middle) == round(stored[9, 5] / 257)
    text = numbers.inner_text()
    assert "27 dB" in text and "0.85" in text and "23.25 dB" in text
    assert "angle=315" in page.url
    assert page.get_by_text("This body is a box.").count() == 1
    assert page.get_by_text("120 mm (110 to 130)").count() == 1
