"""A scene fitted, resumed, opened again, scored and rendered; collapse and memory."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny_scene import RECIPE, fitted, prepared

from mednerf_kit.cli import main
from mednerf_kit.core import files
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.core.types import Rays
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.engine import run_folder as folders
from mednerf_kit.engine import snapshots
from mednerf_kit.engine.session import train
from mednerf_kit.rays.render import LevelRendering, render
from mednerf_kit.scene import model as scene_model
from mednerf_kit.scene import render as scene_render
from mednerf_kit.scene import views as scene_views
from mednerf_kit.scene.evaluate import evaluate_run
from mednerf_kit.scene.forgetting import forgetting
from mednerf_kit.scene.load import load_fit, render_views


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fitted(tmp_path_factory.mktemp("fit"))


def midpoints(model: scene_model.Model, rays: Rays) -> list[LevelRendering]:
    """The model's pictures without jitter along the rays, so that parts see what the whole sees."""
    return render(rays, None, model.levels, image_model=model.image_model)


def test_a_fit_learns_and_keeps_its_folder(run):
    rows = folders.read_stats(run)
    first, last = (sum(r["psnr_db"] for r in part) / len(part) for part in (rows[:5], rows[-5:]))
    assert last > first + 3
    assert folders.is_scene_run(run) and (run / "previews" / "view.png").is_file()
    summary = json.loads((run / "metrics.json").read_text())
    assert summary["steps"] == 100 and math.isfinite(summary["preview_psnr_db"])
    # to the last digit
    assert (
        summary["train_seconds"]
        == files.load_tensors(snapshots.snapshot_files(run)[-1])[1]["seconds"]
    )
    assert summary["wall_seconds"] > summary["train_seconds"] > 0


def test_resuming_ends_where_an_uninterrupted_fit_does(run, tmp_path):
    half = tmp_path / "runs" / run.name
    half.mkdir(parents=True)
    for name in ("config.yaml", "stats.jsonl", "snapshot-000050.safetensors"):
        (half / name).write_bytes((run / name).read_bytes())
    again = train(dataset=None, resume=str(half), outdir=tmp_path / "runs", device="cpu")
    ours, theirs = (
        files.load_tensors(snapshots.snapshot_files(folder)[-1])[0] for folder in (again, run)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_wall_time_goes_on_where_a_resumed_run_left_off(run, tmp_path):
    half = tmp_path / run.name
    shutil.copytree(run, half)
    whole = json.loads((run / "metrics.json").read_text())
    # with the preview
    assert folders.wall_seconds(half, {"step": 100, "wall_seconds": 1e-3}) == whole["wall_seconds"]
    assert folders.wall_seconds(half, {"step": 50, "wall_seconds": 1e-3}) == 1e-3
    before = time.perf_counter()
    train(dataset=None, resume=str(half), device="cpu")
    took = json.loads((half / "metrics.json").read_text())["wall_seconds"] - whole["wall_seconds"]
    assert 0 < took < time.perf_counter() - before


def test_a_run_whose_recipe_lost_a_node_is_refused_by_its_name(run, tmp_path):
    half = tmp_path / run.name
    shutil.copytree(run, half)
    known = yaml.safe_load((half / "config.yaml").read_text())
    del known["recipe"]["selector"]
    (half / "config.yaml").write_text(json.dumps(known))
    with pytest.raises(UserError, match=f"recipe of run '{run.name}' without selector"):
        train(dataset=None, resume=str(half), device="cpu")


def test_evaluations_are_the_points_a_field_was_asked(run, monkeypatch):
    fit = load_fit(run, device="cpu")
    cameras = fit.scene("test").cameras.take([0])
    field, asked = fit.model.levels[0].field, []
    # half of the box is empty
    field.mask.set(torch.tensor([True, False]).view(2, 1, 1).expand(2, 2, 2), field.box)
    monkeypatch.setattr(
        field, "at", lambda points, at=field.at: [asked.append(len(points)), at(points)][1]
    )
    evals_per_ray = render_views(fit, cameras).evals_per_ray
    assert evals_per_ray == sum(asked) / 24**2
    samples = fit.model.levels[0].sampler(fit.model.narrowed(cameras).rays(*pixel_grid(cameras)))
    assert evals_per_ray < 0.8 * int((samples.dt > 0).sum()) / 24**2


def test_opened_again_it_renders_alike_in_any_chunk(run):
    fit = load_fit(run, device="cpu")
    cameras = fit.scene("test").cameras.take([0])
    whole, parts = render_views(fit, cameras), render_views(fit, cameras, chunk=100)
    torch.testing.assert_close(whole.image, parts.image, atol=1e-5, rtol=0)
    assert whole.evals_per_ray <= 24 and whole.opacity.max() <= 1.0001
    torch.testing.assert_close(
        load_fit(run, settings=["levels.0.sampler.n=12"]).model.levels[0].sampler.n, 12
    )


def test_evaluating_names_every_promised_key(run, tmp_path):
    found = evaluate_run(run=str(run), limit=2, out=tmp_path, device="cpu")
    assert {
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
    } <= found.keys()
    assert found["wall_seconds"] == json.loads((run / "metrics.json").read_text())["wall_seconds"]
    assert (
        found["n_views"] == 2
        and found["depth_l1"] is not None
        and (tmp_path / "curves.png").is_file()
    )


def test_the_views_asked_for_are_scored(run, tmp_path, capsys):
    assert (
        main(
            [
                "evaluate",
                "--run",
                str(run),
                "--views",
                "0,8,16-17",
                "--limit",
                "2",
                "--out",
                str(tmp_path),
                "--json",
            ]
        )
        == 0
    )
    assert [row["stem"] for row in json.loads(capsys.readouterr().out)["per_view"]] == [
        "r_0",
        "r_16",
    ]
    assert main(["evaluate", "--run", str(run), "--views", "25"]) == 2
    assert "got view 25; wanted one of the split's 25 views" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "render"])
