"""The room of results, in a browser."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from mednerf_kit.cli import main
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.view import slices
from mednerf_kit.view.catalogue import identity
from mednerf_kit.view.shown import Shown

VIEWS, PX = 8, 24
OVERLAID = ("volume", "uncertainty")
WINDOW = (-1000.0, 1000.0)


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


@pytest.fixture
def solid(result: Path) -> Path:
    """The same with its volume, spread and truth, which lacks the block."""
    values = torch.full((20, 22, 24), -1000.0)
    values[4:16, 4:18, 4:20] = 0.0
    truth = Volume.centred(values.clone(), 4.0, "hu")
    values[8:16, 4:12, 14:20] = 1000.0  # seen in the middle slices
    write_volume(Volume.centred(values, 4.0, "hu"), result / "volume.nii.gz")
    spread = Volume.centred((values > 0).float() * 50, 4.0, "relative")
    write_volume(spread, result / "uncertainty.nii.gz")
    write_volume(truth, result / "truth.nii.gz")
    return result


def test_slices_stand_as_radiologists_look(solid: Path) -> None:
    shown = Shown.at(solid)
    axial = slices.picture(shown, "axial", 13, WINDOW)[..., 0]
    coronal = slices.picture(shown, "coronal", 5, WINDOW)[..., 0]
    sagittal = slices.picture(shown, "sagittal", 17, WINDOW)[..., 0]
    # the block is bright at the left (right of the picture), front (top) and head (top)
    assert axial[5, 17] == 255 and axial[5, 6] == 128 and axial[16, 17] == 128
    assert coronal[5, 17] == 255 and coronal[5, 6] == 128 and coronal[14, 17] == 128
    assert sagittal[5, 5] == 255 and sagittal[5, 16] == 128 and sagittal[14, 5] == 128


def test_an_overlay_covers_by_its_strength(solid: Path) -> None:
    shown = Shown.at(solid)
    plain = slices.picture(shown, "axial", 13, WINDOW)
    over = slices.picture(shown, "axial", 13, WINDOW, "uncertainty", 0.5)
    assert np.array_equal(plain[16], over[16])  # no spread, nothing covered
    top = np.array(slices.COLOURS["heat"][-1])
    assert np.abs(over[5, 17] - (plain[5, 17] + top) / 2).max() <= 1
    difference = slices.voxels(shown, "difference").values
    assert difference[13, 5, 17] == 1000 and difference[5, 5, 17] == 0


def test_nifti_keeps_values_and_places(solid: Path, tmp_path: Path) -> None:
    shown = Shown.at(solid)
    file = tmp_path / "shown.nii"
    file.write_bytes(slices.nifti(slices.voxels(shown, "volume")))
    back, stored = read_volume(file, quantity="hu"), read_volume(solid / "volume.nii.gz")
    assert torch.allclose(back.values, stored.values, atol=0.05)
    assert np.allclose(back.affine, stored.affine, atol=1e-4)


def test_a_prior_of_one_file_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "chest.safetensors").write_bytes(b"")
    shown = Shown.at(tmp_path / "chest.safetensors")
    assert shown.volume_file("volume") is None and not shown.about()["has_volume"]


def test_windows_of_a_relative_volume_stand_by_its_soft_tissue() -> None:
    values = np.zeros((8, 8, 8), np.float32)
    values[2:6, 2:6, 2:6] = 0.2  # taken for water
    low, high = slices.Voxels(values, (1, 1, 1), (0, 0, 0), "relative").windows()["mediastinum"]
    assert low == pytest.approx(0.2 * 0.84) and high == pytest.approx(0.2 * 1.24)


def grey_at(locator: Any, x: float, y: float) -> int:
    """The red of a canvas or picture at shares of its width and height."""
    return locator.evaluate(
        """async (node, [x, y]) => {
          if (node.decode) await node.decode();
          const w = node.naturalWidth ?? node.width, h = node.naturalHeight ?? node.height;
          const c = Object.assign(document.createElement("canvas"), { width: w, height: h });
          const g = c.getContext("2d");
          g.drawImage(node, 0, 0);
          return g.getImageData(Math.floor(x * w), Math.floor(y * h), 1, 1).data[0];
        }""",
        [x, y],
    )


def wait_until(page: Any, holds: Callable[[], bool]) -> None:
    """Wait at most ten seconds; the page's policy forbids to do so inside it."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    raise AssertionError("waited in vain")


