"""Scatter and tone curve of a film, against closed forms; and a film inverted as one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_inversion import FRONTAL, QUICK, db, seeded

from mednerf_kit.imaging.film import CURVES, FilmOptions, make_film
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.invert.descent import split_pixels
from mednerf_kit.invert.film_response import (
    FIELD_PX,
    RATIO_MEDIAN,
    SIGMA_FLOOR,
    FilmResponse,
    grey_pictures,
    line_integrals,
)
from mednerf_kit.invert.posterior import Problem
from mednerf_kit.invert.predict import predict

CPU = torch.device("cpu")
GAMMA = CURVES.build({"name": "gamma", "gamma": 0.6})


@pytest.fixture(scope="module")
def response() -> FilmResponse:
    return FilmResponse.of(DEFAULTS["chest"], CPU)


def test_scatter_of_a_uniform_object_is_its_own_share(response):
    """S = T (1 − T) everywhere, so that the film is f(−ln(T + ratio T (1 − T)) / scale)."""
    u = torch.full((1, FIELD_PX, FIELD_PX), 0.3)
    primary = math.exp(-response.scale * 0.3)
    scatter = response.scatter(u)
    assert torch.allclose(scatter, torch.full_like(u, primary * (1 - primary)), atol=1e-6)
    z = torch.zeros(1, response.parameters)
    apparent = -math.log(primary + RATIO_MEDIAN * primary * (1 - primary)) / response.scale
    shown = response(z, u.flatten(1), scatter.flatten(1))
    wanted = response.curve(z[:, 1:], torch.tensor([[apparent]]))
    assert torch.allclose(shown, wanted.expand_as(shown), atol=1e-5)


def test_the_ratio_is_log_normal(response):
    z = torch.zeros(2, response.parameters)
    z[1, 0] = 1.0
    ratio = response.ratio(z)
    assert ratio[0] == pytest.approx(RATIO_MEDIAN) and ratio[1] / ratio[0] == pytest.approx(math.e)


def test_a_film_is_taken_back_to_line_integrals_from_any_picture(response):
    """Also from a picture in the toe of the curve, where a step by its slope would overshoot."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    truth = (0.1 + 0.5 * (1 - x**2 - y**2).clamp_min(0))[None]
    z = torch.zeros(1, response.parameters)
    z[0, 0] = -8.0  # next to no scatter
    film = grey_pictures(response, z, truth)[0]
    slopes = []
    for start in (truth, torch.full_like(truth, 0.02), torch.full_like(truth, 1.0)):
        told, slope = line_integrals(response, z, film, start)
        assert (told - truth).abs().max() < 1e-3
        slopes.append(slope)
    assert torch.allclose(slopes[0], slopes[1], rtol=0.02)
    u = truth.flatten(1).requires_grad_(True)
    response(z, u, torch.zeros_like(u)).sum().backward()
    assert torch.allclose(slopes[0].flatten(1), u.grad, rtol=0.1)
    # with scatter, that of the picture
    z[0, 0] = 1.0
    told, _ = line_integrals(response, z, grey_pictures(response, z, truth)[0], truth)
    assert (told - truth).abs().max() < 1e-3


def test_what_a_curve_does_not_reach_says_nothing(response):
    z = torch.zeros(1, response.parameters)
    film = torch.tensor([[-0.3, 3.0]])
    told, slope = line_integrals(response, z, film, torch.full((1, 1, 2), 0.3))
    assert told[0, 0, 0] < 1e-3 and told[0, 0, 1] > 1.2
    assert slope[0, 0, 1] < 0.3


def test_scatter_agrees_with_the_films_that_are_made(response):
    """The forward model here and that of `imaging/film` on a smooth object: to 2 % of the range."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    u = 0.6 * (1 - x**2 - y**2).clamp_min(0)
    geometry = DEFAULTS["chest"].resized(64)
    made = make_film(
        u,
        scale=response.scale,
        pixel_mm=geometry.pixel_mm,
        options=FilmOptions(scatter_ratio=RATIO_MEDIAN),
    ).pixels
    z = torch.zeros(1, response.parameters)
    shown = grey_pictures(FilmResponse.of(geometry, CPU), z, u[None])[0]
    wanted = response.curve(z[:, 1:], made.flatten()[None]).view(64, 64)
    assert float((shown - wanted).abs().max()) < 0.02


def test_the_start_finds_the_curve_of_the_right_candidate(response):
    """Of three candidates the one that the film was made from is cheapest, with its curve."""
    u = torch.rand(3, 400, generator=seeded())
    grey = GAMMA(u[1])
    z, cost = response.start(u, torch.zeros_like(u), grey, 1e-5)
    assert cost.argmin() == 1 and cost[1] < 0.05 * cost[0]
    shown = response(z[1:2], u[1:2], torch.zeros(1, 400))[0]
    assert float((shown - grey).square().mean().sqrt()) < 0.03


def test_a_film_is_inverted_better_with_its_curve_than_as_line_integrals(prior, scenes):
    """The view's gamma is 0.6; all other views are scored after one gain."""
    truth = scenes[2][0]
    film = GAMMA(truth[[FRONTAL]].clamp(0, 1))
    options = replace(QUICK, film_code_steps=60, film_pivot_steps=15)
    angles = torch.tensor([prior.geometry.angles_deg[FRONTAL]])
    scores = {}
    for name, films in (("linear", [False]), ("film", [True])):
        posterior = options(prior, film, angles, seeded(), films=films)
        views = predict(prior, posterior, prior.geometry, size=48).views
        gain = (views * truth).sum() / views.square().sum()
        scores[name] = db(gain * views, truth)
    assert posterior.tone is not None and posterior.tone.shape[:2] == (3, 1)
    assert scores["film"] > scores["linear"] + 2, scores


