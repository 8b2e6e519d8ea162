"""One X-ray to a volume, an orbit, an uncertainty and a report: whole files, right units, and one
sentence for bad input.
"""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_prior import GEOMETRY, QUICK, orbit_of, snapshot

from mednerf_kit import DISCLAIMER, cli
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.pictures import read_png
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.invert import input_xray
from mednerf_kit.invert import reconstruct as module
from mednerf_kit.metrics.image import psnr_db
from mednerf_kit.prior import load as prior_load
from mednerf_kit.viz import figures

FILES = {
    "as_read.png",
    "target.png",
    "proj.png",
    "orbit.mp4",
    "orbit",
    "orbit_spread",
    "volume.nii.gz",
    "uncertainty.nii.gz",
    "measured.nii.gz",
    "null_space.nii.gz",
    "disagreement.png",
    "latent.safetensors",
    "metrics.json",
    "report.html",
}


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Inversion", QUICK)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A snapshot and two X-rays of its first patient."""
    folder = tmp_path_factory.mktemp("tiny")
    path = snapshot(folder / "run")
    views = orbit_of(prior_load.load_prior(path), 0, (270.0, 0.0))
    for name, view in zip(("pa", "side"), views, strict=True):
        figures.write_png16(folder / f"{name}.png", view)
    return folder


def projected(place, folder, *words) -> int:
    start = [
        "project",
        "--run",
        str(place / "run"),
        "--out",
        str(folder),
        "--samples",
        "1",
        "--device",
        "cpu",
    ]
    return cli.main([*start, *map(str, words)])


@pytest.fixture(scope="module")
def done(place):
    words = ("--xray", place / "pa.png", "--input-kind", "line-integral")
    assert projected(place, place / "out", *words) == 0
    return place / "out"


def metrics_of(folder) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def one_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("Error")]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


def test_every_file_is_there_and_reads(done):
    import imageio.v3

    assert {path.name for path in done.iterdir()} == FILES
    target, proj = read_png(done / "target.png"), read_png(done / "proj.png")
    assert target.shape == proj.shape == (32, 32)
    assert float(psnr_db(proj, target)) > 25
    names = sorted(path.name for path in (done / "orbit").glob("*.png"))
    assert names == [f"view_{k:03d}.png" for k in range(72)]
    with Image.open(done / "orbit" / names[0]) as view:
        assert view.mode.startswith("I;16") and view.size == (32, 32)
    assert len(imageio.v3.imread(done / "orbit.mp4", plugin="FFMPEG")) == 72
    page = (done / "report.html").read_text()
    assert page.count("data:image/png") >= 5 and not re.search("https?://", page)
    for words in (
        "pa.png",
        "not accuracy",
        "5 procedural phantoms",
        "not calibrated",
        "a set of nobody",
        DISCLAIMER,
    ):
        assert words in page, words


def test_whatever_looks_like_a_scan_says_what_it_is_not(done):
    for name in ("target.png", "proj.png", "orbit/view_000.png"):
        with Image.open(done / name) as picture:
            assert picture.text["Comment"] == DISCLAIMER
    for name in ("volume", "uncertainty"):
        assert read_volume(done / f"{name}.nii.gz").note.endswith(DISCLAIMER)
    assert metrics_of(done)["note"] == DISCLAIMER


def test_the_volume_is_in_hounsfield_units_and_its_projections_are_the_orbit(done):
    volume, geometry = (
        read_volume(done / "volume.nii.gz"),
        Geometry.from_json(done / "orbit" / "geometry.json"),
    )
    assert volume.quantity == "hu" and volume.shape == (48, 48, 48)
    assert volume.spacing_mm == pytest.approx([2 * 1.4 * GEOMETRY.half_width_mm / 48] * 3)
    assert volume.centre_mm == pytest.approx((0, 0, 0), abs=1e-3)
    assert float(volume.values.min()) >= -1000.001
    views = project_volume(
        volume.to_mu().values, volume.spacing_mm, geometry.at(geometry.angles_deg[::9])
    )
    written = torch.stack([read_png(done / "orbit" / f"view_{k:03d}.png") for k in range(0, 72, 9)])
    assert float(written.max()) > 0.3
    assert torch.allclose(views / GEOMETRY.line_integral_scale, written, atol=2e-4)


