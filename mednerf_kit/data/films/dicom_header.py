"""The header of a DICOM file: opened within bounds, and asked only for what a radiograph needs.

Only the tags in :data:`TAGS` are kept, so that no name, date or number of a patient is ever in
reach of a note or an error.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from ...core.errors import UserError
from ...imaging.dicom_header import Header
from . import checks

MOST_BYTES = (
    160 * 2**20
)  # of a file, and of a deflated one once inflated: 64 million pixels and more
MOST_READS = 100_000  # every element costs at least one: a whole header has a few hundred
DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
EXPLICIT = "1.2.840.10008.1.2.1"
META_GROUP = 0x0002
OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
#: Rows, columns, origin and data of an overlay (PS3.3 C.9.2), within its group.
OVERLAY_ELEMENTS = OVERLAY_ROWS, OVERLAY_COLS, OVERLAY_ORIGIN, OVERLAY_DATA = (
    0x0010,
    0x0011,
    0x0050,
    0x3000,
)
#: What a radiograph is read from, by the keywords of the standard's data dictionary.
TAGS = (
    "SOPClassUID",
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "AnatomicRegionSequence",
    "ViewPosition",
    "ViewCodeSequence",
    "PatientOrientation",
    "ImageLaterality",
    "Laterality",
    "PositionerPrimaryAngle",
    "PositionerSecondaryAngle",
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "EstimatedRadiographicMagnificationFactor",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "PixelAspectRatio",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "PresentationLUTShape",
    "ShutterShape",
    "ShutterLeftVerticalEdge",
    "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge",
    "CenterOfCircularShutter",
    "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
    "ShutterOverlayGroup",
    "CollimatorShape",
    "CollimatorLeftVerticalEdge",
    "CollimatorRightVerticalEdge",
    "CollimatorUpperHorizontalEdge",
    "CollimatorLowerHorizontalEdge",
    "CenterOfCircularCollimator",
    "RadiusOfCircularCollimator",
    "VerticesOfThePolygonalCollimator",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "EncapsulatedDocument",
)
OVERLAY_TAGS = [group << 16 | tag for group in OVERLAY_GROUPS for tag in OVERLAY_ELEMENTS]


class _Bounded(io.BytesIO):
    """A file in memory that gives out after :data:`MOST_READS` reads."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.left = MOST_READS

    def read(self, size: int | None = -1) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("more elements than a radiograph has")
        return super().read(size)


def read_header(path: Path) -> tuple[Header, str]:
    """The header of a DICOM file with or without preamble, and its transfer syntax as a UID.

    Raises UserError for a file that is no DICOM, beyond the bounds, or damaged.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(
            f"got '{path}' of {size / 2**20:.0f} MiB",
            f"wanted a radiograph of at most {MOST_BYTES // 2**20} MiB",
            "give a single film",
        )
    content = path.read_bytes()
    try:
        return _parsed(content)
    except Exception:  # whatever pydicom stumbles over; its words may quote the file
        raise damaged(path, "its header cannot be followed to the end") from None


def damaged(path: Path, why: str) -> UserError:
    """The error for a DICOM file that breaks off or contradicts itself, in our own words."""
    return checks.damaged(path, ValueError(why))


def _parsed(content: bytes) -> tuple[Header, str]:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    file = _Bounded(content)
    file.seek(132 if content[128:132] == b"DICM" else 0)
    first = content[file.tell() : file.tell() + 2]
    if len(first) < 2 or struct.unpack("<H", first)[0] not in (0x0002, 0x0008, 0x0800):
        raise ValueError("no group of a DICOM header at its start")
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group != META_GROUP)
    syntax = str(meta.get("TransferSyntaxUID", "")).strip()
    if not syntax:
        syntax = _guessed_syntax(content[file.tell() : file.tell() + 6])
    if syntax == DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        file = _Bounded(inflate.decompress(content[file.tell() :], MOST_BYTES))
        if inflate.unconsumed_tail:
            raise ValueError("inflates without end")
    wanted = [tag for keyword in TAGS if (tag := tag_for_keyword(keyword)) is not None]
    tags = read_dataset(
        file, syntax == IMPLICIT, syntax != BIG_ENDIAN, specific_tags=[*wanted, *OVERLAY_TAGS]
    )
    if "SOPClassUID" not in tags and "MediaStorageSOPClassUID" in meta:
        tags.SOPClassUID = meta.MediaStorageSOPClassUID
    return Header(tags), syntax


def _guessed_syntax(start: bytes) -> str:
    """The uncompressed syntax of a file that names none, by the look of its first element."""
    if not start[4:6].isalpha():
        return IMPLICIT
    return BIG_ENDIAN if start[:2] == b"\0\x08" else EXPLICIT
