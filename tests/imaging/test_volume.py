"""Volumes: units, grids, and files that come back as they went."""

from __future__ import annotations

import gzip
import os

import numpy as np
import pytest
import torch

from mednerf_kit import DISCLAIMER
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volume


def turned(degrees: float, spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0)) -> np.ndarray:
    """An affine turned about z."""
    a = np.radians(degrees)
    affine = np.eye(4)
    affine[:3, :3] = (
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) * spacing_mm
    )
    affine[:3, 3] = origin_mm
    return affine


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 500


# What a volume is


def test_affine_places_voxels():
    v = Volume(values(4, 5, 6), turned(90, (1.5, 2.0, 3.0), (10, 20, 30)), "hu")
    assert v.shape == (4, 5, 6)
    assert v.spacing_mm == pytest.approx((1.5, 2, 3))
    assert v.origin_mm == (10, 20, 30)
    np.testing.assert_allclose(v.direction, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12)
    assert v.centre_mm == pytest.approx((10 - 2 * 2, 20 + 1.5 * 2.5, 30 + 3 * 1.5))
    assert v.note == DISCLAIMER
    assert v.values.dtype == torch.float32 and v.affine.dtype == np.float64


def test_centred():
    v = Volume.centred(values(3, 4, 5), 2.0, "relative", centre_mm=(1, 2, 3))
    assert v.centre_mm == (1, 2, 3) and v.spacing_mm == (2, 2, 2) and v.origin_mm == (-3, -1, 1)


@pytest.mark.parametrize(
    ("shape", "affine", "quantity", "words"),
    [
        ((3, 4), np.eye(4), "hu", "3-D"),
        ((0, 4, 4), np.eye(4), "hu", "3-D"),
        ((3, 4, 5), np.eye(3), "hu", "affine"),
        ((3, 4, 5), np.diag([1, 0, 1, 1]), "hu", "zero or infinite"),
        ((3, 4, 5), np.diag([1, np.nan, 1, 1]), "hu", "zero or infinite"),
        ((3, 4, 5), np.eye(4) + 0.2 * np.eye(4, k=1), "hu", "sheared"),
        ((3, 4, 5), np.eye(4), "mu_per_m", "did you mean 'mu_per_mm'"),
    ],
)
def test_refuses_what_is_no_volume(shape, affine, quantity, words):
    with pytest.raises(UserError, match=words):
        Volume(torch.zeros(shape), affine, quantity)


# Units


def test_water_air_and_bone():
    hu = Volume.centred(
        torch.tensor([-1024.0, -1000, -800, -799, 0, 1000]).view(1, 1, 6),
        1.0,
        "hu",
        mu_water_per_mm=0.022,
    )
    mu = hu.to_mu().values.flatten()
    torch.testing.assert_close(mu, torch.tensor([0, 0, 0.0044, 0.022 * 0.201, 0.022, 0.044]))
    cut = hu.to_mu(air_below_hu=-800)
    torch.testing.assert_close(
        cut.values.flatten(), torch.tensor([0, 0, 0, 0.022 * 0.201, 0.022, 0.044])
    )
    assert cut.quantity == "mu_per_mm"
    torch.testing.assert_close(
        hu.to_mu().to_hu().values.flatten()[1:], hu.values.flatten()[1:], atol=1e-3, rtol=0
    )
    assert hu.to_mu().to_mu(air_below_hu=-500).values.flatten().tolist()[:4] == [0, 0, 0, 0]
    with pytest.raises(UserError, match="relative"):
        Volume.centred(torch.ones(2, 2, 2), 1.0, "relative").to_mu()


# Other grids


def ramp(v: Volume) -> torch.Tensor:
    """A linear function of position: what linear interpolation must reproduce exactly."""
    k, j, i = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in v.shape), indexing="ij"
    )
    world = torch.stack([i, j, k], -1) @ torch.from_numpy(v.affine[:3, :3]).T + torch.from_numpy(
        v.affine[:3, 3]
    )
    return (world @ torch.tensor([2.0, -3.0, 5.0], dtype=torch.float64) + 7).float()


@pytest.mark.parametrize(
    "affine", [turned(0, (2, 2, 3), (5, 6, 7)), turned(30, (2, 2, 3), (5, 6, 7))]
)
@pytest.mark.parametrize(
    "grid",
    [{"spacing_mm": 1.0}, {"spacing_mm": (4.0, 4.0, 6.0)}, {"size": 36}, {"size": (6, 5, 4)}],
)
def test_resampling_keeps_a_ramp(affine, grid):
    v = Volume(torch.zeros(12, 14, 16), affine, "hu")
    new = Volume(ramp(v), affine, "hu").resampled(**grid)
    assert new.centre_mm == pytest.approx(v.centre_mm)
    np.testing.assert_allclose(
        np.multiply(new.spacing_mm, new.shape[::-1]),
        np.multiply(v.spacing_mm, v.shape[::-1]),
        rtol=0.15,
    )
    # at the edges there is nothing to lean on
    inside = (slice(2, -2) if min(new.shape) > 6 else slice(1, -1),) * 3
    # a broken ratio leaves 1 % of a coarse voxel's rise
    tolerance = 0.3 if "size" in grid and grid["size"] != 36 else 1e-3
    torch.testing.assert_close(new.values[inside], ramp(new)[inside], atol=tolerance, rtol=1e-5)


