"""``mednerf-kit train``: from options to a recipe, from a recipe to a task, then to a run folder.

What is trained is found by name (:data:`TASK_TYPES`), so that fitting a scene loads nothing of the
priors.
"""

from __future__ import annotations

import pkgutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from .. import DISCLAIMER
from ..core import config, files
from ..core.errors import UserError, reading, unknown_name
from . import run_folder, snapshots
from .distributed import Ranks, process_group
from .loop import Loop, TaskType, print_line
from .recipe_checks import SizeLimit, check_sizes
from .run_folder import RunConfig

#: By the name of a recipe's task: how its recipes are read and made ready to run.
TASK_TYPES = {
    "prior": "mednerf_kit.prior.posed_setup:TASK_TYPE",
    "adversarial": "mednerf_kit.prior.gan_setup:TASK_TYPE",
    "conditional": "mednerf_kit.prior.conditional_setup:TASK_TYPE",
    "fit": "mednerf_kit.scene.setup:TASK_TYPE",
}

DATA_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".json"),
    *(".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".dcm"),
)


def resolve(
    dataset: str | None, name: str | None, preset: str, settings: Sequence[str]
) -> dict[str, Any]:
    """The recipe with its preset and ``--set`` applied, and checked; without a name the dataset
    decides which. What nothing can work with is a :class:`UserError`.
    """
    name = name or default_recipe(str(dataset), settings)
    recipe = config.load(name)
    presets = recipe.pop("presets", {})
    if preset != "default":
        if preset not in presets:
            raise unknown_name(f"preset of recipe '{name}'", preset, ["default", *presets])
        recipe = config.overlaid(recipe, presets[preset])
    recipe = config.with_settings(recipe, list(settings))
    with reading(f"recipe '{name}'", "wanted a node 'task'", "start from a file of configs/"):
        task_type = task_type_of(recipe)
    for key in recipe:
        if key not in task_type.keys:
            raise unknown_name("recipe key", key, task_type.keys)
    check_recipe(recipe, f"recipe '{name}'")
    return recipe


def check_recipe(recipe: dict[str, Any], what: str) -> None:
    """Refuse a recipe that nothing can work with; ``what`` it is calls it by its name."""
    with reading(what, "wanted a node 'task'", "start from a file of configs/"):
        task_type = task_type_of(recipe)
    missing = task_type.keys - set(recipe)
    if missing:
        raise UserError(
            f"got {what} without {', '.join(sorted(missing))}",
            "wanted every node",
            "start from a file of configs/",
        )
    check_sizes(recipe)
    fitting = "wanted names, numbers and lists as in configs/"
    with reading(what, fitting, "correct it or --set"), SizeLimit(what):
        task_type.check(recipe)


def default_recipe(dataset: str, settings: Sequence[str] = ()) -> str:
    """The recipe that a dataset is trained with when none is named: by the format of a scene, else
    by the anatomy's name.

    ``scene.format`` among the settings is that format, as for a folder that could be of two.
    """
    from ..data.posed import scene

    about_format = [setting for setting in settings if setting.startswith("scene.format=")]
    named = config.with_settings({"scene": {}}, about_format)["scene"].get("format")
    return scene.format_recipe(dataset, named) or ("knee" if "knee" in dataset.lower() else "chest")


def task_type_of(recipe: Mapping[str, Any]) -> TaskType:
    """How a recipe's task is read; a recipe without a task counts as a prior's, whose check refuses
    it.
    """
    task = recipe.get("task")
    name = str(task["name"]) if isinstance(task, Mapping) and "name" in task else "prior"
    if name not in TASK_TYPES:
        raise unknown_name("task", name, TASK_TYPES)
    return pkgutil.resolve_name(TASK_TYPES[name])


def train(
    *,
    dataset: str | None,
    config: str | None = None,
    preset: str = "default",
    settings: Sequence[str] = (),
    outdir: Path = Path("runs"),
    desc: str | None = None,
    resume: str | None = None,
    seed: int = 0,
    device: str = "auto",
    max_minutes: float | None = None,
    split: str = "train",
    limit: int | None = None,
    input_kind: str = "line-integral",
    invert: bool = False,
    dry_run: bool = False,
) -> Path | None:
    """Train what the recipe says on a dataset; returns the run folder (None for a dry run).

    Under torchrun every process calls this, and all but the first get None.

    Options:
        dataset: ``chest``, ``knee``, the name of a procedural scene, or a folder.
        config: name or file of the recipe; None lets the dataset decide.
        preset: which of the recipe's presets is laid over it.
        settings: ``KEY=VALUE``, as for ``--set``.
        outdir: where the run folder is made.
        desc: a word more in the run folder's name.
        resume: a run to continue, or ``latest`` for the newest of the same configuration; None
            starts anew.
        seed: of everything random.
        device: ``auto``, ``cpu`` or ``cuda``.
        max_minutes: end after this time of steps, where that is earlier than the recipe's end.
        split: which patients or views to learn from.
        limit: how many of them at most.
        input_kind: what the pictures of a set of X-rays hold: the recipe's ``dataset.input_kind``.
        invert: turn the pictures of a set of X-rays over first: ``dataset.invert``.
        dry_run: print the resolved recipe and its sizes, and train nothing.
    """
    started = time.perf_counter()
    with process_group() as ranks:
        folder = None
        if resume not in (None, "latest"):
            folder = run_folder.find_folder(str(resume), Path(outdir))
            run_config = run_folder.read_run_config(folder)
            check_recipe(dict(run_config.recipe), f"the recipe of run '{folder.name}'")
        else:
            kind = [f"dataset.input_kind={input_kind}"] if input_kind != "line-integral" else []
            said = [*settings, *kind, *(["dataset.invert=true"] if invert else [])]
            recipe = resolve(dataset, config, preset, said)
            run_config = RunConfig(lasting_name(dataset), recipe, seed, split, limit)
        dealt = batch_per_process(run_config.recipe, ranks)
        if dry_run:
            if ranks.is_rank_zero:
                with SizeLimit("a recipe"):
                    plan = task_type_of(run_config.recipe).plan(run_config.recipe) | dealt
                shown = {**run_config.to_dict(), "plan": plan}
                print(yaml.safe_dump(shown, sort_keys=False), end="")
            return None
        if resume == "latest":
            say = print_line if ranks.is_rank_zero else lambda _: None
            folder = snapshots.latest_matching(Path(outdir), run_config, say)
        return run_training(
            run_config,
            folder,
            ranks,
            outdir=Path(outdir),
            desc=desc,
            device=device,
            max_minutes=max_minutes,
            started=started,
        )


