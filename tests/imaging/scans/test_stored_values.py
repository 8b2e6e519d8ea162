"""What stored values of DICOM slices mean where headers are odd: read right, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from ct_files import ball, write_slices
from pydicom.dataset import Dataset

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.scans.read import read_volume


def stored(d) -> np.ndarray:
    return np.frombuffer(d.PixelData, "<u2").astype(int)


def overlay_above(d, k):
    d.BitsStored, d.HighBit = 12, 11
    d.PixelData = (stored(d) | 0xF000).astype("<u2").tobytes()


def falling(d, k):
    d.PixelData = (2048 - stored(d)).astype("<u2").tobytes()
    d.RescaleSlope, d.RescaleIntercept = -1, 1024


def as_floats(d, k):
    d.FloatPixelData = (stored(d) - 1024).astype("<f4").tobytes()
    d.BitsAllocated, d.RescaleIntercept = 32, 0
    del d.PixelData, d.PixelRepresentation, d.BitsStored, d.HighBit


def padding_of_water(d, k):
    d.PixelData = (stored(d) - 1024).astype("<i2").tobytes()
    d.PixelRepresentation, d.RescaleIntercept = 1, 0
    d.add_new("PixelPaddingValue", "SS", 0)


def without_slope(d, k):
    if k % 2:
        del d.RescaleSlope


def of_other_distances(d, k):
    d.SpacingBetweenSlices = d.SliceThickness = 1.5


@pytest.mark.parametrize(
    "change",
    [overlay_above, falling, as_floats, padding_of_water, without_slope, of_other_distances],
)
def test_odd_headers_that_mean_the_same_scan(tmp_path, change):
    write_slices(tmp_path, change=change)
    found = read_volume(tmp_path)
    np.testing.assert_array_equal(found.values.numpy().T, ball())
    np.testing.assert_allclose(found.spacing_mm, (4, 5, 6))


def high_bits(d, k):
    d.BitsStored, d.HighBit = 12, 15
    d.PixelData = (stored(d) << 4).astype("<u2").tobytes()


def one_without_intercept(d, k):
    if k == 3:
        del d.RescaleIntercept


def looked_up(d, k):
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.add_new("LUTData", "OW", np.arange(4096, dtype="<u2").tobytes())
    d.ModalityLUTSequence = [table]
    del d.RescaleSlope, d.RescaleIntercept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (high_bits, "its 12 bits end with bit 15"),
        (one_without_intercept, "without RescaleIntercept, which other slices"),
        (looked_up, "Modality LUT"),
    ],
)
def test_values_that_mean_something_else_are_refused(tmp_path, change, words):
    write_slices(tmp_path, change=change)
    with pytest.raises(UserError, match=words):
        read_volume(tmp_path)
