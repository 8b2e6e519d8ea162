"""DICOM radiographs for tests, written with pydicom: a good film, and how to change one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian

from mednerf_kit.data.films.stored import StoredFilm

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
XA = "1.2.840.10008.5.1.4.1.1.12.1"
RF = "1.2.840.10008.5.1.4.1.1.12.2"


def ramp(rows: int = 40, cols: int = 48, top: int = 4095) -> np.ndarray:
    """A picture [rows, cols] that is neither symmetric nor constant, from 0 to ``top``."""
    values = np.arange(rows * cols).reshape(rows, cols) ** 2
    return (values * (top / values.max())).round().astype(np.uint16)


def film_tags(pixels: np.ndarray, **tags: Any) -> pydicom.Dataset:
    """A CR film of unsigned or signed ``pixels`` [H, W], changed by tags; None leaves one out."""
    film = pydicom.Dataset()
    film.file_meta = pydicom.dataset.FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID, film.SOPInstanceUID = CR, "1.2.3"
    film.Modality = "CR"
    film.Rows, film.Columns = pixels.shape
    film.SamplesPerPixel, film.PhotometricInterpretation = 1, "MONOCHROME2"
    film.BitsAllocated = 8 * pixels.dtype.itemsize
    film.BitsStored = film.BitsAllocated if film.BitsAllocated == 8 else 12
    film.HighBit = film.BitsStored - 1
    film.PixelRepresentation = int(pixels.dtype.kind == "i")
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        if value is None:
            del film[keyword]
        else:
            setattr(film, keyword, value)
    film.file_meta.MediaStorageSOPClassUID = film.get("SOPClassUID", CR)
    film.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    return film


def compressed(film: pydicom.Dataset, stream: bytes, syntax: str) -> pydicom.Dataset:
    """The film with a compressed picture in place of its pixels."""
    film.PixelData = encapsulate([bytes(stream)])
    film["PixelData"].VR = "OB"
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    return film


def written(folder: Path, film: pydicom.Dataset, name: str = "film.dcm") -> Path:
    """The file of a film."""
    path = folder / name
    film.save_as(path, enforce_file_format=True)
    return path


def table(entries: list[int], first: int, bits: int, data: Any = None) -> pydicom.Dataset:
    """One look-up table."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) % 65536, first, bits])
    words = np.array(entries, dtype="<u2").tobytes() if data is None else data
    item.add_new("LUTData", "OW", words)
    return item


def shown(film: StoredFilm) -> np.ndarray:
    """Grey values of a film in [0, 1], as stored."""
    return film.pixels / film.full_scale


#: What may not be found in any output, by the kind of element that holds it.
SECRETS = {
    "PN": "QUXNAME^ZYX",
    "DA": "19530617",
    "TM": "061742",
    "DT": "19530617061742",
    "AS": "073Y",
    "UI": "1.2.826.7734.991",
    "LO": "QUXLO 7734",
    "SH": "QUXSH 7734",
    "LT": "QUXLT 7734",
    "ST": "QUXST 7734",
    "UT": "QUXUT 7734",
    "UC": "QUXUC 7734",
    "UR": "http://qux.example/7734",
    "CS": "QUXCS 7734",
    "AE": "QUXAE7734",
    "IS": "77349911",
    "DS": "7734.9911",
}
MARKS = ("qux", "zyx", "7734", "19530617", "061742", "073y", "77349911", "9911")
#: What the picture itself is read from.
NEEDED = (
    "SOPClassUID",
    "Modality",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
)


def full_of_names(pixels: np.ndarray) -> pydicom.Dataset:
    """A film in which every text, date, number and UID of the standard's dictionary is a secret."""
    film = film_tags(pixels)
    for tag in DicomDictionary:
        vr, keyword = dictionary_VR(tag), keyword_for_tag(tag)
        is_header = tag >> 16 in (0x0002, 0x0000, 0xFFFE) or keyword == "SpecificCharacterSet"
        if vr in SECRETS and not is_header and keyword not in NEEDED:
            film.add(pydicom.DataElement(tag, vr, SECRETS[vr], validation_mode=0))
    code = pydicom.Dataset()
    code.CodeValue, code.CodeMeaning = "QUX7734", SECRETS["LO"]
    film.ViewCodeSequence = film.AnatomicRegionSequence = [code]
    block = film.private_block(0x0019, "QUX 7734", create=True)
    block.add_new(0x01, "LO", SECRETS["LO"])
    block.add_new(0x02, "PN", SECRETS["PN"])
    return film


def assert_clean(*texts: object) -> None:
    for text in texts:
        found = [mark for mark in MARKS if mark in str(text).lower()]
        assert not found, (found, text)
