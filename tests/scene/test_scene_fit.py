"""Fitting scenes: the task on the shared loop, its losses, what starts again or is refused, runs
opened again, teacher depth.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scene import RECIPE, fitted, prepared, recipe_file
from torch import Tensor

from mednerf_kit.cli import main
from mednerf_kit.core import files
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.core.types import FieldOutput, Rays, Rendering, Samples
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.engine import run_folder as folders
from mednerf_kit.engine.session import resolve, train
from mednerf_kit.rays.render import Level, LevelRendering, render
from mednerf_kit.rays.samplers.base import Stratified
from mednerf_kit.scene import model as scene_model
from mednerf_kit.scene import render as scene_render
from mednerf_kit.scene.depth_teacher import write_depth
from mednerf_kit.scene.forgetting import forgetting
from mednerf_kit.scene.load import is_scene_run, load_fit, render_views
from mednerf_kit.scene.losses import LOSSES, Outcome, build_losses


def midpoints(model: scene_model.Model, rays: Rays) -> list[LevelRendering]:
    """The model's pictures without jitter along the rays, so that parts see what the whole sees."""
    return render(rays, None, model.levels, picture=model.picture)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fitted(tmp_path_factory.mktemp("fit"))


def outcome(
    w: Tensor,
    t: Tensor,
    *,
    depth: Tensor,
    tau: Tensor | None = None,
    confidence: Tensor | None = None,
    alpha: Tensor | None = None,
) -> Outcome:
    """Rays with these weights [R, S] at these nodes."""
    dt = torch.full_like(t, 0.1)
    nothing = torch.zeros(len(t), 3)
    rays = Rays(nothing, nothing, t[:, 0], t[:, -1], depth=depth)
    seen = LevelRendering(
        Rendering(nothing, w),
        Samples(t, dt),
        FieldOutput(torch.zeros_like(t) if tau is None else tau),
    )
    return Outcome(
        [seen],
        [Level(Stratified(n=1))],
        rays,
        nothing + 0.5,
        torch.ones(len(t)),
        0.5,
        alpha,
        confidence,
    )


# Losses


def test_depth_losses_are_their_formulas():
    t = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    w = torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.2, 0.2]])
    record = outcome(
        w,
        t,
        depth=torch.tensor([2.0, torch.nan]),
        tau=torch.tensor([[0.3, 0.1, 9.0], [9.0, 9.0, 9.0]]),
    )
    mean, variance = 2.5, 0.5 * 4 + 0.5 * 9 - 2.5**2
    losses = build_losses({"depth_soft": 1.0, "depth_free": {"margin": 0.5}, "depth_surface": 1.0})
    assert float(losses["depth_soft"](record)) == pytest.approx((mean - 2) ** 2)
    # only the node at 1 lies before 2 − 0.5
    assert float(losses["depth_free"](record)) == pytest.approx(0.3 / 0.1)
    assert float(losses["depth_surface"](record)) == pytest.approx(abs(mean - 2) + 0.1 * variance)


def test_depth_losses_weigh_with_confidence_and_do_without_depth():
    t = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = build_losses({"depth_soft": 1.0})["depth_soft"]
    both = outcome(w, t, depth=torch.tensor([1.0, 1.0]), confidence=torch.tensor([1.0, 0.25]))
    assert float(loss(both)) == pytest.approx(0.25 / 1.25)
    assert float(loss(outcome(w, t, depth=torch.full((2,), torch.nan)))) == 0.0


def test_a_transparent_pixel_is_free_space_to_the_end():
    t = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    w = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    tau = torch.tensor([[0.3, 9.0, 9.0], [0.1, 0.2, 0.3]])
    losses = build_losses({"depth_soft": 1.0, "depth_free": {"margin": 0.5}, "depth_sight": 1.0})
    facts = {
        "depth": torch.tensor([2.0, torch.nan]),
        "tau": tau,
        "confidence": torch.tensor([0.5, torch.nan]),
    }
    empty = outcome(w, t, **facts, alpha=torch.tensor([1.0, 0.0]))
    assert float(losses["depth_free"](empty)) == pytest.approx((0.5 * 0.3 / 0.1 + 0.6 / 0.3) / 1.5)
    assert float(losses["depth_sight"](empty)) == pytest.approx((0.5 * 0.0 + 0.5) / 1.5)
    assert float(losses["depth_soft"](empty)) == 0.0
    unknown = outcome(w, t, **facts, alpha=torch.tensor([1.0, 0.1]))
    assert float(losses["depth_free"](unknown)) == pytest.approx(0.3 / 0.1)


