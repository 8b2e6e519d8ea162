"""DICOM series: a folder of single slices to one volume in millimetres.

The slices' order and the affine come from their own positions, the rescaled pixels from SimpleITK.
A folder that does not hold one whole, right-angled, evenly spaced series is refused in a sentence.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError

if TYPE_CHECKING:
    import pydicom

SLICE_TAGS = [
    "SeriesInstanceUID",
    "Modality",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
]


def read_series(folder: Path, *, any_modality: bool = False) -> tuple[Tensor, np.ndarray]:
    """Voxels and affine of the one series in a folder.

    The voxels [D, H, W] come in float32, the affine [4, 4] leads from voxel index (i, j, k) to LPS
    millimetres.

    Errors: other modalities than CT, unless ``any_modality``; a file without what a slice must say;
    several series; slices that differ or are not equally spaced; a tilted gantry.
    """
    import SimpleITK as sitk

    slices = _headers(folder)
    first = next(iter(slices.values()))
    if not any_modality and first.Modality != "CT":
        raise UserError(
            f"got a DICOM series of modality {first.Modality} in '{folder}'",
            "wanted a CT in Hounsfield units",
            "say its quantity: mu_per_mm or relative",
        )
    order, affine = _ordered(folder, list(slices.values()))
    paths = list(slices)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(paths[i]) for i in order])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # each slice has its own rescale slope
    try:
        values = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise unreadable(folder, reason(error)) from None
    return torch.from_numpy(values), affine


def _headers(folder: Path) -> dict[Path, pydicom.Dataset]:
    """The header of every slice in a folder.

    Other files are passed over, unless they call themselves DICOM.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    slices: dict[Path, pydicom.Dataset] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            header = pydicom.dcmread(
                path,
                stop_before_pixels=True,
                specific_tags=[*SLICE_TAGS, "SamplesPerPixel", "NumberOfFrames"],
            )
        except InvalidDicomError:
            if path.suffix.lower() in (".dcm", ".ima"):
                raise unreadable(path, "no DICOM file") from None
            continue
        except (
            EOFError,
            OSError,
            ValueError,
            LookupError,
            AttributeError,
            NotImplementedError,
            struct.error,
        ) as error:
            raise unreadable(path, str(error) or type(error).__name__) from None
        if path.name.upper() == "DICOMDIR":
            continue
        missing = [tag for tag in SLICE_TAGS if tag not in header or header[tag].is_empty]
        if missing:
            raise UserError(
                f"got '{path}' without {', '.join(missing)}",
                "wanted whole CT slices only",
                "remove or re-export that file",
            )
        if header.get("SamplesPerPixel", 1) != 1 or int(header.get("NumberOfFrames") or 1) != 1:
            raise UserError(
                f"got '{path}', which is in colour or has several frames",
                "wanted single grey slices",
                "remove that file",
            )
        slices[path] = header
    if len(slices) < 2:
        raise UserError(
            f"got '{folder}' with {len(slices)} DICOM slices",
            "wanted a folder with all slices of one CT series",
            "check the path",
        )
    series = {str(header.SeriesInstanceUID) for header in slices.values()}
    if len(series) > 1:
        raise UserError(
            f"got '{folder}' with {len(series)} DICOM series mixed",
            "wanted the slices of one series",
            "keep one per folder",
        )
    return slices


def _ordered(folder: Path, headers: list[pydicom.Dataset]) -> tuple[list[int], np.ndarray]:
    """The slices' order along their normal (row × column direction), and the affine.

    The affine is the one that the slices' positions span.
    """

    def numbers(tag: str) -> np.ndarray:
        return np.array([[float(v) for v in header[tag].value] for header in headers])

    def refuse(what: str, next_step: str) -> UserError:
        return UserError(
            f"got a DICOM series in '{folder}' {what}",
            "wanted equal slices at equal distances",
            next_step,
        )

    alike = np.hstack(
        [
            numbers("ImageOrientationPatient"),
            numbers("PixelSpacing"),
            [[h.Rows, h.Columns] for h in headers],
        ]
    )
    if not np.allclose(alike, alike[0], rtol=0, atol=1e-3):
        raise refuse(
            "whose slices differ in size, spacing or orientation",
            "remove scouts and other scans from the folder",
        )
    across, down = np.split(alike[0, :6], 2)
    normal = np.cross(across, down) / np.linalg.norm(np.cross(across, down))
    positions = numbers("ImagePositionPatient")
    along = positions @ normal
    order = along.argsort(kind="stable")
    step = (along.max() - along.min()) / (len(along) - 1)
    ideal = along.min() + step * np.arange(len(along))
    if (
        step <= 0
        or (np.diff(along[order]) < 0.5 * step).any()
        or np.abs(along[order] - ideal).max() > 0.1 * step
    ):
        raise refuse(
            "whose slices are not equally spaced",
            "look for missing or doubled slices, or export an even reconstruction",
        )
    drift = positions - positions[0] - np.outer(along - along[0], normal)
    if np.linalg.norm(drift, axis=1).max() > 0.5 * alike[0, 6:8].min():
        raise refuse("taken with a tilted gantry", "resample it to a right-angled grid")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * alike[0, 7], down * alike[0, 6], normal * step], axis=1)
    affine[:3, 3] = positions[order[0]]
    return order.tolist(), affine


def unreadable(path: Path, why: str) -> UserError:
    """The error for a scan that is damaged or of another format."""
    return UserError(
        f"got '{path}', which cannot be read ({why})",
        "wanted a whole NIfTI, MetaImage, NRRD or DICOM scan",
        "copy or export it again",
    )


def reason(error: Exception) -> str:
    """The last line of SimpleITK's report, without its source paths."""
    return str(error).strip().splitlines()[-1].split("ERROR: ")[-1].strip().rstrip(".")
