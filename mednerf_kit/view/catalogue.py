"""What there is to show: runs, results, ablations, volumes and bundled priors, found in folders.

Only small text files are read here, and nothing of torch is imported. Everything found has an
:class:`Entry` whose id stands for its path, so that no path ever comes from a browser.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from ..core.errors import UserError
from ..engine.runs import Run, read_run
from ..prior.catalogue import BUNDLED, bundled_names, find_prior

Kind = Literal["prior", "scene", "result", "evaluation", "ablation", "volume"]
VOLUME_ENDINGS = (".nii.gz", ".nii", ".mha", ".nrrd")
# the numbers of an entry, and what is wrong with it, a sentence or nothing
Found = tuple[Mapping[str, Any], str]
#: How deep below a folder anything is looked for.
DEEPEST = 4

# kind -> label -> where its number stands in metrics.json, and its unit
NUMBERS: Mapping[Kind, Mapping[str, tuple[str, str]]] = {
    "prior": {
        "steps": ("step", ""),
        "planned": ("planned", ""),
        "patients": ("patients", ""),
        "training": ("train_seconds", "s"),
    },
    "scene": {
        "steps": ("step", ""),
        "planned": ("planned", ""),
        "PSNR": ("psnr_db", "dB"),
        "training": ("train_seconds", "s"),
    },
    "result": {
        "fit of the input": ("input_fit.held_out_psnr_db", "dB"),
        "spread": ("orbit.mean_spread", ""),
        "views": ("orbit.views", ""),
    },
    "evaluation": {
        "PSNR": ("psnr_db", "dB"),
        "ridge": ("baselines.ridge.psnr_db", "dB"),
        "SSIM": ("ssim", ""),
    },
    "ablation": {},
    "volume": {},
}
# kind -> files that may stand for it, the first that is there
PICTURES: Mapping[Kind, Sequence[str]] = {
    "prior": ("previews/samples.png", "previews/*.png"),
    "scene": ("previews/*.png", "render/*.png"),
    "result": ("proj.png", "orbit/view_000.png"),
    "evaluation": ("strips.png", "comparison.png", "*.png"),
    "ablation": ("*.png",),
    "volume": (),
}


@dataclass(frozen=True)
class Entry:
    """One thing that can be opened."""

    id: str
    kind: Kind
    name: str  # as a person would type it
    path: Path
    modified: float  # seconds since 1970
    numbers: Mapping[str, tuple[float, str]] = field(default_factory=dict)  # label -> value, unit
    picture: Path | None = None
    problem: str = ""  # what is wrong with it, a sentence

    def to_json(self) -> dict[str, Any]:
        """What a browser is told: everything but where the files lie."""
        told = {k: v for k, v in asdict(self).items() if k not in ("path", "picture")}
        return told | {"has_picture": self.picture is not None}


class Catalogue:
    """Everything below some folders (or files), found anew each time it is asked."""

    def __init__(self, places: Sequence[str | Path]) -> None:
        """``places``: folders that are searched, runs, results or volumes themselves, and
        ``bundled:NAME``, a prior of the package.
        """
        self.places = tuple(places)
        self._known: dict[str, Entry] = {}
        self._entered: dict[str, Entry] = {}

    def enter(self, kind: Kind, path: Path) -> str:
        """The id of something that no search of the places finds, such as a part of an ablation."""
        entry = _entry(kind, path, path.parent, read=lambda _: ({}, ""))
        self._entered[entry.id] = entry
        return entry.id

    def entries(self) -> list[Entry]:
        """What is there now, the newest first; priors of the package last."""
        found: dict[str, Entry] = {}
        for place in self.places:
            for entry in _below(place):
                found.setdefault(entry.id, entry)
        self._known = found
        return sorted(found.values(), key=lambda e: (_is_bundled(e.path), -e.modified, e.name))

    def __getitem__(self, id: str) -> Entry:
        """The entry of this id; a :class:`UserError` where there is none (any more)."""
        if id in self._entered:
            return self._entered[id]
        if id not in self._known:
            self.entries()
        if id not in self._known:
            raise UserError(
                "got an address of something that is not there",
                "wanted a run, a result or a prior of the list",
                "go back to Runs and choose again",
            )
        return self._known[id]

    def file(self, id: str, name: str) -> Path:
        """A file of an entry by its relative name, whose real path lies inside the entry."""
        home = self[id].path
        path = home if home.is_file() and name == home.name else home / name
        real, inside = path.resolve(), home.resolve()
        if not (real == inside or inside in real.parents) or not real.is_file():
            raise UserError(
                f"got file '{name}', which '{self[id].name}' does not have",
                "wanted one of its own files",
                "choose another",
            )
        return real


def _is_bundled(path: Path) -> bool:
    return path.parent == BUNDLED


def identity(path: Path) -> str:
    """A short name for a path, the same each time.

    >>> identity(Path("/a")) == identity(Path("/a/b/.."))
    True
    """
    return blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()


def _below(place: str | Path) -> Iterator[Entry]:
    """Every entry at or below a place."""
    if str(place).split(":")[0] == "bundled":
        yield from _bundled(str(place).partition(":")[2])
        return
    path = Path(place)
    if path.is_file():
        yield _entry("volume", path, path.parent)
    elif path.is_dir():
        yield from _search(path, path, 0)


def _search(folder: Path, top: Path, depth: int) -> Iterator[Entry]:
    kind = kind_of(folder)
    if kind is not None:
        yield _entry(kind, folder, top.parent if depth == 0 else top)
    if depth >= DEEPEST or kind == "result":
        return
    try:
        children = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    except OSError:
        return
    for child in children:
        if not child.name.startswith((".", "snapshot-")):
            yield from _search(child, top, depth + 1)


def kind_of(folder: Path) -> Kind | None:
    """What a folder holds, by the files that are there; None for any other folder."""

    def has(*names: str) -> bool:
        return all((folder / name).exists() for name in names)

    if has("config.yaml"):
        return "scene" if known_run(folder).is_scene else "prior"
    if has("metrics.json") and (has("orbit") or has("volume.nii.gz")):
        return "result"
    if has("metrics.json") and (has("per_patient.csv") or has("per_view.csv")):
        return "evaluation"
    if has("table.md") or next(folder.glob("*/*/seed*/cell.json"), None):
        return "ablation"
    return None


def _bundled(only: str) -> Iterator[Entry]:
    for name in bundled_names():
        if only in ("", name):
            path = BUNDLED / f"{name}.safetensors"
            yield _entry("prior", path, path.parent, name=f"bundled:{name}", read=_bundled_numbers)


def _bundled_numbers(path: Path) -> Found:
    meta = find_prior(f"bundled:{path.stem}").meta
    return _of_snapshot(meta), ""


def _of_snapshot(meta: Mapping[str, Any]) -> dict[str, Any]:
    patients = meta.get("patients")
    return {"step": meta.get("step"), "patients": len(patients) if patients else None}


def known_run(folder: Path) -> Run:
    """A run folder as it is now, read again only when a file of it has changed."""
    there = set()
    with os.scandir(folder) as files:
        for file in files:
            with suppress(FileNotFoundError):  # a training renames what it has written
                stat = file.stat()
                there.add((file.name, stat.st_mtime_ns, stat.st_size))
    return _run_with(folder, frozenset(there))


@lru_cache(maxsize=1024)
def _run_with(folder: Path, files: frozenset[tuple[str, int, int]]) -> Run:
    return read_run(folder)


def _run_numbers(folder: Path) -> Found:
    """The numbers of a run as far as it came, and what is damaged in it."""
    run = known_run(folder)
    done = {"step": run.step or run.metrics.get("steps"), "planned": run.steps}
    return {**_of_snapshot(run.meta), **run.metrics, **done}, " ".join(run.remarks)


def _result_numbers(folder: Path) -> Found:
    path = folder / "metrics.json"
    if not path.is_file():
        return {}, ""
    try:
        return read_json(path), ""
    except UserError as error:
        return {}, str(error)


def read_json(path: Path) -> dict[str, Any]:
    """A file of a result that holds an object in JSON; what is wrong with it is a UserError."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
    else:
        if isinstance(values, dict):
            return values
        reason = f"it holds a {type(values).__name__}"
    raise UserError(
        f"got '{path.name}', which cannot be read ({reason})",
        "wanted an object in JSON",
        "make this result again",
    )