def test_line_of_sight_is_least_at_the_bell():
    t = torch.linspace(0.05, 3.95, 40)[None]
    loss = build_losses({"depth_sight": {"window": 0.6, "window_end": 0.6}})["depth_sight"]
    bell = torch.exp(-0.5 * ((t - 2.0) / 0.2).square())
    right, early = bell / bell.sum(), torch.exp(-0.5 * ((t - 1.0) / 0.2).square())
    depth = torch.tensor([2.0])
    assert (
        float(loss(outcome(right, t, depth=depth)))
        < 2e-5
        < 0.01
        < float(loss(outcome(early / early.sum(), t, depth=depth)))
    )


@pytest.mark.parametrize("name", LOSSES.entries)
def test_every_loss_has_the_gradient_of_its_differences(name):
    rng = torch.Generator().manual_seed(0)
    rays, samples = 4, 8

    def some(*shape: int) -> Tensor:
        return 0.1 + 0.4 * torch.rand(shape, generator=rng, dtype=torch.float64)

    t = torch.linspace(0.1, 0.9, samples, dtype=torch.float64).expand(rays, samples)
    tau, color, truth, weight = (
        some(rays, samples),
        some(rays, samples, 3),
        some(rays, 3),
        some(rays),
    )
    depth = torch.tensor([0.5, 0.63, 0.4, torch.nan], dtype=torch.float64)
    # several would have gains, which have no gradient on purpose
    one_view = torch.zeros(rays, 3, dtype=torch.float64)
    seen = Rays(one_view, some(rays, 3), t[:, 0], t[:, -1], depth=depth)

    def value(tau: Tensor) -> Tensor:
        level = LevelRendering(
            emission_absorption(tau, color),
            Samples(t, torch.full_like(t, 0.1)),
            FieldOutput(tau, color),
        )
        record = Outcome(
            [level],
            [Level(Stratified(n=samples))],
            seen,
            truth,
            weight,
            0.5,
            alpha=weight,
            confidence=weight,
            regularisers=[{name: tau.square().mean()}],
        )
        return LOSSES.build({"name": name})(record)

    found = value(tau)
    assert found.isfinite() and found.shape == ()
    assert torch.autograd.gradcheck(value, tau.requires_grad_(True))


# Training


def test_a_fit_learns_and_keeps_its_folder(run):
    rows = folders.read_stats(run)
    first, last = (sum(r["psnr_db"] for r in part) / len(part) for part in (rows[:5], rows[-5:]))
    assert last > first + 3
    assert is_scene_run(run) and (run / "previews" / "view.png").is_file()
    summary = json.loads((run / "metrics.json").read_text())
    assert summary["steps"] == 100 and math.isfinite(summary["preview_psnr_db"])
    # to the last digit
    assert summary["train_seconds"] == files.load_tensors(folders.snapshots(run)[-1])[1]["seconds"]
    assert summary["wall_seconds"] > summary["train_seconds"] > 0


def test_resuming_ends_where_an_uninterrupted_fit_does(run, tmp_path):
    half = tmp_path / "runs" / run.name
    half.mkdir(parents=True)
    for name in ("config.yaml", "stats.jsonl", "snapshot-000050.safetensors"):
        (half / name).write_bytes((run / name).read_bytes())
    again = train(dataset=None, resume=str(half), outdir=tmp_path / "runs", device="cpu")
    ours, theirs = (files.load_tensors(folders.snapshots(folder)[-1])[0] for folder in (again, run))
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
    found = scene_render.evaluate_run(run=str(run), limit=2, out=tmp_path, device="cpu")
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
    fit, real = load_fit(run, device="cpu"), scene_model.finest

    def small_memory(model, rays):
        if len(rays.near) > 200:
            raise torch.OutOfMemoryError("out of memory")
        return real(model, rays)

    cameras = fit.scene("test").cameras.take([1])
    expected = render_views(fit, cameras).image
    monkeypatch.setattr(scene_model, "finest", small_memory)
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
    task.ranks = replace(task.ranks, world=2)
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
    score = scene_render.evaluate_run(run=str(run), limit=1, device="cpu")
    assert (
        score["samplers"] == [{"name": "stratified", "n": 24}]
        and (run / "evaluate" / "metrics.json").is_file()
    )
    (tmp_path / "toy").rename(tmp_path / "moved")
    setting = "levels.0.sampler.n=8"
    moved = scene_render.evaluate_run(
        run=str(run), dataset=str(tmp_path / "moved"), settings=[setting], limit=1, device="cpu"
    )
    assert (
        moved["samplers"][0]["n"] == 8
        and (run / "evaluate-levels.0.sampler.n_8" / "metrics.json").is_file()
    )


