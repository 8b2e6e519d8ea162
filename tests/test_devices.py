"""Nothing is on the wrong device: every registered part works on a pretend accelerator that knows CUDA's rules (pretend.py)."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pretend import Pretend, pretend_device
from tiny import SETTINGS, SIZE, make_set

import mednerf_kit
from mednerf_kit.fields.base import FIELDS
from mednerf_kit.rays.samplers import SAMPLERS
from mednerf_kit.rays.selectors import SELECTORS
from mednerf_kit.train import runs, session
from mednerf_kit.train.scenes import session as scenes
from mednerf_kit.train.scenes import show
from mednerf_kit.train.scenes import surface as scene_surface
from mednerf_kit.train.scenes.fit import FitTask
from mednerf_kit.train.scenes.forgetting import forgetting
from mednerf_kit.train.scenes.losses import LOSSES
from mednerf_kit.train.scenes.pose import PoseSearch
from mednerf_kit.train.scenes.pose_report import pose_run, report_run
from mednerf_kit.train.scenes.teacher import write_depth

for found in pkgutil.walk_packages(mednerf_kit.__path__, "mednerf_kit."):  # what is imported only when it is used, too
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)

TENSORF = {"name": "tensorf", "density_ranks": 2, "appearance_ranks": 2, "features": 3, "head_width": 8, "start_voxels": 216,
           "end_voxels": 512, "upsample": [0.3], "masks": [0.6], "mask_threshold": 1e-9}  # fmt: skip
NETWORK = {"depth": 2, "width": 16, "skip": 1, "octaves": 2, "view_octaves": 1}
GRID = {"name": "hash", "levels": 2, "log2_entries": 6}
FIELD_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "tensorf": [TENSORF, {**TENSORF, "factorisation": "cp", "views": "spherical"}],
    "voxels": [{"start_voxels": 216, "end_voxels": 512, "upsample": [0.5]}],
    "nerf": [{**NETWORK, "noise": 1.0}, {**NETWORK, "encoding": "planes"}, {**NETWORK, "precision": "bfloat16"}],
    "neus": [{**NETWORK, "scatter": 8, "head_depth": 1, "background": {"name": "nerf", **NETWORK}},
             {**NETWORK, "scatter": 8, "head_depth": 1, "encoding": "hash", "octaves": 1}],
}  # fmt: skip
SCENE: dict[str, Any] = {
    "task": {"name": "fit", "learning_rate": 0.02},
    "scene": {"size": 12, "train_views": 4},
    "fields": {"scene": TENSORF},
    "levels": [{"sampler": {"name": "stratified", "n": 6}, "field": "scene"}],
    "selector": {"name": "random", "n": 32},
    "losses": {"mse": 1.0},
    "picture": "emission_absorption",
    "steps": 4,
    "snapshot_steps": 2,
}
EVERYTHING = {
    **SCENE,
    "task": {"name": "fit", "learning_rate": 0.02, "refine_poses": 1e-3},
    "levels": [{"sampler": {"name": "occupancy", "n": 8, "resolution": 4}, "field": "scene"},
               {"sampler": {"name": "importance", "n": 4}, "field": "scene"}],
    "selector": {"name": "soft_mining", "n": 32},
}  # fmt: skip


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretend_device() as there:
        yield there


@pytest.fixture(scope="module", autouse=True)
def blocks():
    """The embedded scene, made once, on the CPU."""
    scenes.read_scene("blocks", SCENE, "train")


def fitted(device: torch.device, *, steps: int = 4, dataset: str = "blocks", **changes: Any) -> FitTask:
    """The task of a scene recipe after some steps."""
    choice = {"recipe": {**SCENE, **changes}, "dataset": dataset, "seed": 0, "split": "train", "limit": None}
    task = scenes.prepare(choice, device).task
    assert isinstance(task, FitTask)
    for index in range(steps):
        numbers = task.step(index / steps, index)
        assert all(isinstance(value, float) for value in numbers.values())
    assert_there(task.model.fields)
    return task


def trained(dataset: str | Path, outdir: Path, config: str, *settings: str, device: str = "cuda", **options: Any) -> Path:
    """A whole run folder."""
    folder = session.train(dataset=str(dataset), config=config, settings=settings, outdir=outdir, device=device, **options)
    assert folder is not None
    return folder


def assert_there(module: torch.nn.Module) -> None:
    """Every parameter and buffer is on the device."""
    lost = [name for name, value in module.state_dict(keep_vars=True).items() if not isinstance(value, Pretend)]
    assert lost == []


@pytest.mark.parametrize(("name", "options"), [
    (name, options) for name in FIELDS.entries for options in FIELD_OPTIONS.get(name, [{}])
])  # fmt: skip
def test_every_field_is_fitted(device, name, options):
    losses = {"mse": 1.0, "l1": 1e-4, "tv_density": 1e-3, "tv_appearance": 1e-3, "eikonal": 0.1}
    fitted(device, fields={"scene": {**options, "name": name}}, losses=losses)


@pytest.mark.parametrize("name", SAMPLERS.entries)
def test_every_sampler_serves_a_fit(device, name):
    options = {
        "n": 6,
        **({"resolution": 4, "every": 1, "warmup_steps": 2, "keep": 4, "refine": 2} if name == "occupancy" else {}),
    }
    first = [{"sampler": {"name": "stratified", "n": 6}, "field": "scene"}] if getattr(SAMPLERS[name], "refines", False) else []
    fields = {"scene": {"name": "neus", **FIELD_OPTIONS["neus"][0]}} if name == "neus" else SCENE["fields"]
    fitted(device, levels=[*first, {"sampler": {"name": name, **options}, "field": "scene"}], fields=fields)


@pytest.mark.parametrize("name", SELECTORS.entries)
def test_every_selector_serves_a_fit(device, name):
    known = {"error_map": {"refresh": "exact", "every": 2}, "egra": {"low": 1, "high": 2}}
    options = {"size": 4} if "patch" in name else {"n": 32}
    fitted(device, selector={"name": name, **options, **known.get(name, {})})


def test_every_loss_has_a_gradient(device):
    neus = {"name": "neus", **FIELD_OPTIONS["neus"][1]}
    fitted(device, fields={"scene": TENSORF, "other": neus}, losses=dict.fromkeys(LOSSES.entries, 0.1))


def test_everything_about_a_scene_is_done_there(device, fit_there, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_surface, "SCORED_CELLS", 16)
    run = str(fit_there)
    found = show.evaluate_run(run=run, limit=1, device="cuda", out=tmp_path / "scores")
    assert found["peak_mib"] == 1.0 and found["poses_aligned"]
    show.render_run(run=run, views=2, size=16, points=True, mesh=True, threshold=1.0, out=tmp_path / "render", device="cuda")
    assert forgetting(fit_there, device="cuda", pixels=64)["course_steps"] == [2, 4]
    write_depth(run=run, out=tmp_path, limit=1, device="cuda")
    search = PoseSearch(rays=16, steps=2)
    pose_run(run=run, image="test/r_0", start_view="test/r_1", search=search, out=tmp_path, device="cuda")
    report_run(run=run, starts=2, search=search, out=tmp_path, device="cuda")


@pytest.fixture(scope="module")
def fit_there(tmp_path_factory) -> Path:
    """A run with all that a scene's snapshot can hold, trained on the device."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(EVERYTHING))
    with pretend_device():
        return trained("blocks", folder / "runs", str(folder / "recipe.yaml"))


