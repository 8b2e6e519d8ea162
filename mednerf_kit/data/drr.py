"""DRRs: a CT or a phantom projected into one patient's folder of a set of X-rays.

A patient's folder holds ``xray_000.png …`` (16-bit, value = line integral / scale),
``patient.json`` (what the patient was made from), ``volume.nii.gz`` (what was projected, in HU, the
isocentre at the origin) and on request ``xray_000.npy …`` (line integrals). ``geometry.json`` lies
at the set's root. A patient's folder is whole or absent. Cohorts of phantoms are made in
``cohort.py``; sets are read in ``orbits.py``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from ..core import files
from ..core.errors import UserError, unknown_name
from ..core.memory import check_room
from ..core.resampling import area_resized
from ..imaging.body import body_only, bone_only, find_body
from ..imaging.film import film_options, make_film
from ..imaging.geometry import DEFAULTS, Geometry
from ..imaging.projector import project_volume
from ..imaging.scans.quantity import StoredQuantity
from ..imaging.scans.read import read_scan, volume_of
from ..imaging.scans.stored import StoredScan
from ..imaging.volume import Volume, write_volume
from .xray_setup import Handling, XraySetup, anatomy_of, stored_geometry

BLACK = 0.1  # of the scale: pictures whose densest ray stays below it show next to nothing
PHANTOM_BYTES = 28  # that a voxel takes while a phantom is made
CUT = 1e-4  # share of the pixels that are white because they exceed the scale: from here it is said


@dataclass(frozen=True)
class Drr:
    """The folder of a patient that was just made, its geometry, and what was assumed."""

    folder: Path
    geometry: Geometry
    notes: tuple[str, ...]


def make_drr(
    ct: str,
    *,
    out: str | Path,
    setup: XraySetup | None = None,
    isocentre: Literal["body", "scan"] | None = None,
    isocentre_mm: tuple[float, float, float] | None = None,
    mask_table: bool = False,
    float_arrays: bool = False,
    mu_water_per_mm: float = 0.0205,
    air_below_hu: float | None = None,
    supersample: int = 1,
    patient_name: str | None = None,
    quantity: StoredQuantity | None = None,
    series: int | None = None,
    spacing_mm: tuple[float, float, float] | None = None,
    scan: StoredScan | None = None,
) -> Drr:
    """DRRs of a CT (volume file, DICOM folder, phantom:chest:SEED) as a patient of the set ``out``.

    The anatomy of a CT, which decides the default set-up, is guessed from its name; chest if the
    name says nothing. A set holds one geometry and one scale: further patients may join an existing
    set whose ``geometry.json`` is the same, and take its scale where none is given.

    Options:
        setup: the X-ray set-up.
        isocentre_mm: isocentre in the CT's LPS coordinates, in place of ``isocentre``.
        float_arrays: write line integrals as NPY files too.
        mask_table, mu_water_per_mm, air_below_hu, supersample, isocentre: as in :class:`Handling`;
            by default that is the body where the table is taken out, else the scan. A phantom's
            isocentre is the middle of its voxels.
        patient_name: name of the patient's folder; None takes the CT's name.
        quantity, series, spacing_mm: of the CT, as in
            :func:`~mednerf_kit.imaging.scans.read.read_volume`.
        scan: the CT, where ``read_scan`` beside it has read it already.

    Raises UserError for a CT that cannot be read, an impossible set-up, and a folder that is taken.
    """
    setup = setup or XraySetup()
    anatomy, seed = _parse_phantom(ct)
    how = Handling(
        mask_table=mask_table,
        mu_water_per_mm=mu_water_per_mm,
        air_below_hu=air_below_hu,
        supersample=supersample,
        isocentre=isocentre or ("body" if mask_table and seed is None else "scan"),
    )
    notes = []
    if anatomy is None:
        anatomy = anatomy_of(Path(ct).name) or "chest"
        if setup.geometry is None:
            notes.append(f"set-up: the {anatomy} default, with the options given in its place")
    geometry = setup.joining(Path(out), setup.geometry_of(anatomy, phantom=seed is not None))
    name = patient_name or (phantom_name(anatomy, seed) if seed is not None else ct_name(Path(ct)))
    check_place(Path(out), name, stored_geometry(geometry, setup.film))
    if seed is None:
        volume = volume_of(
            scan or read_scan(ct, quantity=quantity, series=series, spacing_mm=spacing_mm)
        )
        notes += volume.remarks
        fingerprint = ct_fingerprint(volume)
    else:
        volume = phantom_volume(anatomy, seed, setup.size)
        fingerprint = phantom_fingerprint(anatomy, seed)
    volume = how.prepared(volume, geometry.line_integral_scale)
    if mask_table:
        body = find_body(volume)
        isocentre_mm = isocentre_mm or how.isocentre_of(volume, body)
        volume = body_only(volume, body)
    notes += write_drrs(
        Path(out) / name,
        volume,
        geometry,
        how,
        record={"identity": fingerprint, "made_from": Path(ct).name},
        isocentre_mm=isocentre_mm,
        film=setup.film,
        float_arrays=float_arrays,
    )
    return Drr(Path(out) / name, stored_geometry(geometry, setup.film), tuple(notes))


def write_drrs(
    folder: Path,
    volume: Volume,
    geometry: Geometry,
    how: Handling,
    *,
    record: Mapping[str, Any],
    isocentre_mm: Sequence[float] | None = None,
    film: str | None = None,
    float_arrays: bool = False,
) -> list[str]:
    """Project a volume, handled already, into a patient's folder; what is wrong with the pictures.

    ``record`` is what ``patient.json`` says of the volume, its ``identity`` above all.
    """
    isocentre = list(isocentre_mm or how.isocentre_of(volume))
    integrals = render_orbit(volume, geometry, isocentre_mm=isocentre, supersample=how.supersample)
    notes = picture_faults(integrals, geometry.line_integral_scale)
    record = {**record, "isocentre_mm": isocentre, **asdict(how), "picture_faults": notes}
    if film is not None:
        identity = record["identity"]
        integrals = expose(film, volume, integrals, geometry, identity, isocentre_mm=isocentre)
        record["film"] = film_record(film, geometry)
    stored_geometry(geometry, film).save(folder.parent / "geometry.json")
    write_patient(
        folder,
        integrals,
        scale=geometry.line_integral_scale if film is None else 1.0,
        record=record,
        float_arrays=float_arrays,
        volume=None if volume.quantity == "relative" else _kept(volume, geometry, isocentre),
        rounded=True,
    )
    return notes


def check_phantom_room(size: int, at_once: int = 1) -> None:
    """Refuse phantoms of ``size``³ voxels that memory cannot hold."""
    check_room(
        f"phantoms of {size}³ voxels",
        at_once * PHANTOM_BYTES * size**3,
        "choose a smaller --size (of a recipe: dataset.size)",
    )


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
    volume = volume.aligned()
    away = (
        [0.0] * 3
        if isocentre_mm is None
        else [c - i for c, i in zip(volume.centre_mm, isocentre_mm, strict=True)]
    )
    fine = geometry.resized(geometry.cols * supersample)
    integrals = project_volume(
        volume.values,
        volume.spacing_mm,
        fine,
        centre_mm=away,
        attenuation=volume.attenuation,
    )
    return integrals if supersample == 1 else area_resized(integrals, geometry.rows, geometry.cols)


def expose(
    film: str,
    volume: Volume,
    integrals: Tensor,
    geometry: Geometry,
    identity: str,
    *,
    isocentre_mm: Sequence[float] | None = None,
) -> Tensor:
    """The film of this name in the bank of every view, [V, rows, cols] in [0, 1].

    ``integrals`` are the line integrals of ``volume``, whose bone hardens a beam in its own way.
    A patient, known by ``identity``, gets the same noise every time.
    """
    options, scale = film_options(film), geometry.line_integral_scale
    assert scale is not None
    bone = None
    if options.beam is not None:
        bone = render_orbit(bone_only(volume), geometry, isocentre_mm=isocentre_mm) / scale
    return make_film(
        integrals / scale,
        scale=scale,
        pixel_mm=geometry.pixel_mm,
        options=options,
        rng=Generator().manual_seed(zlib.crc32(identity.encode())),
        bone_unit=bone,
    ).pixels


def film_record(film: str, geometry: Geometry) -> dict[str, Any]:
    """How a patient's films were made, for ``patient.json``."""
    return {
        "name": film,
        "line_integral_scale": geometry.line_integral_scale,
        **film_options(film).to_json(),
    }


