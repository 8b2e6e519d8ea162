"""Faults of headers and of values: each is refused in a sentence, or resampled and said."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ct_files import (
    AFFINE,
    RAS,
    SIZE,
    ball,
    write_enhanced,
    write_itk,
    write_nifti,
    write_nrrd,
    write_slices,
)

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.drr import render_orbit
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.scans.read import read_volume

GEOMETRY = Geometry(
    source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=32, cols=32, pixel_mm=5.0
).at([0.0, 90.0])
FINE = np.diag([2.5, 2.5, 3.0, 1.0])
FINE_SIZE = np.array([38, 38, 32])
FINE[:3, 3] = -FINE[:3, :3] @ ((FINE_SIZE - 1) / 2)
TILTED = FINE.copy()  # slices turned by 18.5° about x, the table's step straight
TILTED[:3, 1] = 2.5 * np.array([0, np.cos(np.radians(18.5)), np.sin(np.radians(18.5))])
TILTED[:3, 3] = -TILTED[:3, :3] @ ((FINE_SIZE - 1) / 2)
STRAIGHT = TILTED.copy()
STRAIGHT[:3, 2] = 3 * np.cross(TILTED[:3, 0] / 2.5, TILTED[:3, 1] / 2.5)


def pictures(volume):
    return render_orbit(volume, GEOMETRY, isocentre_mm=[0.0, 0.0, 0.0])


def with_hole(value):
    values = ball().astype(np.float32)
    values[0, :3] = value
    return values


def scaled(factor):
    affine = AFFINE.copy()
    affine[:3] *= factor
    return affine


def mha(path, **fields):
    """A MetaImage of the ball, written by hand."""
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, AFFINE[:3, 3])),
        "ElementSpacing": "4 5 6",
        "DimSize": " ".join(map(str, SIZE)),
        "ElementType": "MET_SHORT",
        **fields,
    }
    lines = [f"{key} = {value}" for key, value in header.items() if value is not None]
    text = "\n".join([*lines, "ElementDataFile = LOCAL\n"])
    path.write_bytes(text.encode() + ball().T.astype("<i2").tobytes())


def frames(path, *, without=None, change=None):
    slices = write_slices(path.parent / "s", change=change)
    write_enhanced(path, [one for k, one in enumerate(slices) if k != without])


def patched(path, at, numbers, values=None):
    """A NIfTI with other single-precision numbers at a place of its header."""
    write_nifti(path, ball() if values is None else values, AFFINE)
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(np.array(numbers, "<f4").tobytes())


def moved(d, k):
    if k == 5:
        d.ImagePositionPatient = [*d.ImagePositionPatient[:2], d.ImagePositionPatient[2] + 2.5]


def sideways(d, k):
    if k == 5:
        d.ImagePositionPatient = [d.ImagePositionPatient[0] + 8, *d.ImagePositionPatient[1:]]


def bare(d, k):
    del d.RescaleSlope, d.RescaleIntercept


def setting(**tags):
    def change(d, k):
        for tag, value in tags.items():
            setattr(d, tag, value)

    return change


def doubled(d, k):
    if k == 5:
        d.ImagePositionPatient = [*d.ImagePositionPatient[:2], d.ImagePositionPatient[2] - 6]


REFUSED = {
    "nan.nii": (lambda p: write_nifti(p, with_hole(np.nan), AFFINE), "not numbers"),
    "inf.nii.gz": (lambda p: write_nifti(p, with_hole(np.inf), AFFINE), "not numbers"),
    "nan.mha": (lambda p: write_itk(p, with_hole(np.nan), AFFINE), "not numbers"),
    "nan.nrrd": (lambda p: write_nrrd(p, with_hole(np.nan), AFFINE), "not numbers"),
    "pixdim.nii": (
        lambda p: write_nifti(p, ball(), scaled(2), pixdim=[1, 4, 5, 6, 0, 0, 0, 0]),
        "one size",
    ),
    "converted.nii": (
        lambda p: write_nifti(
            p, ball(TILTED, FINE_SIZE), TILTED, sform=(TILTED, 1), qform=(STRAIGHT, 1)
        ),
        "different distances",
    ),
    "metres.nii": (lambda p: write_nifti(p, ball(), AFFINE, xyzt_units=1), "lengths of a patient"),
    "micrometres.nii": (lambda p: write_nifti(p, ball(), scaled(1e-3)), "lengths of a patient"),
    "singular.nii": (
        lambda p: patched(p, 312, [0, 0, 0, 0]),
        "one size",
    ),
    "sform.nii": (
        lambda p: patched(p, 280, [np.nan]),
        "zero or infinite",
    ),
    "time.nii": (
        lambda p: write_nifti(p, np.stack([ball()] * 2, -1), AFFINE),
        "one 3-D scan",
    ),
    "units.nrrd": (
        lambda p: write_nrrd(p, ball(), AFFINE, **{"space units": ["mm", "cm", "mm"]}),
        "one known unit",
    ),
    "zero.mha": (lambda p: mha(p, ElementSpacing="0 5 6"), "cannot be read"),
    "long.mha": (lambda p: mha(p, TransformMatrix="2 0 0 0 2 0 0 0 2"), "unit vectors"),
    "flat.nrrd": (
        lambda p: write_nrrd(p, ball(), AFFINE[:, [0, 0, 2, 3]]),
        "sheared|cannot be read",
    ),
    "mu.mha": (lambda p: write_itk(p, (ball() + 998) * 2e-5, AFFINE), "--quantity"),
    "normalised.nrrd": (lambda p: write_nrrd(p, ball() / 1000, AFFINE), "--quantity"),
    "shifted.nii": (lambda p: write_nifti(p, ball() + 1000, AFFINE), "--quantity"),
    "shifted_padded.nii": (
        lambda p: write_nifti(p, np.where(ball() == -1000, -3024, ball() + 1024), AFFINE),
        "--quantity",
    ),
    "unsigned.nii": (
        lambda p: write_nifti(p, np.where(ball() == -1000, 62512, ball().astype("i4")), AFFINE),
        "--quantity",
    ),
    "gap.dcm": (lambda p: frames(p, without=3), "not equally spaced"),
    "doubled.dcm": (lambda p: frames(p, change=doubled), "not equally spaced"),
    "moved.dcm": (lambda p: frames(p, change=moved), "not equally spaced"),
    "sideways.dcm": (lambda p: frames(p, change=sideways), "jump sideways"),
    "rescale.dcm": (lambda p: frames(p, change=bare), "--quantity"),
    "sideways": (lambda p: write_slices(p, change=sideways), "jump sideways"),
    "rescale": (lambda p: write_slices(p, change=bare), "--quantity"),
    "density": (lambda p: write_slices(p, change=setting(RescaleType="ED")), "values in 'ED'"),
    "slope": (lambda p: write_slices(p, change=setting(RescaleSlope=0)), "Rescale Slope is 0"),
    "angiogram": (lambda p: write_slices(p, change=setting(Modality="XA")), "modality XA"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_fault_is_refused(tmp_path, name, capfd):
    write, words = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(UserError, match=words) as error:
        read_volume(tmp_path / name)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def tilted_slices(d, k):
    d.ImageOrientationPatient = [1, 0, 0, *(TILTED[:3, 1] / 2.5).tolist()]
    d.ImagePositionPatient = (TILTED[:3, 3] + k * TILTED[:3, 2]).tolist()
    d.PixelSpacing = [2.5, 2.5]


SHEARED = {
    "sform and qform": (
        "a.nii",
        lambda p: write_nifti(
            p, ball(TILTED, FINE_SIZE), TILTED, sform=(TILTED, 1), qform=(TILTED, 1)
        ),
    ),
    "sform alone": ("a.nii.gz", lambda p: write_nifti(p, ball(TILTED, FINE_SIZE), TILTED)),
    "pixdim from plane to plane": (
        "a.nii",
        lambda p: write_nifti(
            p,
            ball(TILTED, FINE_SIZE),
            TILTED,
            pixdim=[1, 2.5, 2.5, 3 * np.cos(np.radians(18.5)), 0, 0, 0, 0],
        ),
    ),
    "NRRD": ("a.nrrd", lambda p: write_nrrd(p, ball(TILTED, FINE_SIZE), TILTED)),
    "DICOM folder": (
        "a",
        lambda p: write_slices(p, change=tilted_slices, values=ball(TILTED, FINE_SIZE)),
    ),
    "enhanced DICOM": (
        "a.dcm",
        lambda p: write_enhanced(
            p,
            write_slices(p.parent / "s", change=tilted_slices, values=ball(TILTED, FINE_SIZE)),
        ),
    ),
}


@pytest.mark.parametrize(("name", "write"), SHEARED.values(), ids=SHEARED)
def test_a_tilted_gantry_is_resampled_and_said(tmp_path, name, write, capfd):
    import torch

    from mednerf_kit.imaging.volume import Volume

    write(tmp_path / name)
    found = read_volume(tmp_path / name)
    assert any(re.search(r"18\.5° from right angles.*resampled", said) for said in found.remarks)
    straight = Volume(torch.from_numpy(ball(FINE, FINE_SIZE).T.astype(np.float32)), FINE, "hu")
    truth = pictures(straight)
    assert float((pictures(found) - truth).abs().max()) < 0.04 * float(truth.max())
    lit = [(p > 0.3).sum(-1).max() for p in pictures(found)]
    assert lit == pytest.approx([float((p > 0.3).sum(-1).max()) for p in truth], abs=1)
    assert capfd.readouterr() == ("", "")


def test_padding_becomes_air(tmp_path):
    def outside(d, k):
        stored = np.frombuffer(d.PixelData, "<u2").copy()
        stored[stored == 24] = 63536
        d.PixelData, d.PixelPaddingValue = stored.tobytes(), 63536
        d["PixelData"].VR = "OW"

    def ranged(d, k):
        outside(d, k)
        d.PixelPaddingRangeLimit = 63000
        d.PixelPaddingValue = 65000

    for change in (outside, ranged):
        write_slices(tmp_path / change.__name__, change=change)
        found = read_volume(tmp_path / change.__name__)
        np.testing.assert_array_equal(found.values.numpy().T, ball())
        assert "are padding by the header and became air" in found.remarks[0]


def test_padding_written_as_unsigned_in_signed_pixels(tmp_path):
    def signed(d, k):
        stored = np.frombuffer(d.PixelData, "<u2").astype(int) - 1024
        stored[stored == -1000] = -2000
        d.PixelData, d.PixelRepresentation = stored.astype("<i2").tobytes(), 1
        d.RescaleIntercept = 0
        d.add_new("PixelPaddingValue", "US", 63536)

    write_slices(tmp_path / "s", change=signed)
    np.testing.assert_array_equal(read_volume(tmp_path / "s").values.numpy().T, ball())


def test_a_slope_of_zero_in_a_nifti_leaves_values_alone(tmp_path):
    patched(tmp_path / "a.nii", 112, [0, -1024])
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").values.numpy().T, ball())


def test_a_slope_for_each_frame(tmp_path):
    def by_turns(d, k):
        slope = (0.5, 1.0, 0.25)[k % 3]
        stored = np.frombuffer(d.PixelData, "<u2").astype(int)
        d.RescaleSlope, d.PixelData = slope, (stored / slope).astype("<u2").tobytes()

    slices = write_slices(tmp_path / "s", change=by_turns)
    write_enhanced(tmp_path / "e.dcm", slices)
    for path in ("s", "e.dcm"):
        np.testing.assert_array_equal(read_volume(tmp_path / path).values.numpy().T, ball())


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("codes.nii", lambda p: write_nifti(p, ball(), None), ["orientation", "no voxel size"]),
        (
            "size.nii",
            lambda p: write_nifti(p, ball(), None, pixdim=[1, 4, 5, 6, 0, 0, 0, 0]),
            ["orientation"],
        ),
        (
            "forms.nii",
            lambda p: write_nifti(p, ball(), AFFINE, sform=(AFFINE, 1), qform=(RAS @ AFFINE, 1)),
            ["placed by its sform"],
        ),
        (
            "atlas.nii",
            lambda p: write_nifti(p, ball(), AFFINE, sform=(AFFINE, 4)),
            ["leads to an atlas"],
        ),
        ("bare.mha", lambda p: mha(p, ElementSpacing=None), ["no voxel size"]),
        ("cm.mha", lambda p: mha(p, DistanceUnits="cm"), ["10 mm"]),
        (
            "slope.mha",
            lambda p: mha(
                p, ElementToIntensityFunctionSlope=2, ElementToIntensityFunctionOffset=1000
            ),
            ["2·stored +1000"],
        ),
        (
            "bare.nrrd",
            lambda p: write_nrrd(
                p, ball(), AFFINE, **{"space": None, "space directions": None, "space origin": None}
            ),
            ["no voxel size"],
        ),
    ],
)
def test_what_is_assumed_is_said(tmp_path, name, write, words):
    write(tmp_path / name)
    said = read_volume(tmp_path / name).remarks
    assert len(said) == len(words)
    for remark, word in zip(said, words, strict=True):
        assert word in remark


def test_a_series_that_fiji_saved_is_calibrated(tmp_path):
    import tifffile

    header = "ImageJ=1.54f\nimages=16\nslices=16\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"
    stored = (np.ascontiguousarray(ball().T).astype(int) + 32768).astype(np.uint16)
    for name, said in (("a.tif", header), ("b.tif", header.replace("cf=0", "cf=4"))):
        tifffile.imwrite(tmp_path / name, stored, description=said, metadata=None)
    found = read_volume(tmp_path / "a.tif", spacing_mm=(4, 5, 6))
    np.testing.assert_array_equal(found.values.numpy().T, ball())
    assert "1·stored -32768" in found.remarks[1]
    with pytest.raises(UserError, match="no straight line"):
        read_volume(tmp_path / "b.tif")


def test_the_size_of_voxels_can_be_said(tmp_path):
    write_nifti(tmp_path / "a.nii", ball(), None)
    found = read_volume(tmp_path / "a.nii", spacing_mm=(4, 5, 6))
    np.testing.assert_allclose(found.affine, AFFINE)
    assert len(found.remarks) == 1
    write_nifti(tmp_path / "b.nii", ball(), scaled(2), pixdim=[1, 4, 5, 6, 0, 0, 0, 0])
    assert read_volume(tmp_path / "b.nii", spacing_mm=(4, 5, 6)).spacing_mm == (4, 5, 6)
    for wrong in ((4, 5), (4, 5, -6), (4, 5, np.nan)):
        with pytest.raises(UserError, match="three lengths"):
            read_volume(tmp_path / "a.nii", spacing_mm=wrong)


@pytest.mark.parametrize(
    ("quantity", "stored"),
    [
        ("hu", lambda hu: hu),
        ("hu_plus_1000", lambda hu: hu + 1000),
        ("hu_plus_1024", lambda hu: hu + 1024),
        ("mu_per_mm", lambda hu: 0.0205 * (1 + hu / 1000)),
        ("mu_per_cm", lambda hu: 0.205 * (1 + hu / 1000)),
    ],
)
def test_the_quantity_can_be_said(tmp_path, quantity, stored):
    write_itk(tmp_path / "a.mha", stored(ball().astype(np.float64)), AFFINE)
    found = read_volume(tmp_path / "a.mha", quantity=quantity).to_hu()
    np.testing.assert_allclose(found.values.numpy().T, ball(), atol=1e-2)


def test_hounsfield_units_said_to_be_attenuation_are_refused(tmp_path):
    write_itk(tmp_path / "a.mha", ball(), AFFINE)
    with pytest.raises(UserError, match="about 0.02 for water"):
        read_volume(tmp_path / "a.mha", quantity="mu_per_mm")
