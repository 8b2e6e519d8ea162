"""Cohorts of real CTs: a folder of scans projected into a set of DRRs with its split.

Every scan that can be read becomes a patient's folder (``drr.py``); what cannot is a row of
``cohort.csv`` with the reason, and never the end of the work. A patient whose scan and options are
as they were is kept, so that an interrupted or a growing cohort goes on. One CT is in memory at a
time, for each job.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..core import files
from ..core.errors import RunError, UserError, unknown_name
from ..core.memory import check_views_room
from ..imaging.body import Body, body_only, find_body
from ..imaging.geometry import DEFAULTS, FRONTAL_DEG, LATERAL_DEG, Geometry, nearest_view
from ..imaging.scans.dicom import LARGEST, SeriesChoice
from ..imaging.scans.quantity import StoredQuantity
from ..imaging.scans.read import read_volume
from .cohort import cache_dir, reported, split_patients
from .ct_files import CtFile, find_cts
from .drr import check_set, ct_fingerprint, film_record, write_drrs
from .xray_setup import Handling, XraySetup, anatomy_of, stored_geometry

#: A chest whose body encloses less air than this shows no lungs (millilitres).
LEAST_LUNG_ML = 1500.0
COLUMNS = ("source", "patient", "status", "voxels", "spacing_mm", "air_ml", "seconds", "note")
CACHE_FOLDER = "cts-1"  # the number grows when what is kept changes
READ = "read.json"  # in a cached set: the files that it was made from, and what became of them


@dataclass(frozen=True)
class CtCohort:
    """A set made from a folder of CTs."""

    folder: Path
    patients: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]  # of cohort.csv: every file, what became of it and why
    notes: tuple[str, ...]  # what was skipped or looks wrong, a sentence each

    def summary(self, source: Path) -> list[str]:
        """What was made of a folder of CTs, and every remark."""
        return [
            f"'{source}' is a folder of CTs: the DRRs of {len(self.patients)} patients, tables "
            f"taken out, are kept in '{self.folder}' (what was read is in its cohort.csv)",
            *self.notes,
        ]


def make_ct_cohort(
    *,
    source: str | Path,
    out: str | Path,
    anatomy: str | None = None,
    setup: XraySetup | None = None,
    isocentre: Literal["body", "scan"] | None = None,
    mask_table: bool = False,
    mu_water_per_mm: float = 0.0205,
    air_below_hu: float | None = None,
    supersample: int = 1,
    float_arrays: bool = False,
    quantity: StoredQuantity | None = None,
    series: int | None = None,
    jobs: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> CtCohort:
    """DRRs of every CT in a folder, however deep: a set with geometry.json, split.json, cohort.csv.

    Other patients of the set stay, and belong to its split; those made from scans that have left
    the folder are removed.

    Options:
        source: folder with any mixture of NIfTI, MetaImage and NRRD files and DICOM folders.
        out: the set.
        anatomy: chest or knee, whose set-up is the default; None takes what the folder's name says,
            else chest. In a chest cohort a scan without lungs is skipped.
        setup: the X-ray set-up.
        isocentre, mask_table, mu_water_per_mm, air_below_hu, supersample: as in
            :class:`~mednerf_kit.data.xray_setup.Handling`.
        float_arrays: write line integrals as NPY files too.
        quantity: what the values of every CT are; None goes by what each file says.
        series: which of the series of every DICOM folder, counted from 1; None takes the largest.
        jobs: scans at a time, each of which is held in memory.
        seed: of the split, where the set has none of these patients yet.
        progress: say how far it is.

    Raises UserError where the folder is none, holds no CT that can be read, or the set is another.
    """
    source, out, setup = Path(source).expanduser(), Path(out), setup or XraySetup()
    anatomy = anatomy or anatomy_of(source.resolve().name) or "chest"
    if anatomy not in DEFAULTS:
        raise unknown_name("anatomy", anatomy, DEFAULTS)
    how = Handling(
        mask_table=mask_table,
        mu_water_per_mm=mu_water_per_mm,
        air_below_hu=air_below_hu,
        supersample=supersample,
        isocentre=isocentre or "body",
    )
    scans, strangers = find_cts(source)
    if not scans:
        raise UserError(
            f"got '{source}' without a file that could be a CT",
            "wanted NIfTI, MHA or NRRD files or DICOM folders",
            "check the folder",
        )
    geometry = setup.joining(out, setup.geometry_of(anatomy))
    check_set(out, stored_geometry(geometry, setup.film))
    shape, jobs = (geometry.views, geometry.rows, geometry.cols), min(jobs, len(scans))
    check_views_room(*shape, supersample=supersample, jobs=jobs)
    maker = _Maker(source, out, anatomy, geometry, how, setup.film, float_arrays, quantity, series)
    maker.forget_absent({scan.name for scan in scans})
    rows = _in_parallel(maker, scans, jobs, f"{len(scans)} CTs into {out}" if progress else None)
    rows += [{"source": name, "status": "skipped", "note": why} for name, why in strangers]
    if not any(row["status"] != "skipped" for row in rows):
        first = next(row for row in rows if row["status"] == "skipped")
        raise UserError(
            f"got '{source}' with {len(scans)} candidates, of which none could be used (the first, "
            f"'{first['source']}': {first['note'].rstrip('.')})",
            "wanted at least one CT",
            "check the folder",
        )
    files.write_text(out / "cohort.csv", files.csv_text(rows, COLUMNS))
    patients, notes = _write_split(out, seed)
    return CtCohort(out, patients, tuple(rows), (*_remarks(rows), *notes))


@dataclass
class _Maker:
    """Makes or keeps one patient after another; scans seen before are known by their voxels."""

    source: Path
    out: Path
    anatomy: str
    geometry: Geometry
    how: Handling
    film: str | None
    float_arrays: bool
    quantity: StoredQuantity | None
    series: int | None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.records = {path.parent.name: _record(path) for path in patient_files(self.out)}
        self.owner = {str(r.get("identity")): name for name, r in self.records.items()}
        place = str(self.source.resolve()).encode()
        self.folder = blake2b(place, digest_size=6).hexdigest()

    def forget_absent(self, names: set[str]) -> None:
        """Remove the patients made from scans of this folder that are no longer there."""
        for name, record in list(self.records.items()):
            made_here = (record.get("source") or {}).get("folder") == self.folder
            if made_here and name not in names:
                self._remove(name)

    def __call__(self, scan: CtFile) -> dict[str, Any]:
        """The row of ``cohort.csv`` of a scan, whatever becomes of it."""
        started = time.perf_counter()
        row: dict[str, Any] = {"source": scan.relative, "patient": scan.name}
        try:
            row |= self._patient(scan)
        except RunError:
            raise
        except UserError as error:
            row |= {"status": "skipped", "note": str(error)}
        except Exception as error:  # one scan, however broken, does not end the work of the others
            text = (str(error).strip().splitlines() or ["without a message"])[0]
            row |= {"status": "skipped", "note": f"{type(error).__name__}: {text}"}
        return row | {"seconds": round(time.perf_counter() - started, 2)}

    def _patient(self, scan: CtFile) -> dict[str, Any]:
        folder = self.out / scan.name
        wanted = self._wanted(scan)
        known = self.records.get(scan.name)
        if known is not None and known.get("source") is None:
            raise UserError(
                f"got patient '{scan.name}', whom '{self.out}' has from elsewhere",
                "wanted another name",
                "rename the scan or choose another --out",
            )
        if known is not None and self._is_kept(folder, known, wanted):
            faults = [*known.get("remarks", []), *known.get("picture_faults", [])]
            return {"status": "kept", **known.get("facts", {}), "note": "; ".join(faults)}
        if known is not None:
            self._remove(scan.name)
        series: SeriesChoice | None = None
        if scan.path.is_dir():
            series = self.series or LARGEST
        volume = read_volume(scan.path, quantity=self.quantity, series=series).aligned()
        identity = ct_fingerprint(volume)
        self._claim(identity, scan.name)
        facts: dict[str, Any] = {
            "voxels": "×".join(map(str, volume.shape[::-1])),
            "spacing_mm": "×".join(f"{mm:.3g}" for mm in volume.spacing_mm),
        }
        remarks = volume.remarks
        volume, body = self.how.prepared(volume, self.geometry.line_integral_scale), None
        if volume.quantity == "hu" and (self.anatomy == "chest" or self.how.mask_table):
            body = find_body(volume)
            facts["air_ml"] = self._air_ml(body)
        isocentre_mm = self.how.isocentre_of(volume, body)
        if self.how.mask_table:
            volume = body_only(volume, body)
        record = {"identity": identity, "made_from": scan.path.name, **wanted, "facts": facts}
        record["remarks"] = list(remarks)
        faults = write_drrs(
            folder,
            volume,
            self.geometry,
            self.how,
            record=record,
            isocentre_mm=isocentre_mm,
            film=self.film,
            float_arrays=self.float_arrays,
        )
        return {"status": "made", **facts, "note": "; ".join([*remarks, *faults])}

    def _air_ml(self, body: Body) -> int:
        """The air inside the body in ml; a UserError where a chest has too little."""
        air_ml = round(body.air_ml)
        if self.anatomy == "chest" and air_ml < LEAST_LUNG_ML:
            raise UserError(
                f"got a CT with {air_ml} ml of air inside the body, which shows no lungs",
                f"wanted at least {LEAST_LUNG_ML:.0f} ml in a cohort of chests",
                "leave it out, or name another --anatomy",
            )
        return air_ml

    def _wanted(self, scan: CtFile) -> dict[str, Any]:
        """What ``patient.json`` says of a scan and of what is done to it, before it is read."""
        more: dict[str, Any] = (
            {} if self.film is None else {"film": film_record(self.film, self.geometry)}
        )
        more |= {} if self.quantity is None else {"quantity": self.quantity}
        more |= {} if self.series is None else {"series": self.series}
        return {"source": {**scan.state, "folder": self.folder}, **asdict(self.how), **more}

    def _is_kept(self, folder: Path, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
        """Whether the folder of a patient is what would be made now."""
        names = set(wanted) | ({"film", "quantity", "series"} & set(known))
        plain = json.loads(json.dumps(wanted))
        same = all(_placeless(known.get(name)) == _placeless(plain.get(name)) for name in names)
        return same and (folder / "xray_000.npy").exists() >= self.float_arrays

    def _claim(self, identity: str, name: str) -> None:
        """Refuse a scan that another patient has been made from already."""
        with self.lock:
            owner = self.owner.setdefault(identity, name)
        if owner != name:
            raise UserError(
                f"got the same scan as that of '{owner}'",
                "wanted every patient once",
                "remove one of the two",
            )

    def _remove(self, name: str) -> None:
        """Remove a patient from the set."""
        shutil.rmtree(self.out / name)
        with self.lock:
            self.owner.pop(str(self.records.pop(name).get("identity")), None)


def _placeless(value: Any) -> Any:
    """A record of a source without the folder it lay in: a moved folder holds the same scans."""
    return {k: v for k, v in value.items() if k != "folder"} if isinstance(value, dict) else value


def _in_parallel(
    maker: _Maker, scans: list[CtFile], jobs: int, what: str | None
) -> list[dict[str, Any]]:
    """The rows of all scans, in their order; an interrupt ends with the scans in hand."""
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(threads,))
    try:
        return list(reported(pool.map(maker, scans), len(scans), what))
    finally:
        pool.shutdown(cancel_futures=True)


def patient_files(root: Path) -> list[Path]:
    """``patient.json`` of every patient of a set, by name."""
    return sorted(path for path in root.glob("*/patient.json") if path.parent.name[0] != ".")


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_split(out: Path, seed: int) -> tuple[tuple[str, ...], list[str]]:
    """The set's patients, whose ``split.json`` stays where it deals out exactly them; remarks."""
    patients = [path.parent.name for path in patient_files(out)]
    path = out / "split.json"
    dealt = _record(path).values()
    if not all(isinstance(names, list) for names in dealt) or sorted(sum(dealt, [])) != patients:
        files.write_json(path, split_patients(patients, seed=seed))
    if len(patients) > 1:
        return tuple(patients), []
    return tuple(patients), [
        f"'{patients[0]}' is the only patient, so that none is left to test on: train with "
        "--split all"
    ]


