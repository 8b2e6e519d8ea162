"""What became of each cell, as its ``cell.json`` says, and all of them as one CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...core import files
from ...core.errors import UserError
from ...core.former_names import current_recipe, recipe_name
from .grid import Cell

CELL_FILE = "cell.json"
# an evaluation's list -> unit, key of its name
UNITS = {"per_view": ("view", "stem"), "per_patient": ("patient", "patient")}


@dataclass(frozen=True)
class Scores:
    """The numbers of one finished run."""

    metrics: dict[str, float]  # only what is a finite number
    unit: str = ""  # "view" or "patient", where there are scores of single ones
    # name of the view or patient -> metric -> score
    units: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """One cell of the grid: its scores when it is done, else why there are none."""

    cell: Cell
    status: Literal["done", "failed", "started", "not run"]
    scores: Scores = Scores({})
    error: str = ""
    device: str = ""
    run: str = ""  # its run folder's name
    seconds: float = 0.0  # all in all, scoring included


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers, those of nodes under dotted names.

    >>> numbers({"psnr_db": 30, "lpips": None, "mae": float("nan"), "volume": {"mae": 0.5}})
    {'psnr_db': 30.0, 'volume.mae': 0.5}
    >>> numbers({"seen": True})
    {}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            {f"{name}.{k}": v for k, v in numbers(value).items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
    return {
        name: float(value)
        for name, value in flat.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }


def scores_of(found: Mapping[str, Any]) -> Scores:
    """The scores of an evaluation: its plain numbers, and those of single views or patients."""
    for entry, (unit, key) in UNITS.items():
        if rows := found.get(entry):
            return Scores(numbers(found), unit, {str(row[key]): numbers(row) for row in rows})
    return Scores(numbers(found))


def write(folder: Path, result: Result) -> None:
    """Keep what became of a cell, atomically."""
    scores = result.scores
    files.write_json(
        folder / result.cell.place / CELL_FILE,
        {
            "status": result.status,
            "error": result.error,
            "metrics": scores.metrics,
            "unit": scores.unit,
            "units": scores.units,
            "device": result.device,
            "run": result.run,
            "seconds": result.seconds,
            "cell": result.cell.to_json(),
        },
    )


def load(path: Path) -> Result:
    """A ``cell.json``."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        scores = Scores(kept["metrics"], kept["unit"], kept["units"])
        return Result(
            Cell(**kept["cell"]),
            kept["status"],
            scores,
            kept["error"],
            kept["device"],
            kept["run"],
            kept["seconds"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"got '{path}', which is no result of a cell ({error})",
            "wanted what `mednerf-kit ablate` wrote",
            "delete that file",
        ) from None


def identity(cell: Cell) -> dict[str, Any]:
    """What a finished cell is recognised by, under the present names of recipes and options.

    The settings are left out: the recipe is what they come to.
    """
    kept = json.loads(json.dumps(cell.to_json()))
    del kept["settings"]
    return {**kept, "base": recipe_name(kept["base"]), "recipe": current_recipe(kept["recipe"])}


def read(folder: Path, cell: Cell) -> Result:
    """The result of a cell of the grid.

    A finished one of other settings is refused: it would stand for what it is not.
    """
    path = folder / cell.place / CELL_FILE
    if not path.is_file():
        return Result(cell, "not run")
    result = load(path)
    if identity(result.cell) == identity(cell):
        return result
    if result.status == "done":
        raise UserError(
            f"got '{path.parent}', which was run with other settings",
            "wanted the cells of this grid",
            "choose another --outdir, or delete that folder",
        )
    return Result(cell, "not run")


def as_csv(results: Sequence[Result]) -> str:
    """One row a run: scene, cell, seed, status, every number, and where it lies."""
    cell = ["scene", "cell", "seed", "status"]
    outcome = ["cell_seconds", "settings", "device", "run", "error"]
    found = {name for result in results for name in result.scores.metrics}
    names = sorted(found - {*cell, *outcome})  # an evaluation has a seed too
    rows = [
        {
            **{name: r.scores.metrics.get(name) for name in names},
            "scene": r.cell.scene,
            "cell": r.cell.name,
            "seed": r.cell.seed,
            "status": r.status,
            "cell_seconds": r.seconds,
            "settings": " ".join(r.cell.settings),
            "device": r.device,
            "run": (r.cell.place / r.run).as_posix() if r.run else "",
            "error": r.error,
        }
        for r in results
    ]
    return files.csv_text(rows, [*cell, *names, *outcome])