@pytest.mark.parametrize("there_first", [True, False])
def test_a_scene_begun_on_one_device_goes_on_on_another(fit_there, tmp_path, there_first):
    shutil.copytree(fit_there, tmp_path / "00000-blocks")
    for first in (there_first, not there_first):
        runs.snapshots(tmp_path / "00000-blocks")[-1].unlink()
        with contextlib.nullcontext() if first else pretend_device():
            trained("blocks", tmp_path, "unread", device="cpu" if first else "cuda", resume=str(tmp_path / "00000-blocks"))


# Priors


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "chest_toys")


@pytest.mark.parametrize("objective", ["posed", "gan", "hybrid"])
def test_every_objective_of_a_posed_prior_is_trained(device, patients, tmp_path, objective):
    more = f"task={{name: prior, objective: {objective}, batch: 4, points: 96, rays: 16, ray_share: 0.3, gan_start: 0.3, " \
           "gan_interval: 2, gan_batch: 2, r1_interval: 2, accumulate: 2}"  # fmt: skip
    folder = trained(patients, tmp_path, "chest", *SETTINGS, more, "steps=6")
    assert runs.load_prior(folder).codes.device.type == "cpu"


HYPER = ["generator={name: hypernerfgan, code_dim: 8, width: 16, depth: 3, skip: 2, octaves: 3, rank: 2}",
         "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 8, policy: none, dag_weight: 0.0}"]  # fmt: skip
GRAF = "generator={name: graf, shape_dim: 4, appearance_dim: 4, width: 16, depth: 3, skip: 2, octaves: 3, view_octaves: 2}"
JUDGES = {"chest_hypernerfgan": HYPER, "carla": HYPER, "chest_graf": [GRAF, "discriminator={name: patchgan, size: 16, width: 4}"],
          "chest_mednerf": [GRAF, "discriminator={name: selfsup, size: 16, width: 4, doublings: 1, heads: 4}"]}  # fmt: skip
QUICK = ["levels=[{name: stratified, n: 6}]", "task.batch=2", "task.r1_gamma=0.5", "task.r1_interval=2", "steps=2",
         "snapshot_steps=2", f"dataset={{size: {SIZE}}}",
         "inversion={name: relaxed, samples: 1, candidates: 4, azimuths: 2, code_steps: 2, tune_steps: 2, patch_px: 16}"]  # fmt: skip


@pytest.mark.parametrize("config", JUDGES)
def test_every_adversarial_recipe_is_trained(device, patients, tmp_path, config):
    trained(patients, tmp_path, config, *JUDGES[config], *QUICK)