def test_the_uncertainty_lies_on_the_same_grid(done):
    volume, spread = (
        read_volume(done / "volume.nii.gz"),
        read_volume(done / "uncertainty.nii.gz", quantity="hu"),
    )
    assert np.allclose(volume.affine, spread.affine) and spread.shape == volume.shape
    assert float(spread.values.min()) >= 0 and float(spread.values.max()) > 1
    assert metrics_of(done)["units"]["uncertainty"] == "standard deviation, HU"


def test_metrics_say_what_was_given_fitted_and_trusted(done, place):
    found = metrics_of(done)
    (given,) = found["inputs"]
    assert (
        given["file"] == str(place / "pa.png")
        and given["angle_deg"] == 270
        and not given["mirrored"]
    )
    assert abs(given["fitted_angle_deg"] - 270) < 3 and 0.8 < given["gain"] < 1.25
    assert found["input_fit"]["held_out_psnr_db"] == pytest.approx(
        -10 * math.log10(found["input_fit"]["held_out_mse"]), abs=1e-3
    )
    assert (
        found["input_fit"]["held_out_psnr_db"] > 25
        and "not accuracy" in found["input_fit"]["meaning"]
    )
    assert found["fov_deg"]["prior"] == pytest.approx(GEOMETRY.fov_deg, abs=1e-3)
    assert (
        set(found["seconds"]) == {"read", "invert", "predict"}
        and found["seed"] == 0
        and found["codes"] == 2
    )
    assert found["provenance"]["trained_on"].startswith("5 procedural phantoms")
    assert found["warnings"] == ["prior: a set of nobody"]


