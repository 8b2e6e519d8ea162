"""NIfTI and Analyze files, by nibabel: values as stored, and the affine that the header means.

A header may place a scan three times: by an affine (*sform*), by a rotation (*qform*) and by bare
voxel sizes (*pixdim*). Each of the first two has a code: 0 means that it is not there, 1 that it
leads to the scanner's millimetres, more that the scan was laid on another or on an atlas, where
lengths need not be the patient's.
"""

from __future__ import annotations

import math
import re
import sys
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from .label import label_of
from .stored import (
    DEFLATE,
    UNPLACED,
    StoredScan,
    by,
    check_voxels,
    no_scan,
    reason,
    unplaced,
    unreadable,
)

if TYPE_CHECKING:
    import nibabel

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".img.gz", ".hdr.gz")
GZIP = b"\x1f\x8b"  # how a compressed file begins, and how one that is not
HEADER_SIZES = tuple(n.to_bytes(4, order) for n in (348, 540) for order in ("little", "big"))
SCANNER = 1  # code of an affine that leads to the scanner's millimetres
MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from NIfTI's right, anterior, superior
ATLAS = 3  # code from which an affine leads to an atlas
ALIKE = 1e-3  # of a voxel: affines that differ by less are the same


def read_nifti(path: Path) -> StoredScan:
    """Read a NIfTI or Analyze file.

    The affine is the one with the scanner's code, the sform before the qform; without such a code
    the one that is there, in the same order. Lengths in metres and micrometres become millimetres.
    A slope of 0 or NaN leaves the values alone, and so does the intercept beside it.

    Raises UserError for a damaged file, several values per voxel, and voxel sizes that contradict
    the affine.
    """
    nibabel = nibabel_alone()
    imageglobals = nibabel.imageglobals

    _check_name(path)
    before, imageglobals.logger.disabled = imageglobals.logger.disabled, True  # it prints repairs
    try:
        image: Any = nibabel.load(path, mmap=False)
        values, header = _values(path, image), image.header
        size_mm = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
        name, affine, remarks = _affine(header, size_mm)
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        zlib.error,
    ) as error:
        short = re.search(r"Expected (\d+) bytes, got (\d+)", str(error))
        why = f"it ends after {short[2]} of {short[1]} bytes" if short else reason(error)
        raise unreadable(path, why) from None
    finally:
        imageglobals.logger.disabled = before
    description = bytes(header["descrip"]).rstrip(b"\0").decode("utf-8", "replace")
    quantity, mu_water_per_mm, note = label_of({"description": description})
    return StoredScan(
        values=values,
        affine=affine,
        dtype=image.get_data_dtype(),
        has_size=bool(name) or not ((size_mm == 1).all() or (size_mm <= 0).any()),
        size_fault=_size_fault(path, name, affine, size_mm * _unit_mm(header))
        or _distance_fault(path, _forms(header)),
        quantity=quantity,
        mu_water_per_mm=mu_water_per_mm,
        note=note,
        remarks=tuple(remarks),
    )


def nibabel_alone() -> Any:
    """nibabel, imported without pydicom where neither is there yet.

    nibabel takes pydicom for an extension of NIfTI that holds a DICOM header, which nobody asks for
    here, and it takes as long to import as all the rest. A name that is None is one that cannot be
    imported; only in the main thread, since others must not find it so.
    """
    unwanted = {"nibabel", "pydicom"}.isdisjoint(sys.modules)
    if unwanted and threading.current_thread() is threading.main_thread():
        sys.modules["pydicom"] = None  # type: ignore[assignment]
        try:
            import nibabel
        finally:
            del sys.modules["pydicom"]
    import nibabel

    return nibabel


def _check_name(path: Path) -> None:
    """Refuse a compressed file whose name does not say so, and the other way round."""
    named = path.name.lower().endswith(".gz")
    with open(path, "rb") as file:
        start = file.read(4)
    if (start in HEADER_SIZES) if named else start[:2] == GZIP:
        what = "not compressed" if named else "compressed"
        raise UserError(
            f"got '{path}', which is {what}",
            "wanted a name that says so",
            f"rename it to '{path.name[:-3] if named else path.name + '.gz'}'",
        )


