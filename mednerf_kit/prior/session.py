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
from ..gan.generator import GENERATORS, HyperGenerator
from ..rays.render import Level
from ..rays.samplers.base import SAMPLERS
from ..engine import run_folder
from ..invert.calibrate import calibrate
from ..engine.loop import Job, Kind, Loop, TASKS
from .posed import Parts, PriorTask
from ..engine.distributed import Ranks, joined
from .sets import read_set
from .training_volumes import Targets, make_targets

RECIPE_KEYS = frozenset(("task", "dataset", "generator", "levels", "discriminator", "augment", "probability", "steps",
                         "snapshot_steps", "calibration_patients"))  # fmt: skip


def resolve(dataset: str | None, name: str | None, preset: str, settings: Sequence[str]) -> dict[str, Any]:
    """The recipe with its preset and ``--set`` applied; without a name the dataset decides."""
    name = name or default_recipe(str(dataset), settings)
    recipe = config.load(name)
    presets = recipe.pop("presets", {})
    if preset != "default":
        if preset not in presets:
            raise unknown_name(f"preset of recipe '{name}'", preset, ["default", *presets])
        recipe = config.overlaid(recipe, presets[preset])
    recipe = config.with_settings(recipe, list(settings))
    kind = kind_of(recipe)
    for key in recipe:
        if key not in kind.keys:
            raise unknown_name("recipe key", key, kind.keys)
    missing = kind.keys - set(recipe)
    if missing:
        raise UserError(
            f"got recipe '{name}' without {', '.join(sorted(missing))}", "wanted every node", "start from a file of configs/"
        )
    kind.check(recipe)
    return recipe


def default_recipe(dataset: str, settings: Sequence[str] = ()) -> str:
    """The recipe a dataset is trained with when none is named: by the format of a scene, else by the anatomy's name.

    ``scene.format`` among the settings is that format, as for a folder that could be of two.
    """
    from ..data.posed import scene

    named = config.with_settings({"scene": {}}, [s for s in settings if s.startswith("scene.format=")])["scene"].get("format")
    return scene.default_recipe(dataset, named) or ("knee" if "knee" in dataset.lower() else "chest")


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe whose names, options or numbers nothing can work with, before any work starts."""
    for key, kind in {"task": dict, "dataset": dict, "levels": list}.items():
        config.checked(recipe[key], kind, where=f"recipe key '{key}'")
    TASKS.check(recipe["task"], "parts", "targets", "geometry", "seed", "device")
    generator = posed_generator(recipe["generator"])
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
    counted = ("batch", "points", "rays", "gan_batch", "gan_interval", "r1_interval", "accumulate")
    counts = {f"task.{k}": recipe["task"][k] for k in counted if k in recipe["task"]}
    for key, value in {**counts, **{k: recipe[k] for k in ("steps", "snapshot_steps")}}.items():
        if config.checked(value, int, where=f"recipe key '{key}'") < 1:
            raise UserError(f"got {key} {value}", "wanted at least 1", "correct the recipe or --set")
    config.checked(recipe["calibration_patients"], int, where="recipe key 'calibration_patients'")


def build_task(
    recipe: Mapping[str, Any], orbits: OrbitSet, targets: Targets, *, seed: int, device: str | torch.device
) -> PriorTask:
    """Everything the recipe names, put together."""
    torch.manual_seed(seed)
    generator = posed_generator(recipe["generator"]).to(device)
    discriminator = DISCRIMINATORS.build(recipe["discriminator"], generator=Generator().manual_seed(seed), channels=1)
    parts = Parts(
        generator=generator,
        discriminator=discriminator.to(device),
        augment=AUGMENTATIONS.build(recipe["augment"]),
        probability=PROBABILITIES.build(recipe["probability"]),
        levels=[Level(SAMPLERS.build(node)) for node in recipe["levels"]],
    )
    task = TASKS.build(recipe["task"], parts=parts, targets=targets, geometry=orbits.geometry, seed=seed, device=str(device))
    assert isinstance(task, PriorTask)
    return task


def posed_generator(node: Any) -> HyperGenerator:
    """A generator whose patients have codes and poses, as the posed term needs."""
    generator = GENERATORS.build(node)
    if not isinstance(generator, HyperGenerator):
        name = node if isinstance(node, str) else node["name"]
        raise UserError(f"got generator '{name}' for known patients", "wanted 'hyper'", "choose a recipe that uses that one")
    return generator


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
    points = task.get("batch", 16) * max(task.get("points", 768), task.get("rays", 96) * samples)
    at_a_time = points // task.get("accumulate", 1)
    return {
        "generator_parameters": sum(p.numel() for p in generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in judge.parameters()),
        "points_per_step": points,
        "activations_mib": round(at_a_time * (node.get("width", 96) * node.get("depth", 4) + 64) * 4 / 2**20),
    }


def batches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What the processes of a training share."""
    task = recipe["task"]
    sizes = {"task.batch": task.get("batch", 16), "task.gan_batch": task.get("gan_batch", 4)}
    unused = {"gan": "task.batch", "posed": "task.gan_batch"}.get(task.get("objective", "hybrid"))
    return {key: n for key, n in sizes.items() if key != unused}


