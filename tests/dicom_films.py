"""DICOM radiographs for tests, written with pydicom: a good film, and how to change one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
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
