"""Volumes written as DICOM, and read back by other programs."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import torch
from ct_files import AFFINE, RAS, ball

from mednerf_kit import DISCLAIMER
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volumes

NOTE = f"Estimate. {DISCLAIMER}"


def oblique():
    turn = np.radians(20)
    affine = AFFINE.copy()
    affine[:3, :3] = [[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]]
    affine[:3, :3] *= [4, 5, 6]
    return affine


@pytest.fixture(scope="module", params=["upright", "oblique"])
def written(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("out")
    affine = AFFINE if request.param == "upright" else oblique()
    hu = torch.from_numpy(ball().T.astype(np.float32)) + 0.25
    volume = Volume(hu, affine, "hu", note=NOTE)
    share = Volume((hu + 1000).clamp_min(0) / 2001, affine, "relative", note=NOTE)
    write_volumes({"volume": volume, "share": share}, folder, dicom=True)
    return folder, affine


def test_only_what_was_asked_for_is_written(tmp_path, written):
    assert sorted(path.name for path in written[0].iterdir()) == [
        "share.dcm",
        "share.nii.gz",
        "volume.dcm",
        "volume.nii.gz",
    ]
    write_volumes({"v": Volume(torch.zeros(2, 3, 4), AFFINE, "hu")}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["v.nii.gz"]


def test_it_says_what_it_is_and_names_nobody(written):
    d, share = (pydicom.dcmread(written[0] / f"{name}.dcm") for name in ("volume", "share"))
    assert d.SOPClassUID.name == "Enhanced CT Image Storage" and d.NumberOfFrames == 16
    assert d.ImageType[:2] == ["DERIVED", "SECONDARY"] and d.ContentQualification == "RESEARCH"
    assert "not for diagnosis" in d.ImageComments and "Research use only" in d.SeriesDescription
    for tag in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
        assert d[tag].is_empty
    assert d.StudyInstanceUID == share.StudyInstanceUID
    assert d.SeriesInstanceUID != share.SeriesInstanceUID
    assert len({d.SOPInstanceUID, share.SOPInstanceUID, d.FrameOfReferenceUID}) == 3
    shared = d.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0]
    assert shared.RescaleType == "HU"


def test_our_own_reader(written):
    folder, affine = written
    back = read_volume(folder / "volume.dcm")
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(back.values.numpy().T, ball())
    share = read_volume(folder / "share.dcm", quantity="relative").values.numpy().T
    np.testing.assert_allclose(share, (ball() + 1000.25) / 2001, atol=2e-5)


def test_simpleitk(written):
    import SimpleITK as sitk

    folder, affine = written
    image = sitk.ReadImage(str(folder / "volume.dcm"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, ball())
    point = image.TransformIndexToPhysicalPoint((3, 4, 5))
    np.testing.assert_allclose(point, (affine @ [3, 4, 5, 1])[:3], atol=1e-4)
    share = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "share.dcm"))).T
    np.testing.assert_allclose(share, (ball() + 1000.25) / 2001, atol=2e-5)


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix(written, tmp_path):
    import nibabel

    folder, affine = written
    options = ["-b", "n", "-z", "n", "-s", "y", "-f", "v", "-o", tmp_path]  # -s: this file alone
    done = subprocess.run(
        ["dcm2niix", *options, folder / "volume.dcm"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    image = nibabel.load(tmp_path / "v.nii")
    values = torch.from_numpy(np.ascontiguousarray(image.get_fdata().T))
    found = Volume(values, RAS @ image.affine, "hu")
    np.testing.assert_allclose(found.centre_mm, Volume(values, affine, "hu").centre_mm, atol=1e-3)
    turned_back = np.linalg.inv(affine) @ found.affine  # dcm2niix turns the rows over
    np.testing.assert_allclose(np.abs(turned_back[:3, :3]), np.eye(3), atol=1e-5)
    flips = [n for n in range(3) if turned_back[n, n] < 0]
    np.testing.assert_array_equal(np.flip(values.numpy().T, flips), ball())
