"""``mednerf-kit train``: from options to a recipe, from a recipe to a task, from a task to a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Generator

from .. import DISCLAIMER
from ..core import config, files
from ..core.errors import UserError, unknown_name
from ..data.orbits import OrbitSet
from ..gan.augment import AUGMENTATIONS, PROBABILITIES
from ..gan.discriminator import DISCRIMINATORS
from ..gan.generator import GENERATORS
from ..rays.render import Level
from ..rays.samplers import SAMPLERS
from . import runs
from .calibrate import calibrate
from .loop import Loop
from .prior import TASKS, Parts, PriorTask
from .sets import read_set
from .targets import Targets, make_targets

RECIPE_KEYS = {"task", "dataset", "generator", "levels", "discriminator", "augment", "probability", "steps", "snapshot_steps",
               "calibration_patients", "presets"}  # fmt: skip


def resolve(dataset: str | None, name: str | None, preset: str, settings: Sequence[str]) -> dict[str, Any]:
    """The recipe with its preset and ``--set`` applied; without a name the dataset decides (knee by its name, else chest)."""
    name = name or ("knee" if "knee" in str(dataset).lower() else "chest")
    recipe = config.load(name)
    presets = recipe.pop("presets", {})
    if preset != "default":
        if preset not in presets:
            raise unknown_name(f"preset of recipe '{name}'", preset, ["default", *presets])
        recipe = config.overlaid(recipe, presets[preset])
    recipe = config.with_settings(recipe, list(settings))
    for key in recipe:
        if key not in RECIPE_KEYS:
            raise unknown_name("recipe key", key, RECIPE_KEYS)
    missing = RECIPE_KEYS - {"presets"} - set(recipe)
    if missing:
        raise UserError(
            f"got recipe '{name}' without {', '.join(sorted(missing))}", "wanted every node", "start from configs/chest.yaml"
        )
    check(recipe)
    return recipe


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe whose names, options or numbers nothing can work with, before any work starts."""
    for key, kind in {"task": dict, "dataset": dict, "levels": list}.items():
        config.checked(recipe[key], kind, where=f"recipe key '{key}'")
    TASKS.check(recipe["task"], "parts", "targets", "geometry", "seed", "device")
    generator = GENERATORS.build(recipe["generator"])
    DISCRIMINATORS.check(recipe["discriminator"], "channels", "generator")
    AUGMENTATIONS.check(recipe["augment"])
    PROBABILITIES.check(recipe["probability"])
    if not recipe["levels"]:
        raise UserError("got no level", "wanted at least one sampler under levels", "write levels: [{name: stratified}]")
    samplers = [SAMPLERS.build(node) for node in recipe["levels"]]
    if getattr(samplers[0], "refines", False):
        raise UserError(f"got sampler '{recipe['levels'][0]['name']}' on the first level", "wanted a coarser level before it",
                        "put 'stratified' first")  # fmt: skip
    if recipe["task"].get("picture") == "emission_absorption" and generator.field_outputs == 1:
        raise UserError("got picture 'emission_absorption' of a generator without colour", "wanted generator.outputs 4",
                        "set generator.outputs=4")  # fmt: skip
    counts = {f"task.{k}": recipe["task"][k] for k in ("batch", "points", "rays", "gan_batch", "gan_interval", "r1_interval")
              if k in recipe["task"]}  # fmt: skip
    for key, value in {**counts, **{k: recipe[k] for k in ("steps", "snapshot_steps")}}.items():
        if config.checked(value, int, where=f"recipe key '{key}'") < 1:
            raise UserError(f"got {key} {value}", "wanted at least 1", "correct the recipe or --set")
    config.checked(recipe["calibration_patients"], int, where="recipe key 'calibration_patients'")


def build_task(
    recipe: Mapping[str, Any], orbits: OrbitSet, targets: Targets, *, seed: int, device: str | torch.device
) -> PriorTask:
    """Everything the recipe names, put together."""
    torch.manual_seed(seed)
    generator = GENERATORS.build(recipe["generator"]).to(device)
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], generator=Generator().manual_seed(seed), channels=1)
    parts = Parts(
        generator=generator,
        discriminator=discriminator.to(device),
        augment=AUGMENTATIONS.build(recipe["augment"]),
        probability=PROBABILITIES.build(recipe["probability"]),
        levels=[Level(SAMPLERS.build(node)) for node in recipe["levels"]],
    )
    return TASKS.build(recipe["task"], parts=parts, targets=targets, geometry=orbits.geometry, seed=seed, device=str(device))