def write_patient(
    folder: Path,
    integrals: Tensor,
    *,
    scale: float | None,
    record: Mapping[str, Any],
    volume: Volume | None = None,
    float_arrays: bool = False,
    rounded: bool = False,
) -> None:
    """Write line integrals [V, rows, cols] as a patient's folder, whole or not at all.

    Films are written with a ``scale`` of 1. Without a scale each view is stretched to its own
    maximum. Voxels that are ``rounded`` to whole numbers take a third of the disk.
    """
    from PIL import Image

    top = integrals.amax((1, 2), keepdim=True).clamp_min(1e-6) if scale is None else scale
    stored = (
        ((integrals / top).clamp(0, 1) * 65535).round().to(torch.int32).numpy().astype(np.uint16)
    )
    with files.whole_folder(folder) as temporary:
        for view, picture in enumerate(stored):
            with files.atomic(temporary / f"xray_{view:03d}.png") as path:
                Image.fromarray(picture).save(
                    path,
                    compress_level=1,
                    compress_type=zlib.Z_RLE,  # as small for such pictures, in 2/3 of the time
                )
            if float_arrays:
                with files.atomic(temporary / f"xray_{view:03d}.npy") as path:
                    np.save(path, integrals[view].numpy())
        if volume is not None:
            write_volume(volume, temporary / "volume.nii.gz", rounded=rounded)
        files.write_json(temporary / "patient.json", dict(record))


