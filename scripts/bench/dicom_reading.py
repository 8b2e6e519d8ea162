#!/usr/bin/env python3
"""Processor seconds to read a DICOM radiograph of 2,000 × 2,500 pixels, by transfer syntax.

    python scripts/bench/dicom_reading.py --repeats 3

The film of 16 bits is a smooth field with detector noise, written to a temporary folder. Imports
are done before the clock starts; the least of the repeats is printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import jpeg_ls
import numpy as np
import openjpeg.utils
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from mednerf_kit.data.radiograph import read_radiograph

SYNTAXES = {
    "1.2.840.10008.1.2.1": "uncompressed",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000, an eighth of the size",
}


def film(rng: np.random.Generator) -> np.ndarray:
    """Grey values [2000, 2500] uint16."""
    y, x = np.mgrid[:2000, :2500]
    smooth = 20000 + 15000 * np.sin(x / 300) * np.cos(y / 250)
    return (smooth + rng.normal(0, 60, smooth.shape)).clip(0, 65535).astype(np.uint16)


def write(path: Path, pixels: np.ndarray, syntax: str) -> None:
    """A CR film, MONOCHROME1 and with a window, under a transfer syntax."""
    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    content.SOPClassUID, content.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    content.Modality, content.ViewPosition, content.BodyPartExamined = "CR", "PA", "CHEST"
    content.PatientOrientation, content.ImagerPixelSpacing = ["L", "F"], [0.143, 0.143]
    content.Rows, content.Columns = pixels.shape
    content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME1"
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 16, 15
    content.PixelRepresentation = 0
    content.WindowCenter, content.WindowWidth = 20000, 60000
    content.PixelData = pixels.tobytes()
    content["PixelData"].VR = "OW"
    if SYNTAXES[syntax] == "RLE":
        content.compress(UID(syntax))
    elif syntax.startswith("1.2.840.10008.1.2.4"):
        ratio = [8] if syntax.endswith(".91") else None
        stream = (
            jpeg_ls.encode_array(pixels)
            if syntax.endswith(".80")
            else openjpeg.utils.encode_array(
                pixels, photometric_interpretation=2, compression_ratios=ratio
            )
        )
        content.PixelData = encapsulate([bytes(stream)])
        content["PixelData"].VR = "OB"
        content["PixelData"].is_undefined_length = True
    content.file_meta.TransferSyntaxUID = UID(syntax)
    content.save_as(path, enforce_file_format=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    pixels = film(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.dcm"
        for syntax, name in SYNTAXES.items():
            write(path, pixels, syntax)
            seconds = []
            for _ in range(repeats):
                start = time.process_time()
                read_radiograph(path, size=128)
                seconds.append(time.process_time() - start)
            print(f"{name:34} {path.stat().st_size / 2**20:5.1f} MiB  {min(seconds):.2f} s")


if __name__ == "__main__":
    main()
