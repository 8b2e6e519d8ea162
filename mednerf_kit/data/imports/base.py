"""``mednerf-kit data import``: formats of foreign projections, and how a set is made of them.

A format is a class registered in :data:`IMPORTERS`, in a file of its own in this folder; its
keyword-only arguments are its options. It reads values and geometry as they are; polarity, scale
and the files of the set are done here alike for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ...core import files
from ...core.config import Registry
from ...core.errors import UserError, reader, unknown_name
from ...core.files import existing
from ...imaging.geometry import Geometry
from ...imaging.volume import Volume
from ..ct_files import clean_name
from ..drr import check_place, picture_faults, write_patient
from ..grey import from_transmission
from ..set_checks import angle_faults, polarity_fault

#: Below this share of the largest line integral, negative values are noise.
NOISE = 0.05
#: Line integral that no patient has.
MOST_INTEGRAL = 40.0
#: Half-widths of the field of view that patients and small animals have.
FIELD_MM = (1.0, 5000.0)


@dataclass(frozen=True, kw_only=True)
class ForeignOrbit:
    """The views of one patient as another program stored them."""

    patient: str
    values: (
        np.ndarray
    )  # [V, rows, cols] float32 as stored, rows from the top, columns from the left
    names: tuple[str, ...]  # V names of files or of views
    geometry: Geometry  # at V angles, without a scale
    kind: str = "line-integral"  # or transmission: what the values are taken for
    unit: float | None = 1.0  # line integral of a value of 1; None: unknown
    log_unit: float | None = 1.0  # the same of a minus logarithm of the transmission of 1
    full_scale: float = 1.0  # the value of a pixel at the end of its range; 1 for floats
    volume: Volume | None = None  # the patient, the isocentre at the origin
    notes: tuple[str, ...] = ()  # what was taken from where, and what was assumed


class Importer(Protocol):
    """The contract of a format of foreign projections."""

    @staticmethod
    def detect(source: Path) -> bool:
        """Whether a file or folder is of this format, by a look at it."""

    @staticmethod
    def example(folder: Path) -> Path:
        """Write a small source of this format into a folder; returns it."""

    def read(self, source: Path, geometry: Geometry | None) -> list[ForeignOrbit]:
        """The patients of a source; ``geometry`` is one that was given, for formats without.

        Raises UserError for a source that is damaged or lacks something.
        """


IMPORTERS: Registry[Importer] = Registry("import format", home=__package__)


@reader("wanted whole files of that program", "copy or export it again")
def find_importer(source: Path) -> str | None:
    """The format that recognises a file or folder, or None."""
    found = [name for name, entry in sorted(IMPORTERS.entries.items()) if entry.detect(source)]  # type: ignore[attr-defined]
    return found[0] if found else None


@dataclass(frozen=True)
class Imported:
    """The set that was made or joined, its new patients, and what has to be known."""

    root: Path
    patients: tuple[str, ...]
    notes: tuple[str, ...]


@reader("wanted whole files of that program", "copy or export it again")
def import_set(
    source: str | Path,
    *,
    out: str | Path,
    format: str | None = None,
    geometry: Geometry | None = None,
    input_kind: str | None = None,
    invert: bool = False,
    scale: float | None = None,
    patient_name: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Imported:
    """Read projections of another program and write them as patients of the set ``out``.

    Options:
        format: name of the format; None recognises it.
        geometry: X-ray set-up of sources that hold none, or none but angles.
        input_kind: what the values are, line-integral or transmission; None takes what the source
            says.
        invert: turn grey values over first, for pictures in which bone is dark.
        scale: line integral that becomes white; None takes that of the set that is joined, or else
            the densest ray, rounded up.
        patient_name: name of the patient's folder; None takes the source's.
        options: those of the format.

    Raises UserError for a source that is of no known format, damaged, or of a geometry that is not
    the set's.
    """
    source, root = Path(source).expanduser(), Path(out).expanduser()
    existing(source, "projections")
    name = format or find_importer(source)
    entry = IMPORTERS.entries.get(name or "")
    if name is None or (entry is not None and source.is_dir() and not entry.detect(source)):  # type: ignore[attr-defined]
        raise _unrecognised(source, name)
    orbits = IMPORTERS.build({"name": name, **(options or {})}).read(source, geometry)
    if patient_name is not None and len(orbits) > 1:
        raise UserError(
            f"got --patient for {len(orbits)} patients", "wanted one patient", "leave it out"
        )
    notes: list[str] = [f"read as {name}"]
    patients = []
    for orbit in orbits:
        patients.append(patient_name or clean_name(orbit.patient))
        notes += write_orbit(
            root,
            replace(orbit, patient=patients[-1]),
            name,
            source.name,
            input_kind=input_kind,
            invert=invert,
            scale=scale,
        )
    return Imported(root, tuple(patients), tuple(dict.fromkeys(notes)))


def _unrecognised(source: Path, name: str | None) -> UserError:
    """The error for a source that no format, or not the named one, recognises."""
    inside = source.is_file() and find_importer(source.parent)
    tables = sorted(source.glob("*.csv")) if source.is_dir() else []
    next_step = "docs/formats.md shows each; --format names one"
    if inside:
        next_step = f"give the folder '{source.parent}', which is one of {inside}"
    elif tables and name in (None, "pictures"):
        next_step = f"give '{tables[0].name}' the titles file and angle_deg, if it has the angles"
    return UserError(
        f"got '{source}', which {f'is none of {name}' if name else 'no import format recognises'}",
        f"wanted one of {', '.join(sorted(IMPORTERS.entries))}",
        next_step,
    )


def write_orbit(
    root: Path,
    orbit: ForeignOrbit,
    format: str,
    made_from: str,
    *,
    input_kind: str | None = None,
    invert: bool = False,
    scale: float | None = None,
) -> list[str]:
    """Write one patient into a set, and what was assumed to do so."""
    notes = list(orbit.notes)
    kind = input_kind or orbit.kind
    integrals, more = line_integrals(orbit, kind, invert=invert)
    notes += more
    densest = float(integrals.max())
    if densest <= 0:
        raise UserError(
            f"got '{made_from}', whose views are black",
            "wanted line integrals above zero",
            "write it again as floats (plastimatch's -t pgm needs --autoscale)",
        )
    if _unit(orbit, kind) and densest > MOST_INTEGRAL:
        notes.append(
            f"line integrals reach {densest:.3g}, and a patient's about 12: are these intensities "
            "(--input-kind transmission), or stretched?"
        )
    if (bright := polarity_fault(integrals, orbit.geometry)) is not None:
        notes.append(bright)
    half_width = orbit.geometry.half_width_mm
    if not FIELD_MM[0] <= half_width <= FIELD_MM[1]:
        raise UserError(
            f"got '{made_from}', whose detector sees ±{half_width:.3g} mm",
            "wanted the size of a patient",
            "correct the unit of its lengths (--set unit_mm=MM for R²-Gaussian)",
        )
    notes += angle_faults(orbit.geometry)
    known = _unit(orbit, kind) is not None
    if known and scale is None:
        scale = _scale_of(root, orbit.geometry) or rounded_up(densest)
    geometry = replace(orbit.geometry, line_integral_scale=scale)
    check_place(root, orbit.patient, geometry)
    faults = picture_faults(integrals, scale)
    identity = blake2b(np.ascontiguousarray(orbit.values).tobytes(), digest_size=12).hexdigest()
    record = {
        "identity": f"views:{identity}",
        "made_from": made_from,
        "format": format,
        "views": list(orbit.names),
        "notes": notes,
        "picture_faults": faults,
    }
    geometry.save(root / "geometry.json")
    write_patient(
        root / orbit.patient,
        integrals,
        scale=scale if known else scale or densest,
        record=record,
        volume=orbit.volume,
    )
    if not known and scale is None:
        notes.append(
            "the scale of the line integrals is unknown: white is the densest ray, and volumes "
            "will be relative"
        )
    return notes + faults


def _unit(orbit: ForeignOrbit, kind: str) -> float | None:
    return orbit.log_unit if kind == "transmission" else orbit.unit


def line_integrals(
    orbit: ForeignOrbit, kind: str, *, invert: bool
) -> tuple[torch.Tensor, list[str]]:
    """The line integrals [V, rows, cols] of a patient's views, in its unit, and what was assumed.

    Raises UserError for values that are not finite or lie far below zero.
    """
    notes: list[str] = []
    if kind not in ("line-integral", "transmission"):
        raise unknown_name("input kind", kind, ("line-integral", "transmission"))
    values = orbit.values.astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"got views of '{orbit.patient}' with values that are not numbers",
            "wanted finite values",
            "write the projections again",
        )
    if invert:
        values = orbit.full_scale - values
    if kind == "transmission":
        values, note = from_transmission(values, orbit.full_scale)
        notes.append(note)
    low, high = float(values.min()), float(values.max())
    if low < -NOISE * max(high, 1e-6):
        raise UserError(
            f"got views of '{orbit.patient}' with line integrals from {low:.3g} to {high:.3g}",
            "wanted none below 0",
            "say what they are with --input-kind and --invert, or subtract their air",
        )
    return torch.from_numpy(values.clip(min=0)) * (_unit(orbit, kind) or 1.0), notes


def rounded_up(value: float) -> float:
    """The next number of two digits.

    >>> rounded_up(9.414), rounded_up(0.861), rounded_up(12.0)
    (9.5, 0.87, 12.0)
    """
    digit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / digit - 1e-6) * digit, 10)


def square_pixels(
    values: np.ndarray, row_mm: float, col_mm: float
) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """Views [V, rows, cols] on square pixels of the shorter side, their pitch, and a note.

    The longer side is interpolated linearly between pixel centres.
    """
    if math.isclose(row_mm, col_mm, rel_tol=1e-6):
        return values, col_mm, ()
    pitch = min(row_mm, col_mm)
    rows, cols = (
        max(1, round(n * side / pitch))
        for n, side in zip(values.shape[1:], (row_mm, col_mm), strict=True)
    )
    out = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[:, None],
        (rows, cols),
        mode="bilinear",
        align_corners=False,
    )[:, 0].numpy()
    note = f"pixels of {row_mm:g} by {col_mm:g} mm were interpolated to squares of {pitch:g} mm"
    return out, pitch, (note,)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises UserError for anything else."""
    try:
        found = files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise UserError(
            f"got '{path}' ({error})", "wanted a readable JSON file", "write it again"
        ) from None
    return found


def one_size(arrays: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Pictures of one size as [V, rows, cols]; raises UserError where two differ."""
    for array, name in zip(arrays, names, strict=True):
        if array.ndim != 2 or array.shape != arrays[0].shape:
            raise UserError(
                f"got '{names[0]}' of {_size(arrays[0])} and '{name}' of {_size(array)} pixels",
                "wanted pictures of one size",
                "leave out what is no view of this patient",
            )
    return np.stack(arrays)


def _size(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape))


def _scale_of(root: Path, geometry: Geometry) -> float | None:
    """The scale of the set at ``root`` that a patient of this geometry may join, or None."""
    path = root / "geometry.json"
    if not path.is_file():
        return None
    theirs = Geometry.from_json(path)
    same = replace(theirs, line_integral_scale=geometry.line_integral_scale) == geometry
    return theirs.line_integral_scale if same else None
