"""Grey values of DICOM radiographs in the standard's order, each against its formula."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_films import (
    DX,
    DX_FOR_PROCESSING,
    RF,
    XA,
    film_tags,
    ramp,
    shown,
    table,
    written,
)

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films.dicom import read_dicom_film
from mednerf_kit.data.films.stored import StoredFilm

STORED = ramp().astype(float)


def read(folder: Path, pixels: np.ndarray | None = None, **tags: Any) -> StoredFilm:
    return read_dicom_film(written(folder, film_tags(ramp() if pixels is None else pixels, **tags)))


def says(film: StoredFilm, words: str) -> bool:
    return any(words in note for note in film.notes)


def test_a_window_is_the_formula_of_the_standard(tmp_path: Path) -> None:
    for function, expected in (
        ("LINEAR", ((STORED - 1999.5) / 3999 + 0.5).clip(0, 1)),
        ("LINEAR_EXACT", ((STORED - 2000) / 4000 + 0.5).clip(0, 1)),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (STORED - 2000) / 4000))),
    ):
        film = read(tmp_path, WindowCenter=2000, WindowWidth=4000, VOILUTFunction=function)
        assert np.abs(shown(film) - expected).max() < 1e-5
        assert film.kind == "display" and says(film, "is applied")
    first = read(tmp_path, WindowCenter=[2000, 9], WindowWidth=[4000, 9])
    assert np.abs(shown(first) - ((STORED - 1999.5) / 3999 + 0.5).clip(0, 1)).max() < 1e-5


def test_a_window_acts_on_rescaled_values(tmp_path: Path) -> None:
    film = read(
        tmp_path, RescaleSlope=0.5, RescaleIntercept=-100, WindowCenter=900, WindowWidth=2001
    )
    expected = ((0.5 * STORED - 100 - 899.5) / 2000 + 0.5).clip(0, 1)
    assert np.abs(shown(film) - expected).max() < 1e-5


def test_a_window_that_would_blacken_the_picture_is_left_out(tmp_path: Path) -> None:
    film = read(tmp_path, WindowCenter=3000, WindowWidth=100)
    assert np.array_equal(film.pixels, ramp()) and film.full_scale == 4095
    assert says(film, "would turn") and says(film, "left out")
    # what lies under the shutter does not count
    film = read(
        tmp_path,
        WindowCenter=3000,
        WindowWidth=2400,
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge=29,
        ShutterLowerHorizontalEdge=40,
        ShutterLeftVerticalEdge=1,
        ShutterRightVerticalEdge=48,
    )
    assert says(film, "is applied")


def test_a_curve_that_leaves_too_few_shades_is_left_out(tmp_path: Path) -> None:
    beyond = {"VOILUTSequence": [table(list(range(100)), 4000, 8)]}
    steep = {"WindowCenter": 2000, "WindowWidth": 50, "VOILUTFunction": "SIGMOID"}
    elsewhere = {"WindowCenter": 40000, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"}
    for tags in (beyond, steep, elsewhere):
        film = read(tmp_path, **tags)
        assert np.array_equal(film.pixels, ramp()) and says(film, "would turn"), tags


@pytest.mark.parametrize("width", [0, -5, 0.5])
def test_a_window_without_width_is_left_out(tmp_path: Path, width: float) -> None:
    film = read(tmp_path, WindowCenter=2000, WindowWidth=width)
    assert np.array_equal(film.pixels, ramp()) and says(film, "no width")


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_a_voi_table_is_looked_up_by_entry(tmp_path: Path, bits: int) -> None:
    # an entry for each of 4,096 values, for 8 bits too
    entries = [round((v / 4095) ** 2 * (2**bits - 1)) for v in range(4096)]
    film = read(tmp_path, VOILUTSequence=[table(entries, 0, bits)])
    assert np.abs(shown(film) - np.array(entries)[ramp()] / (2**bits - 1)).max() < 1e-5
    if bits == 8:  # two entries a word
        packed = table(entries, 0, bits, np.array(entries, np.uint8).tobytes())
        assert np.array_equal(read(tmp_path, VOILUTSequence=[packed]).pixels, film.pixels)


def test_a_voi_table_holds_its_ends_and_counts_from_its_first_value(tmp_path: Path) -> None:
    entries = np.linspace(40, 200, 3000).astype(int)
    film = read(tmp_path, VOILUTSequence=[table(entries.tolist(), 300, 8)])
    expected = entries[(STORED - 300).clip(0, 2999).astype(int)] / 200
    assert np.abs(shown(film) - expected).max() < 1e-4
    pixels = ramp().astype(np.int16) - 2048
    film = read(tmp_path, pixels, VOILUTSequence=[table(entries.tolist(), -1803, 8)])
    expected = entries[(pixels + 1803).clip(0, 2999)] / 200
    assert np.abs(shown(film) - expected).max() < 1e-4


def test_a_voi_table_may_start_high_above_values_below_zero(tmp_path: Path) -> None:
    pixels, entries = 30000 + ramp(top=35000), np.linspace(40, 200, 30000).astype(int)
    tags = {"BitsStored": 16, "HighBit": 15, "RescaleSlope": 1, "RescaleIntercept": -1000}
    film = read(tmp_path, pixels, VOILUTSequence=[table(entries.tolist(), 33000, 8)], **tags)
    expected = entries[(pixels - 34000.0).clip(0, 29999).astype(int)] / 200
    assert np.abs(shown(film) - expected).max() < 1e-4


def test_a_modality_table_comes_before_the_window(tmp_path: Path) -> None:
    entries = [4095 - v // 2 for v in range(4096)]
    film = read(
        tmp_path,
        ModalityLUTSequence=[table(entries, 0, 16)],
        WindowCenter=3072,
        WindowWidth=2048,
        VOILUTFunction="LINEAR_EXACT",
    )
    expected = ((np.array(entries)[ramp()] - 3072) / 2048 + 0.5).clip(0, 1)
    assert np.abs(shown(film) - expected).max() < 1e-4


def test_a_negative_slope_turns_the_values_over(tmp_path: Path) -> None:
    film = read(tmp_path, RescaleSlope=-1, RescaleIntercept=4095)
    assert np.abs(shown(film) - (4095 - STORED) / 4095).max() < 1e-4
    assert film.bone_dark is False


@pytest.mark.parametrize(
    ("tags", "bone_dark"),
    [
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "IDENTITY"}, False),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, True),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"}, False),
        ({"Modality": "RF", "SOPClassUID": RF}, None),
    ],
)
def test_photometric_interpretation_says_the_polarity(
    tmp_path: Path, tags: dict, bone_dark: bool | None
) -> None:
    film = read(tmp_path, **tags)
    assert film.bone_dark is bone_dark and film.kind == "display"
    inverse = tags.get("PresentationLUTShape") == "INVERSE"
    assert says(film, "contradicts") == (
        "PresentationLUTShape" in tags and inverse != bool(bone_dark)
    )


@pytest.mark.parametrize(
    ("relation", "sign", "kind", "bone_dark"),
    [
        ("LIN", 1, "transmission", True),
        ("LIN", -1, "transmission", False),
        ("LOG", 1, "line-integral", True),
        ("LOG", -1, "line-integral", False),
        ("DISP", 1, "display", False),
        (None, None, "display", False),
    ],
)
def test_the_pixel_intensity_relationship_says_the_kind(
    tmp_path: Path, relation: str | None, sign: int | None, kind: str, bone_dark: bool
) -> None:
    tags: dict[str, Any] = {"SOPClassUID": DX_FOR_PROCESSING, "Modality": "DX"}
    if relation:
        tags |= {"PixelIntensityRelationship": relation, "PixelIntensityRelationshipSign": sign}
    film = read(tmp_path, **tags, WindowCenter=2000, WindowWidth=4000)
    assert (film.kind, film.bone_dark) == (kind, bone_dark)
    if kind != "display":  # a window is for display alone
        assert np.array_equal(film.pixels, ramp())


def test_for_presentation_has_a_tone_curve_whatever_its_relationship(tmp_path: Path) -> None:
    tags: dict[str, Any] = {
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": -1,
    }
    film = read(tmp_path, SOPClassUID=DX, Modality="DX", **tags)
    assert film.kind == "display" and says(film, "although its Pixel Intensity Relationship is LOG")
    film = read(tmp_path, PresentationIntentType="FOR PRESENTATION", **tags)
    assert film.kind == "display"
    tags["SOPClassUID"] = DX_FOR_PROCESSING
    film = read(tmp_path, PresentationIntentType="FOR PRESENTATION", **tags)
    assert film.kind == "display" and says(film, "although its class is FOR PROCESSING")
    assert read(tmp_path, PresentationIntentType="FOR PROCESSING", **tags).kind == "line-integral"


def test_no_intensity_stays_zero_when_rescaled(tmp_path: Path) -> None:
    film = read(
        tmp_path,
        RescaleSlope=2,
        RescaleIntercept=-200,
        PixelIntensityRelationship="LIN",
        PixelIntensityRelationshipSign=1,
    )
    assert np.abs(shown(film) - (2 * STORED - 200).clip(0) / 7990).max() < 1e-4


def test_without_a_sign_fluoroscopy_rises_with_the_intensity(tmp_path: Path) -> None:
    for tags, bone_dark in (
        ({"SOPClassUID": XA, "Modality": "XA"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({}, False),
    ):
        film = read(tmp_path, PixelIntensityRelationship="LOG", **tags)
        assert film.bone_dark is bone_dark and says(film, "are assumed to")
    # what is proportional to the intensity rises with it
    assert read(tmp_path, PixelIntensityRelationship="LIN").bone_dark is True


def test_another_relationship_is_not_called_missing(tmp_path: Path) -> None:
    assert says(read(tmp_path, PixelIntensityRelationship="SQRT"), "none of LIN, LOG and DISP")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_offset_of_a_logarithm_is_taken_for_air(tmp_path: Path, sign: int) -> None:
    pixels = (ramp() // 2 + 1000).astype(np.uint16)  # 1000 … 3047
    film = read(
        tmp_path,
        pixels,
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=sign,
    )
    integral = 1 - shown(film) if sign == 1 else shown(film)
    expected = (3047.0 - pixels if sign == 1 else pixels - 1000.0) / 4095
    assert np.abs(integral - expected).max() < 0.01
    assert says(film, "taken for air")


def test_a_modality_table_is_left_out_of_stored_logarithms(tmp_path: Path) -> None:
    film = read(
        tmp_path,
        PixelIntensityRelationship="LOG",
        PixelIntensityRelationshipSign=-1,
        ModalityLUTSequence=[table([v**2 % 65536 for v in range(4096)], 0, 16)],
    )
    assert np.array_equal(film.pixels, ramp()) and says(film, "modality LUT is left out")


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleSlope": 0},
        {"RescaleSlope": 1e300},
        {"VOILUTSequence": [table([1, 2, 3], 0, 8, b"\0\0")]},
        {"VOILUTSequence": [table([5] * 9, 0, 8)]},
        {"ModalityLUTSequence": [table([1, 2], 0, 99)]},
    ],
)
def test_a_table_that_makes_no_picture_is_refused(tmp_path: Path, tags: dict) -> None:
    with pytest.raises(UserError, match=r"Rescale|look-up table"):
        read(tmp_path, **tags)
