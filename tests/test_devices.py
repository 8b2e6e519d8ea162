"""Nothing is on the wrong device: every registered part works on a pretend accelerator that knows
CUDA's rules (pretend.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pretend import Pretend, pretend_device
from tiny import SETTINGS, SIZE, SPLIT, make_set

import mednerf_kit
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.engine import run_folder, session, snapshots
from mednerf_kit.engine.run_folder import RunConfig
from mednerf_kit.fields.base import FIELDS
from mednerf_kit.gan.augment.apply import augmented
from mednerf_kit.gan.augment.presets import AUGMENTATIONS
from mednerf_kit.gan.dag import POLICIES
from mednerf_kit.gan.discriminator import DISCRIMINATORS
from mednerf_kit.invert import calibrate, evaluate, render
from mednerf_kit.invert.posterior import Inversion
from mednerf_kit.invert.reconstruct import project
from mednerf_kit.prior import posed_setup, previews
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.rays.selectors.base import SELECTORS
from mednerf_kit.scene import depth_teacher, preview
from mednerf_kit.scene import evaluate as scene_evaluate
from mednerf_kit.scene import render as scene_render
from mednerf_kit.scene import setup as scenes
from mednerf_kit.scene.export import export_mesh
from mednerf_kit.scene.field_queries import density_grid
from mednerf_kit.scene.fit import FitTask
from mednerf_kit.scene.forgetting import forgetting
from mednerf_kit.scene.load import Fit, load_fit
from mednerf_kit.scene.losses import LOSSES
from mednerf_kit.scene.pose.options import PoseSearch
from mednerf_kit.scene.pose.photograph import pose_run
from mednerf_kit.scene.pose.report import report_run
from mednerf_kit.scene.pose.search import align_cameras
from mednerf_kit.scene.surface import surface_scores
from mednerf_kit.study.generation import score
from mednerf_kit.viz import figures, video

# what is imported only when it is used, too
for found in pkgutil.walk_packages(mednerf_kit.__path__, "mednerf_kit."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)

TENSORF = {
    "name": "tensorf",
    "density_ranks": 2,
    "appearance_ranks": 2,
    "features": 3,
    "head_width": 8,
    "start_voxels": 216,
    "end_voxels": 512,
    "upsample": [0.3],
    "masks": [0.6],
    "mask_threshold": 1e-9,
}
NETWORK = {"depth": 2, "width": 16, "skip": 1, "octaves": 2, "view_octaves": 1}
GRID = {"name": "hash", "levels": 2, "log2_table": 8, "finest": 32}
NEUS = {**NETWORK, "scatter": 8, "head_depth": 1}
FIELD_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "tensorf": [TENSORF, {**TENSORF, "factorisation": "cp", "view_encoding": "spherical"}],
    "voxels": [{"start_voxels": 216, "end_voxels": 512, "upsample": [0.5]}],
    "nerf": [
        {**NETWORK, "noise": 1.0},
        {**NETWORK, "encoding": "planes"},
        {**NETWORK, "precision": "bfloat16"},
    ],
    "neus": [{**NEUS, "background": {"name": "nerf", **NETWORK}}, {**NEUS, "encoding": GRID}],
    "hash": [{"encoding": GRID, "width": 8}],
}
SAMPLER_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "stratified": [{}, {"disparity": True}],
    "importance": [{}, {"merge": False}],
    "local": [{}, {"relative": True, "skip_masked": True, "explore": 0.5}, {"compat": "released"}],
    "guided": [{}, {"share": 1.0}],
    "neus": [{"refine": 4, "rounds": 2}, {"refine": 4, "rounds": 2, "outside": 2}],
    "occupancy": [{"resolution": 4, "every": 1, "warmup_steps": 2, "keep": 4, "refine": 2}],
}
SCENE: dict[str, Any] = {
    "task": {"name": "fit", "learning_rate": 0.02},
    "scene": {"size": 12, "train_views": 4},
    "fields": {"scene": TENSORF},
    "levels": [{"sampler": {"name": "stratified", "n": 6}, "field": "scene"}],
    "selector": {"name": "random", "n": 32},
    "losses": {"mse": 1.0},
    "image_model": "emission_absorption",
    "steps": 4,
    "snapshot_steps": 1,
}
EVERYTHING = {
    **SCENE,
    "fields": {"scene": {**TENSORF, "shift": 0.0}},
    "task": {"name": "fit", "learning_rate": 0.02, "refine_poses": 1e-3},
    "levels": [
        {"sampler": {"name": "occupancy", "n": 8, "resolution": 4}, "field": "scene"},
        {"sampler": {"name": "importance", "n": 4}, "field": "scene"},
    ],
    "selector": {"name": "soft_mining", "n": 32},
}


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretend_device() as there:
        yield there


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    """The embedded scene, made once, on the CPU; and few steps, voxels and candidates where they
    are no options.
    """
    load_scene("blocks", split="train", **SCENE["scene"])
    with pytest.MonkeyPatch.context() as patch:
        for module in (preview, scene_evaluate):
            patch.setattr(module, "align_cameras", partial(align_cameras, steps=2))
        patch.setattr(scene_evaluate, "surface_scores", partial(surface_scores, size=16))
        patch.setattr(calibrate, "Inversion", QUICKLY)
        patch.setattr(evaluate, "Inversion", QUICKLY)
        patch.setattr(video, "write_mp4", lambda path, views, *_: figures.to_uint8(views))
        patch.setattr(depth_teacher, "own_score", lambda fit: {})  # evaluates once more
        for name, value in {"PATIENTS": 2, "FRAMES": 2, "GRID": 12}.items():
            patch.setattr(previews, name, value)
        yield


def fitted(device: torch.device, *, steps: int = 4, **changes: Any) -> FitTask:
    """The task of a scene recipe after some steps."""
    task = scenes.prepare(RunConfig("blocks", {**SCENE, **changes}), device).task
    assert isinstance(task, FitTask)
    for index in range(steps):
        numbers = task.step(index / steps, index)
        assert all(isinstance(value, float) for value in numbers.values())
    assert_there(task.model.fields)
    return task


def trained(
    dataset: str | Path,
    outdir: Path,
    config: str,
    *settings: str,
    device: str = "cuda",
    **options: Any,
) -> Path:
    """A whole run folder."""
    folder = session.train(
        dataset=str(dataset),
        config=config,
        settings=settings,
        outdir=outdir,
        device=device,
        **options,
    )
    assert folder is not None
    return folder


def assert_there(module: torch.nn.Module) -> None:
    """Every parameter and buffer is on the device."""
    lost = [
        name
        for name, value in module.state_dict(keep_vars=True).items()
        if not isinstance(value, Pretend)
    ]
    assert lost == []


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in FIELDS.entries for options in FIELD_OPTIONS.get(name, [{}])],
)
def test_every_field_is_fitted(device, name, options):
    losses = {
        "mse": 1.0,
        "density_l1": 1e-4,
        "tv_density": 1e-3,
        "tv_appearance": 1e-3,
        "eikonal": 0.1,
    }
    fitted(device, fields={"scene": {**options, "name": name}}, losses=losses)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in SAMPLERS.entries for options in SAMPLER_OPTIONS.get(name, [{}])],
)
def test_every_sampler_serves_a_fit(device, name, options):
    first = (
        [{"sampler": {"name": "stratified", "n": 6}, "field": "scene"}]
        if SAMPLERS[name].refines
        else []
    )
    fields = (
        {"scene": {"name": "neus", **FIELD_OPTIONS["neus"][0]}}
        if name == "neus"
        else SCENE["fields"]
    )
    fitted(
        device,
        levels=[*first, {"sampler": {"name": name, "n": 6, **options}, "field": "scene"}],
        fields=fields,
    )


@pytest.mark.parametrize("name", SELECTORS.entries)
def test_every_selector_serves_a_fit(device, name):
    known = {
        "error_map": {"refresh": "exact", "every": 2},
        "egra": {"canny_low": 1, "canny_high": 2},
    }
    options = {"size": 4} if "patch" in name else {"n": 32}
    fitted(device, selector={"name": name, **options, **known.get(name, {})})


@pytest.mark.parametrize("name", SELECTORS.entries)
def test_every_selector_draws_where_its_numbers_are(device, name):
    known = {"error_map": {"grid": 4}, "egra": {"canny_low": 1, "canny_high": 2}}
    options = {"size": 4} if "patch" in name else {"n": 32}
    scene = load_scene("blocks", split="train", **SCENE["scene"])
    facts = {
        "views": scene.count,
        "rows": 12,
        "cols": 12,
        "images": scene.images,
        "masks": scene.alpha,
    }
    selector = SELECTORS.build({"name": name, **options, **known.get(name, {})}, **facts).to(device)
    rng = torch.Generator(device).manual_seed(0)
    for step in range(3):
        selector.advance(step / 3)
        pixels = selector.select(step, rng)
        error = torch.rand(len(pixels.view), device=device)
        assert selector.weigh(pixels, error).is_cuda and pixels.yx.is_cuda
        selector.observe(pixels, error, torch.rand_like(pixels.yx))


def test_every_loss_has_a_gradient(device):
    neus = {"name": "neus", **FIELD_OPTIONS["neus"][1]}
    fitted(
        device, fields={"scene": TENSORF, "other": neus}, losses=dict.fromkeys(LOSSES.entries, 0.1)
    )


def test_everything_about_a_scene_is_done_there(device, fit_there, tmp_path):
    run = str(fit_there)
    found = scene_evaluate.evaluate_run(run=run, limit=1, device="cuda", out=tmp_path / "scores")
    assert found["peak_mib"] == 1.0 and found["poses_aligned"]
    scene_render.render_run(
        run=run, views=2, size=16, points=True, out=tmp_path / "render", device="cuda"
    )
    fit = load_fit(run, device="cuda")
    export_mesh(
        fit, tmp_path / "mesh.ply", size=16, threshold=float(density_grid(fit, 16)[0].median())
    )
    assert forgetting(fit_there, device="cuda", pixels=64)["course_steps"] == [2, 3, 4]
    depth_teacher.write_depth(run=run, out=tmp_path, limit=1, device="cuda")
    search = PoseSearch(rays=16, steps=2)
    pose_run(
        run=run, image="test/r_0", start_view="test/r_1", search=search, out=tmp_path, device="cuda"
    )
    report_run(run=run, starts=2, search=search, out=tmp_path, device="cuda")


def test_a_surface_is_found_there(device, tmp_path):
    recipe = {**SCENE, "fields": {"scene": {"name": "neus", **NEUS}}}
    job = scenes.prepare(RunConfig("blocks", recipe), device)
    fit = Fit(job.task.model, job.meta, tmp_path, device)
    export_mesh(fit, tmp_path / "mesh.ply", size=16)
    assert surface_scores(fit, fit.scene("test"), size=16)["chamfer"] > 0


@pytest.fixture(scope="module")
def fit_there(tmp_path_factory) -> Path:
    """A run with all that a scene's snapshot can hold, trained on the device."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(EVERYTHING))
    with pretend_device():
        return trained("blocks", folder / "runs", str(folder / "recipe.yaml"))