def _entry(
    kind: Kind,
    path: Path,
    top: Path,
    *,
    name: str = "",
    read: Callable[[Path], Found] | None = None,
) -> Entry:
    read = read or (_run_numbers if kind in ("prior", "scene") else _result_numbers)
    values, problem = read(path)
    numbers = {
        label: (number, unit)
        for label, (where, unit) in NUMBERS[kind].items()
        if (number := number_at(values, where)) is not None
    }
    return Entry(
        id=identity(path),
        kind=kind,
        name=name or path.relative_to(top).as_posix(),
        path=path,
        modified=path.stat().st_mtime,
        numbers=numbers,
        picture=_picture(kind, path),
        problem=problem,
    )


def _picture(kind: Kind, path: Path) -> Path | None:
    if not path.is_dir():
        beside = path.with_suffix(".png")
        return beside if beside.is_file() else None
    for pattern in PICTURES[kind]:
        if found := sorted(path.glob(pattern)):
            return found[-1]
    return None


def number_at(values: Mapping[str, Any], where: str) -> float | None:
    """The finite number under a dotted name.

    >>> number_at({"ssim": {"mean": 0.5}}, "ssim.mean"), number_at({"ssim": None}, "ssim")
    (0.5, None)
    """
    value: Any = values
    for name in where.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
