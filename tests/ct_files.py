"""One ball of water with a bead of bone, written by other libraries in their formats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np

SPACING_MM = np.array([4.0, 5.0, 6.0])  # x, y, z
SIZE = np.array([24, 20, 16])
AFFINE = np.diag([*SPACING_MM, 1.0])  # LPS, the ball about the origin
AFFINE[:3, 3] = -SPACING_MM * (SIZE - 1) / 2
RADIUS_MM, BEAD_MM, BEAD_AT_MM = 34.0, 9.0, (12.0, -9.0, 8.0)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = [1.0, 0, 0, 0, 1.0, 0]


def at_world(affine: np.ndarray, size: np.ndarray) -> np.ndarray:
    """LPS positions [i, j, k, 3] of the voxels of a grid."""
    index = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


def ball(affine: np.ndarray = AFFINE, size: np.ndarray = SIZE) -> np.ndarray:
    """HU [i, j, k] of the ball on a grid, smoothed over about a voxel, in whole numbers."""
    at = at_world(affine, size)
    water = np.clip((RADIUS_MM - np.linalg.norm(at, axis=-1)) / 5 + 0.5, 0, 1)
    bead = np.clip((BEAD_MM - np.linalg.norm(at - BEAD_AT_MM, axis=-1)) / 5 + 0.5, 0, 1)
    return np.round(-1000 + 1000 * water + 1000 * bead).astype(np.int16)


def turned(order: tuple[int, int, int], flips: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The ball with its voxel axes in another order and sense, and its LPS affine."""
    axes = AFFINE[:3, :3][:, order] * np.array(flips)
    size = SIZE[list(order)]
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = -axes @ (size - 1) / 2
    return ball(affine, size), affine


def write_slices(
    folder: Path,
    *,
    order: tuple[int, int, int] = (0, 1, 2),
    flips: tuple[int, ...] = (1, 1, 1),
    change: Callable[[object, int], None] | None = None,
    values: np.ndarray | None = None,
) -> list:
    """A DICOM series of the ball, stored as HU + 1024; ``change`` alters each data set."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    hu, affine = turned(order, flips)
    if values is not None:
        hu = values
    folder.mkdir(parents=True, exist_ok=True)
    row, column, step = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    written = []
    for k in range(hu.shape[2]):
        d = Dataset()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = CTImageStorage
        d.SOPInstanceUID = f"1.2.3.{k + 1}"
        d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = "1.2.8", "1.2.9", "1.2.7"
        d.Modality, d.SeriesNumber, d.InstanceNumber = "CT", 3, k + 1
        d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        d.PatientID = d.PatientName = d.StudyID = d.AccessionNumber = ""
        d.PatientBirthDate = d.PatientSex = d.ReferringPhysicianName = d.StudyDate = ""
        d.StudyTime = d.Manufacturer = d.PositionReferenceIndicator = ""
        d.Columns, d.Rows = hu.shape[:2]
        d.PixelSpacing = [float(np.linalg.norm(column)), float(np.linalg.norm(row))]
        d.ImageOrientationPatient = [
            float(v) for axis in (row, column) for v in axis / np.linalg.norm(axis)
        ]
        d.ImagePositionPatient = [float(v) for v in affine[:3, 3] + k * step]
        d.SliceThickness = float(np.linalg.norm(step))
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 0
        d.RescaleSlope, d.RescaleIntercept = 1, -1024
        d.PixelData = (hu[:, :, k].T.astype(int) + 1024).astype("<u2").tobytes()
        d["PixelData"].VR = "OW"
        if change is not None:
            change(d, k)
        d.save_as(folder / f"I{(7 * k) % 100:03d}", enforce_file_format=True)
        written.append(d)
    return written


def write_enhanced(path: Path, slices: list) -> None:
    """Slices in one Enhanced CT, in their order, by pydicom: what differs stands in each frame."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import EnhancedCTImageStorage

    def item(**tags: object) -> Sequence:
        found = Dataset()
        for tag, value in tags.items():
            if value is not None:
                setattr(found, tag, value)
        return Sequence([found])

    d = copy.deepcopy(slices[0])
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    d.NumberOfFrames, d.SeriesInstanceUID = len(slices), "1.2.10"
    d.PixelData = b"".join(one.PixelData for one in slices)
    for tag in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "PixelSpacing"):
        if tag in d:
            delattr(d, tag)
    d.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=slices[0].PixelSpacing),
    )
    d.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence=item(ImagePositionPatient=one.ImagePositionPatient),
            PlaneOrientationSequence=item(ImageOrientationPatient=one.ImageOrientationPatient),
            PixelValueTransformationSequence=item(
                RescaleSlope=one.get("RescaleSlope"), RescaleIntercept=one.get("RescaleIntercept")
            ),
        )[0]
        for one in slices
    )
    d.save_as(path, enforce_file_format=True)


def write_legacy(path: Path, slices: list) -> None:
    """Slices in one Legacy Converted Enhanced CT, in their order, by highdicom."""
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    LegacyConvertedEnhancedCTImage(
        slices,
        series_instance_uid="1.2.10",
        series_number=4,
        sop_instance_uid="1.2.3.99",
        instance_number=1,
    ).save_as(path)


def write_nifti(
    path: Path, values: np.ndarray, affine: np.ndarray | None, **header: object
) -> None:
    """A file by nibabel; ``header`` are fields, and sform and qform as (affine, code)."""
    import nibabel

    image = nibabel.Nifti1Image(values, None if affine is None else RAS @ affine)
    for name in ("sform", "qform"):
        if name in header:
            form, code = header.pop(name)
            getattr(image, f"set_{name}")(None if form is None else RAS @ form, code)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)


def write_nrrd(path: Path, values: np.ndarray, affine: np.ndarray, **fields: object) -> None:
    """A file by pynrrd in LPS; ``fields`` go into the header."""
    import nrrd

    header = {
        "space": "left-posterior-superior",
        "space directions": affine[:3, :3].T,
        "space origin": affine[:3, 3],
        **fields,
    }
    nrrd.write(str(path), values, {k: v for k, v in header.items() if v is not None})


def write_itk(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """A file by SimpleITK."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))
