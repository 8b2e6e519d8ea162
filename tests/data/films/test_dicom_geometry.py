"""Millimetres of DICOM radiographs: which spacing, which distances, what contradicts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_films import SECONDARY_CAPTURE, film_tags, ramp, written

from mednerf_kit.data.films.dicom import read_dicom_film
from mednerf_kit.data.films.stored import StoredFilm


def read(folder: Path, **tags: Any) -> StoredFilm:
    return read_dicom_film(written(folder, film_tags(ramp(), **tags)))


def notes(film: StoredFilm) -> str:
    return "; ".join(film.notes)


@pytest.mark.parametrize(
    ("tags", "spacing_mm", "says"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.2]}, 0.2, "Imager Pixel Spacing 0.2 mm is taken"),
        ({"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.16, 0.16]}, 0.2, "differs"),
        ({"PixelSpacing": [0.16, 0.16]}, 0.16, "assumed to be on the detector"),
        (
            {"PixelSpacing": [0.16, 0.16], "PixelSpacingCalibrationType": "FIDUCIAL"},
            0.16,
            "no magnification is given",
        ),
        (
            {
                "PixelSpacing": [0.16, 0.16],
                "PixelSpacingCalibrationType": "GEOMETRY",
                "EstimatedRadiographicMagnificationFactor": 1.25,
            },
            0.2,
            "multiplied by the magnification 1.25",
        ),
        (
            {
                "PixelSpacing": [0.16, 0.16],
                "PixelSpacingCalibrationType": "GEOMETRY",
                "DistanceSourceToDetector": 1000,
                "DistanceSourceToPatient": 800,
            },
            0.2,
            "multiplied by the magnification 1.25",
        ),
        (
            {
                "SOPClassUID": SECONDARY_CAPTURE,
                "NominalScannedPixelSpacing": [0.3, 0.3],
                "PixelSpacing": [0.11, 0.11],
            },
            0.3,
            "Nominal Scanned Pixel Spacing 0.3 mm is taken",
        ),
        ({"PixelSpacing": [0, 0]}, None, "no distance between pixels"),
        ({"PixelSpacing": [0.2, -0.2]}, None, "no distance between pixels"),
        ({}, None, "no pixel spacing"),
    ],
)
def test_the_spacing_is_the_detectors(
    tmp_path: Path, tags: dict, spacing_mm: float | None, says: str
) -> None:
    film = read(tmp_path, **tags)
    assert film.spacing_mm == (None if spacing_mm is None else pytest.approx(spacing_mm))
    assert says in notes(film)


def test_a_magnification_explains_two_spacings_or_does_not(tmp_path: Path) -> None:
    both = {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.16, 0.16]}
    film = read(tmp_path, **both, EstimatedRadiographicMagnificationFactor=1.25)
    assert ", by the magnification 1.25" in notes(film)
    film = read(tmp_path, **both, EstimatedRadiographicMagnificationFactor=1.1)
    assert "not by the magnification 1.1" in notes(film)


def test_the_sources_distances(tmp_path: Path) -> None:
    film = read(tmp_path, DistanceSourceToDetector=1800, DistanceSourceToPatient=1600)
    assert (film.source_detector_mm, film.source_patient_mm) == (1800, 1600)
    film = read(
        tmp_path, DistanceSourceToDetector=1800, EstimatedRadiographicMagnificationFactor=1.2
    )
    assert film.source_patient_mm == pytest.approx(1500)
    film = read(
        tmp_path,
        DistanceSourceToDetector=1800,
        DistanceSourceToPatient=1600,
        EstimatedRadiographicMagnificationFactor=1.5,
    )
    assert film.source_patient_mm == 1600 and "1.5 contradicts the distances" in notes(film)
    film = read(tmp_path, DistanceSourceToDetector=1000, DistanceSourceToPatient=1200)
    assert (film.source_detector_mm, film.source_patient_mm) == (1000, None)
    assert "is not below" in notes(film)
    film = read(tmp_path, DistanceSourceToDetector=19000512)  # no length but, say, a date
    assert film.source_detector_mm is None
    assert "no possible value" in notes(film) and "1900" not in notes(film)
    film = read(tmp_path, DistanceSourceToDetector=0)
    assert "Distance" not in notes(film)


def test_pixels_become_square(tmp_path: Path) -> None:
    film = read(tmp_path, ImagerPixelSpacing=[0.4, 0.2])  # rows are twice as far apart
    assert film.pixels.shape == (80, 48) and film.spacing_mm == 0.2
    rows = np.arange(0.25, 39, 0.5)[:-1]  # of every new row, in old ones, away from the edge
    low = rows.astype(int)
    share = (rows - low)[:, None]
    expected = ramp()[low] * (1 - share) + ramp()[low + 1] * share
    assert np.abs(film.pixels[1 : 1 + len(rows)] - expected).max() <= 0.51
    film = read(tmp_path, PixelAspectRatio=[1, 2])
    assert film.pixels.shape == (40, 96) and film.spacing_mm is None
    assert read(tmp_path, PixelAspectRatio=[1, 99]).pixels.shape == (40, 48)


def test_the_mask_is_made_square_with_the_picture(tmp_path: Path) -> None:
    film = read(
        tmp_path,
        ImagerPixelSpacing=[0.4, 0.2],
        ShutterShape="RECTANGULAR",
        ShutterUpperHorizontalEdge=11,
        ShutterLowerHorizontalEdge=40,
        ShutterLeftVerticalEdge=1,
        ShutterRightVerticalEdge=48,
    )
    assert film.exposed is not None and film.exposed.shape == (80, 48)
    assert not film.exposed[:20].any() and film.exposed[21:].all()
