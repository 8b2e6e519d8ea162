"""The conditional generator's answers, and how they guide codes."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_prior
import torch
from torch import Generator

from mednerf_kit.gan.conditional import ConditionalGenerator
from mednerf_kit.invert.conditional import (
    GUIDE_TURNS_DEG,
    Guide,
    answered_view,
    conditional_volumes,
    grid_of,
    guide_of,
)
from mednerf_kit.invert.posterior import Problem
from mednerf_kit.invert.reconstruct import inverted
from mednerf_kit.prior.load import Conditional, load_prior
from mednerf_kit.recon.field_volume import bake

SMALL = {"pixels": 16, "margin": 4, "planes": 12, "widths": (8, 16), "code_dim": 4, "local_dim": 2}


class Echo(ConditionalGenerator):
    """Spreads each pixel of the X-ray evenly along its ray: every answer is the X-ray itself."""

    def forward(self, xray, seen, rng, *, samples=1, antithetic=False, spread=1.0):
        padded = torch.nn.functional.pad(xray * seen, (self.margin,) * 4)
        return (padded[:, None] / 2.8).expand(-1, self.planes, -1, -1).repeat(samples, 1, 1, 1)


@pytest.fixture
def prior(tmp_path):
    """A prior whose conditional generator answers PA films with what they show."""
    plain = load_prior(tiny_prior.snapshot(tmp_path / "run"))
    generator = Echo(**SMALL, precision="fp32").requires_grad_(False)
    return replace(plain, conditional=Conditional(generator, 270.0, {}))


def test_the_nearest_view_within_ten_degrees_is_answered(prior) -> None:
    assert answered_view(prior, torch.tensor([0.0, 265.0, 278.0])) == 1
    assert answered_view(prior, torch.tensor([0.0, 255.0])) is None
    assert answered_view(replace(prior, conditional=None), torch.tensor([270.0])) is None


def test_a_guide_shows_answers_from_where_no_film_was_taken(prior) -> None:
    xray, mask, rng = torch.full((32, 32), 0.3), torch.ones(32, 32), Generator().manual_seed(0)
    guide = guide_of(prior, xray, mask, 270.0, rng, samples=2)
    assert guide.angles_deg.tolist() == [270.0 + turn for turn in GUIDE_TURNS_DEG]
    turns = list(GUIDE_TURNS_DEG)
    assert guide.images.shape == (3, len(turns), 32, 32)
    # the echo fills a slab as deep as the support: from behind it looks as it does from the front
    behind = guide.images[0, turns.index(180.0)][13:19, 13:19]
    assert float((behind - 0.3).abs().max()) < 0.02
    pixels = guide.draw(500, Generator().manual_seed(0))
    assert pixels.amin(0).tolist() == [0, 0, 0]
    assert pixels.amax(0).tolist() == [len(turns) - 1, 31, 31]


def test_hidden_pixels_are_not_answered(prior) -> None:
    xray, mask, rng = torch.full((32, 32), 0.3), torch.ones(32, 32), Generator().manual_seed(0)
    mask[:, 16:] = 0
    grid = grid_of(prior.conditional, prior, 270.0, prior.distance)
    (cube,) = conditional_volumes(prior.conditional, grid, xray, mask, rng, samples=1, size=24)
    # image right is the patient's left, +x, at 270 degrees
    assert float(cube[12, 12, :10].max()) > 0.05 and float(cube[12, 12, 15:].max()) < 1e-6


def test_codes_follow_a_guide_where_there_is_one(prior) -> None:
    """A lateral view twice as bright, as a guide, makes the codes' own lateral view brighter."""
    film, lateral = tiny_prior.orbit_of(prior, 1, (270.0, 0.0)).split(1)
    brightness = {}
    for guided in (False, True):
        rng = Generator().manual_seed(0)
        options = tiny_prior.QUICK(samples=0, guided_locality=1.0)
        problem = Problem(prior, film, torch.tensor([270.0]), options, rng)
        if guided:
            problem.guide = Guide(2 * lateral[None], torch.tensor([0.0]))
        state, _ = problem.descend(problem.start(), 40, deadline=math.inf, pivot=True)
        code = prior.generator.weights(problem.latent(state))
        volume = bake(prior.generator, code, prior.geometry, size=24)
        seen = volume.project(prior.geometry.at([0.0]), prior.distance)
        brightness[guided] = float(seen.mean() / lateral.mean())
    assert abs(brightness[False] - 1) < 0.1
    assert brightness[True] > brightness[False] + 0.02


@pytest.mark.parametrize("film", [False, True])
def test_the_search_is_guided_where_the_xray_is_one_of_line_integrals(prior, film: bool) -> None:
    """A film of unknown curve is not what the generator learned to answer."""
    image, angle = torch.rand(1, 32, 32) * 0.3, torch.tensor([270.0])
    search = tiny_prior.QUICK(samples=1, film_code_steps=6, film_pivot_steps=3)
    with_guide, without = (
        search(one, image, angle, Generator().manual_seed(0), films=[film]).latent.w
        for one in (prior, replace(prior, conditional=None))
    )
    assert torch.equal(with_guide, without) == film


def test_each_member_follows_its_own_answer(prior) -> None:
    images = torch.stack([torch.full((1, 32, 32), value) for value in (0.0, 0.2, 0.4)])
    options, angle = tiny_prior.QUICK(samples=2), torch.tensor([270.0])
    problem = Problem(prior, torch.zeros(1, 32, 32), angle, options, Generator().manual_seed(0))
    problem.guide = Guide(images, torch.tensor([0.0]))
    state = problem.start()
    pixels = problem.guide.draw(50, Generator().manual_seed(0))
    answers = problem._answers(pixels)
    assert answers.tolist() == [[value] * 50 for value in images[:, 0, 0, 0].tolist()]
    with torch.no_grad():
        rays = problem.views.at(problem.guide.angles_deg).rays(pixels, state.log_distance)
        seen = problem._rendered(state, rays, edge=0.02)
        assert torch.equal(problem._guided(state, pixels, edge=0.02), seen)
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize(
    ("of_prior", "has_scale", "answered"),
    [(12.0, False, False), (12.0, True, True), (None, False, True)],
)
def test_only_xrays_on_the_priors_scale_are_answered(
    prior, of_prior: float | None, has_scale: bool, answered: bool
) -> None:
    geometry = replace(prior.geometry, line_integral_scale=of_prior)
    prior = replace(prior, geometry=geometry)
    asked = []
    xray = SimpleNamespace(
        image=torch.zeros(32, 32),
        mask=torch.ones(32, 32),
        angle_deg=270.0,
        is_film=False,
        has_scale=has_scale,
        frame=None,
    )

    def search(prior, *inputs, **options):
        asked.append(prior.conditional is not None)
        return tiny_prior.QUICK(samples=0)(prior, *inputs, **options)

    inverted(prior, [xray], search, Generator().manual_seed(0))
    assert asked == [answered]
