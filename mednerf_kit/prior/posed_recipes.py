"""Recipes of the posed line: which keys they have, what refuses a bad one, what one would cost, and
what makes it run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from ..core import config
from ..core.errors import UserError
from ..data.orbits import OrbitSet
from ..engine.loop import TASKS, Loop, PreparedRun, TaskType
from ..engine.recipe_checks import check_counts, check_first_sampler
from ..engine.run_folder import RunConfig
from ..gan.augment.presets import AUGMENTATIONS
from ..gan.augment.probability import PROBABILITIES
from ..gan.discriminator import DISCRIMINATORS
from ..gan.generator import GENERATORS, HyperGenerator
from ..rays.render import Level
from ..rays.samplers.base import SAMPLERS
from ..recon.field_volume import bake
from ..viz.figures import strip, write_png8
from .load import Prior, load_prior
from .posed import PosedModules, PriorTask
from .sets import read_set
from .training_volumes import TrainingVolumes, make_training_volumes

RECIPE_KEYS = frozenset(
    (
        "task",
        "dataset",
        "generator",
        "levels",
        "discriminator",
        "augment",
        "probability",
        "steps",
        "snapshot_steps",
        "calibration_patients",
    )
)


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe whose names, options or numbers nothing can work with, before any work
    starts.
    """
    for key, kind in {"task": dict, "dataset": dict, "levels": list}.items():
        config.checked(recipe[key], kind, where=f"recipe key '{key}'")
    TASKS.check(recipe["task"], "parts", "targets", "geometry", "seed", "device")
    generator = posed_generator(recipe["generator"])
    DISCRIMINATORS.check(recipe["discriminator"], "channels", "rng")
    AUGMENTATIONS.check(recipe["augment"])
    PROBABILITIES.check(recipe["probability"])
    if not recipe["levels"]:
        raise UserError(
            "got no level",
            "wanted at least one sampler under levels",
            "write levels: [{name: stratified}]",
        )
    samplers = [SAMPLERS.build(node) for node in recipe["levels"]]
    check_first_sampler(samplers[0])
    if recipe["task"].get("image_model") == "emission_absorption" and generator.field_outputs == 1:
        raise UserError(
            "got image model 'emission_absorption' of a generator without colour",
            "wanted generator.outputs 4",
            "set generator.outputs=4",
        )
    counted = ("batch", "points", "rays", "gan_batch", "gan_interval", "r1_interval", "accumulate")
    check_counts(recipe, *counted)
    config.checked(recipe["calibration_patients"], int, where="recipe key 'calibration_patients'")


def build_task(
    recipe: Mapping[str, Any],
    orbits: OrbitSet,
    targets: TrainingVolumes,
    *,
    seed: int,
    device: str | torch.device,
) -> PriorTask:
    """Everything the recipe names, put together."""
    torch.manual_seed(seed)
    generator = posed_generator(recipe["generator"]).to(device)
    discriminator = DISCRIMINATORS.build(
        recipe["discriminator"], rng=Generator().manual_seed(seed), channels=1
    )
    parts = PosedModules(
        generator=generator,
        discriminator=discriminator.to(device),
        augment=AUGMENTATIONS.build(recipe["augment"]),
        probability=PROBABILITIES.build(recipe["probability"]),
        levels=[Level(SAMPLERS.build(node)) for node in recipe["levels"]],
    )
    task = TASKS.build(
        recipe["task"],
        parts=parts,
        targets=targets,
        geometry=orbits.geometry,
        seed=seed,
        device=str(device),
    )
    assert isinstance(task, PriorTask)
    return task


def posed_generator(node: Any) -> HyperGenerator:
    """A generator whose patients have codes and poses, as the posed term needs."""
    generator = GENERATORS.build(node)
    if not isinstance(generator, HyperGenerator):
        name = node if isinstance(node, str) else node["name"]
        raise UserError(
            f"got generator '{name}' for known patients",
            "wanted 'hyper'",
            "choose a recipe that uses that one",
        )
    return generator


def describe(
    orbits: OrbitSet,
    targets: TrainingVolumes,
    recipe: Mapping[str, Any],
    dataset: str,
    seed: int,
    split: str,
) -> dict[str, Any]:
    """What a snapshot says of itself."""
    return {
        "recipe": dict(recipe),
        "dataset": dataset,
        "anatomy": orbits.anatomy,
        "geometry": orbits.geometry.to_json(),
        "per_view_scale": targets.per_view_scale,
        "patients": list(orbits.patients),
        "identities": list(orbits.all_fingerprints()),
        "split": split,
        "seed": seed,
        "notes": list(orbits.notes),
    }


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of what a recipe would train: parameters, points of the field per step, memory of its
    activations.
    """
    generator = GENERATORS.build(recipe["generator"])
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], channels=1)
    node = recipe["generator"]
    task = recipe["task"]
    samples = sum(level.get("n", 48) for level in recipe["levels"])
    points = task.get("batch", 16) * max(task.get("points", 768), task.get("rays", 96) * samples)
    at_a_time = points // task.get("accumulate", 1)
    return {
        "generator_parameters": sum(p.numel() for p in generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in discriminator.parameters()),
        "points_per_step": points,
        "activations_mib": round(
            at_a_time * (node.get("width", 96) * node.get("depth", 4) + 64) * 4 / 2**20
        ),
    }


def batches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What the processes of a training share."""
    task = recipe["task"]
    sizes = {"task.batch": task.get("batch", 16), "task.gan_batch": task.get("gan_batch", 4)}
    unused = {"gan": "task.batch", "posed": "task.gan_batch"}.get(task.get("objective", "hybrid"))
    return {key: n for key, n in sizes.items() if key != unused}


def prepare(run_config: RunConfig, device: str | torch.device) -> PreparedRun:
    """The prior of a set of radiographs: read it, make its targets, build the task."""
    recipe, dataset, seed = run_config.recipe, run_config.dataset, run_config.seed
    split = run_config.split
    orbits = read_set(dataset, recipe["dataset"], split=split, limit=run_config.limit)
    targets = make_training_volumes(orbits, size=recipe["dataset"].get("volume_size", 64))
    task = build_task(recipe, orbits, targets, seed=seed, device=device)
    opening = (
        f"{len(orbits.patients)} patients, {orbits.geometry.views} views of "
        f"{orbits.geometry.cols}², "
        f"{recipe['task'].get('objective', recipe['task']['name'])}, device {device}",
        *(f"note: {note}" for note in orbits.notes),
    )

    def finish(loop: Loop) -> dict[str, Any]:
        prior = load_prior(loop.folder)
        prior.generator.to(device)
        preview(loop.folder, prior)
        return {"images_seen": loop.index * task.batch, "precision": task.parts.generator.precision}

    return PreparedRun(
        task, describe(orbits, targets, recipe, dataset, seed, split), opening, finish
    )


def preview(folder: Path, prior: Prior) -> None:
    """A contact sheet of random patients, frontal and lateral."""
    code = prior.generator.weights(prior.generator.draw(4, Generator().manual_seed(0)))
    volumes = bake(prior.generator, code, prior.geometry, size=48)
    views = volumes.project(prior.geometry.at((270.0, 0.0)), prior.distance)
    files_path = folder / "previews" / "samples.png"
    write_png8(files_path, strip(views.flatten(0, 1), columns=4))


TASK_TYPE = TaskType(
    RECIPE_KEYS,
    check,
    prepare,
    plan,
    batches,
    follow_up="mednerf_kit.invert.calibrate:calibrate_run",
)
