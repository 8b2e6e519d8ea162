"""Recipes of the posed task: their keys, checks, cost, and how one is made ready to run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from ..core import config
from ..core.errors import UserError
from ..core.memory import check_room
from ..data.orbits import OrbitSet
from ..engine.distributed import Ranks
from ..engine.loop import TASKS, Loop, PreparedRun, TaskType
from ..engine.recipe_checks import check_counts
from ..engine.run_folder import RunConfig
from ..gan.augment.presets import AUGMENTATIONS
from ..gan.augment.probability import PROBABILITIES
from ..gan.discriminator import DISCRIMINATORS
from ..gan.generator import GENERATORS, HyperGenerator
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG
from ..imaging.variation import Variation
from ..recon.field_volume import bake
from ..viz.figures import strip, write_png8
from .load import Prior, load_prior
from .options import posed_options
from .posed import PosedModules, PriorTask, used_batches
from .rendering import checked_levels, levels_of
from .sets import read_set, set_options
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
COUNTS = (
    "batch",
    "points",
    "rays",
    "gan_batch",
    "gan_views",
    "gan_interval",
    "r1_interval",
    "accumulate",
)


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse names, options or numbers that nothing can work with, before any work starts."""
    for key, kind in {"task": dict, "dataset": dict, "levels": list}.items():
        config.checked(recipe[key], kind, where=f"recipe key '{key}'")
    TASKS.check(recipe["task"], "parts", "volumes", "geometry", "seed", "device")
    generator = posed_generator(recipe["generator"])
    DISCRIMINATORS.check(recipe["discriminator"], "channels", "rng")
    AUGMENTATIONS.check(recipe["augment"])
    PROBABILITIES.check(recipe["probability"])
    checked_levels(recipe)
    image_model = posed_options(recipe).image_model
    if image_model == "emission_absorption" and generator.field_outputs == 1:
        raise UserError(
            "got image model 'emission_absorption' of a generator without colour",
            "wanted generator.outputs 4",
            "set generator.outputs=4",
        )
    check_counts(recipe, *COUNTS)
    check_adversary(recipe)
    config.checked(recipe["calibration_patients"], int, where="recipe key 'calibration_patients'")


def check_adversary(recipe: Mapping[str, Any]) -> None:
    """Refuse an adversarial phase that no training has room for."""
    options = posed_options(recipe)
    if not 0 <= options.gan_start < 1:
        raise UserError(
            f"got task.gan_start {options.gan_start:g}",
            "wanted the share of the training before the adversarial phase, from 0 to below 1",
            "correct it, or set task.objective=posed for none",
        )
    if not 0 <= options.gan_known <= 1 or options.gan_weight < 0 or options.gan_rate <= 0:
        raise UserError(
            f"got task.gan_known {options.gan_known:g}, task.gan_weight {options.gan_weight:g} and "
            f"task.gan_rate {options.gan_rate:g}",
            "wanted a share from 0 to 1, a weight of at least 0 and a rate above 0",
            "correct them",
        )
    if options.objective == "posed":
        return
    phase = math.ceil((1 - options.gan_start) * recipe["steps"]) // options.gan_interval
    if options.objective == "hybrid" and 0 < options.gan_lead >= phase:
        raise UserError(
            f"got an adversarial phase of {phase} steps, in the first {options.gan_lead} of which "
            "the discriminator learns alone (task.gan_lead)",
            "wanted steps in which the generator learns from it",
            "set a smaller task.gan_start or task.gan_lead, or more steps",
        )
    step = options.gan_views * options.accumulate
    if options.gan_batch % step:
        raise UserError(
            f"got task.gan_batch {options.gan_batch} with gan_views {options.gan_views} and "
            f"accumulate {options.accumulate}",
            f"wanted a multiple of {step}, whole patients in every part",
            f"set task.gan_batch={-(-options.gan_batch // step) * step}",
        )
    size = set_options(recipe["dataset"]).size
    if size is not None:
        check_patch(recipe, size)


def check_patch(recipe: Mapping[str, Any], side_px: int) -> None:
    """Refuse patches for the discriminator that are larger than the pictures."""
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], channels=1)
    if posed_options(recipe).objective != "posed" and discriminator.size > side_px:
        raise UserError(
            f"got discriminator.size {discriminator.size} for pictures of {side_px} pixels",
            "wanted patches inside the pictures",
            f"set discriminator.size={side_px} or less, or a larger dataset.size",
        )


def build_task(
    recipe: Mapping[str, Any],
    orbits: OrbitSet,
    volumes: TrainingVolumes,
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
        levels=levels_of(recipe),
    )
    task = TASKS.build(
        recipe["task"],
        parts=parts,
        volumes=volumes,
        geometry=orbits.geometry,
        seed=seed,
        device=str(device),
    )
    assert isinstance(task, PriorTask)
    return task