def test_a_scene_begun_on_one_device_goes_on_on_another(fit_there, tmp_path):
    goes_on(fit_there, tmp_path)


def goes_on(folder: Path, home: Path) -> None:
    """A copy of a run begun on the device is continued on the CPU, and from a snapshot made there
    on the device again.
    """
    shutil.copytree(folder, home / folder.name)
    for kept, device in ((1, "cpu"), (2, "cuda")):
        for path in snapshots.snapshot_files(home / folder.name)[kept:]:
            path.unlink()
        with pretend_device() if device == "cuda" else contextlib.nullcontext():
            trained("unread", home, "unread", device=device, resume=str(home / folder.name))


# Priors


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """A set of radiographs, with coloured pictures beside them."""
    folder = make_set(tmp_path_factory.mktemp("sets") / "chest_toys")
    (folder / "split.json").write_text(json.dumps({**SPLIT, "val": ["q1"], "test": ["q0"]}))
    for k in range(4):
        figures.write_png8(
            folder / f"{k}.png",
            torch.rand(SIZE, SIZE, 3, generator=torch.Generator().manual_seed(k)),
        )
    return folder


QUICKLY = partial(Inversion, samples=1, candidates=4, code_steps=2, pivot_steps=2, rays=16, nodes=6)
HYPER = [
    "generator={name: hypernerfgan, code_dim: 8, width: 16, depth: 3, skip: 2, octaves: 3, "
    "rank: 2}",
    "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 8, policy: none, "
    "dag_weight: 0.0}",
]
GRAF = (
    "generator={name: graf, shape_dim: 4, appearance_dim: 4, width: 16, depth: 3, skip: 2, "
    "octaves: 3, view_octaves: 2}"
)
FINE_TUNING = (
    "inversion={name: fine_tuning, samples: 1, candidates: 4, azimuths: 2, code_steps: 2, "
    "tune_steps: 2, patch_px: 16}"
)
QUICK = [
    "levels=[{name: stratified, n: 6}]",
    "task.batch=2",
    "task.r1_gamma=0.5",
    "task.r1_interval=2",
    "steps=3",
    "snapshot_steps=1",
    FINE_TUNING,
]
SMALL, IMAGE_MODELS = f"dataset={{size: {SIZE}}}", f"dataset={{size: {SIZE}, pictures: true}}"
POSED = [*SETTINGS, "steps=3", "snapshot_steps=1", "calibration_patients=1"]
RECIPES = {  # a name of a run: its recipe, and what makes it small
    "hypernerfgan": ("chest_hypernerfgan", [*QUICK, *HYPER, SMALL]),
    "carla": ("carla", [*QUICK, *HYPER, IMAGE_MODELS]),
    "graf": (
        "chest_graf",
        [*QUICK, GRAF, SMALL, "discriminator={name: patchgan, size: 16, width: 4}"],
    ),
    "mednerf": (
        "chest_mednerf",
        [
            *QUICK,
            GRAF,
            SMALL,
            "task.accumulate=2",
            "task.view_gain=2",
            "discriminator={name: selfsup, size: 16, width: 4, doublings: 1, heads: 4}",
        ],
    ),
    **{
        name: (
            "chest",
            [
                *POSED,
                f"task.objective={name}",
                "task.ray_share=0.5",
                "task.gan_interval=1",
                "task.accumulate=2",
            ],
        )
        for name in ("gan", "hybrid")
    },
}


