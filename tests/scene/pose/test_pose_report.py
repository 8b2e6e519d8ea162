"""The command's files: one photograph's pose, success over many starts, bad input."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace

import click
import pytest
import torch
from ball_scene import BallFit
from blob_scene import away, blob_fit, seeded, small_scene

from mednerf_kit import cli
from mednerf_kit.commands import pose as command
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.types import Scene
from mednerf_kit.data.posed.world import world_poses
from mednerf_kit.imaging.cameras import look_at
from mednerf_kit.imaging.motion import apart, square
from mednerf_kit.scene.pose import photograph, report
from mednerf_kit.scene.pose.options import PoseSearch


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene()


@pytest.fixture(scope="module")
def fit(scene) -> BallFit:
    return blob_fit(scene)


@pytest.fixture
def opened(fit, monkeypatch) -> BallFit:
    for module in (photograph, report):
        monkeypatch.setattr(module, "load_fit", lambda run, **options: fit)
    return fit


def write_photo(fit: BallFit, path, *, scale: int = 1) -> str:
    from PIL import Image

    pixels = (
        (fit.known.images[1].float() * 255)
        .round()
        .byte()
        .repeat_interleave(scale, 0)
        .repeat_interleave(scale, 1)
    )
    Image.fromarray(pixels.numpy()).save(path)
    return str(path)


def test_a_photograph_leaves_its_pose_a_picture_and_a_film(opened, tmp_path):
    start = tmp_path / "start.json"
    begin = away(opened.known.cameras.c2w[1:2], 5.0, pivot=torch.zeros(3))[0]
    start.write_text(json.dumps({"transform_matrix": square(begin).tolist()}))
    photo = write_photo(opened, tmp_path / "photo.png", scale=2)
    found = photograph.pose_run(
        run="x",
        image=photo,
        start=start,
        gif=True,
        search=PoseSearch(rays=100, steps=24),
        near_first=False,
        blur=0.0,
        out=tmp_path / "out",
    )
    kept = json.loads((tmp_path / "out" / "pose.json").read_text())
    assert kept == json.loads(json.dumps(found)) and kept["final"]["mse"] < kept["initial"]["mse"]
    torch.testing.assert_close(torch.tensor(kept["start"]), square(begin))
    assert "rotation_error_deg" not in kept["final"] and kept["history"][0]["step"] == 0
    assert all((tmp_path / "out" / name).stat().st_size for name in ("pose.png", "pose.gif"))
    torch.testing.assert_close(
        photograph.read_pose_file(tmp_path / "out" / "pose.json"),
        torch.tensor(kept["camera_to_world"])[:3],
    )


def test_a_view_of_the_scene_is_compared_with_its_true_pose(opened, tmp_path):
    found = photograph.pose_run(
        run="x",
        image="test/r_1",
        start_view="test/r_1",
        search=PoseSearch(rays=50, steps=2),
        near_first=False,
        out=tmp_path,
    )
    assert found["initial"]["rotation_error_deg"] < 0.1 and found["final"]["shift_error"] < 0.2


def test_poses_are_in_the_world_of_the_files_or_as_it_was_fitted(scene, monkeypatch, tmp_path):
    way = torch.diag(torch.tensor([20.0, 20, 20, 1], dtype=torch.float64))
    way[:3, 3] = torch.tensor([500000.0, 5300000.0, 300.0])
    placed = blob_fit(replace(scene, to_world=way))
    monkeypatch.setattr(photograph, "load_fit", lambda run, **options: placed)
    search = PoseSearch(rays=50, steps=2)
    options = {"run": "x", "image": "test/r_1", "search": search, "near_first": False}
    options |= {"start_view": "test/r_0", "out": tmp_path}
    own = photograph.pose_run(**options, frame="normalised")
    there = photograph.pose_run(**options)
    fitted, world = (
        torch.tensor(found["camera_to_world"], dtype=torch.float64)[:3] for found in (own, there)
    )
    torch.testing.assert_close(world_poses(fitted, way), world, atol=1e-9, rtol=0)
    assert there["frame"] == "file" and own["frame"] == "normalised"
    start = torch.tensor(there["start"], dtype=torch.float64)[:3]
    assert torch.equal(start, world_poses(scene.cameras.c2w[0], way))
    for name in ("initial", "final"):
        ratio = there[name]["shift_error"] / own[name]["shift_error"]
        assert ratio == pytest.approx(20, rel=1e-4)
    again = {**options, "start_view": None, "start": tmp_path / "pose.json"}
    found = photograph.pose_run(**again)
    assert found["initial"]["shift_error"] == pytest.approx(there["final"]["shift_error"], abs=1e-3)


def test_a_report_counts_every_start(opened, tmp_path):
    found = report.report_run(
        run="x",
        starts=4,
        angle=8.0,
        shift=0.05,
        pixels=["region"],
        near_first=False,
        blur=0.05,
        search=PoseSearch(rays=100, steps=40),
        out=tmp_path,
    )
    rows = (tmp_path / "starts.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 and json.loads(
        (tmp_path / "report.json").read_text()
    ) == json.loads(json.dumps(found))
    method = found["methods"]["region"]
    assert (
        sum(b["count"] for b in method["bins"])
        == method["count"]
        == 4
        == method["up_to"][-1]["count"]
    )
    assert method["successes"] >= 3 > found["methods"]["start"]["successes"]
    assert (tmp_path / "success.png").stat().st_size


def test_starts_are_as_far_as_they_say(scene):
    for turn in ("scene", "camera"):
        drawn = report.draw_starts(scene, 40, angle_deg=20.0, shift=0.1, turn=turn, rng=seeded())
        degrees, shift = apart(drawn.c2w, drawn.truth)
        torch.testing.assert_close(degrees, drawn.angle_deg, atol=1e-2, rtol=0)
        assert float(degrees.max()) < 20 and float(degrees.min()) < 0.6
        assert (float(shift.max()) < 0.1 * math.sqrt(3)) == (turn == "camera")
        assert set(drawn.which.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"start_view": None}, "no start"),
        ({"start_view": "test/r_7"}, "r_2"),
        ({"start_view": "nowhere"}, "SPLIT/STEM"),
        ({"image": "missing.png"}, "SPLIT/STEM"),
        ({"image": "wrong.png"}, "wanted 40×40 or 80×80"),
        ({"search": PoseSearch(rays=1601, pixels="random")}, "at most one a pixel"),
        ({"start_view": None, "start": "bad.txt"}, "holds no pose"),
        ({"start_view": None, "start": "back.txt"}, "no ray meets the scene"),
        ({"image": "flat.png"}, "without a single corner"),
    ],
)
def test_bad_input_is_one_sentence(opened, tmp_path, change, sentence):
    from PIL import Image

    Image.new("RGB", (50, 40)).save(tmp_path / "wrong.png")
    Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "flat.png")
    (tmp_path / "bad.txt").write_text("1 2 3")
    away_pose = look_at(
        torch.tensor([0.0, 0, 4]), torch.tensor([0.0, 0, 8]), torch.tensor([0.0, 1, 0])
    )
    (tmp_path / "back.txt").write_text(" ".join(str(v) for v in away_pose.flatten().tolist()))
    given = {
        "run": "x",
        "image": "test/r_0",
        "start_view": "test/r_1",
        "search": PoseSearch(rays=20, steps=1),
        "near_first": False,
        "out": tmp_path,
        **change,
    }
    if given["image"].endswith((".png",)):
        given["image"] = str(tmp_path / given["image"])
    if given.get("start"):
        given["start"] = tmp_path / given["start"]
    with pytest.raises(UserError, match=sentence):
        photograph.pose_run(**given)


@pytest.mark.parametrize(
    "bad", [{"kernel": 4}, {"rays": 0}, {"rate": 0.0}, {"blur": 0.5}, {"final_rate": 2.0}]
)
def test_bad_options_are_refused(bad):
    with pytest.raises(UserError):
        PoseSearch(**bad)


def test_every_option_of_the_command_reaches_its_function(capsys):
    options = {p.name for p in command.pose.params} - {"report"}
    assert options == command.SHARED | command.ONE | command.MANY
    fields = set(inspect.signature(PoseSearch).parameters)
    assert set(command.SEARCH) <= fields and list(command.PIXELS) == list(report.PIXELS)
    given = dict.fromkeys((command.SHARED - {"pixels", *command.SEARCH}) | {"search"})
    inspect.signature(photograph.pose_run).bind(**given, **dict.fromkeys(command.ONE))
    inspect.signature(report.report_run).bind(**given, **dict.fromkeys(command.MANY | {"pixels"}))
    assert isinstance(command.pose, click.Command)
    assert (
        cli.main(["pose", "--run", "x", "--report", "--gif"]) == 2
        and "--gif" in capsys.readouterr().err
    )
    assert cli.main(["pose", "--run", "x"]) == 2 and "--image" in capsys.readouterr().err
