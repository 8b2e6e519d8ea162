"""The same ball by six libraries, in many formats and orientations: the same DRR."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from ct_files import (
    AFFINE,
    RAS,
    SPACING_MM,
    ball,
    turned,
    write_enhanced,
    write_itk,
    write_legacy,
    write_nifti,
    write_nrrd,
    write_slices,
)

from mednerf_kit.data.drr import render_orbit
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume, write_volume

GEOMETRY = Geometry(
    source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=24, cols=24, pixel_mm=6.0
).at([20.0, 110.0])
CENTRED = {"isocentre_mm": [0.0, 0.0, 0.0]}
DOWN, CORONAL, SAGITTAL = (1, 1, -1), (0, 2, 1), (1, 2, 0)


HEAD_DOWN = turned((0, 1, 2), DOWN)[1]


def drr(volume):
    return render_orbit(volume, GEOMETRY, **CENTRED)


@pytest.fixture(scope="module")
def reference():
    values = torch.from_numpy(ball().T.astype(np.float32))
    return drr(Volume(values, AFFINE, "hu"))


def test_the_reference_is_the_ball_of_the_closed_form(reference):
    chord, through = 2 * 34 * 0.0205, float(reference.amax())
    assert chord < through < chord + 2 * 9 * 0.0205 + 0.05
    assert float(reference[:, :2, :2].abs().max()) == 0


def by_itself(path):
    write_volume(Volume(torch.from_numpy(ball().T.copy()), AFFINE, "hu"), path / "a.nii.gz")
    return path / "a.nii.gz", {}


def itk(suffix, order=(0, 1, 2), flips=(1, 1, 1)):
    def write(path):
        write_itk(path / f"a{suffix}", *turned(order, flips))
        return path / f"a{suffix}", {}

    return write


def nifti(suffix, order=(0, 1, 2), flips=(1, 1, 1), kind=np.int16, **header):
    def write(path):
        values, affine = turned(order, flips)
        write_nifti(path / f"a{suffix}", values.astype(kind), affine, **header)
        return path / f"a{suffix}", {}

    return write


def scaled_nifti(path):
    """Unsigned, with slope and intercept, lengths in micrometres."""
    values, affine = turned(SAGITTAL, (1, -1, 1))
    image = nibabel.Nifti1Image((2 * (values.astype(int) + 1024)).astype(np.uint16), None)
    image.header.set_slope_inter(0.5, -1024)
    image.header.set_xyzt_units("micron")
    image.set_sform(RAS @ np.diag([1e3, 1e3, 1e3, 1]) @ affine, 1)
    image.header["pixdim"][1:4] = 1e3 * np.linalg.norm(affine[:3, :3], axis=0)
    nibabel.save(image, path / "a.nii")
    return path / "a.nii", {}


def nrrd(suffix, order=(0, 1, 2), flips=(1, 1, 1), scale=1.0, **fields):
    def write(path):
        values, affine = turned(order, flips)
        affine[:3] *= scale
        write_nrrd(path / f"a{suffix}", values, affine, **fields)
        return path / f"a{suffix}", {}

    return write


def nrrd_ras(path):
    values, affine = turned((0, 1, 2), (-1, -1, 1))
    write_nrrd(path / "a.nrrd", values, RAS @ affine, space="right-anterior-superior")
    return path / "a.nrrd", {}


def series(order=(0, 1, 2), flips=(1, 1, 1), change=None):
    def write(path):
        write_slices(path / "s", order=order, flips=flips, change=change)
        return path / "s", {}

    return write


def signed(d, k):
    d.PixelRepresentation, d.RescaleIntercept, d.RescaleSlope = 1, 0, 0.5
    stored = np.frombuffer(d.PixelData, "<u2").astype(int)
    d.PixelData = (2 * (stored - 1024)).astype("<i2").tobytes()


def turned_over(d, k):
    d.PhotometricInterpretation = "MONOCHROME1"


def compressed(d, k):
    from pydicom.uid import RLELossless

    d.compress(RLELossless)


def legacy(path):
    slices = write_slices(path / "s")
    write_legacy(path / "e.dcm", slices[::2] + slices[1::2])
    return path / "e.dcm", {}


def enhanced(path):
    slices = write_slices(path / "s", order=CORONAL)
    write_enhanced(path / "e", slices[::-1])
    return path / "e", {}


def tiff(path):
    import tifffile

    tifffile.imwrite(path / "a.tif", np.ascontiguousarray(ball().T), photometric="minisblack")
    return path / "a.tif", {"spacing_mm": SPACING_MM}


WRITTEN = {
    "written by mednerf-kit": by_itself,
    "SimpleITK mha": itk(".mha", flips=(-1, 1, 1)),
    "SimpleITK mhd, coronal": itk(".mhd", CORONAL, (1, 1, -1)),
    "SimpleITK nrrd, sagittal": itk(".nrrd", SAGITTAL, (-1, 1, 1)),
    "SimpleITK vtk": itk(".vtk"),
    "SimpleITK nii": itk(".nii", CORONAL, (1, -1, 1)),
    "nibabel RAS": nifti(".nii.gz", flips=(-1, -1, 1)),
    "nibabel LAS": nifti(".nii.gz", flips=(1, -1, 1)),
    "nibabel big-endian float64": nifti(".nii", CORONAL, kind=">f8"),
    "nibabel hdr and img": nifti(".img", SAGITTAL, (-1, -1, 1)),
    "nibabel slope, micrometres": scaled_nifti,
    "nibabel qform only": nifti(
        ".nii", DOWN and (0, 1, 2), DOWN, sform=(None, 0), qform=(turned((0, 1, 2), DOWN)[1], 1)
    ),
    "pynrrd RAS": nrrd_ras,
    "pynrrd detached, cm": nrrd(".nhdr", CORONAL, scale=0.1, **{"space units": ["cm"] * 3}),
    "pydicom head first": series(),
    "pydicom feet first": series(flips=(-1, 1, -1)),
    "pydicom coronal": series(CORONAL, (1, -1, 1)),
    "pydicom sagittal, signed": series(SAGITTAL, (1, -1, 1), signed),
    "pydicom MONOCHROME1": series(change=turned_over),
    "pydicom RLE": series(change=compressed),
    "pydicom enhanced, from the last": enhanced,
    "highdicom, out of order": legacy,
    "tifffile": tiff,
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
def test_the_same_drr(tmp_path, reference, write, capfd):
    path, options = write(tmp_path)
    found = drr(read_volume(path, **options))
    assert float((found - reference).abs().max()) < 1e-3
    assert capfd.readouterr() == ("", "")