def test_an_ap_film_is_the_mirrored_view_from_the_front(place, tmp_path):
    front = orbit_of(prior_load.load_prior(place / "run"), 1, (90.0,))[0]
    figures.write_png16(tmp_path / "front.png", front)
    figures.write_png16(tmp_path / "film.png", front.flip(-1))
    assert projected(place, tmp_path / "a", "--xray", tmp_path / "front.png", "--angle", "90") == 0
    assert projected(place, tmp_path / "b", "--xray", tmp_path / "film.png", "--view", "ap") == 0
    for name in ("target.png", "proj.png", "orbit/view_017.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    (given,) = metrics_of(tmp_path / "b")["inputs"]
    assert given["mirrored"] and given["angle_deg"] == 90 and given["view"] == "AP"
    assert any("mirrored before use" in text for text in given["notes"])


def test_several_xrays_stand_side_by_side(place, tmp_path):
    words = [
        "--xray",
        place / "pa.png",
        "--view",
        "PA",
        "--xray",
        place / "side.png",
        "--view",
        "lateral",
        "--size",
        "16",
    ]
    assert projected(place, tmp_path, *words) == 0
    sides = [read_png(place / f"{name}.png") for name in ("pa", "side")]
    target, proj = (
        read_png(tmp_path / "target.png"),
        read_png(tmp_path / "proj.png"),
    )
    assert torch.allclose(target, torch.cat(sides, -1), atol=1 / 255)
    assert float(psnr_db(proj, target)) > 25
    assert [given["angle_deg"] for given in metrics_of(tmp_path)["inputs"]] == [270, 0]
    assert read_png(tmp_path / "orbit" / "view_000.png").shape == (16, 16)


def test_the_same_seed_gives_the_same_result(done, place, tmp_path):
    for seed in (0, 1):
        words = ("--xray", place / "pa.png", "--input-kind", "line-integral", "--seed", seed)
        assert projected(place, tmp_path / str(seed), *words) == 0
    same, other = (
        (tmp_path / str(seed) / "orbit" / "view_009.png").read_bytes() for seed in (0, 1)
    )
    assert same == (done / "orbit" / "view_009.png").read_bytes() and same != other


def test_the_geometry_beside_the_xray_is_compared_and_its_scale_used(place, tmp_path):
    image = 4.5 / 9.0 * read_png(place / "pa.png")
    figures.write_png16(tmp_path / "x.png", 2 * image)
    known = Geometry.from_json(
        {**GEOMETRY.at([90]).to_json(), "line_integral_scale": 4.5, "pixel_mm": 32.0, "axis": "y"}
    )
    known.save(tmp_path / "x.json")
    options = {"invert": False, "input_kind": "line-integral", "fit": "pad"}
    film = input_xray.read_xray(tmp_path / "x.png", 630.0, GEOMETRY, **options)
    assert film.angle_deg == 270
    assert torch.allclose(film.image, image, atol=1e-4)
    for words in (
        "field 717 mm wide",
        "field of view of 35.5°",
        "axis y",
        "says 90°",
        "line_integral_scale 4.5",
    ):
        said = (*film.warnings, *film.notes)
        assert any(words in text and text.startswith("x.png: ") for text in said), words


def test_a_prior_of_oblong_pictures_takes_the_middle_rows(place):
    geometry = Geometry.from_json({**GEOMETRY.to_json(), "rows": 24})
    film = input_xray.read_xray(
        place / "pa.png", "PA", geometry, invert=False, input_kind="line-integral", fit="pad"
    )
    assert torch.equal(film.image, read_png(place / "pa.png")[4:28])


def test_an_xray_unlike_the_prior_is_called_so_first(place, tmp_path):
    board = (torch.arange(32)[:, None] // 4 + torch.arange(32) // 4) % 2
    figures.write_png16(tmp_path / "board.png", board)
    assert (
        projected(
            place, tmp_path / "out", "--xray", tmp_path / "board.png", "--max-minutes", "0.001"
        )
        == 0
    )
    assert "reproduces this X-ray poorly" in metrics_of(tmp_path / "out")["warnings"][0]


def bad_xray(kind: str, folder, good: bytes):
    path = folder / ("bad.npy" if kind == "nan" else "bad.png")
    grey = np.full((32, 32), 9, np.uint8)
    if kind == "nan":
        np.save(path, np.where(np.eye(32) > 0, np.nan, 0.5))
    elif kind in ("empty", "truncated"):
        path.write_bytes(good[: 0 if kind == "empty" else len(good) // 2])
    elif kind != "absent":
        photo = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
        pixels = {"constant": grey, "1x1": grey[:1, :1], "photo": photo}
        Image.fromarray(pixels[kind]).save(path)
    return path


@pytest.mark.parametrize(
    "kind", ["absent", "empty", "truncated", "constant", "1x1", "nan", "photo"]
)
def test_a_bad_xray_is_one_sentence_and_nothing_is_written(kind, place, tmp_path, capsys):
    path = bad_xray(kind, tmp_path, (place / "pa.png").read_bytes())
    assert projected(place, tmp_path / "out", "--xray", path) == 2
    assert path.name in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--view", "PA", "--view", "AP"], "one --view"),
        (["--angle", "nan"], "degrees"),
        (["--run", "no-such-run"], "no-such-run"),
        (["--run", "bundled:elbow"], "elbow"),
        (["--input-kind", "photo"], "photo"),
    ],
)
def test_a_bad_word_is_one_sentence(words, said, place, tmp_path, capsys):
    assert projected(place, tmp_path / "out", "--xray", place / "pa.png", *words) == 2
    assert said in one_line(capsys.readouterr().err)


def test_a_damaged_snapshot_is_named(place, tmp_path, capsys):
    whole = next((place / "run").glob("*.safetensors")).read_bytes()
    (tmp_path / "snapshot-000001.safetensors").write_bytes(whole[: len(whole) // 2])
    assert (
        projected(
            place,
            tmp_path / "out",
            "--xray",
            place / "pa.png",
            "--run",
            tmp_path / "snapshot-000001.safetensors",
        )
        == 2
    )
    assert "snapshot-000001.safetensors" in one_line(capsys.readouterr().err)


def test_a_folder_that_cannot_be_made_is_found_out_before_the_work(
    place, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(module, "Inversion", None)
    assert projected(place, tmp_path / "file" / "out", "--xray", place / "pa.png") == 1
    assert "could not make folder" in one_line(capsys.readouterr().err)


def test_the_function_checks_what_the_command_line_checks(place):
    with pytest.raises(UserError, match="0 X-rays"):
        module.project(xray=[], run=str(place / "run"))
    with pytest.raises(UserError, match="2 views"):
        module.project(xray=[place / "pa.png"], view=("PA", "AP"), run=str(place / "run"))


def test_a_set_with_its_columns_the_other_way_gives_the_same_target(place, tmp_path):
    """A geometry beside a film is honoured: mirrored columns and a lying patient are turned."""
    image = read_png(place / "pa.png")
    laid = {
        "plain": (image, {}),
        "flipped": (image.flip(-1), {"columns_flipped": False}),
        # about x, a view from behind has the patient's left above: a quarter turn back
        "lying": (torch.rot90(image, 1), {"axis": "x"}),
    }
    targets = {}
    for name, (picture, change) in laid.items():
        home = tmp_path / name / "patient"
        home.mkdir(parents=True)
        figures.write_png16(home / "xray_000.png", picture)
        geometry = Geometry.from_json({**GEOMETRY.to_json(), **change})
        geometry.at([270.0 if name != "lying" else 0.0]).save(tmp_path / name / "geometry.json")
        targets[name] = input_xray.read_xray(home / "xray_000.png", 270.0, GEOMETRY)
    for name in ("flipped", "lying"):
        assert torch.allclose(targets[name].image, targets["plain"].image, atol=1e-6), name
        assert any("to lie as the prior has it" in note for note in targets[name].notes)
        assert not targets[name].warnings


def test_the_view_comes_from_the_file_where_nobody_names_it(place, tmp_path):
    from dicom_films import film_tags, ramp, written

    film = written(tmp_path, film_tags(ramp(), ViewPosition="AP"))
    found = input_xray.read_xray(film, None, GEOMETRY)
    assert found.view == "AP" and found.angle_deg == 90 and found.mirrored
    named = input_xray.read_xray(film, "lateral", GEOMETRY)
    assert named.view == "lateral" and named.angle_deg == 0
    assert any("its file says that it is AP" in text for text in named.warnings)
    figures.write_png16(tmp_path / "x.png", read_png(place / "pa.png"))
    assert input_xray.read_xray(tmp_path / "x.png", None, GEOMETRY).view == "PA"
    GEOMETRY.at([0.0]).save(tmp_path / "x.json")
    assert input_xray.read_xray(tmp_path / "x.png", None, GEOMETRY).angle_deg == 0


def test_each_xray_is_shown_as_stored_and_as_read(place, tmp_path):
    words = ["--xray", place / "pa.png", "--xray", place / "side.png", "--view", "PA"]
    words += ["--view", "lateral", "--invert", "--max-minutes", "0.001"]
    assert projected(place, tmp_path / "out", *words) == 0
    for k, name in enumerate(("pa", "side")):
        with Image.open(tmp_path / "out" / f"as_read_{k}.png") as sheet:
            shown = np.asarray(sheet).astype(float)[..., 0] / 255
        stored = read_png(place / f"{name}.png").numpy()
        assert shown.shape == (32, 32 + 8 + 32)
        assert np.allclose(shown[:, :32], stored, atol=0.01)
        assert np.allclose(shown[:, -32:], 1 - stored, atol=0.01)


def test_what_was_measured_has_the_units_it_should(done, place, tmp_path):
    share = read_volume(done / "measured.nii.gz")
    assert share.quantity == "relative" and DISCLAIMER in share.note
    assert float(share.values.min()) >= 0 and float(share.values.max()) <= 1
    assert read_volume(done / "null_space.nii.gz").quantity == "hu"
    told = metrics_of(done)["measured"]
    assert 0 <= told["share"] <= 1 and "determined by the film" in told["meaning"]
    page = (done / "report.html").read_text()
    assert "determined by the film" in page and "Null space" in page
    words = ("--xray", place / "pa.png", "--input-kind", "display", "--no-update")
    assert projected(place, tmp_path, *words) == 0
    assert not (tmp_path / "disagreement.png").exists()
    assert metrics_of(tmp_path)["disagreement"] is None
    for name in ("volume", "uncertainty", "measured", "null_space"):
        assert read_volume(tmp_path / f"{name}.nii.gz").quantity == "relative"
    assert " HU" not in (tmp_path / "report.html").read_text()
