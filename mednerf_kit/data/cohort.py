"""Cohorts of phantoms: patients by the dozen, split into train, val and test.

A cohort is a set of patients' folders (``drr.py``) with ``geometry.json`` and ``split.json`` at its
root. Sets are read in ``orbits.py``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ..core import files
from ..core.errors import UserError
from ..core.memory import check_views_room
from ..imaging import phantoms
from ..imaging.film import film_options
from ..imaging.geometry import Geometry
from ..imaging.volume import files_at_hand
from .drr import (
    check_phantom_room,
    default_geometry,
    expose,
    film_record,
    phantom_fingerprint,
    phantom_name,
    phantom_volume,
    render_orbit,
    write_patient,
)
from .xray_setup import stored_geometry

T = TypeVar("T")
AT_ONCE = min(4, os.cpu_count() or 1)  # phantoms that are made at a time
FIRST_SEED = {"train": 0, "val": 10000, "test": 20000}
#: Patients of the cohorts that --dataset chest and --dataset knee mean, unless a recipe says
#: otherwise.
COHORT = {"train": 48, "val": 8, "test": 8}


def make_cohort(
    anatomy: str,
    *,
    patients: int,
    out: str | Path,
    seed: int = 0,
    views: int = 72,
    size: int = 128,
    film: str | None = None,
    progress: bool = True,
) -> Path:
    """Make a cohort of phantoms, or complete an interrupted one; returns its folder.

    Seeds count from ``seed`` on; :func:`split_patients` splits the patients. With ``film`` the
    views are exposed as that film of the bank (``imaging/film``); such a set has no scale.

    Raises UserError for an unknown anatomy and for a folder that holds anything but an unfinished
    cohort of the same geometry.
    """
    geometry = default_geometry(anatomy).resized(size).orbit(views)
    if patients < 1:
        raise UserError(f"got {patients} patients", "wanted at least one", "correct --patients")
    if film is not None:
        film_options(film)
    stored = stored_geometry(geometry, film)
    root = Path(out)
    unfinished = (root / "geometry.json").is_file() and not (root / "split.json").exists()
    if (
        root.exists()
        and any(root.iterdir())
        and not (unfinished and Geometry.from_json(root / "geometry.json") == stored)
    ):
        raise UserError(
            f"got folder '{root}', which is not empty", "wanted a new one", "choose another --out"
        )
    seeds = range(seed, seed + patients)
    _fill(root, anatomy, seeds, geometry, film=film, progress=progress)
    files.write_json(
        root / "split.json", split_patients([phantom_name(anatomy, s) for s in seeds], seed=seed)
    )
    return root


def phantom_cohort(
    anatomy: str,
    *,
    train: int = COHORT["train"],
    val: int = COHORT["val"],
    test: int = COHORT["test"],
    size: int = 128,
    views: int = 72,
    progress: bool = True,
) -> tuple[Path, dict[str, list[str]]]:
    """The folder of a cached cohort and the patients' names by split; missing phantoms are made.

    Seeds count from 0 (train), 10000 (val) and 20000 (test). The folder is keyed by the phantoms'
    version, size and views; it grows with the largest cohort asked for, so the names returned, not
    its ``split.json``, say who belongs to this one.
    """
    geometry = default_geometry(anatomy).resized(size).orbit(views)
    if max(train, val, test) > FIRST_SEED["val"]:
        raise UserError(
            f"got a cohort of {max(train, val, test)} patients",
            f"wanted at most {FIRST_SEED['val']} in a split",
            "seeds of the next split begin there",
        )
    root = cache_dir() / f"phantoms-{phantoms.VERSION}" / f"{anatomy}-{size}px-{views}views"
    seeds = {
        part: range(FIRST_SEED[part], FIRST_SEED[part] + count)
        for part, count in zip(FIRST_SEED, (train, val, test), strict=True)
    }
    split = {part: [phantom_name(anatomy, seed) for seed in some] for part, some in seeds.items()}
    wanted = [seed for some in seeds.values() for seed in some]
    if _fill(root, anatomy, wanted, geometry, progress=progress):
        files.write_json(root / "split.json", _split_by_seed(root, anatomy))
    return root, split


def _split_by_seed(root: Path, anatomy: str) -> dict[str, list[str]]:
    """The split of all phantoms that a cached set holds, by the range their seeds lie in."""
    made = sorted(int(path.name[-5:]) for path in root.glob(f"{anatomy}-?????"))
    ends = [*sorted(FIRST_SEED.values())[1:], 100000]
    return {
        split: [phantom_name(anatomy, seed) for seed in made if first <= seed < end]
        for (split, first), end in zip(FIRST_SEED.items(), ends, strict=True)
    }


def split_patients(patients: Iterable[str], *, seed: int = 0) -> dict[str, list[str]]:
    """Patients dealt at random to train, val and test.

    A quarter goes to test (at least one of two), an eighth to val from eight patients on, the
    rest to train.

    >>> {k: len(v) for k, v in split_patients([f"{i:02d}" for i in range(16)]).items()}
    {'train': 10, 'val': 2, 'test': 4}
    """
    names = sorted(patients)
    test = max(1, round(len(names) / 4)) if len(names) > 1 else 0
    val = round(len(names) / 8) if len(names) >= 8 else 0
    dealt = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return {
        "train": sorted(dealt[test + val :]),
        "val": sorted(dealt[test : test + val]),
        "test": sorted(dealt[:test]),
    }


def cache_dir() -> Path:
    """Folder of the caches: $MEDNERF_KIT_CACHE, else mednerf-kit in $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("MEDNERF_KIT_CACHE")
    return (
        Path(named).expanduser()
        if named
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mednerf-kit"
    )


