"""Depth from a trained scene, and monocular maps brought to its scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_scene import RECIPE, fitted, recipe_file

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.engine.session import train
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.scene import views as scene_views
from mednerf_kit.scene.depth_teacher import write_depth
from mednerf_kit.scene.load import load_fit, render_views


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return fitted(tmp_path_factory.mktemp("fit"))


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
    with np.load(path) as file:
        stem = taught.stems[0]
        in_files, kept = torch.from_numpy(file[stem]), known[0]
    own = taught.cameras.take([0]).from_ray(*pixel_grid(taught.cameras.take([0])), seen[:1])[0]
    torch.testing.assert_close(in_files[kept] * taught.facts["scale"], own[kept])
    with pytest.raises(UserError, match="normalised into the scene's own folder"):
        write_depth(run=teacher, frame="normalised", device="cpu")
    path, _ = write_depth(run=teacher, frame="normalised", out=tmp_path / "own", device="cpu")
    with np.load(path) as file:
        torch.testing.assert_close(torch.from_numpy(file[stem])[kept], own[kept])
    given = {}

    class Spy(Stratified):
        def __call__(self, rays, previous=None, rng=None):
            given.setdefault("depth", rays.depth)
            return super().__call__(rays, previous, rng)

    model = replace(fit.model, levels=[replace(fit.model.levels[0], sampler=Spy(n=8))])
    scene_views.render_cameras(
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