def _remarks(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for every scan that was skipped or whose pictures look wrong."""
    return [
        f"{'skipped ' if row['status'] == 'skipped' else ''}{row['source']}: "
        f"{row['note'].rstrip('.')}"
        for row in rows
        if row.get("note")
    ]


def frontal_and_lateral(cohort: CtCohort) -> Tensor:
    """The frontal view beside the lateral one of every patient: [P, rows, 2·cols] in [0, 1]."""
    from PIL import Image

    angles = Geometry.from_json(cohort.folder / "geometry.json").angles_deg
    views = [nearest_view(angles, wanted) for wanted in (FRONTAL_DEG, LATERAL_DEG)]
    pairs = []
    for name in cohort.patients:
        pictures = []
        for view in views:
            with Image.open(cohort.folder / name / f"xray_{view:03d}.png") as picture:
                pictures.append(np.asarray(picture, dtype=np.float32) / 65535)
        pairs.append(np.hstack(pictures))
    return torch.from_numpy(np.stack(pairs))


def ct_setup(geometry: Geometry | None, *, size: int, views: int) -> XraySetup:
    """The set-up of DRRs as a set of this geometry has them; without one the anatomy's default.

    A geometry without a scale is that of views that were stretched one by one.
    """
    if geometry is None:
        return XraySetup(size=size, views=views)
    by_view = geometry.line_integral_scale is None
    return XraySetup(
        geometry=geometry, size=geometry.cols, views=views, autoscale="view" if by_view else "set"
    )


def cached_ct_cohort(
    source: Path, *, anatomy: str | None = None, setup: XraySetup, progress: bool = True
) -> CtCohort:
    """The cached set of a folder of CTs, completed where scans are new or have changed.

    Tables are taken out. The folder is keyed by the CTs' folder and the set-up; which scan has
    changed is known by its size and time.
    """
    anatomy = anatomy or anatomy_of(source.resolve().name) or "chest"
    facts = [str(source.resolve()), anatomy, setup.geometry_of(anatomy).to_json()]
    key = blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    # chest and knee stand in a set's name, by which others know its anatomy
    out = cache_dir() / CACHE_FOLDER / f"{anatomy}-{key}"
    scans, strangers = find_cts(source)
    state = json.loads(json.dumps([[scan.state for scan in scans], strangers]))
    done = _record(out / READ)  # written last, so that a set which is whole is not looked through
    if done.get("state") == state and all(
        (out / n / "patient.json").is_file() for n in done["patients"]
    ):
        return CtCohort(out, tuple(done["patients"]), tuple(done["rows"]), tuple(done["notes"]))
    made = make_ct_cohort(
        source=source,
        out=out,
        anatomy=anatomy,
        setup=setup,
        mask_table=True,
        jobs=min(2, os.cpu_count() or 1),
        progress=progress,
    )
    whole = {"state": state, "patients": made.patients, "rows": made.rows, "notes": made.notes}
    files.write_json(out / READ, whole)
    return made