def test_resampled_sizes():
    v = Volume.centred(values(10, 20, 30), (1, 1, 2), "hu")
    assert v.resampled(size=15).shape == (10, 10, 15) and v.resampled(size=15).spacing_mm == (
        2,
        2,
        2,
    )
    assert v.resampled(size=(5, 6, 7)).shape == (5, 6, 7)
    assert v.resampled(spacing_mm=2).shape == (10, 10, 15)
    same = v.resampled(spacing_mm=v.spacing_mm)
    torch.testing.assert_close(same.values, v.values)
    with pytest.raises(ValueError, match="either"):
        v.resampled()


def test_coarser_voxels_average():
    checkers = (torch.arange(16) % 2).float() * 1000
    v = Volume.centred(checkers.expand(16, 16, 16), 1.0, "hu").resampled(spacing_mm=4.0)
    assert v.values.sub(500).abs().max() < 130  # a point sample would answer 0 or 1000


def test_aligned_turns_over_exactly():
    affine = np.array([[0, 0, -3.0, 9], [-1, 0, 0, 8], [0, 2, 0, 7], [0, 0, 0, 1]])
    v = Volume(ramp(Volume(torch.zeros(4, 5, 6), affine, "hu")), affine, "hu")
    new = v.aligned()
    np.testing.assert_array_equal(new.direction, np.eye(3))
    assert (
        new.spacing_mm == (3, 1, 2)
        and new.shape == (5, 6, 4)
        and new.centre_mm == pytest.approx(v.centre_mm)
    )
    torch.testing.assert_close(new.values, ramp(new))
    torch.testing.assert_close(new.aligned().values, new.values, rtol=0, atol=0)


def test_aligned_straightens_an_oblique_scan():
    affine = turned(20, (2.0, 2.0, 3.0), (5, 6, 7))
    v = Volume(ramp(Volume(torch.zeros(10, 20, 22), affine, "hu")), affine, "hu")
    new = v.aligned()
    np.testing.assert_array_equal(new.direction, np.eye(3))
    assert new.centre_mm == pytest.approx(v.centre_mm) and new.spacing_mm == pytest.approx(
        v.spacing_mm
    )
    d, h, w = (n // 2 for n in new.shape)
    near = (slice(d - 3, d + 3), slice(h - 5, h + 5), slice(w - 5, w + 5))
    torch.testing.assert_close(new.values[near], ramp(new)[near], atol=1e-2, rtol=1e-4)
    # air in the corners of a larger box
    assert new.values[0, 0, 0] == -1000 and new.shape[1] > 20 and new.shape[2] > 22


def test_an_oblique_scan_fades_into_air_over_its_last_voxel():
    from scipy.ndimage import map_coordinates

    v = Volume(values(6, 7, 8), turned(33, (2.0, 1.5, 3.0), (5, 6, 7)), "mu_per_mm")
    new = v.aligned()
    grid = np.stack(np.meshgrid(*map(np.arange, new.shape), indexing="ij")[::-1], -1)
    world = grid @ new.affine[:3, :3].T + new.affine[:3, 3]
    index = (world - v.affine[:3, 3]) @ np.linalg.inv(v.affine[:3, :3]).T
    at = [index[..., i] for i in (2, 1, 0)]
    wanted = map_coordinates(v.values.double().numpy(), at, order=1, mode="grid-constant", cval=0)
    torch.testing.assert_close(new.values, torch.from_numpy(wanted).float(), atol=0.02, rtol=1e-5)


def test_aligned_leaves_an_aligned_scan_alone():
    v = Volume.centred(values(4, 5, 6), (1.0, 2.0, 3.0), "hu")
    assert v.aligned() is v


# Files


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".NII.GZ", ".mha", ".nrrd"])
@pytest.mark.parametrize("quantity", ["hu", "mu_per_mm", "relative"])
def test_round_trip(tmp_path, suffix, quantity):
    v = Volume(
        values(5, 6, 7), turned(25, (0.7031, 1.2, 2.5), (-123.456, 78.9, -465.25)), quantity, 0.0193
    )
    write_volume(v, tmp_path / f"scan.v1{suffix}")
    back = read_volume(tmp_path / f"scan.v1{suffix}")
    torch.testing.assert_close(back.values, v.values, rtol=0, atol=0)
    np.testing.assert_allclose(back.affine, v.affine, atol=1e-4)  # NIfTI keeps single precision
    assert (back.quantity, back.mu_water_per_mm, back.note) == (quantity, 0.0193, DISCLAIMER)
    assert os.listdir(tmp_path) == [f"scan.v1{suffix}"]


