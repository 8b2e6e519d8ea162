"""Compares two recordings of `same_results.py`, number by number.

Read are the tensors and metadata of snapshots, volumes and their grids, pictures, and every number
in JSON, JSON lines, CSV and NumPy files. Not read: times and memory, recipes (their words may
change), logs, pages and videos (they show the same pictures).

A name that only B has is noted. A name that only A has is a fault, unless a new name of B holds its
values. So a tensor may be renamed without a table of old and new names: weights after thirty steps
are unlike any others of their shape, and the remarks say what became what.

Equal is equal to the last bit. Rounding is a difference of at most `--rtol` of the largest number
of an array, of four times what other rounding did to this row where that was recorded (2 % at most:
thirty steps of a GAN can turn rounding into anything, and then only equality proves something), of
a grey level in pictures, or of one in the last decimal written. Whole numbers must be equal.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

READ = (".safetensors", ".gz", ".png", ".npy", ".npz", ".json", ".jsonl", ".csv")
VARYING = re.compile(r"second|_mib$|^recipe$")  # keys that differ from run to run
AMPLE = 4.0  # times the difference that other rounding made,
MOST = 0.02  # but above this a row proves nothing
SAMPLED = ("phantoms-*", "scenes")  # folders of the cache: what cases learn from

Arrays = dict[str, np.ndarray]
Rows = defaultdict[str, "Difference"]  # by quantity
Rtols = defaultdict[str, float]  # by quantity


@dataclass
class Difference:
    """Of all arrays of a quantity: the largest ones, and where."""

    arrays: int = 0
    absolute: float = 0.0
    relative: float = 0.0  # to the largest number of the array in A
    excess: float = -1.0  # share of what rounding allows; a fault above 1
    worst: str = ""
    remarks: list[str] = field(default_factory=list)

    def add(self, name: str, a: np.ndarray, b: np.ndarray, allowed: float) -> None:
        """Take in a pair of arrays."""
        absolute, relative = difference(a, b)
        excess = absolute / allowed if allowed else math.inf if absolute else 0.0
        if excess > self.excess:
            self.excess, self.worst = excess, name
        self.arrays += 1
        self.absolute, self.relative = max(self.absolute, absolute), max(self.relative, relative)

    def lack(self, what: str) -> None:
        """Take in that something of A is missing from B."""
        self.excess = math.inf
        self.remarks.append(f"lost {what}")

    def join(self, other: Difference) -> None:
        """Take in what another one has."""
        if other.excess > self.excess:
            self.excess, self.worst = other.excess, other.worst
        self.arrays += other.arrays
        self.absolute = max(self.absolute, other.absolute)
        self.relative = max(self.relative, other.relative)
        self.remarks += other.remarks

    @property
    def verdict(self) -> str:
        """In one word."""
        return "DIFFERENT" if self.excess > 1 else "rounding" if self.absolute else "equal"

    def __str__(self) -> str:
        where = (
            [f"most in {self.worst}"] if self.absolute and self.worst and self.arrays > 1 else []
        )
        more = [f"and {len(self.remarks) - 4} more"] if len(self.remarks) > 5 else []
        remarks = "; ".join(where + (self.remarks[:4] + more if more else self.remarks))
        numbers = f"{self.arrays:6d} {self.absolute:9.2g} {self.relative:9.2g}"
        return f"{numbers} {self.verdict:9s} {remarks}".rstrip()


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Largest absolute difference, and its share of the largest |a|; nan equals nan."""
    if a.shape != b.shape:
        return math.inf, math.inf
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0.0, np.abs(x - y))
    absolute = float(np.nan_to_num(apart, nan=math.inf, posinf=math.inf).max(initial=0.0))
    return absolute, absolute and absolute / max(largest(a), 1e-300)


def largest(a: np.ndarray) -> float:
    """The largest finite |a|."""
    return float(np.abs(np.nan_to_num(a.astype(np.float64), posinf=0, neginf=0)).max(initial=0.0))