def test_the_board_shows_a_view(tmp_path):
    (shown,) = prepared(tmp_path).pictures(0).values()
    assert shown.shape == (2, 24, 24, 3) and float(shown.min()) >= 0 and float(shown.max()) <= 1


# Depth


def test_a_teachers_depth_serves_a_guided_fit(run, tmp_path):
    path, score = write_depth(run=run, out=tmp_path / "depth", device="cpu")
    taught = load_scene("blocks", split="train", size=24, train_views=6, depth=path.parent)
    assert (
        taught.depth is not None and taught.confidence is not None and taught.confidence.max() <= 1
    )
    assert score["n_views"] == 5 and score["depth_l1"] > 0
    guided = [{"sampler": {"name": "guided", "n": 16}, "field": "scene"}]
    fitted(
        tmp_path,
        scene={**RECIPE["scene"], "depth": str(path.parent)},
        levels=guided,
        losses={"mse": 1.0, "depth_soft": 0.01},
        steps=3,
        snapshot_steps=3,
    )


def test_a_teachers_depth_survives_normalised_device_coordinates(tmp_path):
    from mednerf_kit.data.posed.llff import Llff

    folder = Llff.example(tmp_path / "toy")
    scene = {"background": "black"}
    haze = {"scene": {**RECIPE["fields"]["scene"], "shift": 0.0, "masks": [], "upsample": []}}
    teacher = fitted(
        tmp_path, dataset=str(folder), scene=scene, fields=haze, steps=2, snapshot_steps=2
    )
    path, _ = write_depth(run=teacher, device="cpu")
    fit, taught = load_fit(teacher, device="cpu"), load_scene(folder)
    seen = render_views(fit, taught.cameras).median_depth
    known = seen.isfinite()
    assert (
        path.parent == folder and bool(known.any()) and torch.equal(taught.depth.isfinite(), known)
    )
    torch.testing.assert_close(taught.depth[known], seen[known], atol=1e-3, rtol=1e-3)
    given = {}

    class Spy(Stratified):
        def __call__(self, rays, previous=None, rng=None):
            given.setdefault("depth", rays.depth)
            return super().__call__(rays, previous, rng)

    model = replace(fit.model, levels=[replace(fit.model.levels[0], sampler=Spy(n=8))])
    scene_model.render_cameras(
        model, taught.cameras.take([0]), depth=taught.depth, chunk=10**6, progress=False
    )
    assert torch.equal(given["depth"].nan_to_num(), taught.depth[0].flatten().nan_to_num())


def test_a_teacher_stays_away_from_scored_views(run, tmp_path):
    from mednerf_kit.data.posed.blender import Blender

    folder = Blender.example(tmp_path / "toy")
    quick = {"dataset": str(folder), "scene": {}, "steps": 2, "snapshot_steps": 2}
    teacher = fitted(tmp_path, **quick)
    for split, out in (("test", None), ("all", None), ("val", folder)):
        with pytest.raises(UserError, match="scored views to keep"):
            write_depth(run=teacher, split=split, out=out, device="cpu")
    assert not list(folder.glob("depth_*.npz"))
    assert write_depth(
        run=teacher, split="test", out=tmp_path / "elsewhere", limit=1, device="cpu"
    )[0].is_file()
    config = recipe_file(tmp_path, scene={}, steps=2, snapshot_steps=2)
    saw_all = train(
        dataset=str(folder), config=config, outdir=tmp_path / "runs", device="cpu", split="all"
    )
    with pytest.raises(UserError, match="never saw a scored view"):
        write_depth(run=saw_all, device="cpu")


