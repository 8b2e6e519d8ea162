"""A training as its run folder tells it: curves, time left, log, configuration, model card.

Nothing of torch is imported, and of a long ``stats.jsonl`` only what was appended is read again.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..engine.runs import Run

State = Literal["running", "ended", "stopped"]
MOST_POINTS = 400  # of a curve on the page; each is the mean of the steps about it
RECENT_STEPS = 200  # that the time of a step is taken from
QUIET_S = 120.0  # without a word, after which a run that has not ended counts as stopped
QUIET_STEPS = 20  # the same in steps of a slow run
TAIL_BYTES, TAIL_LINES = 1 << 15, 80  # of log.txt
TENTH = re.compile(r"(\d+) % after (\d+) s, step (\d+)")
GRID = re.compile(r"(.+)-(\d{6})")


class StatsFile:
    """The numbers of one ``stats.jsonl``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._restart()

    def _restart(self) -> None:
        self._read_bytes = 0
        self.seconds = (array("d"), array("d"))  # steps, and the seconds that they had taken
        self.columns: dict[str, tuple[array[float], array[float]]] = {}  # steps and values

    def refresh(self) -> None:
        """Read the whole lines that were appended; all of a file that was written anew."""
        with self._lock:
            size = self.path.stat().st_size if self.path.is_file() else 0
            if size < self._read_bytes:
                self._restart()
            if size == self._read_bytes:
                return
            with open(self.path, "rb") as file:
                file.seek(self._read_bytes)
                new = file.read(size - self._read_bytes)
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            for line in whole.splitlines():
                self._add(line)

    def _add(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            step, seconds = float(row["step"]), float(row["seconds"])
        except (ValueError, TypeError, KeyError):
            return  # torn by a crash
        for numbers, value in zip(self.seconds, (step, seconds), strict=True):
            numbers.append(value)
        for name, value in row.items():
            if name in ("step", "seconds") or not isinstance(value, int | float):
                continue
            steps, values = self.columns.setdefault(name, (array("d"), array("d")))
            steps.append(step)
            values.append(value)

    @property
    def step_seconds(self) -> float | None:
        """Time of a step, over the last :data:`RECENT_STEPS`."""
        steps, seconds = (numbers[-RECENT_STEPS:] for numbers in self.seconds)
        if len(steps) < 2 or steps[-1] <= steps[0]:
            return None
        return (seconds[-1] - seconds[0]) / (steps[-1] - steps[0])

    def curves(self) -> dict[str, dict[str, list[float]]]:
        """Every column by name: ``x`` the steps and ``y`` its values, at :data:`MOST_POINTS`."""
        with self._lock:
            return {
                name: dict(zip("xy", averaged(*numbers), strict=True))
                for name, numbers in self.columns.items()
            }


@lru_cache(maxsize=16)
def stats_file(path: Path) -> StatsFile:
    """The same reader for the same path, so that it goes on where it was."""
    return StatsFile(path)


def averaged(
    steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS
) -> tuple[list[float], list[float]]:
    """At most ``most`` points of a curve, each the mean of neighbours; what is not finite is left
    out.

    >>> averaged([1, 2, 3, 4, 5], [1.0, 3.0, float("nan"), 8.0, 10.0], most=2)
    ([1.5, 4.5], [2.0, 9.0])
    """
    pair = np.array([np.asarray(steps, float), np.asarray(values, float)])
    pair = pair[:, np.isfinite(pair).all(0)]
    if pair.shape[1] > most:
        edges = np.linspace(0, pair.shape[1], most, endpoint=False).astype(int)
        counts = np.diff([*edges, pair.shape[1]])
        pair = np.add.reduceat(pair, edges, axis=1) / counts
    x, y = pair.tolist()
    return x, y


def seconds_left(
    step: int, steps: int | None, seconds: float, step_seconds: float | None, log: Sequence[str]
) -> float | None:
    """How long a training goes on, by its steps, or by the clock that its log tells of if that is
    tighter; None where nothing is known.

    >>> seconds_left(100, 300, 50.0, 0.5, ["10 % after 40 s, step 80"])
    100.0
    >>> seconds_left(100, 9000, 50.0, 0.5, ["10 % after 40 s, step 80"])
    350.0
    """
    left = []
    if steps is not None and step_seconds is not None:
        left.append((steps - step) * step_seconds)
    tenths = [match for line in log if (match := TENTH.fullmatch(line.strip()))]
    if tenths and (percent := int(tenths[-1][1])):
        left.append(100 / percent * int(tenths[-1][2]) - seconds)
    return max(0.0, min(left)) if left else None


def state_of(run: Run, step_seconds: float | None, now: float | None = None) -> State:
    """Whether a training goes on. One that ended in good order has its metrics; of others the
    folder's last word decides.
    """
    if run.has_ended and run.metrics.get("steps", run.step) == run.step:
        return "ended"
    told = [run.folder / "stats.jsonl", run.folder / "log.txt", *run.snapshots]
    last = max((path.stat().st_mtime for path in told if path.is_file()), default=-math.inf)
    quiet = max(QUIET_S, QUIET_STEPS * (step_seconds or 0.0))
    return "running" if (now or time.time()) - last < quiet else "stopped"


def log_tail(folder: Path) -> list[str]:
    """The last lines of a run's ``log.txt``."""
    path = folder / "log.txt"
    if not path.is_file():
        return []
    with open(path, "rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return lines[1 if start else 0 :][-TAIL_LINES:]


def sample_sheets(folder: Path) -> list[dict[str, Any]]:
    """Contact sheets of a run: ``file`` in its folder, ``name`` and ``step``, in this order.

    The sheets of its end have no step.
    """
    found = []
    for path in sorted((folder / "previews").glob("*.png")):
        match = GRID.fullmatch(path.stem)
        name, step = (match[1], int(match[2])) if match else (path.stem, None)
        found.append({"file": f"previews/{path.name}", "name": name, "step": step})
    return sorted(found, key=lambda sheet: (sheet["name"], sheet["step"] is None, sheet["step"]))


def flat(values: Any, name: str = "") -> dict[str, str]:
    """The leaves of nested mappings and lists by their dotted names, as text.

    >>> flat({"task": {"batch": 16}, "levels": [{"n": 32}], "sizes": [1, 2]})
    {'task.batch': '16', 'levels.0.n': '32', 'sizes': '1, 2'}
    """
    if isinstance(values, Mapping):
        parts = values.items()
    elif isinstance(values, list) and any(isinstance(v, Mapping | list) for v in values):
        parts = enumerate(values)  # type: ignore[assignment]
    elif isinstance(values, list):
        return {name: ", ".join(map(str, values))}
    else:
        return {name: "–" if values is None else str(values)}
    leaves: dict[str, str] = {}
    for key, value in parts:
        leaves |= flat(value, f"{name}.{key}" if name else str(key))
    return leaves


def differences(
    one: Mapping[str, str], other: Mapping[str, str]
) -> list[tuple[str, str | None, str | None]]:
    """The names whose texts differ, with both; None where one has none.

    >>> differences({"seed": "0", "steps": "10"}, {"seed": "1", "steps": "10", "limit": "5"})
    [('seed', '0', '1'), ('limit', None, '5')]
    """
    names = dict.fromkeys([*one, *other])
    return [(n, one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)]


def configuration(run: Run) -> dict[str, str]:
    """What a run was started with, flat: its recipe without a prefix, then the rest."""
    if run.config is None:
        return {}
    values = run.config.to_dict()
    return flat(dict(values.pop("recipe")) | values)


def model_card(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the header of a prior's snapshot says of it: labels and texts."""
    recipe, geometry = meta.get("recipe", {}), meta.get("geometry", {})
    task, generator = recipe.get("task", {}), recipe.get("generator", {})
    patients = meta.get("patients") or []
    known = meta.get("calibration", {}).get("1")
    calibrated = known.get("patients") if isinstance(known, Mapping) else None
    seconds = meta.get("wall_seconds") or meta.get("seconds")
    rows = [
        ("Trained on", meta.get("dataset")),
        ("Patients", f"{len(patients)} ({meta.get('split', 'train')})" if patients else None),
        ("Body part", meta.get("anatomy")),
        ("Task", " ".join(filter(None, (task.get("name"), task.get("objective"))))),
        ("Generator", ", ".join(f"{k} {v}" for k, v in dict(generator).items())),
        ("Pictures", _pictures(geometry)),
        ("Source to isocentre, to detector", _distances_mm(geometry)),
        ("Views", _views(geometry)),
        ("Steps", meta.get("step")),
        ("Training time", None if seconds is None else f"{seconds / 60:.0f} min"),
        ("Computed in", meta.get("precision")),
        ("Seed", meta.get("seed")),
        ("Uncertainty calibrated on", f"{calibrated} patients" if calibrated else None),
        ("Made by", meta.get("made_by")),
        ("Version", meta.get("version")),
    ]
    notes = [("Note", note) for note in [*meta.get("notes", ()), meta.get("note")] if note]
    return [(label, str(text)) for label, text in [*rows, *notes] if text not in (None, "")]


def _pictures(geometry: Mapping[str, Any]) -> str | None:
    if not {"rows", "cols", "pixel_mm"} <= set(geometry):
        return None
    return f"{geometry['cols']}×{geometry['rows']} pixels of {geometry['pixel_mm']:g} mm"


def _distances_mm(geometry: Mapping[str, Any]) -> str | None:
    names = ("source_to_isocentre_mm", "source_to_detector_mm")
    if not set(names) <= set(geometry):
        return None
    return ", ".join(f"{geometry[name]:g} mm" for name in names)


def _views(geometry: Mapping[str, Any]) -> str | None:
    angles = geometry.get("angles_deg") or []
    return f"{len(angles)} on the orbit about {geometry.get('axis', 'z')}" if angles else None
