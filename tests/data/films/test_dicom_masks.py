"""What is no picture of the patient: padding, Display Shutter and Collimator."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_films import film_tags, ramp, written

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films.dicom import read_dicom_film
from mednerf_kit.data.films.stored import StoredFilm

ROW, COL = np.mgrid[1:41, 1:49]


def read(folder: Path, pixels: np.ndarray | None = None, **tags: Any) -> StoredFilm:
    return read_dicom_film(written(folder, film_tags(ramp() if pixels is None else pixels, **tags)))


def rectangle(name: str, upper: int, lower: int, left: int, right: int) -> dict[str, Any]:
    return {
        f"{name}Shape": "RECTANGULAR",
        f"{name}UpperHorizontalEdge": upper,
        f"{name}LowerHorizontalEdge": lower,
        f"{name}LeftVerticalEdge": left,
        f"{name}RightVerticalEdge": right,
    }


@pytest.mark.parametrize("name", ["Shutter", "Collimator"])
def test_shapes_leave_what_lies_inside(tmp_path: Path, name: str) -> None:
    film = read(tmp_path, **rectangle(name, 3, 30, 5, 40))
    inside = (ROW >= 3) & (ROW <= 30) & (COL >= 5) & (COL <= 40)
    assert np.array_equal(film.exposed, inside)
    circle = {f"CenterOfCircular{name}": [20, 24], f"RadiusOfCircular{name}": 15}
    film = read(tmp_path, **{f"{name}Shape": "CIRCULAR"}, **circle)
    disc = (ROW - 20) ** 2 + (COL - 24) ** 2 <= 15**2
    assert np.array_equal(film.exposed, disc)
    corners = [3, 5, 3, 40, 30, 40, 30, 5]
    polygon = {f"{name}Shape": "POLYGONAL", f"VerticesOfThePolygonal{name}": corners}
    assert np.array_equal(read(tmp_path, **polygon).exposed, inside)
    both = rectangle(name, 3, 30, 5, 40) | circle | {f"{name}Shape": ["RECTANGULAR", "CIRCULAR"]}
    assert np.array_equal(read(tmp_path, **both).exposed, inside & disc)


def test_a_circle_is_round_in_millimetres(tmp_path: Path) -> None:
    circle = {"CenterOfCircularShutter": [20, 24], "RadiusOfCircularShutter": 16}
    film = read(tmp_path, ShutterShape="CIRCULAR", PixelAspectRatio=[2, 1], **circle)
    assert film.exposed is not None and film.exposed.shape == (80, 48)
    high, wide = (np.ptp(np.nonzero(film.exposed)[k]) for k in (0, 1))
    assert wide == 32 and abs(int(high) - 32) <= 2


@pytest.mark.parametrize("group", [0x6000, 0x601E])
def test_a_bitmap_covers_where_its_overlay_is_one(tmp_path: Path, group: int) -> None:
    covers = (ROW < 8) | (COL + ROW > 70)
    film = film_tags(ramp(), ShutterShape="BITMAP", ShutterOverlayGroup=group)
    overlay = np.packbits(covers[2:, 3:].ravel(), bitorder="little").tobytes()
    for element, vr, value in (
        (0x0010, "US", 38),
        (0x0011, "US", 45),
        (0x0050, "SS", [3, 4]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x3000, "OW", overlay + bytes(len(overlay) % 2)),
    ):
        film.add_new((group, element), vr, value)
    expected = ~covers
    expected[:2], expected[:, :3] = True, True
    assert np.array_equal(read_dicom_film(written(tmp_path, film)).exposed, expected)
    del film[group, 0x3000]
    assert read_dicom_film(written(tmp_path, film)).exposed is None


def test_shutter_and_collimator_meet(tmp_path: Path) -> None:
    film = read(
        tmp_path, **rectangle("Shutter", 3, 40, 1, 48), **rectangle("Collimator", 1, 30, 1, 48)
    )
    assert np.array_equal(film.exposed, (ROW >= 3) & (ROW <= 30))
    film = read(
        tmp_path, **rectangle("Shutter", 1, 15, 1, 48), **rectangle("Collimator", 15, 30, 1, 48)
    )
    assert film.exposed is None and any("contradict each other" in note for note in film.notes)


@pytest.mark.parametrize("edges", [(907, 1299, -184, 184), (10, 12, 10, 12)])
def test_a_collimator_in_other_units_is_not_believed(tmp_path: Path, edges: tuple) -> None:
    film = read(tmp_path, **rectangle("Collimator", *edges))
    assert film.exposed is None
    assert any("not believed" in note for note in film.notes)


def test_a_shape_without_numbers_is_left_out(tmp_path: Path) -> None:
    film = read(tmp_path, ShutterShape="CIRCULAR")
    assert film.exposed is None and any("left out" in note for note in film.notes)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_masked_and_filled_with_air(tmp_path: Path, photometric: str) -> None:
    pixels = ramp()
    pixels[:9] = 1234
    film = read(tmp_path, pixels, PixelPaddingValue=1234, PhotometricInterpretation=photometric)
    assert film.exposed is not None and np.array_equal(film.exposed, pixels != 1234)
    assert (film.pixels[:9] == (4095 if photometric == "MONOCHROME1" else 0)).all()
    assert np.array_equal(film.pixels[9:], pixels[9:])


def test_padding_has_a_range_and_any_sign(tmp_path: Path) -> None:
    film = read(tmp_path, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    assert np.array_equal(film.exposed, ramp() < 4000)
    pixels = ramp().astype(np.int16) - 2048
    pixels[:5] = -2000
    film_of = film_tags(pixels)
    film_of.add_new("PixelPaddingValue", "US", 65536 - 2000)  # written as the wrong type
    film = read_dicom_film(written(tmp_path, film_of))
    assert np.array_equal(film.exposed, pixels != -2000)
    assert read(tmp_path, PixelPaddingValue=4094).exposed is None
    beyond = ramp()  # the bits that are stored, in words that hold more
    beyond[:5] = 65535
    film = read(tmp_path, beyond, PixelPaddingValue=65535)
    assert np.array_equal(film.exposed, beyond < 65535)


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all its pixels are padding"):
        read(tmp_path, PixelPaddingValue=0, PixelPaddingRangeLimit=4095)
