"""DICOM folders: one whole series in the order of its positions, or one sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dicom_slices import PIXELS, write_scan, write_slice

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import write_volume


def test_dicom_is_ordered_by_position(tmp_path):
    write_scan(tmp_path)
    (tmp_path / "README.txt").write_text("not a slice")
    v = read_volume(tmp_path)
    assert v.quantity == "hu" and v.shape == (5, 5, 6)
    assert v.spacing_mm == (3, 2, 2.5) and v.origin_mm == (10, 20, -40)
    np.testing.assert_array_equal(v.direction, np.eye(3))
    torch.testing.assert_close(
        v.values,
        torch.stack([torch.from_numpy(PIXELS + 100.0 * k) - 1000 for k in range(5)]).float(),
    )


def test_dicom_coronal_and_per_slice_rescale(tmp_path):
    for name, k in zip("cab", range(3), strict=True):
        write_slice(
            tmp_path / name,
            0,
            PIXELS * 2,
            slope=0.5 * (k + 1),
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
            ImagePositionPatient=[-5, 4.0 * k, 60],
        )
    v = read_volume(tmp_path)
    np.testing.assert_allclose(v.direction, [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-12)
    assert v.spacing_mm == (3, 2, 4) and v.origin_mm == (-5, 0, 60)
    torch.testing.assert_close(v.values[:, 1, 2], torch.tensor([8.0, 16, 24]) - 1000)
    assert v.aligned().shape == (5, 3, 6) and v.aligned().spacing_mm == (3, 4, 2)


def test_dicom_round_trip_to_nifti(tmp_path):
    (tmp_path / "series").mkdir()
    write_scan(tmp_path / "series")
    v = read_volume(tmp_path / "series")
    write_volume(v, tmp_path / "scan.nii.gz")
    back = read_volume(tmp_path / "scan.nii.gz")
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-5)
    torch.testing.assert_close(back.values, v.values)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "a.dcm").unlink(), "not equally spaced"),
        (lambda f: write_slice(f / "z.dcm", -40, PIXELS), "not equally spaced"),  # a position twice
        (lambda f: write_slice(f / "z.dcm", -28.7, PIXELS), "not equally spaced"),
        (lambda f: write_slice(f / "z.dcm", -27.5, PIXELS[:4]), "differ in size"),
        (lambda f: write_slice(f / "z.dcm", -27.5, PIXELS, PixelSpacing=[2, 2]), "differ in size"),
        (
            lambda f: write_slice(
                f / "z.dcm", -27.5, PIXELS, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]
            ),
            "differ in size",
        ),
        (
            lambda f: write_slice(f / "z.dcm", -27.5, PIXELS, ImagePositionPatient=None),
            "without ImagePositionPatient",
        ),
        (lambda f: write_slice(f / "z.dcm", -27.5, PIXELS, SamplesPerPixel=3), "in colour"),
        (lambda f: cut(f / "a.dcm", -20), "cannot be read"),
        (lambda f: cut(f / "a.dcm", 500), "without"),
        (lambda f: cut(f / "a.dcm", 60), "cannot be read"),
        (lambda f: (f / "z.dcm").write_bytes(b""), "cannot be read"),
        (lambda f: [p.unlink() for p in f.iterdir()], "with 0 DICOM slices"),
        (lambda f: [p.unlink() for p in f.iterdir() if p.stem != "a"], "with 1 DICOM slices"),
        (lambda f: write_scan(f, Modality="MR"), "modality MR"),
        (lambda f: write_scan(f, ImageOrientationPatient=[1, 0, 0, 0.5, 0.8, 0]), "sheared"),
    ],
)
def test_dicom_that_is_not_one_whole_series(tmp_path, spoil, words):
    write_scan(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=words) as error:
        read_volume(tmp_path)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_one_dicom_slice_asks_for_its_folder(tmp_path):
    write_slice(tmp_path / "a.dcm", 0, PIXELS)
    with pytest.raises(UserError, match="pass the folder"):
        read_volume(tmp_path / "a.dcm")


def test_another_modality_by_its_stated_quantity(tmp_path):
    write_scan(tmp_path, Modality="MR")
    assert read_volume(tmp_path, quantity="relative").quantity == "relative"