def describe(
    orbits: OrbitSet, targets: Targets, recipe: Mapping[str, Any], dataset: str, seed: int, split: str
) -> dict[str, Any]:
    """What a snapshot says of itself."""
    return {
        "recipe": dict(recipe), "dataset": dataset, "anatomy": orbits.anatomy, "geometry": orbits.geometry.to_json(),
        "per_view_scale": targets.per_view_scale, "patients": list(orbits.patients),
        "identities": list(orbits.identities()), "split": split, "seed": seed, "notes": list(orbits.notes),
    }  # fmt: skip


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of what a recipe would train: parameters, points of the field per step, memory of its activations."""
    generator = GENERATORS.build(recipe["generator"])
    judge = DISCRIMINATORS.build(recipe["discriminator"], channels=1)
    node = recipe["generator"]
    task = recipe["task"]
    samples = sum(level.get("n", 48) for level in recipe["levels"])
    points = max(task.get("batch", 16) * task.get("points", 768), task.get("batch", 16) * task.get("rays", 96) * samples)
    return {
        "generator_parameters": sum(p.numel() for p in generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in judge.parameters()),
        "points_per_step": points,
        "activations_mib": round(points * (node.get("width", 96) * node.get("depth", 4) + 64) * 4 / 2**20),
    }


def train(*, dataset: str | None, config: str | None = None, preset: str = "default", settings: Sequence[str] = (),
          outdir: Path = Path("runs"), desc: str | None = None, resume: str | None = None, seed: int = 0, device: str = "auto",
          max_minutes: float | None = None, split: str = "train", limit: int | None = None,
          dry_run: bool = False) -> Path | None:  # fmt: skip
    """Train a prior; returns the run folder (None for a dry run)."""
    folder = None
    if resume not in (None, "latest"):
        folder = runs.find_folder(str(resume), Path(outdir))
        if not (folder / "config.yaml").is_file():
            raise UserError(
                f"got '{folder}', which has no config.yaml", "wanted a run folder", "give a folder made by `mednerf-kit train`"
            )
        saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        dataset, recipe, seed, split, limit = (saved[k] for k in ("dataset", "recipe", "seed", "split", "limit"))
    else:
        recipe = resolve(dataset, config, preset, settings)
    choice = {"dataset": str(dataset), "recipe": recipe, "seed": seed, "split": split, "limit": limit}
    if dry_run:
        print(yaml.safe_dump({**choice, "plan": plan(recipe)}, sort_keys=False), end="")
        return None
    if resume == "latest":
        folder = latest_like(Path(outdir), choice)
    started = time.perf_counter()
    where = runs.pick_device(device)
    orbits = read_set(str(dataset), recipe["dataset"], split=split, limit=limit)
    targets = make_targets(orbits, size=recipe["dataset"].get("volume_size", 64))
    task = build_task(recipe, orbits, targets, seed=seed, device=where)
    new = folder is None
    if folder is None:
        folder = runs.new_folder(Path(outdir), str(dataset), desc)
        files.write_text(folder / "config.yaml", f"# {DISCLAIMER}\n" + yaml.safe_dump(choice, sort_keys=False))
    meta = describe(orbits, targets, recipe, str(dataset), seed, split)
    loop = Loop(task, folder, steps=recipe["steps"], snapshot_steps=recipe["snapshot_steps"], max_minutes=max_minutes, meta=meta)
    if not new:
        path, tensors, saved_meta, remarks = runs.newest_whole(folder)
        for remark in remarks:
            loop.log(remark)
        loop.load(tensors, saved_meta)
        loop.log(f"continuing {folder.name} from {path.name}")
    loop.log(f"{len(orbits.patients)} patients, {orbits.geometry.views} views of {orbits.geometry.cols}², "
             f"{recipe['task']['objective']}, device {where}; "
             f"data ready after {time.perf_counter() - started:.0f} s")  # fmt: skip
    for note in orbits.notes:
        loop.log(f"note: {note}")
    loop.run()
    prior = runs.load_prior(folder)
    preview(folder, prior)
    factors = calibrate(prior, limit=recipe["calibration_patients"])
    files.write_json(folder / runs.CALIBRATION, factors)
    loop.log(f"uncertainty calibrated on validation patients: {factors}" if factors else
             "note: no validation patients, so the uncertainty is not calibrated")  # fmt: skip
    files.write_json(folder / "metrics.json", training_summary(loop, folder))
    loop.log(f"trained {loop.index} steps in {loop.seconds:.0f} s: {folder}")
    return folder


def latest_like(outdir: Path, choice: Mapping[str, Any]) -> Path | None:
    """The newest run folder of the same configuration that has a snapshot; None starts a new one."""
    for folder in sorted(outdir.glob("[0-9]" * 5 + "-*"), reverse=True) if outdir.is_dir() else []:
        path = folder / "config.yaml"
        if path.is_file() and yaml.safe_load(path.read_text(encoding="utf-8")) == choice and runs.snapshots(folder):
            return folder
    return None


def training_summary(loop: Loop, folder: Path) -> dict[str, Any]:
    """Last values of every logged number, with units in their names."""
    last: dict[str, float] = {}
    for row in runs.read_stats(folder):
        last |= row
    return {"steps": loop.index, "train_seconds": round(loop.seconds, 1), "last": last, "note": DISCLAIMER}


def preview(folder: Path, prior: runs.Prior) -> None:
    """A contact sheet of random patients, frontal and lateral."""
    from .pictures import strip, write_png8
    from .volumes import bake, project_field

    values = bake(prior.generator, prior.generator.weights(prior.generator.draw(4, Generator().manual_seed(0))), size=48)
    views = project_field(values, prior.geometry.at((270.0, 0.0)), prior.distance)
    files_path = folder / "previews" / "samples.png"
    write_png8(files_path, strip(views.flatten(0, 1), columns=4))