@pytest.fixture(scope="module", params=RECIPES)
def prior_there(request, patients, tmp_path_factory) -> Path:
    """A run of each recipe, trained on the device: first from volumes, then from rays where it is
    posed.
    """
    config, settings = RECIPES[request.param]
    with pretend_device():
        return trained(patients, tmp_path_factory.mktemp("runs"), config, *settings)


def test_a_prior_begun_on_one_device_goes_on_on_another(prior_there, tmp_path):
    goes_on(prior_there, tmp_path)


@pytest.mark.parametrize("prior_there", ["graf", "hybrid"], indirect=True)
def test_everything_about_a_prior_is_done_there(device, prior_there, patients, tmp_path):
    run = str(prior_there)
    evaluate.evaluate(run=run, limit=1, out=tmp_path, uncertainty=True, device="cuda")
    sizes = score.Sizes(fakes=8, views=4, samples=2)
    score.score(run=run, sizes=sizes, out=tmp_path, device="cuda")
    render.sample(run=run, seeds=[0, 1], size=16, out=tmp_path, device="cuda")
    if "graf" in run_folder.read_run_config(prior_there).recipe["generator"]["name"]:
        return
    render.render(run=run, views=2, size=16, volume=True, video=False, out=tmp_path, device="cuda")
    film = next(patients.glob("q0/**/*.png"))
    project(xray=[film], view=[0.0], run=run, outdir=tmp_path, samples=1, size=16, device="cuda")