def size_of_saved(page: Any, button: str) -> tuple[int, int]:
    """Width and height of what the last button of this name saves."""
    with page.expect_download() as saved:
        page.get_by_role("button", name=button).last.click()
    return Image.open(saved.value.path()).size


def test_keys_turn_the_views(workbench: Callable[..., str], page: Any, result: Path) -> None:
    page.goto(f"{workbench(result)}#result?entry={identity(result)}")
    page.wait_for_selector("body[data-ready=result]")
    numbers = page.get_by_label("Numbers at this angle")
    assert "270° (PA)" in numbers.inner_text() and "given view" in numbers.inner_text()

    def agrees(kind: str, name: str, k: int) -> bool:
        levels = np.asarray(Image.open(result / kind / f"view_{k:03d}.png"))
        drawn = grey_at(page.get_by_role("img", name=name, exact=True), 5.5 / PX, 9.5 / PX)
        return bool(drawn == round(int(levels[9, 5]) / 257))

    assert agrees("orbit", "Prediction", 6) and agrees("truth", "Truth", 6)
    page.keyboard.press("ArrowRight")
    assert agrees("orbit", "Prediction", 7) and agrees("truth", "Truth", 7)
    text = numbers.inner_text()
    assert "27 dB" in text and "0.85" in text and "23.25 dB" in text  # as in metrics.json
    wait_until(page, lambda: "angle=315" in page.url)
    page.get_by_role("slider", name="Angle").fill("0")
    assert "20 dB" in numbers.inner_text() and agrees("orbit", "Prediction", 0)
    page.get_by_role("button", name="Play").click()
    wait_until(page, lambda: "20 dB" not in numbers.inner_text())
    page.get_by_role("button", name="Stop").click()
    assert page.get_by_text("This body is a box.").count() == 1
    assert page.get_by_text("120 mm (110 to 130)").count() == 1