def prepare(choice: Mapping[str, Any], device: str | torch.device) -> Job:
    """The prior of a set of radiographs: read it, make its targets, build the task."""
    recipe, dataset, seed, split = choice["recipe"], choice["dataset"], choice["seed"], choice["split"]
    orbits = read_set(dataset, recipe["dataset"], split=split, limit=choice["limit"])
    targets = make_targets(orbits, size=recipe["dataset"].get("volume_size", 64))
    task = build_task(recipe, orbits, targets, seed=seed, device=device)
    opening = (f"{len(orbits.patients)} patients, {orbits.geometry.views} views of {orbits.geometry.cols}², "
               f"{recipe['task'].get('objective', recipe['task']['name'])}, device {device}",
               *(f"note: {note}" for note in orbits.notes))  # fmt: skip

    def finish(loop: Loop) -> dict[str, Any]:
        prior = run_folder.load_prior(loop.folder)
        prior.generator.to(device)
        preview(loop.folder, prior)
        factors = calibrate(prior, limit=recipe["calibration_patients"])
        files.write_json(loop.folder / run_folder.CALIBRATION, factors)
        loop.log(f"uncertainty calibrated on validation patients: {factors}" if factors else
                 "note: no validation patients, so the uncertainty is not calibrated")  # fmt: skip
        return {"images_seen": loop.index * task.batch}

    return Job(task, describe(orbits, targets, recipe, dataset, seed, split), opening, finish)


PRIORS = Kind(RECIPE_KEYS, check, prepare, plan, batches)


def kind_of(recipe: Mapping[str, Any]) -> Kind:
    """By the recipe's task: a scene is fitted, pictures alone teach an adversarial prior, everything else a posed one."""
    from .gan_recipes import ADVERSARIAL
    from ..scene.recipes import SCENES

    task = recipe.get("task")
    name = task.get("name") if isinstance(task, Mapping) else None
    return {"fit": SCENES, "adversarial": ADVERSARIAL}.get(str(name), PRIORS)


def train(*, dataset: str | None, config: str | None = None, preset: str = "default", settings: Sequence[str] = (),
          outdir: Path = Path("runs"), desc: str | None = None, resume: str | None = None, seed: int = 0, device: str = "auto",
          max_minutes: float | None = None, split: str = "train", limit: int | None = None,
          dry_run: bool = False) -> Path | None:  # fmt: skip
    """Train what the recipe says on a dataset; returns the run folder (None for a dry run).

    Under torchrun every process calls this, and all but the first get None.
    """
    started = time.perf_counter()
    with joined() as ranks:
        folder = None
        if resume not in (None, "latest"):
            folder = run_folder.find_folder(str(resume), Path(outdir))
            choice = run_folder.read_choice(folder)
        else:
            recipe = resolve(dataset, config, preset, settings)
            choice = {"dataset": lasting(dataset), "recipe": recipe, "seed": seed, "split": split, "limit": limit}
        dealt = share_out(choice["recipe"], ranks)
        if dry_run:
            if ranks.leads:
                shown = {**choice, "plan": kind_of(choice["recipe"]).plan(choice["recipe"]) | dealt}
                print(yaml.safe_dump(shown, sort_keys=False), end="")
            return None
        if resume == "latest":
            folder = run_folder.latest_like(Path(outdir), choice)
        return begun(choice, folder, ranks, outdir=Path(outdir), desc=desc, device=device, max_minutes=max_minutes,
                     started=started)  # fmt: skip


