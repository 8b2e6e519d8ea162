"""Film or DRR: told from the geometry beside a picture, its file, its name and its look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import counts
from PIL import Image
from test_regions import chest, written

from mednerf_kit.data.films.kind import looks_like
from mednerf_kit.data.radiograph import read_radiograph
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.projector import project_volume


def ball_drr(size: int) -> np.ndarray:
    """A DRR of a ball of water, [size, size] in [0, 1], with air of exactly zero around it."""
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    volume = 0.02 * (x**2 + y**2 + z**2 < 0.8).float()
    geometry = DEFAULTS["chest"].resized(size).at([0.0])
    view = project_volume(volume, (10.0, 10.0, 10.0), geometry)[0]
    return (view / view.max()).numpy()


def kind_of(path: Path) -> tuple[str, str]:
    found = read_radiograph(path, size=64)
    return found.kind, " ".join(found.notes)


def test_small_squares_with_air_of_zero_are_drrs() -> None:
    for size in (64, 128, 256):
        assert looks_like(counts(ball_drr(size), np.uint8))[0] == "line-integral"


def test_what_films_have_and_drrs_have_not() -> None:
    drr = ball_drr(128)
    lettered, _ = written(ball_drr(256), "L", (215, 10), 26)
    for picture, reason in (
        (ball_drr(512), "512×512 pixels"),
        (drr[:, 14:-14], "oblong"),
        (drr * 0.9 + 0.1, "no air"),
        (lettered, "letters"),
        (1 - drr, "no air"),
    ):
        kind, said = looks_like(counts(picture, np.uint16))
        assert kind == "display" and reason in said


@pytest.mark.parametrize("name", ["film.png", "film.tif", "film.bmp", "film.pgm", "film.npy"])
def test_a_film_is_called_one_in_every_format_and_says_so(tmp_path: Path, name: str) -> None:
    values = counts(0.1 + 0.9 * chest(96), np.uint8)
    path = tmp_path / name
    np.save(path, values) if name.endswith("npy") else Image.fromarray(values).save(path)
    kind, notes = kind_of(path)
    assert kind == "display" and "taken for a film" in notes
    assert "--input-kind line-integral if it is a DRR" in notes


def test_what_lies_beside_a_picture_decides_first(tmp_path: Path) -> None:
    picture = counts(0.1 + 0.9 * chest(128), np.uint8)
    for name in ("film.png", "film.jpg"):
        Image.fromarray(picture).save(tmp_path / name)
        assert kind_of(tmp_path / name)[0] == "display"
    geometry = DEFAULTS["chest"].at([270.0])
    replace(geometry, line_integral_scale=None).save(tmp_path / "film.json")
    assert kind_of(tmp_path / "film.png")[0] == "display"
    geometry.save(tmp_path / "film.json")
    assert kind_of(tmp_path / "film.png")[0] == kind_of(tmp_path / "film.jpg")[0] == "line-integral"


def test_an_inverted_drr_is_looked_at_turned_over(tmp_path: Path) -> None:
    Image.fromarray(counts(1 - ball_drr(128), np.uint16)).save(tmp_path / "a.png")
    kinds = [read_radiograph(tmp_path / "a.png", size=64, invert=i).kind for i in (False, True)]
    assert kinds == ["display", "line-integral"]


def test_views_of_sets_are_drrs_by_their_names(tmp_path: Path) -> None:
    picture = Image.fromarray(counts(0.1 + 0.9 * chest(128), np.uint8))
    picture.save(tmp_path / "03_xray0071.png")
    assert kind_of(tmp_path / "03_xray0071.png")[0] == "line-integral"
    picture.save(tmp_path / "xray_000.png")
    assert kind_of(tmp_path / "xray_000.png")[0] == "display", "nothing says that it is of a set"
    geometry = replace(DEFAULTS["chest"], line_integral_scale=None)
    geometry.at([0.0]).save(tmp_path / "geometry.json")
    assert kind_of(tmp_path / "xray_000.png")[0] == "line-integral"


def test_a_kind_that_is_given_needs_no_reason(tmp_path: Path) -> None:
    Image.fromarray(counts(ball_drr(64), np.uint8)).save(tmp_path / "a.png")
    found = read_radiograph(tmp_path / "a.png", size=64, input_kind="display")
    assert found.kind == "display" and not any("taken for" in note for note in found.notes)