def test_left_is_right_in_the_viewer(workbench: Callable[..., str], page: Any, solid: Path) -> None:
    for folder in ("orbit", "truth", "orbit_spread"):
        shutil.rmtree(solid / folder)
    page.set_viewport_size({"width": 620, "height": 520})
    page.goto(f"{workbench(solid)}#result?entry={identity(solid)}&window=everything")
    page.wait_for_selector("body[data-ready=result]")
    viewer = page.get_by_role("application")
    viewer.scroll_into_view_if_needed()
    box = viewer.bounding_box()
    picture = Image.open(io.BytesIO(viewer.screenshot())).convert("RGB")
    pixels = np.asarray(picture).astype(int)
    grey = np.ptp(pixels, axis=-1) < 8
    grey[[*range(8), *range(-8, 0)]] = grey[:, [*range(8), *range(-8, 0)]] = False  # its frame
    block, body = grey & (pixels[..., 0] > 235), grey & (abs(pixels[..., 0] - 128) < 12)
    # tiles that show the body from front or feet have the block at their right end, near the top
    columns = np.flatnonzero(body.any(0))
    first = columns[: np.flatnonzero(np.diff(columns, append=9999) > 20)[0] + 1]  # of the axial one
    inside = np.argwhere(block[:, first[0] : first[-1]])
    rows = np.flatnonzero(body[:, first].any(1))
    middle = len(first) / 2
    assert len(inside) > 20 and inside[:, 1].min() > middle
    assert inside[:, 0].mean() < rows.mean() and inside[:, 0].min() < rows[len(rows) // 10]
    y, x = inside[len(inside) // 2]
    page.mouse.click(box["x"] + float(first[0] + x), box["y"] + float(y))
    reading = page.get_by_label("Value at the crosshair")
    wait_until(page, lambda: "1000 HU" in reading.inner_text())
    millimetres = [int(word) for word in re.findall(r"-?\d+", reading.inner_text())]
    assert millimetres[0] > 0 > millimetres[1]
    wait_until(page, lambda: "at=" in page.url and "at=0%2C0%2C0" not in page.url)
    said, address = reading.inner_text(), page.url
    page.goto("about:blank")
    page.goto(address)  # the address brings the same place back
    page.wait_for_selector("body[data-ready=result]")
    wait_until(page, lambda: reading.inner_text() == said)
    assert size_of_saved(page, "Save picture")[1] > 200


def test_air_is_not_seen_in_three_dimensions(
    workbench: Callable[..., str], page: Any, solid: Path
) -> None:
    for folder in ("orbit", "truth", "orbit_spread"):
        shutil.rmtree(solid / folder)
    page.set_viewport_size({"width": 620, "height": 520})
    state = "window=lung&planes=body"
    page.goto(f"{workbench(solid)}#result?entry={identity(solid)}&{state}")
    page.wait_for_selector("body[data-ready=result]")
    viewer = page.get_by_role("application")
    viewer.scroll_into_view_if_needed()

    def lit() -> float:
        """The share of the picture in which there is something."""
        return float((np.asarray(Image.open(io.BytesIO(viewer.screenshot()))) > 20).mean())

    wait_until(page, lambda: 0.1 < lit() < 0.25)  # with the air about it 0.37
    assert page.get_by_label("Value at the crosshair").inner_text().endswith("HU")


def test_without_webgl_there_are_slices(
    workbench: Callable[..., str], plain_page: Any, solid: Path
) -> None:
    page = plain_page
    state = "window=everything&overlay=uncertainty&strength=1"
    page.goto(f"{workbench(solid)}#result?entry={identity(solid)}&{state}")
    page.wait_for_selector("body[data-ready=result]")
    assert page.get_by_text("This browser offers no WebGL").count() == 1
    page.get_by_role("slider", name="Axial slice").fill("13")
    axial = page.get_by_role("img", name="Axial slice")
    wait_until(page, lambda: "/13." in axial.get_attribute("src"))
    shown = Shown.at(solid)
    window = slices.voxels(shown, "volume").windows()["everything"]
    wanted = slices.picture(shown, "axial", 13, window, "uncertainty", 1.0)
    for x, y in ((17, 5), (6, 5), (17, 16), (1, 1)):
        assert grey_at(axial, (x + 0.5) / 24, (y + 0.5) / 22) == wanted[y, x, 0]
    assert wanted[5, 17, 0] != wanted[5, 6, 0]
    # a click brings the other planes to that voxel, and tells its values
    box = axial.bounding_box()
    page.mouse.click(box["x"] + 17.5 / 24 * box["width"], box["y"] + 5.5 / 22 * box["height"])
    sagittal, coronal = (
        page.get_by_role("slider", name=f"{n} slice") for n in ("Sagittal", "Coronal")
    )
    assert (sagittal.input_value(), coronal.input_value()) == ("17", "5")
    value, spread = (float(slices.voxels(shown, n).values[13, 5, 17]) for n in OVERLAID)
    reading = page.get_by_label("Value at the crosshair")
    wait_until(page, lambda: f"{value:g} HU" in reading.inner_text())
    assert f"(standard deviation) {spread:.3g}" in reading.inner_text()
    assert size_of_saved(page, "Save picture")[0] >= 3 * 256


def test_a_saved_page_opens_from_a_file_without_a_network(
    plain_page: Any, solid: Path, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    assert main(["view", str(solid), "--export", str(file)]) == 0
    page = plain_page
    page.context.set_offline(True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page.goto(f"{file.as_uri()}#angle=270&window=everything&overlay=uncertainty&strength=1")
    page.wait_for_selector("body[data-ready=result]")
    assert set(asked) <= {"file", "data", "blob"}
    assert page.get_by_text("Research use only, not for diagnosis").count() >= 1
    page.keyboard.press("ArrowRight")
    assert "27 dB" in page.get_by_label("Numbers at this angle").inner_text()
    levels = np.asarray(Image.open(solid / "orbit" / "view_007.png"))
    drawn = grey_at(page.get_by_role("img", name="Prediction"), 5.5 / PX, 9.5 / PX)
    assert drawn == round(int(levels[9, 5]) / 257)
    page.get_by_role("slider", name="Coronal slice").fill("5")
    page.wait_for_timeout(200)
    shown = Shown.at(solid)
    window = slices.voxels(shown, "volume").windows()["everything"]
    wanted = slices.picture(shown, "coronal", 5, window, "uncertainty", 1.0)
    coronal = page.get_by_role("img", name="Coronal slice")
    for x, y in ((17, 5), (6, 5), (17, 14), (1, 1)):
        assert abs(grey_at(coronal, (x + 0.5) / 24, (y + 0.5) / 20) - wanted[y, x, 0]) <= 2
    assert "HU" in page.get_by_label("Value at the crosshair").inner_text()


def test_nothing_to_export_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["view", "--export", "page.html"]) == 2
    assert "no views and no volume" in capsys.readouterr().err


def test_a_plain_volume_and_the_views_of_a_scene(
    workbench: Callable[..., str], plain_page: Any, tmp_path: Path
) -> None:
    values = torch.zeros(6, 7, 8)
    values[2:4, 2:4, 2:4] = 500.0
    volume = tmp_path / "ct.nii.gz"
    # nothing says what its values are, and they do not look like Hounsfield units
    nibabel.save(nibabel.Nifti1Image(values.numpy().T, np.diag([-2.0, -2, 2, 1])), volume)
    write_volume(Volume.centred(values / 10, 2.0, "relative"), tmp_path / "uncertainty.nii.gz")
    scene = tmp_path / "scores"
    (scene / "test").mkdir(parents=True)
    for k in range(2):
        for ending in ("", "_truth", "_error"):
            Image.new("RGB", (16, 16), (100 * k + 20, 0, 0)).save(
                scene / "test" / f"r_{k}{ending}.png"
            )
    rows = [{"stem": f"r_{k}", "psnr_db": 30.0 + k, "ssim": 0.9} for k in range(2)]
    (scene / "metrics.json").write_text(json.dumps({"per_view": rows, "psnr_db": 30.5}))
    (scene / "per_view.csv").write_text("stem\n")
    page, url = plain_page, workbench(volume, scene)
    page.goto(f"{url}#result?entry={identity(volume)}")
    page.wait_for_selector("body[data-ready=result]")
    assert page.get_by_text("The scale is not known").count() == 1
    overlays = page.get_by_role("combobox", name="Overlay").get_by_role("option")
    assert overlays.all_inner_texts() == ["none", "spread (standard deviation)"]
    page.get_by_role("combobox", name="Result").select_option(label="scores")
    numbers = page.get_by_label("Numbers of this view")
    numbers.wait_for()
    page.keyboard.press("ArrowRight")
    assert "31 dB" in numbers.inner_text() and "30.5 dB" in numbers.inner_text()
    assert grey_at(page.get_by_role("img", name="Prediction"), 0.5, 0.5) == 120


def test_a_run_that_was_not_scored_says_so(
    workbench: Callable[..., str], plain_page: Any, tmp_path: Path
) -> None:
    run = tmp_path / "00000-blocks"
    run.mkdir()
    (run / "config.yaml").write_text("dataset: blocks\nrecipe: {task: {name: fit}}\n")
    plain_page.goto(f"{workbench(run)}#result?entry={identity(run)}")
    plain_page.wait_for_selector("body[data-ready=result]")
    assert plain_page.get_by_text("There are no views and no volume here yet").count() == 1
