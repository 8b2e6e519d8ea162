"""Models side by side: which there are, and which patients each has been asked about.

They are the cells of an ablation, or the priors of the list with what was made by them. A patient
goes by the name in the set, or by the file of the X-ray.
"""

from __future__ import annotations

import csv
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import UserError
from .catalogue import Catalogue, Entry, read_json

if TYPE_CHECKING:
    from ..prior.load import Prior

BODIES = ("chest", "knee")
PREFIX = "ablate-"
SCENE = "scored views"  # what stands for the patient of a scene
DRAWN_VIEWS, DRAWN_PX = 36, 64
_LOCK = threading.Lock()  # one prior computes at a time


@dataclass(frozen=True)
class Model:
    """One column: a prior, or a cell of an ablation."""

    name: str
    body: str  # body part or scene
    status: str  # done, failed, started, not run
    command: str  # what would make it, or its views
    why: str = ""  # it failed
    run: str = ""  # id of the prior, of which random patients can be drawn
    project: str = ""  # what would make its views of an X-ray, but for the file
    patients: Mapping[str, str] = field(default_factory=dict)  # name -> id of the result


def body_of(*texts: Any) -> str:
    """The body part that texts name.

    >>> body_of("chest.safetensors"), body_of("00001-knee", "chest"), body_of("lego")
    ('chest', 'chest', 'other')
    """
    return next((body for body in BODIES if any(body in str(text) for text in texts)), "other")


def library(catalogue: Catalogue) -> list[Model]:
    """Priors with the results that were made by them, and results of priors that are not here."""
    entries = [entry for entry in catalogue.entries() if not entry.problem]
    results: dict[str, dict[str, str]] = {}
    bodies: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "result" and (said := _said(entry)):
            made_by, patient, body = said
            results.setdefault(made_by, {}).setdefault(patient, entry.id)
            bodies.setdefault(made_by, body)
    found = []
    for entry in entries:
        if entry.kind == "prior":
            label = entry.name if entry.name.startswith("bundled:") else entry.path.name
            body = body_of(_dataset(entry), entry.name)
            command = _evaluate_command(entry, body)
            made = results.pop(label, {})
            typed = label if label.startswith("bundled:") else _typed(entry.path)
            project = f"mednerf-kit project --run {typed} --xray"
            found.append(Model(label, body, "done", command, "", entry.id, project, patients=made))
    for label, made in results.items():
        found.append(Model(label, bodies[label], "done", "", patients=made))
    return found


def _said(entry: Entry) -> tuple[str, str, str] | None:
    """By which prior a result was made, of whom, and of which body part."""
    try:
        values = read_json(entry.path / "metrics.json")
    except UserError:
        return None
    node = values.get("provenance") or {}
    prior, run = str(node.get("prior", "")), str(node.get("run", ""))
    label = f"bundled:{Path(prior).stem}" if run == "bundled" else run
    inputs = values.get("inputs") or [{}]
    patient = values.get("patient") or Path(str(inputs[0].get("file", ""))).name
    if not label or not patient:
        return None
    return label, str(patient), body_of(label, node.get("trained_on"))


def _dataset(entry: Entry) -> str:
    from ..prior.catalogue import find_prior

    try:
        meta = find_prior(entry.path if entry.path.is_dir() else f"bundled:{entry.path.stem}").meta
    except UserError:
        return ""
    return str(meta.get("anatomy") or meta.get("dataset") or "")


def _evaluate_command(entry: Entry, body: str) -> str:
    if entry.name.startswith("bundled:"):
        place = f"out/evaluate-{entry.path.stem}"
        set_ = body if body in BODIES else "SET"
        return f"mednerf-kit evaluate --run {entry.name} --dataset {set_} --limit 1 --out {place}"
    return f"mednerf-kit evaluate --run {_typed(entry.path)} --limit 1"


