"""Films that are not what was said of them are named, good ones are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import random_prior

from mednerf_kit.data.drr import phantom_volume, render_orbit
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.invert import film_looks
from mednerf_kit.invert.film_checks import Comparison, FilmChecks, Stated
from mednerf_kit.invert.film_looks import POSES, Pose, ViewSpace, equalised, posed
from mednerf_kit.invert.film_views import prior_space, prior_views, varied
from mednerf_kit.prior.catalogue import bundled_names
from mednerf_kit.prior.load import load_prior

PA = Stated(angle_deg=270.0)


def disc(size: int = 64) -> torch.Tensor:
    """A bright disc up left of the middle, darker to the right: no symmetry is left."""
    place = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(place, place, indexing="ij")
    return ((x + 0.3) ** 2 + (y + 0.2) ** 2 < 0.3).float() * (0.6 - 0.4 * x) + 0.1 * (1 + y)


def looked(picture: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    mask = torch.ones_like(picture) if mask is None else mask
    return equalised(picture[None], mask[None])[0][0]


@pytest.mark.parametrize("curve", [torch.sqrt, torch.square, lambda x: torch.sigmoid(8 * x - 3)])
def test_no_tone_curve_changes_the_ranks_much(curve):
    plain, toned = looked(disc()), looked(curve(disc()))
    assert (plain - toned).abs().mean() < 0.08
    assert (plain + looked(1 - disc())).abs().max() < 1e-5  # turned over: the opposite


def test_masked_pixels_count_nothing():
    mask = torch.ones(64, 64)
    mask[:16, 40:] = 0
    letters = disc()
    letters[:16, 40:] = 1
    assert torch.equal(looked(disc(), mask), looked(letters, mask))
    assert (looked(letters, mask)[:8, 20:] == 0).all()


def test_every_pose_is_undone():
    picture = disc()
    upright = torch.stack([part[0] for part in equalised(picture[None], torch.ones(1, 64, 64))])
    for k, pose in enumerate(POSES):
        film = 1 - picture if pose.inverted else picture
        film = torch.rot90(film.flip(-1) if pose.mirrored else film, pose.quarters)
        undone = posed(*equalised(film[None], torch.ones(1, 64, 64)))[0, k]
        torch.testing.assert_close(undone, upright, atol=1e-5, rtol=0)


def test_a_space_explains_its_own_views_and_no_others():
    rng = torch.Generator().manual_seed(0)
    views = varied(disc()[None], 200, rng)
    space = ViewSpace.of(views, dimensions=8)
    films = posed(*equalised(varied(disc()[None], 5, rng), torch.ones(5, 64, 64)))
    db = space.explained_db(films)
    assert db.shape == (5, 16)
    assert (db.argmax(1) == POSES.index(Pose())).all()
    assert (db[:, 0] - db[:, 1:].max(1).values > 2).all()


@pytest.fixture(scope="module")
def checks():
    return {
        part: FilmChecks.of(load_prior(f"bundled:phantom-{part}")) for part in ("chest", "knee")
    }


@pytest.fixture(scope="module")
def films():
    """A frontal and a lateral view of an unseen chest and knee, with a steep tone curve."""
    seen = {}
    for part in ("chest", "knee"):
        geometry = DEFAULTS[part].resized(64).at([270.0, 0.0])
        views = render_orbit(phantom_volume(part, 20001, 64), geometry)
        seen[part] = torch.sigmoid(8 * views / views.amax((1, 2), keepdim=True) - 3)
    return seen


def verdict(checks, film, stated=PA, prior="chest"):
    return checks[prior](film, torch.ones_like(film), stated)


def test_good_films_get_no_warning(checks, films):
    lateral = Stated(angle_deg=0.0, view="lateral")
    for part in ("chest", "knee"):
        for film, stated, view in zip(
            films[part], (PA, lateral), ("frontal", "lateral"), strict=True
        ):
            found = verdict(checks, film, stated, part)
            assert found.warnings == ()
            assert (found.body_part, found.view, found.rotated_deg) == (part, view, 0)
            assert found.inverted is False


@pytest.mark.parametrize(
    ("altered", "question", "option"),
    [
        (lambda film: 1 - film, "polarity", "add --invert"),
        (lambda film: torch.rot90(film, 2), "orientation", "give --rotate 180"),
        (lambda film: torch.rot90(film, 1), "orientation", "give --rotate 90"),
        (lambda film: torch.rot90(film, 3), "orientation", "give --rotate 270"),
        (lambda film: film.flip(-1), "mirrored", "add --flip"),
    ],
)
def test_what_differs_is_named_with_its_option(checks, films, altered, question, option):
    found = verdict(checks, altered(films["chest"][0]))
    (text,) = found.warnings
    assert text.startswith("looks ") and text.endswith(option)
    assert list(found.gains_db) == [question]
    gain_db = found.gains_db[question]
    assert (f": {gain_db:.1f} dB better" in text) == (gain_db >= 0.1)


def test_another_view_and_another_body_part_are_named(checks, films):
    (text,) = verdict(checks, films["chest"][1]).warnings
    assert text.startswith("looks like a lateral, not a PA") and text.endswith("--view lateral")
    (text,) = verdict(checks, films["chest"][1].flip(-1)).warnings
    assert text.endswith("--view left-lateral")
    (text,) = verdict(checks, films["knee"][0]).warnings
    assert text.startswith("looks like a knee, not a chest")
    assert text.endswith("use --run bundled:knee")


def test_an_option_given_before_is_taken_back_or_added_to(checks, films):
    upside_down = torch.rot90(films["chest"][0], 2)
    stated = Stated(angle_deg=270.0, rotated_deg=180)
    assert verdict(checks, upside_down, stated).warnings[0].endswith("leave --rotate out")
    # mirrored after the turn: a quarter more on the film is a quarter less before the mirror
    quarter = torch.rot90(films["chest"][0], 1)
    stated = Stated(angle_deg=270.0, rotated_deg=180, flipped=True)
    assert verdict(checks, quarter, stated).warnings[0].endswith("give --rotate 90")
    stated = Stated(angle_deg=270.0, inverted=True)
    assert verdict(checks, 1 - films["chest"][0], stated).warnings[0].endswith("leave --invert out")


def test_a_film_from_behind_is_expected_mirrored(checks, films):
    as_used = films["chest"][0].flip(-1)
    assert verdict(checks, as_used, Stated(angle_deg=90.0)).warnings == ()
    assert verdict(checks, as_used, Stated(angle_deg=90.0, view="AP", mirrored=True)).warnings == ()


def test_a_prior_with_mirrored_columns_expects_mirrored_pictures(checks, films):
    chest = checks["chest"]
    geometry = replace(chest.prior.geometry, columns_flipped=False)
    mirrored = replace(chest, prior=replace(chest.prior, geometry=geometry))
    film = films["chest"][0].flip(-1)
    assert mirrored(film, torch.ones_like(film), PA).warnings == ()


def test_shapes_are_neither_chest_nor_knee(checks):
    found = verdict(checks, disc())
    assert found.body_part is None
    (text,) = found.warnings
    assert text.startswith("looks like neither a chest nor a knee")


def test_unsure_of_what_and_sure_that_it_is_not_as_stated(checks):
    """Two thirds of the probability upside down, one third inverted: neither is sure."""
    p = torch.zeros(len(POSES), len(film_looks.VIEWS))
    p[POSES.index(Pose(quarters=2)), 0] = 0.66
    p[POSES.index(Pose(inverted=True)), 0] = 0.33
    p[POSES.index(Pose()), 0] = 0.01
    looks = film_looks.Looks(p, 0.0, torch.zeros_like(p))
    found = Comparison(looks, "chest", PA, DEFAULTS["chest"]).verdict()
    assert found.p_as_stated == pytest.approx(0.01, abs=1e-6)
    assert list(found.gains_db) == ["statement"]
    assert found.warnings[0].startswith("does not look like a PA of a chest")
    as_stated = torch.zeros_like(p)
    as_stated[POSES.index(Pose()), 0] = 1
    looks = film_looks.Looks(as_stated, 0.0, torch.zeros_like(p))
    assert Comparison(looks, "chest", PA, DEFAULTS["chest"]).verdict().warnings == ()


def test_a_prior_of_another_body_part_answers_for_polarity_alone():
    prior = random_prior()
    checks = FilmChecks.of(prior)
    assert checks.part is None
    views = prior_views(prior, 270.0, patients=2, grid=24, rng=torch.Generator().manual_seed(1))
    space = prior_space(prior, 270.0)
    assert space.explained_db(posed(*equalised(views, torch.ones_like(views))))[:, 0].min() > 15
    for view in views:
        assert checks(view / view.max(), torch.ones_like(view), PA).warnings == ()
        over = checks(1 - view / view.max(), torch.ones_like(view), PA)
        assert over.body_part is None
        assert over.warnings[0].startswith("looks inverted")


def test_what_is_shipped_is_small_and_of_the_bundled_priors(checks):
    assert film_looks.FILE.stat().st_size < 500_000
    assert {part: checks[part].part for part in checks} == {"chest": "chest", "knee": "knee"}
    assert set(film_looks.load_knowledge().priors.values()) == {"chest", "knee"}


def test_a_prior_that_says_what_it_shows_is_not_looked_at(monkeypatch):
    monkeypatch.setattr("mednerf_kit.invert.film_checks._looks_like", None)
    for name in bundled_names():
        prior = load_prior(f"bundled:{name}")
        assert prior.meta["anatomy"] == FilmChecks.of(prior).part == name.removeprefix("phantom-")
