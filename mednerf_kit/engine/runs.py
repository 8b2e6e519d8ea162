"""Run folders at a glance: what each was started with and how far it came, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .run_folder import (
    NUMBERED,
    RunConfig,
    newest_of,
    read_run_config,
    snapshot_files,
    task_name,
)
from .run_folder import load_meta as load_snapshot_meta

TAIL_BYTES = 1 << 16  # the last rows of stats.jsonl are read, however long it has grown


@dataclass(frozen=True)
class Run:
    """A run folder as it lies there."""

    folder: Path
    config: RunConfig | None  # None where config.yaml is missing or damaged
    meta: Mapping[str, Any]  # of the newest readable snapshot; empty where there is none
    metrics: Mapping[str, Any]  # metrics.json of a run that has ended, else empty
    last_row: Mapping[str, Any]  # of stats.jsonl: step, seconds, losses; empty before the first
    snapshots: tuple[Path, ...]  # oldest first
    remarks: tuple[str, ...] = ()  # what could not be read, a sentence each

    @property
    def task(self) -> str:
        """The name of its task: ``fit`` for a scene, else that of a prior."""
        recipe = self.config.recipe if self.config else self.meta.get("recipe", {})
        return task_name({"recipe": recipe})

    @property
    def is_scene(self) -> bool:
        """Whether it fits a scene, and trains no prior."""
        return self.task == "fit"

    @property
    def step(self) -> int:
        """Steps done, as far as they were written down."""
        return int(self.last_row.get("step") or self.meta.get("step") or 0)

    @property
    def steps(self) -> int | None:
        """Steps that its recipe asks for."""
        recipe = self.config.recipe if self.config else self.meta.get("recipe", {})
        return recipe.get("steps")

    @property
    def has_ended(self) -> bool:
        """Whether its training ended in good order."""
        return bool(self.metrics)


def list_runs(outdir: str | Path = "runs") -> list[Run]:
    """The numbered run folders in ``outdir``, newest number first; a damaged one is among them,
    with what is wrong in its ``remarks``.

    >>> list_runs("no/such/folder")
    []
    """
    outdir = Path(outdir)
    found = outdir.iterdir() if outdir.is_dir() else ()
    folders = sorted((p for p in found if NUMBERED.fullmatch(p.name) and p.is_dir()), reverse=True)
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """One run folder; what is missing in it is empty, and what is damaged a remark."""
    remarks: list[str] = []
    config, meta = None, dict[str, Any]()
    try:
        config = read_run_config(folder)
    except UserError as error:
        remarks.append(str(error))
    snapshots = tuple(snapshot_files(folder))
    if snapshots:
        try:
            _, meta, damaged = newest_of(folder, load_snapshot_meta)
            remarks += damaged
        except UserError as error:
            remarks.append(str(error))
    return Run(
        folder, config, meta, _metrics(folder, remarks), last_row(folder), snapshots, tuple(remarks)
    )


def _metrics(folder: Path, remarks: list[str]) -> dict[str, Any]:
    path = folder / "metrics.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        remarks.append(f"'{path}' is no JSON ({error})")
        return {}
    return found if isinstance(found, dict) else {}


def last_row(folder: Path) -> dict[str, Any]:
    """The last whole row of a run's ``stats.jsonl``, found from its end; empty without one."""
    path = folder / "stats.jsonl"
    if not path.is_file():
        return {}
    with open(path, "rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read().splitlines()
    for line in reversed(lines[1:] if start else lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            return row
    return {}
