"""DRRs: a CT or a phantom projected into one patient's folder of a set of X-rays.

A patient's folder holds ``xray_000.png …`` (16-bit, value = line integral / scale),
``patient.json`` (what the patient was made from), ``volume.nii.gz`` (what was projected, in HU, the
isocentre at the origin) and on request ``xray_000.npy …`` (line integrals). ``geometry.json`` lies
at the set's root. A patient's folder is whole or absent. Cohorts of phantoms are made in
``cohort.py``; sets are read in ``orbits.py``.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from torch import Generator, Tensor

from ..core import files
from ..core.errors import RunError, UserError, unknown_name
from ..core.resampling import area_resized
from ..imaging import phantoms
from ..imaging.film import film_options, make_film
from ..imaging.geometry import DEFAULTS, Geometry
from ..imaging.projector import project_volume
from ..imaging.volume import AIR, Volume, read_volume, write_volume

BONE_HU = 150.0  # above it a voxel is taken for bone: spongy bone begins about there


@dataclass(frozen=True, kw_only=True)
class XraySetup:
    """The X-ray set-up that DRRs are made with, and how their brightness is stored.

    Without a ``geometry`` it is the default of the anatomy; what is given takes the place of its
    values.

    Options:
        geometry: a whole set-up; its angles, if it has any, win over ``views``.
        source_to_isocentre_mm: SOD, or SAD.
        source_to_detector_mm: SDD, or SID.
        pixel_mm: pixel pitch at the detector.
        detector_mm: side of the detector, instead of the pixel pitch.
        offset_mm: shift of the detector to image right and up.
        axis: axis of the orbit, x, y or z.
        tilt_deg: cranial elevation of the source.
        size: pixels along a side.
        views: number of views on a full turn.
        start_deg: angle of the first view.
        direction: sense of the turn, 1 or −1.
        line_integral_scale: line integral that becomes white.
        autoscale: ``set`` has that one scale for all views; ``view`` stretches each view to its own
            maximum, as the published sets do.
        film: expose the views as this film of the bank (``imaging/film``); None stores line
            integrals.
    """

    geometry: Geometry | None = None
    source_to_isocentre_mm: float | None = None
    source_to_detector_mm: float | None = None
    pixel_mm: float | None = None
    detector_mm: float | None = None
    offset_mm: tuple[float, float] | None = None
    axis: Literal["x", "y", "z"] | None = None
    tilt_deg: float | None = None
    size: int = 128
    views: int = 72
    start_deg: float = 0.0
    direction: int = 1
    line_integral_scale: float | None = None
    autoscale: Literal["set", "view"] = "set"
    film: str | None = None

    def __post_init__(self) -> None:
        if self.autoscale not in ("set", "view"):
            raise unknown_name("autoscale", self.autoscale, ("set", "view"))
        if self.film is not None:
            film_options(self.film)
            if self.autoscale == "view":
                raise UserError(
                    f"got film '{self.film}' and a scale for each view",
                    "wanted one scale for the exposure of all views",
                    "leave --autoscale out",
                )

    def geometry_of(self, anatomy: str) -> Geometry:
        """The geometry of the views of a patient of this anatomy."""
        pixel_mm = self.pixel_mm
        if self.detector_mm is not None:
            if pixel_mm is not None:
                raise UserError(
                    "got both a detector side and a pixel pitch",
                    "wanted one of them",
                    "leave one out",
                )
            pixel_mm = self.detector_mm / self.size
        given: dict[str, Any] = {
            "source_to_isocentre_mm": self.source_to_isocentre_mm,
            "source_to_detector_mm": self.source_to_detector_mm,
            "offset_mm": self.offset_mm,
            "axis": self.axis,
            "tilt_deg": self.tilt_deg,
            "pixel_mm": pixel_mm,
            "line_integral_scale": self.line_integral_scale,
        }
        default = DEFAULTS[anatomy]
        found = replace(
            (self.geometry or default).resized(self.size),
            **{name: value for name, value in given.items() if value is not None},
        )
        if not (self.geometry and self.geometry.views):
            found = found.orbit(self.views, start_deg=self.start_deg, direction=self.direction)
        if self.autoscale == "view":
            return replace(found, line_integral_scale=None)
        scale = found.line_integral_scale
        return replace(
            found, line_integral_scale=default.line_integral_scale if scale is None else scale
        )


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
    isocentre_mm: tuple[float, float, float] | None = None,
    mask_table: bool = False,
    float_arrays: bool = False,
    mu_water_per_mm: float = 0.0205,
    air_below_hu: float | None = None,
    supersample: int = 1,
    patient_name: str | None = None,
) -> Drr:
    """DRRs of a CT (volume file, DICOM folder, phantom:chest:SEED) as a patient of the set ``out``.

    The anatomy of a CT, which decides the default set-up, is guessed from its name; chest if the
    name says nothing. A set holds one geometry and one scale: further patients may join an existing
    set whose ``geometry.json`` is the same.

    Options:
        setup: the X-ray set-up.
        isocentre_mm: isocentre in the CT's LPS coordinates; None is its centre.
        mask_table: apply :func:`body_only` first.
        float_arrays: write line integrals as NPY files too.
        mu_water_per_mm: attenuation of water, which HU are relative to.
        air_below_hu: count everything below as air (published sets do below −800 HU).
        supersample: rays along each side of a pixel.
        patient_name: name of the patient's folder; None takes the CT's name.

    Raises UserError for a CT that cannot be read, an impossible set-up, and a folder that is taken.
    """
    setup = setup or XraySetup()
    anatomy, seed = _parse_phantom(ct)
    notes = []
    if anatomy is None:
        anatomy = next((name for name in DEFAULTS if name in Path(ct).name.lower()), "chest")
        if setup.geometry is None:
            notes.append(f"set-up: the {anatomy} default, with the options given in its place")
    geometry = setup.geometry_of(anatomy)
    stored = geometry if setup.film is None else film_geometry(geometry)
    name = patient_name or (phantom_name(anatomy, seed) if seed is not None else _stem(Path(ct)))
    folder = _place(Path(out), name, stored)

    volume = read_volume(ct) if seed is None else phantom_volume(anatomy, seed, setup.size)
    fingerprint = phantom_fingerprint(anatomy, seed) if seed is not None else ct_fingerprint(volume)
    volume = (
        replace(volume, mu_water_per_mm=mu_water_per_mm).to_mu(air_below_hu=air_below_hu).to_hu()
    )
    if mask_table:
        volume = body_only(volume)
    isocentre = list(isocentre_mm or volume.centre_mm)
    integrals = render_orbit(volume, geometry, isocentre_mm=isocentre, supersample=supersample)
    notes += _clipping(integrals, geometry.line_integral_scale)
    record = {
        "identity": fingerprint,
        "made_from": Path(ct).name,
        "isocentre_mm": isocentre,
        "mu_water_per_mm": mu_water_per_mm,
        "air_below_hu": air_below_hu,
        "mask_table": mask_table,
        "supersample": supersample,
    }
    if setup.film is not None:
        integrals = expose(
            setup.film, volume, integrals, geometry, fingerprint, isocentre_mm=isocentre
        )
        record["film"] = film_record(setup.film, geometry)
    stored.save(folder.parent / "geometry.json")
    write_patient(
        folder,
        integrals,
        scale=geometry.line_integral_scale if setup.film is None else 1.0,
        record=record,
        float_arrays=float_arrays,
        volume=_kept(volume, geometry, isocentre),
    )
    return Drr(folder, stored, tuple(notes))


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
        rng=Generator().manual_seed(crc32(identity.encode())),
        bone_unit=bone,
    ).pixels


def film_geometry(geometry: Geometry) -> Geometry:
    """The geometry of films: no grey value is a line integral, so that there is no scale."""
    return replace(geometry, line_integral_scale=None)


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
) -> None:
    """Write line integrals [V, rows, cols] as a patient's folder, whole or not at all.

    Films are written with a ``scale`` of 1. Without a scale each view is stretched to its own
    maximum.
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


def body_only(volume: Volume) -> Volume:
    """The volume with everything but the patient (table, cushions, clothes) set to air.

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


def bone_only(volume: Volume) -> Volume:
    """The volume with all but bone set to air: what is denser than :data:`BONE_HU`."""
    hu = volume.to_hu()
    return replace(hu, values=hu.values.where(hu.values > BONE_HU, AIR["hu"]))


def _ball(radius_mm: float, voxel_mm: Sequence[float]) -> np.ndarray:
    """The voxels within a radius, as a structuring element."""
    reach = [math.floor(radius_mm / v) for v in voxel_mm]
    z, y, x = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    return (z * voxel_mm[0]) ** 2 + (y * voxel_mm[1]) ** 2 + (x * voxel_mm[2]) ** 2 <= radius_mm**2


def phantom_volume(anatomy: str, seed: int, size: int) -> Volume:
    """The phantom of this seed on ``size``³ voxels, in HU, the isocentre at the centre."""
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
    voxels = volume.values.round().to(torch.int16).contiguous().numpy()
    return f"ct:{blake2b(voxels.tobytes(), digest_size=12).hexdigest()}"


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
    return replace(volume, values=volume.values.round())  # whole numbers take a third of the disk


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