def phantom_volume(anatomy: str, seed: int, size: int) -> Volume:
    """The phantom of this seed on ``size``³ voxels, in HU, the isocentre at the centre."""
    from ..imaging import phantoms  # a CT needs none

    check_phantom_room(size)
    values, spacing_mm = phantoms.phantom(anatomy, seed).voxelise(size)
    return Volume.centred(values.round(), spacing_mm, "hu")


def phantom_name(anatomy: str, seed: int) -> str:
    """The name of a phantom as a patient.

    >>> phantom_name("chest", 7)
    'chest-00007'
    """
    return f"{anatomy}-{seed:05d}"


def phantom_fingerprint(anatomy: str, seed: int) -> str:
    """A fingerprint by which DRRs of the same phantom are recognised."""
    return f"phantom:{anatomy}:{seed}"


def ct_fingerprint(volume: Volume) -> str:
    """A fingerprint of a CT, by which its DRRs are recognised at any view, size or scale."""
    if volume.quantity == "mu_per_mm":
        volume = volume.to_hu()
    elif volume.quantity == "relative":
        top = volume.values.abs().max().clamp_min(1e-12)
        volume = replace(volume, values=1000 * volume.values / top)
    digest = blake2b(digest_size=12)
    for part in volume.values:
        digest.update(part.round().to(torch.int16).contiguous().numpy())
    return f"ct:{digest.hexdigest()}"


def default_geometry(anatomy: str) -> Geometry:
    """The usual set-up of an anatomy; raises UserError for an unknown one."""
    if anatomy not in DEFAULTS:
        raise unknown_name("anatomy", anatomy, DEFAULTS)
    return DEFAULTS[anatomy]


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
    return volume


def check_place(root: Path, name: str, geometry: Geometry) -> None:
    """Raise UserError unless a new patient of this name may join or begin a set of a geometry."""
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise UserError(
            f"got patient name '{name}'",
            "wanted letters, digits, '.', '_', '+' or '-'",
            "give another --patient",
        )
    if (root / name).exists():
        raise UserError(
            f"got patient '{name}', who is in '{root}' already",
            "wanted a new one",
            "choose another --out or --patient",
        )
    check_set(root, geometry)


def check_set(root: Path, geometry: Geometry) -> None:
    """Raise UserError unless a folder is absent, empty, or a set of this geometry."""
    if root.exists() and not root.is_dir():
        raise UserError(f"got '{root}', which is a file", "wanted a folder", "choose another --out")
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


def _parse_phantom(ct: str) -> tuple[str | None, int | None]:
    """Anatomy and seed of ``phantom:ANATOMY:SEED``; None for anything else."""
    kind, _, rest = ct.partition(":")
    if kind != "phantom":
        return None, None
    anatomy, _, seed = rest.partition(":")
    default_geometry(anatomy)
    if not seed.isdigit():
        raise UserError(
            f"got '{ct}'",
            "wanted phantom:ANATOMY:SEED with a whole number",
            f"write for example phantom:{anatomy}:0",
        )
    return anatomy, int(seed)


def ct_name(path: Path) -> str:
    """A CT's file name without its endings, as a patient's name."""
    return re.sub(r"(\.nii)?\.[A-Za-z]+$", "", re.sub(r"\.gz$", "", path.name)) or "patient"


def picture_faults(integrals: Tensor, scale: float | None) -> list[str]:
    """What is wrong with line integrals [V, rows, cols] as pictures of a scale, a sentence each.

    >>> picture_faults(torch.tensor([[[0.1]], [[13.0]]]), 12.0)[0].partition(" and")[0]
    '50.0% of the pixels exceed the scale 12'
    """
    densest = float(integrals.max())
    if densest <= 0:
        return ["the pictures are black: no ray meets anything denser than air"]
    if scale is None:
        return []
    found = []
    share = float((integrals > scale).float().mean())
    if share >= CUT:
        found.append(
            f"{share:.1%} of the pixels exceed the scale {scale:g} and were cut (densest ray "
            f"{densest:.1f}): give a larger line_integral_scale"
        )
    if densest < BLACK * scale:
        found.append(
            f"the pictures are nearly black: the densest ray is {densest:.2g} of a scale of "
            f"{scale:g}; is the CT in Hounsfield units?"
        )
    return found