@pytest.mark.parametrize(
    "setting, sentence",
    [
        ("fields.scene.density_ranks=8", "wanted levels.N.sampler"),
        ("scene.size=12", "wanted levels.N.sampler"),
        ("levels.0.field=scene", "wanted levels.N.sampler"),
        ("levels.1.sampler.n=12", "an index from 0 to 0"),
        ("levels.0.sampler.m=12", "wanted one of disparity, n"),
        ("levels.0.sampler.name=importance", "sampler 'importance' on the first level"),
    ],
)
def test_what_was_fitted_cannot_be_changed_afterwards(run, command, setting, sentence, capsys):
    assert main([command, "--run", str(run), "--set", setting]) == 2
    broadcast_text = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in broadcast_text and "unexpected" not in broadcast_text


def test_rendering_writes_videos_points_and_cameras(run, tmp_path):
    again = tmp_path / "00001-again"
    shutil.copytree(run, again)
    scene_render.render_run(
        run=str(run),
        views=3,
        points=True,
        transforms=True,
        compare=[str(again)],
        out=tmp_path,
        device="cpu",
    )
    for name in (
        "orbit.mp4",
        "depth.mp4",
        "compare.mp4",
        "compare.gif",
        "points.ply",
        "transforms.json",
        "frames/000.png",
    ):
        assert (tmp_path / name).stat().st_size > 0, name
    for split, count in (("train", 6), ("val", 10), ("test", 25)):
        assert load_scene(tmp_path, split=split).count == count


def test_a_flat_picture_starts_again(tmp_path, monkeypatch, capsys):
    from mednerf_kit.scene import fit as module

    monkeypatch.setattr(module, "CHECKS", (1, 2, 3, 4, 5))
    dead = {"scene": {**RECIPE["fields"]["scene"], "shift": -60.0, "masks": [], "upsample": []}}
    with pytest.raises(RunError, match="flat pictures"):
        fitted(tmp_path, fields=dead, steps=8)
    assert "starting again" in capsys.readouterr().err


def test_a_chunk_that_does_not_fit_is_halved(run, monkeypatch, capsys):
    fit, real = load_fit(run, device="cpu"), scene_views.finest

    def small_memory(model, rays):
        if len(rays.near) > 200:
            raise torch.OutOfMemoryError("out of memory")
        return real(model, rays)

    cameras = fit.scene("test").cameras.take([1])
    expected = render_views(fit, cameras).image
    monkeypatch.setattr(scene_views, "finest", small_memory)
    torch.testing.assert_close(
        render_views(fit, cameras, chunk=576).image, expected, atol=1e-5, rtol=0
    )
    assert "chunks of 144 rays" in capsys.readouterr().err


