"""Recipes of the conditional task: their keys, checks, cost, and how one is made ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..core import config, files
from ..data.orbits import OrbitSet
from ..engine.loop import Loop, PreparedRun, TaskType
from ..engine.recipe_checks import check_counts
from ..engine.run_folder import RunConfig
from ..engine.snapshots import newest_readable, read_snapshot
from ..gan.conditional import CONDITIONAL_GENERATORS, ConditionalGenerator
from ..imaging.geometry import nearest_view
from ..imaging.variation import VARIATIONS, Variation
from .catalogue import CONDITIONAL
from .conditional import ConditionalTask, conditional_options
from .sets import read_set, set_options
from .training_volumes import body_alone, make_training_volumes, water_value

RECIPE_KEYS = frozenset(("task", "dataset", "generator", "variation", "steps", "snapshot_steps"))


def generator_of(recipe: Mapping[str, Any]) -> ConditionalGenerator:
    """The generator a recipe names."""
    return CONDITIONAL_GENERATORS.build(recipe["generator"])


def variation_of(recipe: Mapping[str, Any]) -> Variation:
    """How a recipe varies its patients."""
    return VARIATIONS.build(recipe["variation"])


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse names, options or numbers that nothing can work with, before any work starts."""
    for key in ("task", "dataset", "generator", "variation"):
        config.checked(recipe[key], dict, where=f"recipe key '{key}'")
    conditional_options(recipe)
    generator_of(recipe)
    variation_of(recipe)
    check_counts(recipe, "batch")


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe would train: parameters, and cells of a step."""
    generator, batch = generator_of(recipe), conditional_options(recipe).batch
    return {
        "generator_parameters": sum(p.numel() for p in generator.parameters()),
        "cells_per_step": 2 * batch * generator.planes * generator.rays**2,
    }


def build_task(
    recipe: Mapping[str, Any], orbits: OrbitSet, *, seed: int, device: str | torch.device
) -> ConditionalTask:
    """Everything the recipe names, put together."""
    options = conditional_options(recipe)
    learned = make_training_volumes(orbits, size=set_options(recipe["dataset"]).volume_size)
    volumes, view_gain = learned.volumes.float(), None
    if orbits.geometry.line_integral_scale is not None:
        water = water_value(orbits.geometry)
    else:
        water = 1.0
        volumes = torch.stack([body_alone(one, orbits.geometry) for one in volumes])
        nearest = nearest_view(orbits.geometry.angles_deg, options.angle_deg)
        view_gain = float(learned.log_gains[:, nearest].mean().exp())
    torch.manual_seed(seed)
    return ConditionalTask(
        options,
        generator=generator_of(recipe).to(device),
        variation=variation_of(recipe),
        volumes=volumes,
        distance=float(learned.distance.median()),
        geometry=orbits.geometry,
        water=water,
        view_gain=view_gain,
        seed=seed,
    )


def describe(
    orbits: OrbitSet, recipe: Mapping[str, Any], dataset: str, seed: int, split: str
) -> dict[str, Any]:
    """What a snapshot says of itself."""
    return {
        "recipe": dict(recipe),
        "dataset": dataset,
        "geometry": orbits.geometry.to_json(),
        "patients": list(orbits.patients),
        "identities": list(orbits.all_fingerprints()),
        "split": split,
        "seed": seed,
        "angle_deg": conditional_options(recipe).angle_deg,
    }


def prepare(run_config: RunConfig, device: str | torch.device) -> PreparedRun:
    """The conditional generator of a set of CTs: read it, make its volumes, build the task."""
    recipe, dataset, seed = run_config.recipe, run_config.dataset, run_config.seed
    options = conditional_options(recipe)
    if options.beside is not None:
        read_snapshot(options.beside)
    split = run_config.split
    orbits = read_set(dataset, recipe["dataset"], split=split, limit=run_config.limit, checked=True)
    task = build_task(recipe, orbits, seed=seed, device=device)
    opening = (
        f"{len(orbits.patients)} patients, varied; X-rays of {task.generator.pixels}² at "
        f"{options.angle_deg:g}°, device {device}",
        *(f"note: {note}" for note in orbits.notes),
    )
    meta = describe(orbits, recipe, dataset, seed, split)

    def finish(loop: Loop) -> dict[str, Any]:
        if options.beside is not None:
            home = read_snapshot(options.beside)[0].parent
            export(loop.folder, home / CONDITIONAL)
            loop.log(f"the prior in {home} asks this generator from now on")
        return {"patients_seen": loop.index * options.batch}

    return PreparedRun(task, meta, opening, finish)


def export(folder: Path, path: Path) -> None:
    """Write a run's newest finished generator to ``path``, half as large as its snapshot's."""
    _, tensors, meta, _ = newest_readable(folder)
    kept = {name: t.half() for name, t in tensors.items() if name.startswith("ema.")}
    files.save_tensors(path, kept, {k: v for k, v in meta.items() if k != "task_state"})


TASK_TYPE = TaskType(RECIPE_KEYS, check, prepare, plan)