def _fill(
    root: Path,
    anatomy: str,
    seeds: Iterable[int],
    geometry: Geometry,
    *,
    film: str | None = None,
    progress: bool,
) -> int:
    """Make the patients of these seeds that a set lacks; returns how many."""
    missing = [
        seed
        for seed in seeds
        if not (root / phantom_name(anatomy, seed) / "patient.json").is_file()
    ]

    if missing:
        check_phantom_room(geometry.cols, at_once=min(AT_ONCE, len(missing)))
        check_views_room(geometry.views, geometry.rows, geometry.cols)
    if not (root / "geometry.json").is_file():
        stored_geometry(geometry, film).save(root / "geometry.json")

    def make(seed: int) -> None:
        volume = phantom_volume(anatomy, seed, geometry.cols)
        pictures, scale = render_orbit(volume, geometry), geometry.line_integral_scale
        record = {
            "identity": phantom_fingerprint(anatomy, seed),
            "made_from": f"phantom:{anatomy}:{seed}",
            "version": phantoms.VERSION,
            "mu_water_per_mm": volume.mu_water_per_mm,
        }
        if film is not None:
            record["film"] = film_record(film, geometry)
            pictures = expose(film, volume, pictures, geometry, str(record["identity"]))
            scale = 1.0
        write_patient(
            root / phantom_name(anatomy, seed),
            pictures,
            scale=scale,
            volume=volume if files_at_hand() else None,
            record=record,
        )

    pool = ThreadPoolExecutor(AT_ONCE, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for _ in reported(
            pool.map(make, missing),
            len(missing),
            f"{anatomy} phantoms into {root}" if progress else None,
        ):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt ends with the patients in hand
    return len(missing)


def reported(done: Iterable[T], total: int, what: str | None) -> Iterator[T]:
    """The items of ``done`` under a progress bar; without a terminal, a line at every quarter."""
    if what and sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(done, desc=what, total=total, unit="patient")
        return
    for count, item in enumerate(done, 1):
        yield item
        if what and count * 4 // total > (count - 1) * 4 // total:
            print(f"{what}: {count} of {total}", file=sys.stderr, flush=True)