def posed_generator(node: Any) -> HyperGenerator:
    """A generator whose patients have codes and poses, as the posed terms need."""
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
    volumes: TrainingVolumes,
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
        "per_view_scale": volumes.per_view_scale,
        "patients": list(orbits.patients),
        "identities": list(orbits.all_fingerprints()),
        "split": split,
        "seed": seed,
        "notes": list(orbits.notes),
    }


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe would train: parameters, points per step, memory of the activations."""
    generator = posed_generator(recipe["generator"])
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], channels=1)
    return {
        "generator_parameters": sum(p.numel() for p in generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in discriminator.parameters()),
        "points_per_step": points_of(recipe),
        "activations_mib": round(activations(recipe, generator) * 4 / 2**20),
    }


def points_of(recipe: Mapping[str, Any]) -> int:
    """How many points of the field a step evaluates."""
    options = posed_options(recipe)
    samples = sum(level.sampler.n for level in levels_of(recipe))
    return options.batch * max(options.points, options.rays * samples)


def activations(recipe: Mapping[str, Any], generator: HyperGenerator) -> int:
    """How many numbers of its points a step holds until its gradient is known."""
    width, layers = generator.bias[0].numel(), len(generator.shared) - 1
    return points_of(recipe) // posed_options(recipe).accumulate * (width * layers + 64)


def batches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What the processes of a training share."""
    options = posed_options(recipe)
    sizes = {"task.batch": options.batch, "task.gan_batch": options.gan_batch}
    return used_batches(options.objective, sizes)


def prepare(run_config: RunConfig, device: str | torch.device) -> PreparedRun:
    """The prior of a set of radiographs: read it, make its volumes, build the task."""
    recipe, dataset = run_config.recipe, run_config.dataset
    seed, split = run_config.seed, run_config.split
    orbits = read_set(dataset, recipe["dataset"], split=split, limit=run_config.limit, checked=True)
    options = set_options(recipe["dataset"])
    check_patch(recipe, min(orbits.geometry.rows, orbits.geometry.cols))
    task_options = posed_options(recipe)
    patients = len(orbits.patients) * (1 + options.variants)
    sizes = {"task.batch": min(task_options.batch, patients)}
    Ranks().check_divisible(used_batches(task_options.objective, sizes), task_options.accumulate)
    if options.variants:  # whose pictures, and those of all others once more, are made anew
        check_room(
            f"{patients} patients, varied ones among them, in pictures of {orbits.geometry.cols}²",
            2 * orbits.images[0].numel() * patients,
            "set a smaller dataset.variants or dataset.size, or take fewer patients (--limit)",
        )
    if torch.device(device).type == "cpu":
        check_room(
            f"a batch of {task_options.batch} patients in {task_options.accumulate} parts",
            4 * activations(recipe, posed_generator(recipe["generator"])),
            "set a larger task.accumulate, or a smaller task.batch, task.points or task.rays",
        )
    volumes = make_training_volumes(orbits, size=options.volume_size)
    if options.variants:
        rng = Generator().manual_seed(seed)
        volumes = volumes.with_variants(options.variants, orbits.geometry, rng, Variation())
    task = build_task(recipe, orbits, volumes, seed=seed, device=device)
    opening = (
        f"{len(orbits.patients)} patients, {orbits.geometry.views} views of "
        f"{orbits.geometry.cols}², {task.options.objective}, device {device}",
        *(f"note: {note}" for note in orbits.notes),
    )

    def finish(loop: Loop) -> dict[str, Any]:
        prior = load_prior(loop.folder)
        prior.generator.to(device)
        preview(loop.folder, prior)
        return {"images_seen": loop.index * task.batch, "precision": task.parts.generator.precision}

    meta = describe(orbits, volumes, recipe, dataset, seed, split)
    return PreparedRun(task, meta, opening, finish)


def preview(folder: Path, prior: Prior) -> None:
    """A contact sheet of random patients, frontal and lateral."""
    code = prior.generator.weights(prior.generator.draw(4, Generator().manual_seed(0)))
    volumes = bake(prior.generator, code, prior.geometry, size=48)
    views = volumes.project(prior.geometry.at((FRONTAL_DEG, LATERAL_DEG)), prior.distance)
    write_png8(folder / "previews" / "samples.png", strip(views.flatten(0, 1), columns=4))


TASK_TYPE = TaskType(
    RECIPE_KEYS,
    check,
    prepare,
    plan,
    batches,
    follow_up="mednerf_kit.invert.calibrate:calibrate_run",
)