def allowed(suffix: str, a: np.ndarray, rtol: float) -> float:
    """How far apart two arrays of a file of this kind may lie: not at all where ``rtol`` is 0."""
    if not rtol:
        return 0.0
    if suffix == ".png":
        return 1 + rtol * largest(a)
    if a.dtype.kind != "f":
        return 0.0
    last = 0.0
    if suffix in (".json", ".csv"):
        written = [Decimal(repr(x)).as_tuple().exponent for x in a.ravel().tolist()]
        decimals = max((-e for e in written if isinstance(e, int)), default=0)
        last = 1.01 * 10.0**-decimals if decimals >= 3 else 0.0
    return rtol * largest(a) + last


def arrays_of(path: Path) -> Arrays:
    """All numbers of a file by name."""
    if path.suffix == ".safetensors":
        return tensors_of(path)
    if path.suffix == ".gz":
        import SimpleITK

        image = SimpleITK.ReadImage(str(path))
        grid = (*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())
        return {"voxels": SimpleITK.GetArrayFromImage(image), "grid": np.array(grid)}
    if path.suffix == ".png":
        import imageio.v3 as imageio

        return {path.name: np.asarray(imageio.imread(path))}
    if path.suffix == ".npy":
        return {path.name: np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        whole = np.load(path, allow_pickle=False)
        return {name: whole[name] for name in whole if whole[name].dtype.kind in "fiub"}
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return dict(numbers_in(json.loads(text)))
    if path.suffix == ".jsonl":
        return columns([json.loads(line) for line in text.splitlines()])
    return columns(
        [{k: number(v) for k, v in r.items()} for r in csv.DictReader(text.splitlines())]
    )


def tensors_of(path: Path) -> Arrays:
    """Tensors of a safetensors file, and the numbers of its metadata under ``meta``."""
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        meta = json.loads((file.metadata() or {}).get("meta", "{}"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    exact = {name: t.double() if t.dtype == torch.bfloat16 else t for name, t in tensors.items()}
    return {name: t.numpy() for name, t in exact.items()} | dict(numbers_in({"meta": meta}))


def number(text: str) -> float | str:
    """A cell of a table."""
    try:
        return float(text)
    except ValueError:
        return text


def columns(rows: list[dict[str, Any]]) -> Arrays:
    """Numbers of a table by column."""
    names = [key for key in {k: None for row in rows for k in row} if not VARYING.search(key)]
    cells = {
        key: [row[key] for row in rows if isinstance(row.get(key), (int, float))] for key in names
    }
    return {key: np.array(found) for key, found in cells.items() if found}


def numbers_in(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Numbers in JSON by their path; a list of numbers is one array."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not VARYING.search(key):
                yield from numbers_in(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and not all(isinstance(x, (int, float)) for x in value):
        for i, inner in enumerate(value):
            yield from numbers_in(inner, f"{path}[{i}]")
    elif isinstance(value, (int, float, list)):
        yield path, np.array(value)


def renamed(lost: Arrays, new: Arrays, suffix: str) -> dict[str, str]:
    """The new name of each lost one: that of the nearest values of its shape.

    Every tensor has one; numbers of text only where they vary, or all zeros would be alike.
    """
    found: dict[str, str] = {}
    for name, a in lost.items():
        tensor = suffix == ".safetensors" and not name.startswith("meta.")
        free = [k for k, b in new.items() if b.shape == a.shape and k not in found.values()]
        if free and (tensor or (a.size > 1 and a.min() < a.max())):
            ending = {k: len(os.path.commonprefix([k[::-1], name[::-1]])) for k in free}
            found[name] = min(free, key=lambda k: (difference(a, new[k])[0], -ending[k]))
    return found


def what_became(names: Mapping[str, str]) -> list[str]:
    """Renamings, counted, without the ending that both names share."""
    told: Counter[str] = Counter()
    for old, new in names.items():
        a, b = old.split("."), new.split(".")
        while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
            del a[-1], b[-1]
        told[f"{'.'.join(a)} is now {'.'.join(b)}"] += 1
    return [f"{text} ({n})" for text, n in told.items()]


def compare_files(label: str, a: Path, b: Path, rtols: Rtols, renames: Sequence[str]) -> Rows:
    """Rows of one file; a snapshot has one for each first word of its tensors' names."""
    rows: Rows = defaultdict(Difference)
    if a.suffix in (".png", ".gz", ".npy", ".npz") and a.read_bytes() == b.read_bytes():
        rows[label].arrays += 1
        return rows
    ours, theirs = arrays_of(a), arrays_of(b)
    for old, new in (pair.split("=") for pair in renames):
        ours = {name.replace(old, new): array for name, array in ours.items()}
    lost = {name: array for name, array in ours.items() if name not in theirs}
    gained = {name: array for name, array in theirs.items() if name not in ours}
    names = renamed(lost, gained, a.suffix)
    for name, array in ours.items():
        key = f"{label} {name.split('.')[0]}" if a.suffix == ".safetensors" else label
        if name in lost and name not in names:
            rows[key].lack(name)
        else:
            other = theirs[names.get(name, name)]
            rows[key].add(name, array, other, allowed(a.suffix, array, rtols[key]))
    remarks = what_became(names) + [f"new {k}" for k in gained if k not in names.values()]
    if remarks:
        rows[label].remarks += remarks
    return rows


def files_of(case: str, root: Path) -> dict[Path, Path]:
    """Files of a case that hold numbers, by their path in it."""
    home = root / ("cache" if case == "phantoms" else case)
    folders = (
        [p for pattern in SAMPLED for p in home.glob(pattern)] if case == "phantoms" else [home]
    )
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in READ)
    return {path.relative_to(home): path for path in paths}


def label_of(case: str, path: Path) -> str:
    """The quantity a file belongs to: pictures of a folder are one, as are phantoms of a set."""
    if case == "phantoms":
        return f"{'/'.join(path.parts[:2])} *{path.suffix}"
    many = path.suffix in (".png", ".npy")
    name = f"{path.parent}/*{path.suffix}" if many else str(path)
    return re.sub(r"^(out|runs/[^/]+)/", "", name).removeprefix("./")


def compare_case(case: str, a: Path, b: Path, rtols: Rtols, renames: Sequence[str]) -> Rows:
    """Rows of all files of a case, or of ``phantoms``, in two recordings."""
    rows: Rows = defaultdict(Difference)
    ours, theirs = files_of(case, a), files_of(case, b)
    if not ours:
        rows["(all)"].lack("everything")
    for path, file in ours.items():
        label = label_of(case, path)
        if path not in theirs:
            rows[label].lack(str(path))
            continue
        for key, row in compare_files(label, file, theirs[path], rtols, renames).items():
            rows[key].join(row)
    for path in sorted(set(theirs) - set(ours)):
        rows[label_of(case, path)].remarks.append(f"new {path}")
    return rows


def compare(
    a: Path,
    b: Path,
    cases: Sequence[str],
    rtol: float,
    rounding: Path | None,
    renames: Sequence[str],
) -> int:
    """Print a row for each case and quantity; how many are different."""
    recorded = [json.loads((r / "recording.json").read_text(encoding="utf-8")) for r in (a, b)]
    verdicts: Counter[str] = Counter()
    print(f"{'case':18s} {'quantity':40s} arrays  absolute  relative verdict   remarks")
    for case in cases:
        rtols: Rtols = defaultdict(lambda: rtol)
        for key, row in compare_case(case, a, rounding, rtols, []).items() if rounding else ():
            rtols[key] = max(rtol, min(AMPLE * row.relative, MOST))
        rows = compare_case(case, a, b, rtols, renames)
        for name, found in zip("AB", recorded, strict=True):
            if case != "phantoms" and case not in found:
                rows["(all)"].lack(f"from {name}")
        for key, row in rows.items():
            verdicts[row.verdict] += 1
            print(f"{case:18s} {key:40s} {row}")
    print(", ".join(f"{n} rows {verdict}" for verdict, n in verdicts.items()))
    return verdicts["DIFFERENT"]