def test_only_the_films_among_the_views_get_a_curve(prior, scenes):
    """A line-integral view beside a film keeps its gain; the film's gain is not used."""
    orbit = scenes[2][1][[FRONTAL, 0]].clamp(0, 1)
    angles = torch.tensor([prior.geometry.angles_deg[k] for k in (FRONTAL, 0)])
    problem = Problem(prior, orbit, angles, QUICK, seeded(), films=[False, True])
    state = problem.start()
    problem.scatter = problem._scatter(state)
    pixels = torch.tensor([[view, 16, 16] for view in (0, 1)])
    one, other = (problem._mse(s, pixels[:1]) for s in (state, moved(state, "log_gain", 0.3)))
    assert not torch.allclose(one, other)
    one, other = (problem._mse(s, pixels[1:]) for s in (state, moved(state, "log_gain", 0.3)))
    assert torch.allclose(one, other)
    one, other = (problem._mse(s, pixels[1:]) for s in (state, moved(state, "tone", 0.5)))
    assert not torch.allclose(one, other)


def moved(state, name: str, by: float):
    return replace(state, **{name: getattr(state, name) + by})


def test_masked_pixels_are_neither_fitted_nor_compared():
    mask = torch.ones(1, 20, 20)
    mask[:, :, :7] = 0
    split = split_pixels((1, 20, 20), seeded(), mask)
    assert split.training[:, 2].min() == 7 and split.held_out[:, 2].min() >= 7
    assert bool(split.hidden[:, :, :7].all())
    whole = split_pixels((1, 20, 20), seeded())
    kept = whole.training[whole.training[:, 2] >= 7]
    assert torch.equal(split.training, kept)  # the same tenth is kept aside


def test_letters_under_the_mask_change_nothing(prior, scenes):
    """White ink on a tenth of the view: with a mask the answer is that without ink, to the bit."""
    view = scenes[2][1][[FRONTAL]]
    inked, mask = view.clone(), torch.ones_like(view)
    inked[:, 2:8, 2:18], mask[:, 2:8, 2:18] = 1.0, 0.0
    angles = torch.tensor([270.0])
    options = replace(QUICK, code_steps=10, pivot_steps=4)
    found = [options(prior, image, angles, seeded(), mask=mask) for image in (view, inked)]
    assert torch.equal(found[0].latent.w, found[1].latent.w)
    unmasked = options(prior, inked, angles, seeded())
    assert not torch.equal(unmasked.latent.w, found[0].latent.w)


def film_problem(prior, scenes, options=QUICK) -> Problem:
    film = GAMMA(scenes[2][0][[FRONTAL]].clamp(0, 1))
    return Problem(prior, film, torch.tensor([270.0]), options, seeded(), films=[True])


def test_a_curve_costs_the_square_of_its_distance_from_its_centre(prior, scenes):
    problem = film_problem(prior, scenes)
    state = problem.start()
    centred = replace(state, tone=problem.tone_centres.clone())
    unit = QUICK.sigma**2 / QUICK.pixels
    extra = problem._penalty(moved(centred, "tone", 2.0), False) - problem._penalty(centred, False)
    assert torch.allclose(extra, torch.full_like(extra, unit * 4 * problem.response.parameters))
    assert float(problem.tone_centres[0].abs().max()) == 0  # of the best guess
    assert float(problem.tone_centres[1:].std()) == pytest.approx(1, abs=0.5)


def test_a_film_is_trusted_to_the_error_that_is_left(prior, scenes):
    """Between the floor and the option's σ; line integrals to σ, whatever is left."""
    left = torch.tensor([0.001, 0.03, 0.2]).square()
    wanted = [(SIGMA_FLOOR / QUICK.sigma) ** 2, (0.03 / QUICK.sigma) ** 2, 1.0]
    assert film_problem(prior, scenes)._trust(left).tolist() == pytest.approx(wanted)
    plain = Problem(prior, scenes[2][0][[FRONTAL]], torch.tensor([270.0]), QUICK, seeded())
    assert plain._trust(left) == 1.0


def test_the_curve_descends_with_the_codes(prior, scenes):
    problem = film_problem(prior, scenes)
    before = problem.start()
    problem.tone_centres = before.tone.clone()  # so that the film alone pulls
    after, _ = problem.descend(before, 10, pivot=False, deadline=math.inf)
    assert float((after.tone - before.tone).abs().amax()) > 0.05
