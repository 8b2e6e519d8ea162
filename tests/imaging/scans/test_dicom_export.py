"""DICOM folders as they are exported: what is no slice is passed over, series are chosen."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from ct_files import ball, turned, write_enhanced, write_slices
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.ct_files import find_cts
from mednerf_kit.imaging.scans.read import read_volume

STORAGE = "1.2.840.10008.5.1.4.1.1."


def other_file(path, sop_class, **tags):
    """A DICOM file that holds no slice."""
    d = Dataset()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID = sop_class
    d.file_meta.MediaStorageSOPInstanceUID = "1.2.5"
    if sop_class != "1.2.840.10008.1.3.10":
        d.SOPClassUID, d.SOPInstanceUID, d.SeriesInstanceUID = sop_class, "1.2.5", "1.2.6"
    for tag, value in tags.items():
        setattr(d, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)


def scout(d, k):
    d.SeriesInstanceUID, d.SeriesNumber = "1.2.20", 1
    d.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    d.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def scout_of_the_series(d, k):
    scout(d, k)
    d.SeriesInstanceUID, d.SeriesNumber = "1.2.9", 3


def untagged_scouts(d, k):
    scout(d, k)
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.ImageOrientationPatient = [1, 0, 0, 0, 0, -1] if k else [0, 1, 0, 0, 0, -1]


def magnetic(d, k):
    d.SeriesInstanceUID, d.Modality, d.SeriesNumber = "1.2.21", "MR", 9
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = STORAGE + "4"


def kernel(d, k):
    d.SeriesInstanceUID, d.SeriesNumber, d.ConvolutionKernel = "1.2.22", 7, "B70f"
    d.PixelData = np.full(d.Rows * d.Columns, 24, "<u2").tobytes()


def picture(**tags):
    bits = {"BitsAllocated": 16, "PixelRepresentation": 0, "PixelData": bytes(8)}
    return {"Rows": 2, "Columns": 2, "Modality": "CT", **bits, **tags}


BESIDE = {
    "a directory of the medium": lambda f: other_file(f / "DIRFILE", "1.2.840.10008.1.3.10"),
    "a secondary capture": lambda f: other_file(f / "dose.dcm", STORAGE + "7", **picture()),
    "a report": lambda f: other_file(f / "S1", STORAGE + "88.67", Modality="SR"),
    "a presentation state": lambda f: other_file(f / "P1", STORAGE + "11.1", Modality="PR"),
    "an encapsulated document": lambda f: other_file(f / "D1", STORAGE + "104.1", Modality="DOC"),
    "an object of radiotherapy": lambda f: other_file(f / "R", STORAGE + "481.3"),
    "a scout": lambda f: write_slices(f / "x", change=scout, values=ball()[:, :, :1]),
    "a scout, of the series": lambda f: write_slices(
        f / "x", change=scout_of_the_series, values=ball()[:, :, :1]
    ),
    "a single slice": lambda f: write_slices(
        f / "x", change=untagged_scouts, values=ball()[:, :, :2]
    ),
    "a picture of modality MR": lambda f: write_slices(f / "x", change=magnetic),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_is_no_slice_is_passed_over_and_said(tmp_path, what):
    folder = tmp_path / "export"
    write_slices(folder)
    BESIDE[what](folder)
    for path in list((folder / "x").glob("*")):
        path.rename(folder / f"x{path.name}")
    found = read_volume(folder)
    np.testing.assert_array_equal(found.values.numpy().T, ball())
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith(f"passed over: {what.split(',')[0]}")


def test_slices_below_are_found(tmp_path):
    write_slices(tmp_path / "PAT" / "STUDY" / "SER2")
    other_file(tmp_path / "PAT" / "DIRFILE", "1.2.840.10008.1.3.10")
    other_file(tmp_path / "PAT" / "STUDY" / "SER1" / "dose", STORAGE + "7", **picture())
    found = read_volume(tmp_path)
    np.testing.assert_array_equal(found.values.numpy().T, ball())
    cts, _ = find_cts(tmp_path)
    assert [ct.name for ct in cts] == ["SER1", "SER2"]


def test_several_series_are_listed_and_chosen(tmp_path):
    write_slices(tmp_path / "one")
    write_slices(tmp_path / "two", change=kernel)
    with pytest.raises(UserError, match="--series N") as error:
        read_volume(tmp_path)
    said = str(error.value)
    assert "2 DICOM series" in said
    listed = re.findall(r"(\d): 16 axial slices of 24×20 pixels, 4×5 mm, 6 mm thick", said)
    assert listed == ["1", "2"]
    assert "kernel B70F, series number 7" in said
    np.testing.assert_array_equal(read_volume(tmp_path, series=1).values.numpy().T, ball())
    with pytest.raises(UserError, match="from 1 to 2"):
        read_volume(tmp_path, series=3)
    assert float(read_volume(tmp_path, series=2).values.max()) == -1000


def test_names_in_a_header_are_not_printed(tmp_path):
    def named(d, k):
        kernel(d, k)
        d.PatientName, d.SeriesDescription, d.ConvolutionKernel = ("Doe^Jane",) * 3

    write_slices(tmp_path / "one")
    write_slices(tmp_path / "two", change=named)
    with pytest.raises(UserError) as error:
        read_volume(tmp_path)
    assert "jane" not in str(error.value).lower()


def test_an_enhanced_file_in_a_folder_is_read_as_alone(tmp_path):
    slices = write_slices(tmp_path / "s")
    (tmp_path / "e").mkdir()
    write_enhanced(tmp_path / "e" / "scan", slices[::-1])
    other_file(tmp_path / "e" / "DIRFILE", "1.2.840.10008.1.3.10")
    alone, inside = read_volume(tmp_path / "e" / "scan"), read_volume(tmp_path / "e")
    np.testing.assert_array_equal(alone.affine, inside.affine)
    np.testing.assert_array_equal(inside.values.numpy(), alone.values.numpy())
    write_enhanced(tmp_path / "e" / "again", slices)
    with pytest.raises(UserError, match="2 DICOM series"):
        read_volume(tmp_path / "e")


def test_multi_frame_files_in_one_folder_are_scans_each(tmp_path):
    slices = write_slices(tmp_path / "anna")
    (tmp_path / "more").mkdir()
    for name in ("ben.dcm", "carl.dcm"):
        write_enhanced(tmp_path / "more" / name, slices)
    other_file(tmp_path / "more" / "DIRFILE", "1.2.840.10008.1.3.10")
    cts, _ = find_cts(tmp_path)
    assert [ct.name for ct in cts] == ["anna", "ben", "carl"]
    assert [ct.path.is_dir() for ct in cts] == [True, False, False]


def test_frames_without_positions_lie_at_the_distance_of_all(tmp_path):
    slices = write_slices(tmp_path / "s")
    d = slices[0]
    d.NumberOfFrames, d.PixelData = 16, b"".join(one.PixelData for one in slices)
    del d.ImagePositionPatient, d.ImageOrientationPatient
    d.save_as(tmp_path / "thick.dcm")
    found = read_volume(tmp_path / "thick.dcm")
    np.testing.assert_array_equal(found.values.numpy().T, ball())
    assert found.spacing_mm == (4, 5, 6)
    assert "6 mm apart was assumed (SliceThickness)" in found.remarks[0]
    del d.SliceThickness
    d.save_as(tmp_path / "thin.dcm")
    with pytest.raises(UserError, match="do not say where they lie"):
        read_volume(tmp_path / "thin.dcm")


def test_slices_without_preamble(tmp_path):
    write_slices(tmp_path)
    for path in tmp_path.iterdir():
        whole = pydicom.dcmread(path)
        pydicom.dcmwrite(path, Dataset(whole), implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_volume(tmp_path).values.numpy().T, ball())


def test_a_compressed_slice_that_breaks_off(tmp_path):
    from pydicom.uid import JPEGLSLossless

    write_slices(tmp_path, change=lambda d, k: d.compress(JPEGLSLossless))
    np.testing.assert_array_equal(read_volume(tmp_path).values.numpy().T, ball())
    d = pydicom.dcmread(tmp_path / "I000")
    stream = pydicom.encaps.get_frame(d.PixelData, 0)
    d.PixelData = pydicom.encaps.encapsulate([stream[: len(stream) // 2]])
    d.save_as(tmp_path / "I000")
    with pytest.raises(UserError, match="cannot be read"):
        read_volume(tmp_path)


def test_a_series_in_another_plane_is_placed_by_its_own(tmp_path):
    hu, affine = turned((0, 2, 1), (1, -1, 1))
    write_slices(tmp_path, order=(0, 2, 1), flips=(1, -1, 1))
    found = read_volume(tmp_path)
    assert found.aligned().spacing_mm == (4, 5, 6)
    np.testing.assert_array_equal(found.aligned().values.numpy().T, ball())
