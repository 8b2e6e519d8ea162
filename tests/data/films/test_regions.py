"""Borders, blades and letters: found where they were drawn, and nothing of the patient."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from mednerf_kit.data.films.regions import field, letters, painted_over, round_field, stretched

SIZE = 400


def chest(size: int = SIZE, seed: int = 0) -> np.ndarray:
    """A body with lungs, ribs, spine and quantum noise, [size, size] in [0, 1], bone bright."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    body = np.sqrt(np.clip(1 - (x / 0.85) ** 2 - (np.maximum(abs(y) - 0.5, 0)) ** 2, 0, 1))
    lungs = sum(np.clip(1 - ((x - c) / 0.28) ** 2 - (y / 0.6) ** 2, 0, 1) for c in (-0.4, 0.4))
    ribs = 0.06 * (np.sin(25 * (y + 0.4 * x**2)) > 0.7) * (lungs > 0)
    spine = 0.35 * np.exp(-((x / 0.08) ** 2))
    values = 0.65 * body - 0.35 * lungs + ribs + spine * (body > 0)
    noise = 0.01 * np.random.default_rng(seed).standard_normal(values.shape)
    return stretched(values + noise)


def written(picture: np.ndarray, text: str, xy: tuple[int, int], height: int, ink: float = 1.0):
    """The picture with a line of text at column and row, and where its strokes are."""
    page = Image.new("L", picture.shape[::-1])
    ImageDraw.Draw(page).text(xy, text, fill=255, font=ImageFont.load_default(size=height))
    strokes = np.asarray(page) / 255
    return picture * (1 - strokes) + ink * strokes, strokes > 0.5


def everywhere(picture: np.ndarray) -> np.ndarray:
    return np.ones(picture.shape, bool)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_chest_without_letters_or_blades_is_kept_whole(inverted: bool) -> None:
    for seed in range(3):
        picture = 1 - chest(seed=seed) if inverted else chest(seed=seed)
        assert field(picture).all()
        assert not letters(picture, everywhere(picture)).any()


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    "text, xy, height",
    [("L", (350, 12), 40), ("R", (14, 330), 30), ("PORTABLE 12:30", (20, 12), 16)],
)
def test_letters_are_found_and_little_else(
    text: str, xy: tuple[int, int], height: int, inverted: bool
) -> None:
    picture, strokes = written(chest(), text, xy, height)
    picture = 1 - picture if inverted else picture
    found = letters(picture, everywhere(picture))
    assert found[strokes].mean() > 0.95
    y, x = np.nonzero(strokes)
    box = np.zeros_like(strokes)
    box[max(0, y.min() - 12) : y.max() + 13, max(0, x.min() - 12) : x.max() + 13] = True
    assert not found[~box].any()


def test_metal_inside_the_patient_is_no_letter() -> None:
    picture = chest()
    y, x = np.mgrid[:SIZE, :SIZE]
    rod = (abs(x - 200) < 4) & (abs(y - 200) < 120)
    screw = (abs(x + y - 330) < 4) & (abs(x - y) < 60)
    clip = (abs(x - 150) < 3) & (abs(y - 220) < 10)
    picture = np.where(rod | screw | clip, 1.0, picture)
    assert not letters(picture, everywhere(picture)).any()


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_painted_borders_end_to_the_pixel(grey: float) -> None:
    picture = np.full((SIZE, SIZE), grey)
    picture[30:, :-44] = chest()[30:, :-44]
    found = field(picture)
    assert not found[:30].any() and not found[:, -44:].any()
    assert found[34:, :-48].all()


@pytest.mark.parametrize("tilt_deg", [0.0, 4.0])
def test_blades_are_found_where_they_are(tilt_deg: float) -> None:
    """Unexposed film: white, with the noise of what leaks through, and a penumbra."""
    from scipy import ndimage

    y, x = np.mgrid[:SIZE, :SIZE]
    behind = x < 60 + np.tan(np.deg2rad(tilt_deg)) * (y - SIZE / 2)
    open_ = ndimage.gaussian_filter((~behind).astype(float), 0.7)
    leak = 0.96 + 0.01 * np.random.default_rng(0).standard_normal((SIZE, SIZE))
    picture = chest() * open_ + leak * (1 - open_)
    found = field(picture)
    assert (~found)[behind].mean() > 0.97
    assert found[~behind].mean() > 0.97


@pytest.mark.parametrize("outside", [0.0, 1.0])
@pytest.mark.parametrize("y0, x0, radius", [(200, 200, 190), (190, 210, 170), (180, 200, 240)])
def test_a_round_field_is_found(outside: float, y0: int, x0: int, radius: int) -> None:
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    open_ = (y - y0) ** 2 + (x - x0) ** 2 <= radius**2
    noise = 0.005 * np.random.default_rng(0).standard_normal(open_.shape)
    picture = stretched(np.where(open_, 0.15 + 0.7 * chest(), outside) + noise)
    found = field(picture)
    assert (~found)[~open_].mean() > 0.99 and found[open_].mean() > 0.97


def test_a_round_patient_in_air_is_no_round_field() -> None:
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    ball = np.sqrt(np.clip(0.6 - x**2 - y**2, 0, None))
    skull, brain = (np.sqrt(np.clip(r2 - (1.1 * x) ** 2 - y**2, 0, None)) for r2 in (0.6, 0.55))
    for picture in (ball, 3 * skull - 2.5 * brain):
        assert round_field(stretched(picture)) is None
        assert round_field(1 - stretched(picture)) is None


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("text, xy", [("R", (14, 150)), ("L", (340, 12))])
def test_a_letter_across_the_edge_of_a_blade(
    text: str, xy: tuple[int, int], inverted: bool
) -> None:
    picture = 0.1 + 0.8 * chest()
    picture[:, :40] = picture[:, -34:] = 0
    picture[:30] = 0
    for height in (0, 60):
        strokes = np.zeros(picture.shape, bool)
        if height:
            picture, strokes = written(picture, text, xy, height)
        shown = 1 - stretched(picture) if inverted else stretched(picture)
        open_ = field(shown)
        found = letters(shown, open_)
        assert found[strokes & open_].all() and (found & open_).mean() < 0.01 * (height > 0) + 1e-9


def test_the_edge_of_the_patient_is_no_blade() -> None:
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    leg = np.sqrt(np.clip(0.25 - (x - 0.03 * np.sin(3 * y)) ** 2, 0, None)) * 2
    bone = 0.4 * np.sqrt(np.clip(0.02 - x**2, 0, None)) / 0.14
    assert field(stretched(leg + bone)).mean() > 0.99


def test_what_people_look_at_has_no_holes() -> None:
    picture, strokes = written(chest(), "L", (350, 12), 40)
    seen = ~strokes
    seen[:, :20] = False
    shown = painted_over(picture, seen, strokes)
    assert shown[:, :20].max() == 0 and np.array_equal(shown[seen], picture[seen])
    assert abs(shown - chest())[strokes].mean() < 0.05