@pytest.mark.parametrize("kind", ["inverse", "depth"])
def test_monocular_maps_are_brought_to_the_teachers_scale(kind):
    from mednerf_kit.data.posed.depth import pixel_grid
    from mednerf_kit.scene.depth_teacher import monocular

    scene = load_scene("blocks", split="test", size=24).take([0])
    factor = scene.cameras.planar_factor(*pixel_grid(scene.cameras))
    planar = torch.where(scene.depth.isfinite(), scene.depth / factor, 6.0)
    relative = 0.3 * (1 / planar if kind == "inverse" else planar) - 0.02
    trust = scene.depth.isfinite().float()
    distance, confidence = monocular(
        relative, scene.depth, trust, scene.cameras, inverse=kind == "inverse"
    )
    torch.testing.assert_close(distance, planar * factor, rtol=1e-3, atol=1e-3)
    assert bool((confidence > 0.999).all()) and confidence.shape == distance.shape
    noise = torch.rand(relative.shape, generator=torch.Generator().manual_seed(0))
    assert (
        float(
            monocular(noise, scene.depth, trust, scene.cameras, inverse=kind == "inverse")[1].max()
        )
        < 0.3
    )


def test_monocular_maps_reach_a_scene(run, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    scene = load_scene("blocks", split="train", size=24, train_views=6)
    for i, stem in enumerate(scene.stems):
        (maps / stem).parent.mkdir(parents=True, exist_ok=True)
        np.save(maps / f"{stem}.npy", 1 / scene.depth[i].nan_to_num(6.0).numpy()[None])
    path, _ = write_depth(run=run, mono=maps, out=tmp_path / "out", device="cpu")
    taught = load_scene("blocks", split="train", size=24, train_views=6, depth=path.parent)
    assert bool(taught.depth.isfinite().any()) and bool(
        (taught.confidence.flatten(1).std(1) < 1e-3).all()
    )
    (maps / f"{scene.stems[-1]}.npy").unlink()
    with pytest.raises(UserError, match="without a map of"):
        write_depth(run=run, mono=maps, out=tmp_path / "out", device="cpu")


def test_depth_is_asked_for_where_it_is_needed(tmp_path):
    from mednerf_kit.data.posed.blender import Blender

    folder = Blender.example(tmp_path / "toy")
    bare = {k: v for k, v in RECIPE["scene"].items() if k == "downscale"}
    with pytest.raises(UserError, match="which has no depth"):
        fitted(tmp_path, dataset=str(folder), scene=bare, losses={"mse": 1.0, "depth_soft": 0.1})
    with pytest.raises(UserError, match="got guided on scene 'toy'"):
        fitted(
            tmp_path,
            dataset=str(folder),
            scene=bare,
            levels=[{"sampler": {"name": "guided", "n": 16}, "field": "scene"}],
        )


# Recipes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"levels": [{"sampler": {"name": "importance"}, "field": "scene"}]}, "on the first level"),
        ({"levels": [{"sampler": {"name": "stratified"}, "field": "scenes"}]}, "scene"),
        ({"levels": [{"sample": {"name": "stratified"}}]}, "sampler"),
        ({"losses": {"msee": 1.0}}, "mse"),
        ({"losses": {"depth_soft": 0.01}}, "none looks at the picture"),
        ({"steps": 0}, "wanted at least 1"),
        ({"picture": "line_integral"}, "line_integral for radiographs"),
        ({"scene": {"sizes": 24}}, "size"),
    ],
)
def test_bad_recipes_are_refused_in_one_sentence(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        fitted(tmp_path, **change)


def test_shipped_scene_recipes_resolve():
    from mednerf_kit.core import config

    for path in sorted(config.folder().glob("*.yaml")):
        node = config.load(path.stem)
        if node["task"].get("name") == "fit":
            for preset in ("quick", "default", "paper"):
                assert resolve("blocks", path.stem, preset, [])["task"]["name"] == "fit"
            assert len(path.read_text().splitlines()) <= 40 and path.read_text().startswith("# ")


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