def _here(path: Path) -> str:
    """A path as seen from the folder where the command was given."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _typed(path: Path) -> str:
    """A path as a person would type it in a shell."""
    return shlex.quote(_here(path))


def cells(catalogue: Catalogue, folder: Path) -> list[Model]:
    """The cells of an ablation's folder: those that were run, and those that are planned."""
    command = _command(folder)
    rows = {(row["scene"], row["cell"], _whole(row["seed"])): row for row in _table(folder)}
    for path in sorted(folder.glob("*/*/seed*/cell.json")):
        seed, cell, scene = path.parent.name[4:], path.parents[1].name, path.parents[2].name
        try:
            kept = read_json(path)
        except UserError:
            continue
        run = f"{scene}/{cell}/seed{seed}/{kept.get('run')}" if kept.get("run") else ""
        rows[(scene, cell, seed)] = {k: str(kept.get(k, "")) for k in ("status", "error")} | {
            "run": run
        }
    known = {(scene, cell) for scene, cell, _ in rows}
    for scene in sorted({scene for scene, _ in known}):
        for cell in _planned(command):
            if (scene, cell) not in known:
                rows[(scene, cell, "0")] = {"status": "not run", "error": "", "run": ""}
    seeds = {seed for _, _, seed in rows}
    return [
        _cell(catalogue, folder, command, place, row, several=len(seeds) > 1)
        for place, row in rows.items()
    ]


def _table(folder: Path) -> Iterator[Mapping[str, str]]:
    """The rows of results.csv, which has cells that were not run as well."""
    path = folder / "results.csv"
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def _command(folder: Path) -> list[str]:
    """The words of the command that goes on with an ablation, as its folder says it."""
    path = folder / "command.txt"
    if path.is_file():
        try:
            return shlex.split(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            pass
    name = folder.name.removeprefix(PREFIX)
    return ["mednerf-kit", "ablate", name, "--outdir", _here(folder)]


def _whole(text: str) -> str:
    """A seed as a whole number, however a table writes it.

    >>> _whole("0.0"), _whole("12"), _whole("x")
    ('0', '12', 'x')
    """
    return text.removesuffix(".0")


def _planned(command: Sequence[str]) -> list[str]:
    """The cells that an ablation asks for."""
    from ..study.ablation import grid

    try:
        return [str(cell) for cell in grid.read(command[2]).cells]
    except (UserError, IndexError):
        return []


def _cell(
    catalogue: Catalogue,
    folder: Path,
    ablate: Sequence[str],
    place: tuple[str, str, str],
    row: Mapping[str, str],
    *,
    several: bool,
) -> Model:
    scene, cell, seed = place
    command = shlex.join([*ablate, "--cells", cell])
    label = f"{cell}, seed {seed}" if several else cell
    run = folder / row["run"] if row.get("run") else None
    if run is None or not run.is_dir():
        status = row.get("status") or "not run"
        return Model(label, scene, status, command, row.get("error", ""))
    kept = sorted((run / "evaluate" / "patients").glob("*/metrics.json"))
    patients = {path.parent.name: catalogue.enter("result", path.parent) for path in kept}
    is_scene = (run / "evaluate" / "per_view.csv").is_file()
    if is_scene:
        patients[SCENE] = catalogue.enter("evaluation", run / "evaluate")
    again = f"mednerf-kit evaluate --run {_typed(run)} --limit 1"
    drawable = "" if is_scene else catalogue.enter("prior", run)
    status = row.get("status", "done")
    return Model(label, scene, status, again, run=drawable, patients=patients)


@lru_cache(maxsize=2)
def _prior(run: str) -> Prior:
    from ..prior.load import load_prior

    return load_prior(run)


@lru_cache(maxsize=24)
def drawn(run: str, seed: int) -> np.ndarray:
    """An orbit of a random patient as 16-bit levels [V, rows, cols], from 0° in equal steps."""
    from ..invert.outputs import seeded_eps
    from ..invert.predict import grid_size
    from ..invert.render import shown

    with _LOCK:
        prior = _prior(run)
        geometry = prior.geometry.resized(DRAWN_PX).orbit(DRAWN_VIEWS)
        views = shown(prior, seeded_eps(prior, seed), geometry, grid_size(DRAWN_PX))
    return (views.clamp(0, 1) * 65535).round().numpy().astype("<u2")