def lasting(dataset: str | None) -> str:
    """A dataset's name, or its folder's whole path: runs are opened from other places too."""
    folder = Path(str(dataset)).expanduser()
    return str(folder.resolve()) if folder.is_dir() else str(dataset)


def share_out(recipe: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """What each of several processes gets of a recipe's batches; refuses what cannot be dealt evenly."""
    kind = kind_of(recipe)
    if kind.batches is None:
        if ranks.world > 1:
            raise UserError(f"got {ranks.world} processes for task '{recipe['task']['name']}'", "wanted one",
                            "start `mednerf-kit train` without torchrun")  # fmt: skip
        return {}
    sizes = kind.batches(recipe)
    ranks.check(sizes, recipe["task"].get("accumulate", 1))
    return {"processes": ranks.world, "per_process": {k: n // ranks.world for k, n in sizes.items()}} if ranks.world > 1 else {}


def begun(choice: Mapping[str, Any], folder: Path | None, ranks: Ranks, *, outdir: Path, desc: str | None, device: str,
          max_minutes: float | None, started: float) -> Path | None:  # fmt: skip
    """Train in a run folder that is there, or in a new one, to the end; returns it in the process that leads."""
    new, recipe = folder is None, choice["recipe"]
    with ranks.leader_first("data"):
        job = kind_of(recipe).prepare(choice, ranks.device(device))
    if folder is None and ranks.leads:
        folder = run_folder.new_folder(outdir, choice["dataset"], desc)
        files.write_text(folder / "config.yaml", f"# {DISCLAIMER}\n" + yaml.safe_dump(choice, sort_keys=False))
    folder = Path(ranks.told(str(folder)))
    loop = Loop(job.task, folder, steps=recipe["steps"], snapshot_steps=recipe["snapshot_steps"], max_minutes=max_minutes,
                meta=job.meta, ranks=ranks, started=started)  # fmt: skip
    if not new and ranks.leads:
        path, tensors, saved_meta, remarks = run_folder.newest_whole(folder)
        for remark in remarks:
            loop.log(remark)
        loop.load(tensors, saved_meta)
        loop.log(f"continuing {folder.name} from {path.name}")
    shared = [f"{ranks.world} processes, each with a part of every batch"] if ranks.world > 1 else []
    for line in (*job.opening, *shared):
        loop.log(line)
    loop.log(f"data ready after {time.perf_counter() - started:.0f} s")
    loop.run()
    ranks.leave()
    if not ranks.leads:
        return None
    found = job.finish(loop)
    files.write_json(folder / "metrics.json", {**training_summary(loop, folder), **found})
    loop.log(f"trained {loop.index} steps in {loop.seconds:.0f} s: {folder}")
    return folder


def training_summary(loop: Loop, folder: Path) -> dict[str, Any]:
    """Steps, time of the steps, time of everything, and the last value of every logged number; units in their names."""
    last: dict[str, float] = {}
    for row in run_folder.read_stats(folder):
        last |= row
    clocks = {"train_seconds": loop.seconds, "wall_seconds": loop.wall_seconds}
    return {"steps": loop.index, **clocks, "last": last, "note": DISCLAIMER}


def preview(folder: Path, prior: run_folder.Prior) -> None:
    """A contact sheet of random patients, frontal and lateral."""
    from ..viz.figures import strip, write_png8
    from ..recon.field_volume import bake, project_field

    values = bake(prior.generator, prior.generator.weights(prior.generator.draw(4, Generator().manual_seed(0))), size=48)
    views = project_field(values, prior.geometry.at((270.0, 0.0)), prior.distance)
    files_path = folder / "previews" / "samples.png"
    write_png8(files_path, strip(views.flatten(0, 1), columns=4))