def test_a_set_scaled_by_view_is_learned_there(device, patients):
    config, settings = RECIPES["hybrid"]
    recipe = session.resolve(str(patients), config, "default", settings)
    task = posed_setup.prepare(RunConfig(str(patients), recipe), device).task
    task.training = replace(task.training, per_view_scale=True)
    for index, progress in enumerate((0.0, 0.5, 0.9)):  # by volumes, with an adversary, by rays
        task.step(progress, index)
    assert len(task.state()[1]["log_gain_profile"]) == task.geometry.views


@pytest.mark.parametrize("name", AUGMENTATIONS.entries)
def test_every_augmentation_is_applied_there(device, name):
    images = torch.rand(3, 1, 16, 16, device=device, requires_grad=True)
    drawn = AUGMENTATIONS.build({"name": name}).draw(
        3, (1, 16, 16), 1.0, torch.Generator().manual_seed(0)
    )
    seen = augmented(images, drawn)
    (slope,) = torch.autograd.grad(seen.square().sum(), images, create_graph=True)
    slope.square().sum().backward()
    assert seen.is_cuda and images.grad.is_cuda


@pytest.mark.parametrize("policy", POLICIES.entries)
@pytest.mark.parametrize("name", DISCRIMINATORS.entries)
def test_every_judge_looks_there(device, name, policy):
    known = {
        "residual": {"fmaps": 0.004, "max_channels": 8, "policy": policy},
        "patchgan": {"width": 4},
    }
    known["selfsup"] = {"width": 4, "doublings": 1, "policy": policy}
    discriminator = DISCRIMINATORS.build(
        {"name": name, "size": 16, **known.get(name, {})}, channels=1
    ).to(device)
    discriminator(torch.rand(2, 1, 16, 16, device=device), None).heads.sum().backward()
    assert_there(discriminator)
