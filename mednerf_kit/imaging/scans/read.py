"""One guard behind every door: a CT from a file or a folder, checked, in millimetres and in HU.

Readers, a file for each format, report what is stored; what is not finite, not placed, not in
Hounsfield units or sheared is refused, resampled or said here, for all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from ...core.errors import UserError, reader, unknown_name
from ...core.files import existing
from ..voxels import AIR, Quantity, blocks
from .dicom import SeriesChoice, is_dicom, read_dicom
from .itk import read_itk
from .metaimage import SUFFIXES as META
from .metaimage import read_metaimage
from .nifti import SUFFIXES as NIFTI
from .nifti import read_nifti
from .nrrd import SUFFIXES as NRRD
from .nrrd import read_nrrd
from .quantity import StoredQuantity, check_hu, check_mu, check_shifted, converted, cut_off
from .shear import right_angled
from .stored import WANTED, StoredScan, no_scan
from .tiff import SUFFIXES as TIFF
from .tiff import read_tiff_stack

if TYPE_CHECKING:  # a CT that cannot be used is refused without torch
    from ..volume import Volume

READERS = {NIFTI: read_nifti, META: read_metaimage, NRRD: read_nrrd, TIFF: read_tiff_stack}
SHIFTED = ("hu_plus_1000", "hu_plus_1024")
EXTENT_MM = (1.0, 5000.0)  # of the longest side of a scan


@reader(WANTED, "copy or export it again")
def read_volume(
    path: str | Path,
    *,
    quantity: StoredQuantity | None = None,
    series: SeriesChoice | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> Volume:
    """Read a CT: a volume file, a DICOM file with many frames, or a folder of DICOM slices.

    Slices and frames are put in order of their position, never of their name or number; sheared
    axes (a tilted gantry) are resampled to right-angled ones; padding becomes air. ``remarks`` of
    the volume say what was assumed or changed.

    Options:
        quantity: what the values are; None takes what the file says, else Hounsfield units, and
            refuses what cannot be that.
        series: which of the DICOM series in a folder, counted from 1 as they are listed; "largest"
            takes the one that covers most, of alike ones that with most voxels.
        spacing_mm: size of the voxels along i, j and k, instead of the file's.

    Raises UserError for anything that is not one whole, evenly spaced, single-channel 3-D scan of
    finite values.
    """
    return volume_of(read_scan(path, quantity=quantity, series=series, spacing_mm=spacing_mm))


def volume_of(scan: StoredScan) -> Volume:
    """What :func:`read_scan` answered as a volume, which shares its values."""
    import torch

    from ..volume import Volume

    values = torch.from_numpy(scan.values)
    quantity = scan.quantity
    assert quantity is not None
    return Volume(values, scan.affine, quantity, scan.mu_water_per_mm, scan.note, scan.remarks)


def read_scan(
    path: str | Path,
    *,
    quantity: StoredQuantity | None = None,
    series: SeriesChoice | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> StoredScan:
    """What :func:`read_volume` reads, checked all the same, before it becomes tensors.

    Its ``quantity`` is known, its values are finite, its axes at right angles.
    """
    if quantity is not None and quantity not in get_args(StoredQuantity):
        raise unknown_name("quantity", quantity, get_args(StoredQuantity))
    path = existing(path, "a volume file or a DICOM folder")
    try:
        scan = _stored(path, series=series, any_modality=quantity is not None)
    except MemoryError:
        raise UserError(
            f"got '{path}', which does not fit into memory", "wanted a smaller scan", "resample it"
        ) from None
    affine, remarks = _placed(path, scan, spacing_mm)
    values, known = _quantified(path, scan, quantity)
    if known == "hu" and scan.quantity is None:
        remarks += cut_off(values)
    values, affine, shear = right_angled(values, affine, AIR[known])
    said = (*scan.remarks, *remarks, *shear)
    return replace(scan, values=values, affine=affine, padding=None, quantity=known, remarks=said)


def _stored(path: Path, *, series: SeriesChoice | None, any_modality: bool) -> StoredScan:
    """What the reader of this kind of file finds."""
    if path.is_dir() or is_dicom(path):
        return read_dicom(path, series=series, any_modality=any_modality)
    if series is not None:
        raise UserError(
            f"got '{path}' and a number of a series",
            "wanted a DICOM folder for that",
            "leave --series out",
        )
    scan = read_file(path)
    if min(scan.values.shape) < 2:
        raise no_scan(path, scan.values.shape[::-1], 1)
    return scan


def read_file(path: Path) -> StoredScan:
    """What the reader of a file's format finds in it, unchecked; none of DICOM."""
    name = path.name.lower()
    return next((read for ends, read in READERS.items() if name.endswith(ends)), read_itk)(path)


def _placed(
    path: Path, scan: StoredScan, spacing_mm: Sequence[float] | None
) -> tuple[np.ndarray, list[str]]:
    """The affine with the size of voxels that the user gave, checked; what was assumed of it."""
    affine, remarks = scan.affine.copy(), []
    if spacing_mm is not None:
        sizes = np.asarray(spacing_mm, dtype=np.float64)
        if sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
            raise UserError(
                f"got a spacing of {spacing_mm}", "wanted three lengths in mm", "correct it"
            )
        middle = (np.array(scan.values.shape[::-1]) - 1) / 2
        centre = affine[:3, :3] @ middle + affine[:3, 3]
        affine[:3, :3] *= sizes / np.linalg.norm(affine[:3, :3], axis=0)
        affine[:3, 3] = centre - affine[:3, :3] @ middle
    elif scan.size_fault is not None:
        raise scan.size_fault
    elif not scan.has_size:
        remarks.append("the file gives no voxel size: 1 mm was assumed, say --spacing-mm if not so")
    extent = np.linalg.norm(affine[:3, :3], axis=0) * scan.values.shape[::-1]
    if np.isfinite(extent).all() and not EXTENT_MM[0] <= extent.max() <= EXTENT_MM[1]:
        raise UserError(
            f"got '{path}', a scan {extent.max():.3g} mm long",
            "wanted lengths of a patient in mm",
            "correct the header's unit, or say --spacing-mm",
        )
    return affine, remarks


def _quantified(
    path: Path, scan: StoredScan, quantity: StoredQuantity | None
) -> tuple[np.ndarray, Quantity]:
    """Finite values of a quantity that they can be, with air where the file has padding."""
    values, valid = scan.values, scan.values
    if scan.padding is not None:
        valid = scan.values[~scan.padding]
    if not valid.size or not all(np.isfinite(block).all() for block in blocks(valid)):
        raise UserError(
            f"got '{path}' with values that are not numbers",
            "wanted finite values",
            "clean or re-export the scan",
        )
    stored = quantity or scan.quantity
    if stored is None:
        check_hu(path, valid, scan.unit)
    elif stored in SHIFTED:
        check_shifted(path, valid)
    values, known = converted(values, stored or "hu")
    if quantity is not None and known == "mu_per_mm":
        check_mu(path, values)
    if scan.padding is not None:
        values = np.where(scan.padding, np.float32(AIR[known]), values)
    return values, known