def _values(path: Path, image: Any) -> np.ndarray:
    """Rescaled values [D, H, W] in float32."""
    size, components = list(image.shape), 1
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    if len(size) == 5 and size[3] == 1:  # where the format keeps vectors
        components, size = size[4], size[:3]
    kind = image.get_data_dtype()
    if kind.fields is not None:
        components = len(kind.fields)
    if kind.kind == "c":
        components = 2
    if components != 1 or len(size) != 3:
        raise no_scan(path, size, components)
    _check_length(image, kind.itemsize * math.prod(size))
    check_voxels(path, size)
    stored = image.dataobj.get_unscaled().reshape(size)
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    values = stored.T.astype(np.result_type(stored.dtype.newbyteorder("="), np.float32))
    if slope != 1 or intercept != 0:
        values *= values.dtype.type(slope)
        values += values.dtype.type(intercept)
    return np.ascontiguousarray(values, dtype=np.float32)


def _check_length(image: Any, wanted: int) -> None:
    """Raise EOFError for voxels that the file cannot hold, before memory is laid out for them."""
    name = str(image.dataobj.file_like)
    held = Path(name).stat().st_size * (DEFLATE if name.lower().endswith(".gz") else 1)
    if wanted > held:
        raise EOFError(f"it ends after {held} of {wanted} bytes at most")


def _affine(header: nibabel.Nifti1Header, size_mm: np.ndarray) -> tuple[str, np.ndarray, list[str]]:
    """The name of the form that places a scan, voxel index to LPS millimetres, what was assumed."""
    remarks: list[str] = []
    forms = _forms(header)
    if not forms:
        shape = header.get_data_shape()[:3]
        affine = unplaced(shape[::-1], np.where(size_mm > 0, size_mm, 1.0) * _unit_mm(header))
        return "", affine, [UNPLACED]
    name = min(forms, key=lambda form: (forms[form][0] != SCANNER, form != "sform"))
    code, affine = forms[name]
    other = next((form for key, (_, form) in forms.items() if key != name), affine)
    if np.abs(other - affine)[:3].max() > ALIKE * np.abs(affine[:3, :3]).max():
        remarks.append(f"sform and qform differ: the scan was placed by its {name}")
    if code >= ATLAS:
        remarks.append(f"its {name} leads to an atlas, whose lengths need not be the patient's")
    affine = LPS @ affine
    affine[:3] *= _unit_mm(header)
    return name, affine, remarks


def _forms(header: nibabel.Nifti1Header) -> dict[str, tuple[int, np.ndarray]]:
    """The affines that are there, with their codes; none in Analyze."""
    if "sform_code" not in header:
        return {}
    found = {"sform": header.get_sform(coded=True), "qform": header.get_qform(coded=True)}
    return {name: (int(code), form) for name, (form, code) in found.items() if code > 0}


def _unit_mm(header: nibabel.Nifti1Header) -> float:
    if "xyzt_units" not in header:
        return 1.0
    return MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)


def _size_fault(path: Path, name: str, affine: np.ndarray, size_mm: np.ndarray) -> UserError | None:
    """What is wrong where pixdim and the affine speak of voxels of different sizes.

    Of tilted slices pixdim may be their step along the table or from plane to plane.
    """
    if not name or not np.isfinite(affine).all():
        return None
    axes = affine[:3, :3]
    along = np.linalg.norm(axes, axis=0)
    faces = np.array([np.linalg.norm(np.cross(*np.delete(axes, k, 1).T)) for k in range(3)])
    across = np.divide(abs(np.linalg.det(axes)), faces, out=np.zeros(3), where=faces > 0)
    if not ((size_mm > 1.01 * along) | (size_mm < 0.99 * across)).any():
        return None
    return UserError(
        f"got '{path}' with voxels of {by(along)} mm by its {name} and of {by(size_mm)} mm by its "
        "pixdim",
        "wanted one size",
        "correct the header, or say the right one with --spacing-mm",
    )


def _distance_fault(path: Path, forms: dict[str, tuple[int, np.ndarray]]) -> UserError | None:
    """What is wrong where both forms have the same slices, and these at different distances.

    Of a tilted scan a converter writes its slices' distance from plane to plane into both: the
    qform goes by that along the normal, the sform along the table, where slices lie farther apart.
    """
    if len(forms) < 2:
        return None
    sform, qform = (forms[name][1][:3, :3] for name in ("sform", "qform"))
    if not np.allclose(sform[:, :2], qform[:, :2], atol=ALIKE * np.abs(sform).max()):
        return None
    normal = np.cross(sform[:, 0], sform[:, 1])
    across = [abs(float(normal @ form[:, 2])) for form in (sform, qform)]
    if abs(across[0] - across[1]) <= 0.01 * max(across):
        return None
    return UserError(
        f"got '{path}', whose sform and qform put the same tilted slices at different distances",
        "wanted one distance",
        "give the tilt-corrected file (…_Tilt_1) or the DICOM folder, or say --spacing-mm",
    )
