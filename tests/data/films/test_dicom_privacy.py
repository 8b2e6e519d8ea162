"""Nothing of the patient leaves a DICOM file: a file full of names, read well and read badly."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_films import assert_clean, film_tags, full_of_names, ramp, table, written

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films import dicom_header
from mednerf_kit.data.films.dicom import read_dicom_film
from mednerf_kit.data.radiograph import read_radiograph


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture):
    """Everything logged, warned and printed since the last call."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def drained() -> tuple[str, ...]:
            texts = (caplog.text, str([w.message for w in caught]), *capfd.readouterr())
            caplog.clear()
            caught.clear()
            return texts

        yield drained


def test_a_file_full_of_names_is_read_without_one(tmp_path: Path, heard) -> None:
    path = written(tmp_path, full_of_names(ramp()))
    heard()  # what pydicom says of writing
    film = read_dicom_film(path)
    assert np.array_equal(film.pixels, ramp())
    radiograph = read_radiograph(path, size=16)
    fields = {name: value for name, value in vars(film).items() if name not in ("pixels",)}
    assert_clean(fields, radiograph.notes, radiograph.warnings, *heard())


def test_names_in_every_tag_that_is_read(tmp_path: Path, heard) -> None:
    """Whatever type a tag should have, text of a person stands in it."""
    for keyword in dicom_header.TAGS:
        film = film_tags(ramp())
        film.add(
            pydicom.DataElement(
                pydicom.tag.Tag(keyword), "LO", "QUXNAME^ZYX 7734", validation_mode=0
            )
        )
        path = written(tmp_path, film)
        heard()
        try:
            assert_clean(read_dicom_film(path).notes, *heard())
        except UserError as error:
            assert_clean(error, *heard())


@pytest.mark.parametrize(
    "change",
    [
        {"Modality": "MG"},
        {"Modality": "QUX 7734", "SOPClassUID": "1.2.826.7734.991"},
        {"NumberOfFrames": 3},
        {"PhotometricInterpretation": "RGB"},
        {"Rows": 4000},
        {"BitsAllocated": 32},
        {"PixelData": None},
        {"VOILUTSequence": [table([1, 2, 3], 0, 8, b"\0\0")]},
    ],
)
def test_errors_hold_no_names(tmp_path: Path, heard, change: dict) -> None:
    film = full_of_names(ramp())
    for keyword, value in change.items():
        if value is None:
            del film[keyword]
        else:
            setattr(film, keyword, value)
    path = written(tmp_path, film)
    heard()
    with pytest.raises(UserError) as caught:
        read_dicom_film(path)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert_clean(caught.value, *heard())


def test_damage_anywhere_holds_no_names(tmp_path: Path, heard) -> None:
    content = written(tmp_path, full_of_names(ramp())).read_bytes()
    heard()
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.dcm"
    for _ in range(12):
        damaged = bytearray(content)
        for at in rng.integers(132, len(content) - 4000, 12):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1000, len(content))])
        try:
            assert_clean(read_dicom_film(path).notes)
        except UserError as error:
            assert_clean(error)
    assert_clean(*heard())
