"""Views, hanging and body parts of DICOM radiographs: plain anatomy and plain turns."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_films import RF, XA, film_tags, ramp, written

from mednerf_kit.data.films.dicom import read_dicom_film
from mednerf_kit.data.films.stored import StoredFilm

OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}


def read(folder: Path, pixels: np.ndarray | None = None, **tags: Any) -> StoredFilm:
    return read_dicom_film(written(folder, film_tags(ramp() if pixels is None else pixels, **tags)))


def code(value: str) -> list[pydicom.Dataset]:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "SOMEBODY^NAMED"
    return [item]


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"ViewPosition": "PA"}, "PA"),
        ({"ViewPosition": "AP"}, "AP"),
        ({"ViewPosition": "LL"}, "left-lateral"),
        ({"ViewPosition": "RL"}, "lateral"),
        ({"ViewPosition": "LATERAL"}, "left-lateral"),
        ({"ViewPosition": "LLD"}, None),
        ({"ViewPosition": "PA CHEST"}, "PA"),
        ({"ViewPosition": "PA ERECT"}, "PA"),
        ({"ViewPosition": "CHEST_AP_SUPINE"}, "AP"),
        ({"ViewPosition": "ANTERO POSTERIOR"}, "AP"),
        ({"ViewPosition": "LLAT"}, "left-lateral"),
        ({"ViewPosition": "LAT R"}, "lateral"),
        ({"ViewPosition": "AP AXIAL"}, None),
        ({"ViewPosition": "PA LLD"}, None),
        ({"ViewCodeSequence": code("272479007")}, "PA"),
        ({"ViewCodeSequence": code("399348003")}, "AP"),
        ({"ViewCodeSequence": code("399173006")}, "left-lateral"),
        ({"ViewCodeSequence": code("R-10232")}, "lateral"),
        ({"ViewCodeSequence": code("399348003"), "ViewPosition": "PA"}, "AP"),
        ({"ViewCodeSequence": code("399033003"), "ViewPosition": "PA"}, "PA"),
        ({"ViewCodeSequence": code("399135007")}, None),
        ({}, None),
    ],
)
def test_the_view_by_code_or_position(tmp_path: Path, tags: dict, view: str | None) -> None:
    film = read(tmp_path, **tags)
    assert film.view == view
    contradicts = len(tags) == 2 and view == "AP"
    assert any("contradicts" in note for note in film.notes) == contradicts


HUNG = {"PA": "LF", "AP": "LF", "LL": "PF", "RL": "AF"}


@pytest.mark.parametrize("position", HUNG)
@pytest.mark.parametrize(
    ("transposed", "across", "down"), list(itertools.product([0, 1], repeat=3))
)
def test_every_way_to_lie_is_turned_exactly(
    tmp_path: Path, position: str, transposed: int, across: int, down: int
) -> None:
    right, foot = HUNG[position]
    # what the picture is as hung, stored in one of its eight ways with the letters that say so
    hung, letters = ramp(), [right, foot]
    if across:
        hung, letters[0] = hung[:, ::-1], OPPOSITE[letters[0]]
    if down:
        hung, letters[1] = hung[::-1], OPPOSITE[letters[1]]
    if transposed:
        hung, letters = hung.T, letters[::-1]
    film = read(
        tmp_path,
        np.ascontiguousarray(hung),
        ViewPosition=position,
        PatientOrientation=letters,
        ImagerPixelSpacing=[0.2, 0.2],
    )
    assert np.array_equal(film.pixels, ramp())


def test_the_mask_turns_with_the_picture(tmp_path: Path) -> None:
    film = read(
        tmp_path,
        ViewPosition="PA",
        PatientOrientation=["R", "F"],
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge=1,
        ShutterLowerHorizontalEdge=40,
        ShutterLeftVerticalEdge=1,
        ShutterRightVerticalEdge=40,
    )
    assert np.array_equal(film.pixels, ramp()[:, ::-1])
    assert film.exposed is not None
    assert not film.exposed[:, :8].any() and film.exposed[:, 8:].all()


@pytest.mark.parametrize(
    ("orientation", "view", "turned"),
    [
        (["A", "F"], "lateral", ramp()),
        (["P", "F"], "left-lateral", ramp()),
        (["P", "H"], "lateral", ramp()[::-1, ::-1]),
        (["F", "A"], "left-lateral", np.rot90(ramp(), -1)),
        (["F", "P"], "lateral", np.rot90(ramp(), -1)),
    ],
)
def test_a_lateral_of_no_side_faces_as_it_does(
    tmp_path: Path, orientation: list[str], view: str, turned: np.ndarray
) -> None:
    film = read(tmp_path, ViewPosition="LATERAL", PatientOrientation=orientation)
    assert film.view == view
    assert np.array_equal(film.pixels, turned)
    assert read(tmp_path, PatientOrientation=orientation).view == view


@pytest.mark.parametrize(
    ("position", "orientation"),
    [("PA", ["A", "F"]), ("LL", ["L", "F"]), ("LATERAL", ["L", "F"]), ("PA", ["L", "R"])],
)
def test_an_orientation_that_contradicts_the_view_turns_nothing(
    tmp_path: Path, position: str, orientation: list[str]
) -> None:
    film = read(tmp_path, ViewPosition=position, PatientOrientation=orientation)
    assert np.array_equal(film.pixels, ramp())
    assert any("contradicts the view" in note for note in film.notes)


def test_letters_of_animals_are_not_called_missing(tmp_path: Path) -> None:
    film = read(tmp_path, ViewPosition="PA", PatientOrientation=["LE", "V"])
    assert any("says no directions in a person" in note for note in film.notes)
    assert not any("says no directions" in note for note in read(tmp_path).notes)


def test_oblique_letters_count_by_their_first(tmp_path: Path) -> None:
    film = read(tmp_path, ViewPosition="PA", PatientOrientation=["RA", "FP"])
    assert np.array_equal(film.pixels, ramp()[:, ::-1])
    film = read(tmp_path, ViewPosition="PA", PatientOrientation=["DOE", "JOHN"])
    assert np.array_equal(film.pixels, ramp()) and "DOE" not in str(film.notes)


@pytest.mark.parametrize(
    ("primary", "view", "angle_deg"),
    [
        (0, "PA", None),
        (90, "left-lateral", None),  # detector at the patient's left
        (-90, "lateral", None),
        (180, "AP", None),
        (30, None, 240.0),
        (-30, None, 300.0),
    ],
)
def test_a_positioner_gives_the_angle(
    tmp_path: Path, primary: float, view: str | None, angle_deg: float | None
) -> None:
    for modality, sop_class in (("XA", XA), ("RF", RF)):
        film = read(
            tmp_path, Modality=modality, SOPClassUID=sop_class, PositionerPrimaryAngle=primary
        )
        assert (film.view, film.angle_deg) == (view, angle_deg)
    film = read(
        tmp_path,
        Modality="XA",
        SOPClassUID=XA,
        PositionerPrimaryAngle=primary,
        PositionerSecondaryAngle=20,
    )
    assert any("tilts the beam" in note for note in film.notes)


@pytest.mark.parametrize(
    ("tags", "part"),
    [
        ({"BodyPartExamined": "CHEST"}, "chest"),
        ({"BodyPartExamined": "THORAX"}, "chest"),
        ({"BodyPartExamined": "KNEE", "ImageLaterality": "L"}, "knee"),
        ({"BodyPartExamined": "L SPINE"}, "lumbar spine"),
        ({"AnatomicRegionSequence": code("72696002"), "BodyPartExamined": "CHEST"}, "knee"),
        ({"BodyPartExamined": "PORT CHEST"}, "chest"),
        ({"BodyPartExamined": "BOTH KNEES"}, "knee"),
        ({"BodyPartExamined": "LUMBAR SPINE"}, "spine"),
        ({"BodyPartExamined": "CHEST ABDOMEN"}, None),
        ({"BodyPartExamined": "MILLER"}, None),
        ({}, None),
    ],
)
def test_the_body_part_is_a_term_of_the_standard(
    tmp_path: Path, tags: dict, part: str | None
) -> None:
    film = read(tmp_path, **tags)
    assert film.body_part == part
    assert "MILLER" not in str(film)
    assert any("laterality is left" in n for n in film.notes) == ("ImageLaterality" in tags)


def test_lateralities_that_contradict_are_said(tmp_path: Path) -> None:
    film = read(tmp_path, ImageLaterality="L", Laterality="R")
    assert any("contradict each other" in note for note in film.notes)
