"""Sets out: a CT or a phantom becomes an orbit of DRRs, phantoms by the dozen a cohort. Sets are
read in ``orbits.py``.

Written: ``PATIENT/xray_000.png …`` (16-bit, value = line integral / scale), ``patient.json`` (what
the patient was made from), ``volume.nii.gz`` (what was projected, in HU, the isocentre at the
origin) and on request ``xray_000.npy …`` (line integrals); ``geometry.json`` and, for cohorts,
``split.json`` at the root. A patient's folder is whole or absent.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..core import files
from ..core.errors import RunError, UserError, unknown_name
from ..core.resampling import area_resized
from ..imaging import phantoms
from ..imaging.geometry import DEFAULTS, Geometry
from ..imaging.projector import project_volume
from ..imaging.volume import AIR, Volume, files_at_hand, read_volume, write_volume

FIRST_SEED = {"train": 0, "val": 10000, "test": 20000}
#: Patients of the cohorts that --dataset chest and --dataset knee mean, unless a recipe says
# otherwise.
COHORT = {"train": 48, "val": 8, "test": 8}


@dataclass(frozen=True)
class Drr:
    """A patient's folder in a set that was just made, its geometry, and what was assumed."""

    folder: Path
    geometry: Geometry
    notes: tuple[str, ...]


def render_orbit(
    volume: Volume,
    geometry: Geometry,
    *,
    isocentre_mm: Sequence[float] | None = None,
    supersample: int = 1,
) -> Tensor:
    """Line integrals [V, rows, cols] of a volume at the geometry's angles, by the Joseph projector.

    mu is that of :meth:`Volume.to_mu`. ``isocentre_mm`` is in the volume's LPS coordinates and
    defaults to its centre; ``supersample``² rays are averaged over each pixel.
    """
    volume = volume.aligned().to_mu()
    away = (
        [0.0] * 3
        if isocentre_mm is None
        else [c - i for c, i in zip(volume.centre_mm, isocentre_mm, strict=True)]
    )
    fine = geometry.resized(geometry.cols * supersample)
    integrals = project_volume(volume.values, volume.spacing_mm, fine, centre_mm=away)
    return integrals if supersample == 1 else area_resized(integrals, geometry.rows, geometry.cols)


def make_drr(
    ct: str,
    *,
    out: str | Path,
    views: int = 72,
    size: int = 128,
    geometry: Geometry | None = None,
    source_to_isocentre_mm: float | None = None,
    source_to_detector_mm: float | None = None,
    pixel_mm: float | None = None,
    detector_mm: float | None = None,
    offset_mm: tuple[float, float] | None = None,
    axis: Literal["x", "y", "z"] | None = None,
    tilt_deg: float | None = None,
    start_deg: float = 0.0,
    direction: int = 1,
    isocentre_mm: tuple[float, float, float] | None = None,
    line_integral_scale: float | None = None,
    autoscale: Literal["set", "view"] = "set",
    mask_table: bool = False,
    float_arrays: bool = False,
    mu_water_per_mm: float = 0.0205,
    air_below_hu: float | None = None,
    supersample: int = 1,
    patient_name: str | None = None,
) -> Drr:
    """DRRs of one CT (a volume file or a DICOM folder) or of ``phantom:chest:SEED``, as a patient
    of the set ``out``.

    The set-up is ``geometry``, else the default of the anatomy (guessed from the name, chest if it
    tells nothing), with the options given in its place; ``detector_mm`` is the detector's side,
    instead of ``pixel_mm``. A geometry with angles keeps them, else ``views`` of them follow
    ``start_deg`` in ``direction``. A set holds one geometry and one scale: further patients may
    join an existing set whose ``geometry.json`` is the same. ``autoscale="view"`` stretches each
    view to its own maximum instead, as the published sets do (which also count −800 HU and less as
    air: ``air_below_hu``). ``mask_table`` applies :func:`body_only` first.

    Raises UserError for a CT that cannot be read, an impossible set-up, and a folder that is taken.
    """
    if autoscale not in ("set", "view"):
        raise unknown_name("autoscale", autoscale, ("set", "view"))
    anatomy, seed = _phantom_name(ct)
    notes = []
    if anatomy is None:
        anatomy = next((name for name in DEFAULTS if name in Path(ct).name.lower()), "chest")
        if geometry is None:
            notes.append(f"set-up: the {anatomy} default, with the options given in its place")
    base = geometry or DEFAULTS[anatomy]
    if detector_mm is not None:
        if pixel_mm is not None:
            raise UserError(
                "got both a detector side and a pixel pitch", "wanted one of them", "leave one out"
            )
        pixel_mm = detector_mm / size
    changes: dict[str, Any] = {
        "source_to_isocentre_mm": source_to_isocentre_mm,
        "source_to_detector_mm": source_to_detector_mm,
        "offset_mm": offset_mm,
        "axis": axis,
        "tilt_deg": tilt_deg,
        "pixel_mm": pixel_mm,
        "line_integral_scale": line_integral_scale,
    }
    base = replace(
        base.resized(size), **{name: value for name, value in changes.items() if value is not None}
    )
    base = (
        base
        if geometry and geometry.views
        else base.orbit(views, start_deg=start_deg, direction=direction)
    )
    if autoscale == "view":
        base = replace(base, line_integral_scale=None)
    elif base.line_integral_scale is None:
        base = replace(base, line_integral_scale=DEFAULTS[anatomy].line_integral_scale)
    name = patient_name or (_seed_name(anatomy, seed) if seed is not None else _stem(Path(ct)))
    folder = _place(Path(out), name, base)

    volume = read_volume(ct) if seed is None else phantom_volume(anatomy, seed, size)
    identity = _phantom_identity(anatomy, seed) if seed is not None else ct_identity(volume)
    volume = (
        replace(volume, mu_water_per_mm=mu_water_per_mm).to_mu(air_below_hu=air_below_hu).to_hu()
    )
    if mask_table:
        volume = body_only(volume)
    isocentre = list(isocentre_mm or volume.centre_mm)
    integrals = render_orbit(volume, base, isocentre_mm=isocentre, supersample=supersample)
    notes += _clipping(integrals, base.line_integral_scale)
    record = {
        "identity": identity,
        "made_from": Path(ct).name,
        "isocentre_mm": isocentre,
        "mu_water_per_mm": mu_water_per_mm,
        "air_below_hu": air_below_hu,
        "mask_table": mask_table,
        "supersample": supersample,
    }
    base.save(folder.parent / "geometry.json")
    write_patient(
        folder,
        integrals,
        scale=base.line_integral_scale,
        record=record,
        float_arrays=float_arrays,
        volume=_kept(volume, base, isocentre),
    )
    return Drr(folder, base, tuple(notes))


