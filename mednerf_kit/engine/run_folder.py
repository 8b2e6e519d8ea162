"""Run folders: ``runs/NNNNN-DATASET[-DESC]/`` with config, statistics, snapshots and previews."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .. import DISCLAIMER
from ..core import files, former_names
from ..core.config import checked
from ..core.errors import UserError, reading, unknown_name

T = TypeVar("T")

NUMBERED = re.compile(r"(\d{5})-.+")
CLOCKS = ("step", "seconds", "wall_seconds")
#: Types of the metadata that the snapshots of every task have in common.
META = {"step": int, "seconds": float, "wall_seconds": float, "task_state": dict, "recipe": dict}


@dataclass(frozen=True)
class RunConfig:
    """What a run was started with; ``config.yaml`` holds it."""

    dataset: str  # a name, or the whole path of a folder
    recipe: Mapping[str, Any]  # resolved: every node, under the present names
    seed: int = 0
    split: str = "train"
    limit: int | None = None  # patients or views at most

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, in their order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


#: Of a ``config.yaml``.
RUN_CONFIG = f"wanted {', '.join(field.name for field in fields(RunConfig))}"


def new_folder(outdir: Path, dataset: str, desc: str | None) -> Path:
    """The next numbered run folder, made."""
    outdir.mkdir(parents=True, exist_ok=True)
    numbers = [int(m[1]) for p in outdir.iterdir() if (m := NUMBERED.fullmatch(p.name))]
    words = (dataset.strip("/").rsplit("/", 1)[-1], desc)
    label = "-".join(re.sub(r"[^\w.-]+", "_", word) for word in words if word)
    folder = outdir / f"{max(numbers, default=-1) + 1:05d}-{label}"
    try:
        folder.mkdir()
    except FileExistsError:
        raise UserError(
            f"got run folder '{folder}', which exists",
            "wanted a new one",
            "start again or choose --outdir",
        ) from None
    return folder


def find_folder(name: str | Path, outdir: Path = Path("runs")) -> Path:
    """A run folder by path, by name, or by a unique beginning of its name."""
    path = Path(name)
    if path.is_dir():
        return path
    parent, start = (path.parent, path.name) if path.parent != Path(".") else (outdir, path.name)
    known = sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    found = [p for p in known if p.name.startswith(start)]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        raise UserError(
            f"got run '{name}', which {len(found)} folders begin with",
            "wanted one",
            f"write more of '{found[0].name}'",
        )
    if known:
        raise unknown_name("run", str(name), [p.name for p in known])
    raise UserError(
        f"got run '{name}', which does not exist",
        "wanted a run folder, a snapshot or 'bundled'",
        "train one with `mednerf-kit train`",
    )


def read_run_config(folder: Path) -> RunConfig:
    """What a run was started with, its recipe under the present names.

    A :class:`UserError` where the folder is no run folder.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"got '{folder}', which has no config.yaml",
            "wanted a run folder",
            "give a folder made by `mednerf-kit train`",
        )
    with reading(f"'{path}'", RUN_CONFIG, "give a folder made by `mednerf-kit train`"):
        record = config_record(path)
        hints = typing.get_type_hints(RunConfig)
        for name, value in record.items():
            checked(value, hints[name], where=f"'{name}' in '{path}'")
        return RunConfig(**record)


def write_run_config(folder: Path, run_config: RunConfig) -> None:
    """Write ``config.yaml``."""
    text = yaml.safe_dump(run_config.to_dict(), sort_keys=False)
    files.write_text(folder / "config.yaml", f"# {DISCLAIMER}\n" + text)


def config_record(path: Path) -> dict[str, Any]:
    """What a ``config.yaml`` holds, its recipe under the present names."""
    with reading(f"'{path}'", RUN_CONFIG, "restore it, or train anew"):
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError("no mapping")
        return with_present_recipe(record)


def with_present_recipe(record: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration or a snapshot's metadata with its recipe under the present names."""
    recipe = record.get("recipe") if isinstance(record, Mapping) else None
    if not isinstance(recipe, Mapping):
        return record
    return {**record, "recipe": former_names.current_recipe(recipe)}


def snapshot_files(folder: Path) -> list[Path]:
    """Snapshots of a run, oldest first."""
    return sorted(folder.glob("snapshot-*.safetensors"))


def newest_of(folder: Path, read: Callable[[Path], T]) -> tuple[Path, T, list[str]]:
    """The newest snapshot of a run that ``read`` can read: path, what it read, and a sentence for
    each damaged one passed over.
    """
    remarks: list[str] = []
    for path in reversed(snapshot_files(folder)):
        try:
            return path, read(path), remarks
        except UserError as error:
            remarks.append(str(error))
    raise UserError(
        f"got run '{folder}' without a readable snapshot",
        "wanted at least one snapshot-*.safetensors",
        "train it again" + "".join(f" ({r})" for r in remarks),
    )


def read_meta(run: str | Path) -> tuple[Path, dict[str, Any]]:
    """The snapshot that ``run`` names and its metadata, recipe under the present names.

    A run is named as in :func:`~mednerf_kit.engine.snapshots.read_snapshot`, which reads the
    tensors too; this needs neither them nor torch.
    """
    if str(run).endswith(".safetensors"):
        return Path(run), load_meta(Path(run))
    return newest_of(find_folder(run), load_meta)[:2]


def load_meta(path: Path) -> dict[str, Any]:
    """The metadata of one snapshot file, recipe under the present names."""
    meta = files.load_meta(path)
    check_meta(path, meta)
    return with_present_recipe(meta)


def check_meta(path: Path, meta: Mapping[str, Any]) -> None:
    """Raise UserError where metadata that all snapshots have in common are of another type."""
    with reading(f"'{path}'", "wanted a snapshot", "use the snapshot before it"):
        for key in META.keys() & meta.keys():
            checked(meta[key], META[key], where=f"'{key}' in '{path}'")
        task_name(meta)
        if min(meta.get(key, 0) for key in CLOCKS) < 0:
            raise ValueError("a negative step or time")


def task_name(meta: Mapping[str, Any]) -> str:
    """The task that a snapshot says it was made by; ``fit`` is that of a scene."""
    return str(meta.get("recipe", {}).get("task", {}).get("name", ""))


def is_scene_run(run: str | Path) -> bool:
    """Whether a run folder, its prefix or a snapshot holds a fitted scene (and not a prior)."""
    return not str(run).startswith("bundled") and task_name(read_meta(run)[1]) == "fit"


def read_stats(folder: Path) -> list[dict[str, Any]]:
    """The logged numbers of a run, one row a step, without a line that is damaged."""
    rows = []
    path = folder / "stats.jsonl"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def write_stats(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the logged numbers of a run."""
    files.write_text(folder / "stats.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def wall_seconds(folder: Path, meta: Mapping[str, Any]) -> float | None:
    """Wall time of a run's training command up to the snapshot of metadata ``meta``.

    Once the run has ended there, it includes what follows the last step: a preview, a calibration.
    None for runs that did not keep it.
    """
    try:
        ended = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if ended["steps"] == meta.get("step"):
            return float(ended["wall_seconds"])
    except (OSError, ValueError, LookupError, TypeError):  # none yet, or what a run writes anew
        pass
    return meta.get("wall_seconds")
