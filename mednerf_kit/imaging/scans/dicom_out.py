"""A volume as an Enhanced CT: one DICOM file with a frame for each slice.

It is marked as derived, secondary and for research, names no patient, and carries the note of the
volume (what it is, and that it is not for diagnosis) where viewers show comments.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ...core import files

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.uid import UID

    from ..volume import Volume

IMAGE_TYPE = ["DERIVED", "SECONDARY", "VOLUME", "NONE"]
EMPTY = (  # what a DICOM file must have, and what nobody said
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
    "AcquisitionContextSequence",
)
SIGNED = 32767  # largest of 16 bits


def write_enhanced_ct(volume: Volume, path: Path, *, study: str | None = None) -> None:
    """Write a volume atomically as an Enhanced CT.

    Hounsfield units are rounded to whole ones; relative values, whose rescale type is unspecified
    (US), to 1/65534 of their largest magnitude. ``study`` is a UID that files of one result share;
    None makes one of the voxels. UIDs are digests of what is written: the same voxels have the
    same.
    """
    from pydicom.uid import generate_uid

    if volume.quantity == "mu_per_mm":
        volume = volume.to_hu()
    values = volume.values.detach().cpu().numpy()
    slope = 1.0
    if volume.quantity != "hu" or np.abs(values).max() > SIGNED:
        slope = float(f"{max(float(np.abs(values).max()), 1e-12) / SIGNED:.8g}")
    stored = np.clip(np.rint(values / slope), -SIGNED, SIGNED).astype("<i2")
    parts = [stored.tobytes().hex(), volume.affine.tobytes().hex(), volume.note]
    uid, series, own_study = (generate_uid(entropy_srcs=[*parts, what]) for what in "ose")
    d = _general(uid, series, study or own_study)
    d.SeriesDescription = d.ImageComments = " ".join(volume.note.split())
    d.SeriesDescription = d.SeriesDescription[:64]
    d.DerivationDescription = d.ImageComments[:1024]
    _add_pixels(d, stored)
    _add_places(d, volume)
    window = (400.0, 40.0) if volume.quantity == "hu" else (SIGNED * slope, SIGNED * slope / 2)
    shared = d.SharedFunctionalGroupsSequence[0]
    shared.PixelValueTransformationSequence = _items(
        RescaleSlope=slope,
        RescaleIntercept=0,
        RescaleType="HU" if volume.quantity == "hu" else "US",
    )
    shared.FrameVOILUTSequence = _items(
        WindowWidth=_decimals(window)[0], WindowCenter=_decimals(window)[1]
    )
    with files.atomic(path) as temporary:
        d.save_as(temporary, enforce_file_format=True)


def study_uid(volume: Volume) -> str:
    """A UID of the study that a volume begins."""
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=[volume.values.cpu().numpy().tobytes().hex(), "study"])


def _items(**tags: Any) -> list[Dataset]:
    """A sequence of one item."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for tag, value in tags.items():
        setattr(item, tag, value)
    return [item]


def _general(uid: UID, series: UID, study: str) -> Dataset:
    """What the file is, who made it, and the patient whom it does not name."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = d.SOPClassUID = EnhancedCTImageStorage
    d.file_meta.MediaStorageSOPInstanceUID = d.SOPInstanceUID = uid
    d.StudyInstanceUID, d.SeriesInstanceUID = study, series
    d.FrameOfReferenceUID = generate_uid(entropy_srcs=[study, "frame of reference"])
    for tag in EMPTY:
        setattr(d, tag, [] if tag.endswith("Sequence") else "")
    d.Modality, d.SeriesNumber, d.InstanceNumber = "CT", 1, 1
    d.Manufacturer = d.ManufacturerModelName = "mednerf-kit"
    d.DeviceSerialNumber, d.SoftwareVersions = "none", __version__
    now = datetime.datetime.now()
    d.ContentDate, d.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    d.ImageType, d.ContentQualification = IMAGE_TYPE, "RESEARCH"
    d.PixelPresentation, d.VolumetricProperties = "MONOCHROME", "VOLUME"
    d.VolumeBasedCalculationTechnique = "NONE"
    d.BurnedInAnnotation, d.LossyImageCompression = "NO", "00"
    d.PresentationLUTShape = "IDENTITY"
    return d


def _add_pixels(d: Dataset, stored: np.ndarray) -> None:
    """Slices [D, H, W] of signed 16 bits."""
    d.NumberOfFrames, d.Rows, d.Columns = stored.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.PixelData = stored.tobytes()
    d["PixelData"].VR = "OW"


def _add_places(d: Dataset, volume: Volume) -> None:
    """Where the frames lie."""
    from pydicom.tag import Tag
    from pydicom.uid import generate_uid

    across, down, between = volume.spacing_mm
    d.SharedFunctionalGroupsSequence = _items(
        PixelMeasuresSequence=_items(
            PixelSpacing=_decimals([down, across]),
            SliceThickness=_decimals([between])[0],
            SpacingBetweenSlices=_decimals([between])[0],
        ),
        PlaneOrientationSequence=_items(
            ImageOrientationPatient=_decimals(volume.direction[:, :2].T.ravel())
        ),
        CTImageFrameTypeSequence=_items(
            FrameType=IMAGE_TYPE,
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        ),
    )
    d.PerFrameFunctionalGroupsSequence = [
        item
        for k in range(volume.shape[0])
        for item in _items(
            FrameContentSequence=_items(
                StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1]
            ),
            PlanePositionSequence=_items(
                ImagePositionPatient=_decimals(volume.affine[:3, 3] + k * volume.affine[:3, 2])
            ),
        )
    ]
    organisation = generate_uid(entropy_srcs=[str(d.SOPInstanceUID), "dimensions"])
    d.DimensionOrganizationSequence = _items(DimensionOrganizationUID=organisation)
    d.DimensionIndexSequence = [
        item
        for tag in ("StackID", "InStackPositionNumber")
        for item in _items(
            DimensionOrganizationUID=organisation,
            DimensionIndexPointer=Tag(tag),
            FunctionalGroupPointer=Tag("FrameContentSequence"),
        )
    ]


def _decimals(numbers: Any) -> list[str]:
    """Numbers as the standard's decimal strings, of 16 characters at most."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(number)) for number in numbers]