@pytest.mark.parametrize(
    "selector", [{"name": "random", "n": 192}, {"name": "soft_mining", "n": 192}]
)
def test_rays_that_do_not_fit_together_are_halved(selector, tmp_path, monkeypatch, capsys):
    """The step is the one of all rays at once: losses, gradients and what the selector is told."""
    whole, split = (prepared(tmp_path / name, selector=selector) for name in "ab")
    monkeypatch.setattr(
        scene_model.Model, "render", lambda model, rays, rng=None: midpoints(model, rays)
    )
    expected = [whole.step(0.1 * i, i) for i in range(3)]
    real = split.rendered

    def small_memory(pixels):
        if len(pixels.view) > 80:
            raise torch.OutOfMemoryError("out of memory")
        return real(pixels)

    monkeypatch.setattr(split, "rendered", small_memory)
    found = [split.step(0.1 * i, i) for i in range(3)]
    assert split.rays_at_once == 48 and "chunks of 48 rays" in capsys.readouterr().err
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_one_of_several_processes_without_memory_says_so(tmp_path, monkeypatch):
    task = prepared(tmp_path)

    def no_memory(pixels):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(task, "rendered", no_memory)
    task.ranks = replace(task.ranks, world_size=2)
    chosen = task.parts.selector.select(0, task.rng)
    with pytest.raises(RunError, match="no memory for 128 rays in each of 2 processes"):
        task.gradients(chosen, chosen, 0.0)


def test_a_late_collapse_stops_the_training(tmp_path, monkeypatch):
    from mednerf_kit.scene import fit as module

    monkeypatch.setattr(module, "CHECKS", ())
    monkeypatch.setattr(module, "CHECK_EVERY", 5)
    task = prepared(tmp_path)
    task.step(0.4, 3)
    with torch.no_grad():
        for parameter in task.model.fields.parameters():
            parameter.fill_(0.0)
    task.model.fields["scene"].shift = -60.0
    with pytest.raises(RunError, match="too late to start again"):
        task.step(0.6, 4)


def test_a_scene_of_training_views_alone_is_fitted_to_the_end(tmp_path):
    from mednerf_kit.data.posed.blender import Blender

    folder = Blender.example(tmp_path / "toy")
    (folder / "transforms_test.json").unlink()
    run = fitted(tmp_path, dataset=str(folder), scene={}, steps=2, snapshot_steps=2)
    assert (run / "metrics.json").is_file() and "r_0, trained on" in (run / "log.txt").read_text()
    assert "one flat colour" in (run / "log.txt").read_text()


def test_a_run_opens_from_elsewhere_and_where_its_scene_was_moved(tmp_path, monkeypatch):
    from mednerf_kit.data.posed.blender import Blender

    Blender.example(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    run = fitted(tmp_path, dataset="toy", scene={}, steps=2, snapshot_steps=2)
    monkeypatch.chdir("/")
    score = evaluate_run(run=str(run), limit=1, device="cpu")
    assert (
        score["samplers"] == [{"name": "stratified", "n": 24}]
        and (run / "evaluate" / "metrics.json").is_file()
    )
    (tmp_path / "toy").rename(tmp_path / "moved")
    setting = "levels.0.sampler.n=8"
    moved = evaluate_run(
        run=str(run), dataset=str(tmp_path / "moved"), settings=[setting], limit=1, device="cpu"
    )
    assert (
        moved["samplers"][0]["n"] == 8
        and (run / "evaluate-levels.0.sampler.n_8" / "metrics.json").is_file()
    )


def test_the_board_shows_a_view(tmp_path):
    (shown,) = prepared(tmp_path).pictures(0).values()
    assert shown.shape == (2, 24, 24, 3) and float(shown.min()) >= 0 and float(shown.max()) <= 1


def test_what_a_fit_forgot_is_read_from_its_snapshots(run):
    found = forgetting(run, device="cpu", pixels=512)
    assert found["course_steps"] == [50, 100]
    easy, hard = found["course"]["easy_psnr_db"], found["course"]["hard_psnr_db"]
    assert easy[0] > hard[0] and (found["easy_psnr_db"], found["hard_psnr_db"]) == (
        easy[-1],
        hard[-1],
    )
    assert (
        found["easy_drop_db"] == pytest.approx(max(easy[0] - easy[1], 0), abs=1e-4)
        and 0 <= found["easy_forgotten"] <= 1
    )
    assert forgetting(run / "nothing", device="cpu") == {}