def lasting_name(dataset: str | None) -> str:
    """A dataset's name, or its folder's whole path: runs are opened from other places too.

    A folder with the name of an embedded dataset that cannot be one does not hide it.
    """
    folder = Path(str(dataset)).expanduser()
    if not folder.is_dir():
        return str(dataset)
    from ..data.set_folder import EMBEDDED

    if str(dataset) in EMBEDDED and not could_be(str(dataset), folder):
        print(
            f"Note: '{dataset}' is the embedded one: the folder of that name is none.",
            file=sys.stderr,
        )
        return str(dataset)
    return str(folder.resolve())


def could_be(name: str, folder: Path) -> bool:
    """Whether a folder called like an embedded dataset may be meant: a scene for ``blocks``, else
    anything with pictures or scans in it or one folder below.
    """
    if name == "blocks":
        from ..data.posed import scene

        return scene.find_format(folder.resolve()) is not None
    names = (path.name.lower() for depth in ("*", "*/*") for path in folder.glob(depth))
    return any(found.endswith(DATA_SUFFIXES) for found in names)


def batch_per_process(recipe: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """What each of several processes gets of a recipe's batches, for ``--dry-run``; nothing for one
    process. Refuses what cannot be dealt evenly.
    """
    task_type = task_type_of(recipe)
    if task_type.batches is None:
        if ranks.world_size > 1:
            raise UserError(
                f"got {ranks.world_size} processes for task '{recipe['task']['name']}'",
                "wanted one",
                "start `mednerf-kit train` without torchrun",
            )
        return {}
    sizes = task_type.batches(recipe)
    ranks.check_divisible(sizes, recipe["task"].get("accumulate", 1))
    if ranks.world_size == 1:
        return {}
    per_process = {key: n // ranks.world_size for key, n in sizes.items()}
    return {"processes": ranks.world_size, "per_process": per_process}


def run_training(
    run_config: RunConfig,
    folder: Path | None,
    ranks: Ranks,
    *,
    outdir: Path,
    desc: str | None,
    device: str,
    max_minutes: float | None,
    started: float,
) -> Path | None:
    """Train to the end in a run folder that is there, or (None) in a new one; returns the folder in
    the first process, None in the others.
    """
    new, recipe = folder is None, run_config.recipe
    task_type = task_type_of(recipe)
    place = ranks.device(device)
    what = f"dataset '{run_config.dataset}' and its recipe"
    with (
        ranks.rank_zero_first("data"),
        reading(what, "wanted numbers that fit each other", "look at them with --dry-run"),
    ):
        prepared = task_type.prepare(run_config, place)
    if folder is None and ranks.is_rank_zero:
        folder = run_folder.new_folder(outdir, run_config.dataset, desc)
        run_folder.write_run_config(folder, run_config)
    folder = Path(ranks.broadcast_text(str(folder)))
    loop = Loop(
        prepared.task,
        folder,
        steps=recipe["steps"],
        snapshot_steps=recipe["snapshot_steps"],
        max_minutes=max_minutes,
        meta=prepared.meta,
        ranks=ranks,
        started=started,
    )
    if not new and ranks.is_rank_zero:
        continue_newest(loop)
    for line in prepared.opening:
        loop.log(line)
    if ranks.world_size > 1:
        loop.log(f"{ranks.world_size} processes, each with a part of every batch")
    loop.log(f"data ready after {time.perf_counter() - started:.0f} s")
    loop.run()
    ranks.leave()
    if not ranks.is_rank_zero:
        return None
    found = prepared.finish(loop)
    if task_type.follow_up is not None:
        pkgutil.resolve_name(task_type.follow_up)(loop, recipe, place)
    files.write_json(folder / "metrics.json", {**training_summary(loop, folder), **found})
    loop.log(f"trained {loop.index} steps in {loop.seconds:.0f} s: {folder}")
    return folder


def continue_newest(loop: Loop) -> None:
    """Let a loop continue from the newest readable snapshot in its folder."""
    files.remove_strays(loop.folder)
    path, tensors, meta, remarks = snapshots.newest_readable(loop.folder)
    for remark in remarks:
        loop.log(remark)
    with reading(
        f"'{path}'", "wanted a snapshot of this run's recipe", "use the snapshot before it"
    ):
        loop.load(tensors, meta)
    loop.log(f"continuing {loop.folder.name} from {path.name}")


def training_summary(loop: Loop, folder: Path) -> dict[str, Any]:
    """What metrics.json says of a training: steps, time of the steps, time of everything, and the
    last value of every logged number; units in their names.
    """
    last: dict[str, float] = {}
    for row in run_folder.read_stats(folder):
        last |= row
    clocks = {"train_seconds": loop.seconds, "wall_seconds": loop.wall_seconds}
    return {"steps": loop.index, **clocks, "last": last, "note": DISCLAIMER}