def make_cohort(
    anatomy: str,
    *,
    patients: int,
    out: str | Path,
    seed: int = 0,
    views: int = 72,
    size: int = 128,
    progress: bool = True,
) -> Path:
    """A cohort of phantoms with seeds from ``seed`` on, split by :func:`split_patients`; an
    interrupted one is completed.

    Raises UserError for an unknown anatomy and for a folder that holds anything but an unfinished
    cohort of the same geometry.
    """
    geometry = _default(anatomy).resized(size).orbit(views)
    if patients < 1:
        raise UserError(f"got {patients} patients", "wanted at least one", "correct --patients")
    root = Path(out)
    unfinished = (root / "geometry.json").is_file() and not (root / "split.json").exists()
    if (
        root.exists()
        and any(root.iterdir())
        and not (unfinished and Geometry.from_json(root / "geometry.json") == geometry)
    ):
        raise UserError(
            f"got folder '{root}', which is not empty", "wanted a new one", "choose another --out"
        )
    geometry.save(root / "geometry.json")
    seeds = range(seed, seed + patients)
    _fill(root, anatomy, seeds, geometry, progress=progress)
    files.write_json(
        root / "split.json", split_patients([_seed_name(anatomy, s) for s in seeds], seed=seed)
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
    """The cached phantoms of these numbers, made where they are missing: the set's folder and the
    patients of each split.

    Seeds count from 0 (train), 10000 (val) and 20000 (test). The folder is keyed by the phantoms'
    version, size and views; it grows with the largest cohort asked for, so the names returned, not
    its ``split.json``, say who belongs to this one.
    """
    geometry = _default(anatomy).resized(size).orbit(views)
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
    split = {part: [_seed_name(anatomy, seed) for seed in some] for part, some in seeds.items()}
    if not (root / "geometry.json").is_file():
        geometry.save(root / "geometry.json")
    if _fill(
        root,
        anatomy,
        [seed for some in seeds.values() for seed in some],
        geometry,
        progress=progress,
    ):
        made = sorted(int(path.name[-5:]) for path in root.glob(f"{anatomy}-?????"))
        starts = sorted(FIRST_SEED.values()) + [100000]
        parts = {
            part: [s for s in made if start <= s < starts[starts.index(start) + 1]]
            for part, start in FIRST_SEED.items()
        }
        files.write_json(
            root / "split.json",
            {part: [_seed_name(anatomy, s) for s in some] for part, some in parts.items()},
        )
    return root, split


def split_patients(patients: Iterable[str], *, seed: int = 0) -> dict[str, list[str]]:
    """Patients dealt to train, val and test: 1/4 test (at least one of two), 1/8 val from eight
    patients on, the rest train.

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
    """Where phantom cohorts are kept: $MEDNERF_KIT_CACHE, else ``mednerf-kit`` in $XDG_CACHE_HOME
    or ~/.cache.
    """
    named = os.environ.get("MEDNERF_KIT_CACHE")
    return (
        Path(named).expanduser()
        if named
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mednerf-kit"
    )


def body_only(volume: Volume) -> Volume:
    """The volume with everything but the patient set to air: without the CT's table, cushions and
    clothes.

    On a grid of about 3 mm: voxels above −400 HU, opened by a ball of 6 mm (which takes sheets such
    as a table's off), the largest connected piece, grown back by 9 mm and filled slice by slice
    across z (lungs, bowel).
    """
    from scipy import ndimage

    volume = volume.aligned().to_hu()
    steps = [max(1, round(3.0 / spacing)) for spacing in volume.spacing_mm[::-1]]
    voxel_mm = [
        step * spacing for step, spacing in zip(steps, volume.spacing_mm[::-1], strict=True)
    ]
    dense = volume.values[:: steps[0], :: steps[1], :: steps[2]].numpy() > -400
    opened = ndimage.binary_opening(np.pad(dense, 4, mode="edge"), _ball(6.0, voxel_mm))[
        4:-4, 4:-4, 4:-4
    ]
    labels, count = ndimage.label(opened)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=2)[1:])
    body = ndimage.binary_dilation(largest, _ball(9.0, voxel_mm))
    body = np.stack([ndimage.binary_fill_holes(piece) for piece in body])
    if not count or 2 * (dense & body).sum() < dense.sum():
        raise UserError(
            "got a CT in which no body was found",
            "wanted most voxels above -400 HU in one solid piece",
            "leave the table in",
        )
    for dim, (step, n) in enumerate(zip(steps, volume.shape, strict=True)):
        body = body.repeat(step, dim).take(range(n), dim)
    return replace(volume, values=volume.values.masked_fill(~torch.from_numpy(body), AIR["hu"]))


def _ball(radius_mm: float, voxel_mm: Sequence[float]) -> np.ndarray:
    """The voxels within a radius, as a structuring element."""
    reach = [math.floor(radius_mm / v) for v in voxel_mm]
    z, y, x = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    return (z * voxel_mm[0]) ** 2 + (y * voxel_mm[1]) ** 2 + (x * voxel_mm[2]) ** 2 <= radius_mm**2


def phantom_volume(anatomy: str, seed: int, size: int) -> Volume:
    """The patient of this seed on a cube of ``size`` voxels a side, in HU, the isocentre at its
    centre.
    """
    values, spacing_mm = phantoms.phantom(anatomy, seed).voxelise(size)
    return Volume.centred(values.round(), spacing_mm, "hu")


def _kept(volume: Volume, geometry: Geometry, isocentre_mm: Sequence[float]) -> Volume:
    """What was projected, about the isocentre and no finer than the pixels see it."""
    volume = volume.aligned()
    affine = volume.affine.copy()
    affine[:3, 3] -= isocentre_mm
    volume = replace(volume, affine=affine)
    pixel_mm = 2 * geometry.half_width_mm / geometry.cols
    if min(volume.spacing_mm) < 0.8 * pixel_mm:
        volume = volume.resampled(
            spacing_mm=[max(pixel_mm, spacing) for spacing in volume.spacing_mm]
        )
    return replace(volume, values=volume.values.round())  # whole numbers take a third of the disk


def ct_identity(volume: Volume) -> str:
    """A mark by which DRRs of the same CT are recognised, whatever the view, size or scale."""
    voxels = volume.values.round().to(torch.int16).contiguous().numpy()
    return f"ct:{blake2b(voxels.tobytes(), digest_size=12).hexdigest()}"


def write_patient(
    folder: Path,
    integrals: Tensor,
    *,
    scale: float | None,
    record: Mapping[str, Any],
    volume: Volume | None = None,
    float_arrays: bool = False,
) -> None:
    """Write line integrals [V, rows, cols] as a patient's folder, whole or not at all; without a
    scale each view has its own.
    """
    from PIL import Image

    top = integrals.amax((1, 2), keepdim=True).clamp_min(1e-6) if scale is None else scale
    stored = (
        ((integrals / top).clamp(0, 1) * 65535).round().to(torch.int32).numpy().astype(np.uint16)
    )
    temporary = folder.parent / f".{folder.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for view, picture in enumerate(stored):
            Image.fromarray(picture).save(temporary / f"xray_{view:03d}.png", compress_level=4)
            if float_arrays:
                np.save(temporary / f"xray_{view:03d}.npy", integrals[view].numpy())
        if volume is not None:
            write_volume(volume, temporary / "volume.nii.gz")
        files.write_json(temporary / "patient.json", dict(record))
        temporary.rename(folder)
    except OSError as error:
        # else another process has just made the same patient
        if not (folder / "patient.json").is_file():
            raise RunError(
                f"could not write '{folder}' ({error.strerror or error})",
                "wanted a writable disk with space",
                "free some space or choose another folder; start again to go on",
            ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(
    root: Path, anatomy: str, seeds: Iterable[int], geometry: Geometry, *, progress: bool
) -> int:
    """Make the patients of these seeds that a set lacks; returns how many."""
    missing = [
        seed for seed in seeds if not (root / _seed_name(anatomy, seed) / "patient.json").is_file()
    ]

    def make(seed: int) -> None:
        volume = phantom_volume(anatomy, seed, geometry.cols)
        write_patient(
            root / _seed_name(anatomy, seed),
            render_orbit(volume, geometry),
            scale=geometry.line_integral_scale,
            volume=volume if files_at_hand() else None,
            record={
                "identity": _phantom_identity(anatomy, seed),
                "made_from": f"phantom:{anatomy}:{seed}",
                "version": phantoms.VERSION,
                "mu_water_per_mm": volume.mu_water_per_mm,
            },
        )

    pool = ThreadPoolExecutor(
        min(4, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        for _ in _told(
            pool.map(make, missing),
            len(missing),
            f"{anatomy} phantoms into {root}" if progress else None,
        ):
            pass
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt ends with the patients in hand
    return len(missing)


def _told(done: Iterable[None], total: int, what: str | None) -> Iterator[None]:
    """What is done, one by one, with a progress bar; without a terminal, a line at every
    quarter.
    """
    if what and sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(done, desc=what, total=total, unit="patient")
        return
    for count, item in enumerate(done, 1):
        yield item
        if what and count * 4 // total > (count - 1) * 4 // total:
            print(f"{what}: {count} of {total}", file=sys.stderr, flush=True)


def _place(root: Path, name: str, geometry: Geometry) -> Path:
    """Where a patient of this name goes, or an error if the place is taken."""
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise UserError(
            f"got patient name '{name}'",
            "wanted letters, digits, '.', '_', '+' or '-'",
            "give another --patient",
        )
    if root.exists() and not root.is_dir():
        raise UserError(f"got '{root}', which is a file", "wanted a folder", "choose another --out")
    if (root / name).exists():
        raise UserError(
            f"got patient '{name}', who is in '{root}' already",
            "wanted a new one",
            "choose another --out or --patient",
        )
    if root.is_dir() and any(root.iterdir()):
        if not (root / "geometry.json").is_file():
            raise UserError(
                f"got folder '{root}', which is not empty and no set",
                "wanted a new one",
                "choose another --out",
            )
        if Geometry.from_json(root / "geometry.json") != geometry:
            raise UserError(
                f"got folder '{root}', a set of another geometry",
                "wanted one geometry and scale in a set",
                "choose another --out",
            )
    return root / name


def _default(anatomy: str) -> Geometry:
    if anatomy not in DEFAULTS:
        raise unknown_name("anatomy", anatomy, DEFAULTS)
    return DEFAULTS[anatomy]


def _seed_name(anatomy: str, seed: int) -> str:
    return f"{anatomy}-{seed:05d}"


def _phantom_identity(anatomy: str, seed: int) -> str:
    return f"phantom:{anatomy}:{seed}"


def _phantom_name(ct: str) -> tuple[str | None, int | None]:
    """Anatomy and seed of ``phantom:ANATOMY:SEED``; None for anything else."""
    kind, _, rest = ct.partition(":")
    if kind != "phantom":
        return None, None
    anatomy, _, seed = rest.partition(":")
    _default(anatomy)
    if not seed.isdigit():
        raise UserError(
            f"got '{ct}'",
            "wanted phantom:ANATOMY:SEED with a whole number",
            f"write for example phantom:{anatomy}:0",
        )
    return anatomy, int(seed)


def _stem(path: Path) -> str:
    """A CT's file name without its endings, as a patient's name."""
    return re.sub(r"(\.nii)?\.[A-Za-z]+$", "", re.sub(r"\.gz$", "", path.name)) or "patient"


def _clipping(integrals: Tensor, scale: float | None) -> list[str]:
    share = 0.0 if scale is None else float((integrals > scale).float().mean())
    if share < 1e-3:
        return []
    return [
        f"{share:.1%} of the pixels exceed the scale {scale:g} and were cut (densest ray "
        f"{float(integrals.max()):.1f}): "
        "give a larger line_integral_scale"
    ]