def test_both_forms_of_a_nifti_say_the_same_and_that_it_is_the_scanners(tmp_path):
    """Some programs read the qform, others the sform; a code of 0 is none."""
    import nibabel

    v = Volume(values(5, 6, 7), turned(25, (0.7, 1.2, 2.5), (-120, 78, -465)), "hu")
    write_volume(v, tmp_path / "scan.nii.gz")
    image = nibabel.load(tmp_path / "scan.nii.gz")
    expected = np.diag([-1, -1, 1, 1]) @ v.affine  # LPS to RAS
    for form, code in (image.get_qform(coded=True), image.get_sform(coded=True)):
        np.testing.assert_allclose(form, expected, atol=1e-3)
        assert code == 1
    assert image.header.get_xyzt_units()[0] == "mm"


def test_other_programs_find_it_where_it_was(tmp_path):
    import SimpleITK as sitk

    v = Volume(values(5, 6, 7), turned(25, (0.7, 1.2, 2.5), (-120, 78, -465)), "hu")
    write_volume(v, tmp_path / "scan.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "scan.nii.gz"))
    point = image.TransformIndexToPhysicalPoint((6, 4, 2))
    assert point == pytest.approx((v.affine @ [6, 4, 2, 1])[:3], abs=1e-3)
    assert image.GetPixel(6, 4, 2) == float(v.values[2, 4, 6])
    assert "Research use only" in image.GetMetaData("descrip")


def test_a_file_without_a_label(tmp_path):
    import SimpleITK as sitk

    sitk.WriteImage(
        sitk.GetImageFromArray(np.int16([[[-1000, 40]] * 3] * 2)), str(tmp_path / "ct.nii.gz")
    )
    assert read_volume(tmp_path / "ct.nii.gz").quantity == "hu"
    sitk.WriteImage(
        sitk.GetImageFromArray(np.full((2, 3, 4), 0.02, np.float32)), str(tmp_path / "mu.mha")
    )
    with pytest.raises(UserError, match="say its quantity"):
        read_volume(tmp_path / "mu.mha")
    assert read_volume(tmp_path / "mu.mha", quantity="mu_per_mm").quantity == "mu_per_mm"
    with pytest.raises(UserError, match="did you mean 'hu'"):
        read_volume(tmp_path / "mu.mha", quantity="h")


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    import SimpleITK as sitk

    v = Volume.centred(values(3, 4, 5), 1.0, "hu")
    write_volume(v, tmp_path / "a.mha")
    before = (tmp_path / "a.mha").read_bytes()

    def full(*args, **kwargs):
        raise RuntimeError("ITK ERROR: No space left on device")

    monkeypatch.setattr(sitk, "WriteImage", full)
    with pytest.raises(RunError, match="No space left"):
        write_volume(v, tmp_path / "a.mha")
    assert (tmp_path / "a.mha").read_bytes() == before and os.listdir(tmp_path) == ["a.mha"]
    with pytest.raises(UserError, match="rename the output"):
        write_volume(v, tmp_path / "a.npy")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_cut_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    write_volume(Volume.centred(values(8, 9, 10), 1.0, "hu"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match="cannot be read"):
        read_volume(path)


def test_a_wholly_packed_but_short_nifti_is_refused(tmp_path):
    path = tmp_path / "scan.nii.gz"
    write_volume(Volume.centred(values(8, 9, 10), 1.0, "hu"), path)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-100]))
    with pytest.raises(UserError, match="ends after"):
        read_volume(path)


def test_other_bad_files(tmp_path):
    import SimpleITK as sitk

    with pytest.raises(UserError, match="does not exist"):
        read_volume(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii").write_text("no scan")
    with pytest.raises(UserError, match="cannot be read"):
        read_volume(tmp_path / "text.nii")
    for name, shape, vector in (
        ("flat", (8, 9), False),
        ("one", (1, 8, 9), False),
        ("colour", (4, 5, 6, 3), True),
        ("time", (2, 4, 5, 6), False),
    ):
        sitk.WriteImage(
            sitk.GetImageFromArray(np.zeros(shape, np.uint8), isVector=vector),
            str(tmp_path / f"{name}.nii"),
        )
        with pytest.raises(UserError, match="one 3-D scan"):
            read_volume(tmp_path / f"{name}.nii", quantity="relative")
    sitk.WriteImage(
        sitk.GetImageFromArray(np.full((3, 4, 5), np.nan, np.float32)), str(tmp_path / "nan.mha")
    )
    with pytest.raises(UserError, match="not numbers"):
        read_volume(tmp_path / "nan.mha", quantity="hu")
