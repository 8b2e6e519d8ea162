"""DICOM slices of a CT as a scanner would write them."""

from __future__ import annotations

import numpy as np


def write_slice(path, z_mm, pixels, series="1.2.3", *, slope=1.0, **changes) -> None:
    """One CT slice as a scanner would write it, HU = slope·stored − 1000."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = Dataset()
    d.file_meta = meta
    d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    d.SeriesInstanceUID = d.StudyInstanceUID = series
    d.Modality = "CT"
    d.Rows, d.Columns = pixels.shape
    d.PixelSpacing = [2.0, 3.0]  # between rows, between columns
    d.ImagePositionPatient, d.ImageOrientationPatient = [10.0, 20.0, z_mm], [1, 0, 0, 0, 1, 0]
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleSlope, d.RescaleIntercept = slope, -1000
    d.PixelData = pixels.astype("<i2").tobytes()
    for tag, value in changes.items():
        setattr(d, tag, value) if value is not None else delattr(d, tag)
    d.save_as(path, enforce_file_format=True)


PIXELS = np.arange(30).reshape(5, 6)


def write_scan(folder, count=5, **changes) -> None:
    """Slices 2.5 mm apart whose names do not follow their positions."""
    for name, k in zip("dbeac"[:count], range(count), strict=True):
        write_slice(folder / f"{name}.dcm", -40 + 2.5 * k, PIXELS + 100 * k, **changes)
