"""The conditional generator's answers beside the members that codes give."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import tiny_prior
import torch
from torch import Generator

from mednerf_kit.gan.conditional import ConditionalGenerator
from mednerf_kit.invert.answers import ANSWERS, with_answers
from mednerf_kit.invert.conditional import GUIDE_TURNS_DEG, Guide, answered_view, guide_of
from mednerf_kit.invert.posterior import Problem
from mednerf_kit.invert.predict import predict
from mednerf_kit.invert.update import Films
from mednerf_kit.prior.load import Conditional, load_prior
from mednerf_kit.recon.field_volume import FieldVolume, bake
from mednerf_kit.recon.ray_grid import RayGrid

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


def found(prior, angle_deg: float):
    """A posterior at this angle, and its baked members."""
    image = torch.full((1, 32, 32), 0.3)
    posterior = tiny_prior.QUICK(samples=1)(
        prior, image, torch.tensor([angle_deg]), Generator().manual_seed(0)
    )
    return image, posterior, bake(prior.generator, posterior.code, prior.geometry, size=24)


def test_the_nearest_view_within_ten_degrees_is_answered(prior) -> None:
    assert answered_view(prior, torch.tensor([0.0, 265.0, 278.0])) == 1
    assert answered_view(prior, torch.tensor([0.0, 255.0])) is None
    assert answered_view(replace(prior, conditional=None), torch.tensor([270.0])) is None


def test_answers_join_the_codes_members_and_show_the_xray(prior) -> None:
    image, posterior, volumes = found(prior, 270.0)
    rng = Generator().manual_seed(0)
    joined, members = with_answers(prior, posterior, volumes, Films.of(image), rng)
    assert len(members.values) == len(volumes.values) + ANSWERS == len(joined.gains)
    assert torch.equal(members.values[:2], volumes.values)
    # members take gains in turn, so that the update treats each as the code it goes with
    assert torch.equal(joined.gains, posterior.gains.repeat(1 + ANSWERS // 2, 1))
    answer = FieldVolume.of(members.values[2:3], prior.geometry)
    geometry = prior.geometry.at([float(posterior.angles_deg[0])])
    seen = answer.project(geometry, posterior.distance)[0, 0]
    slant = RayGrid.of(geometry, 270.0, posterior.distance, rays=32, planes=1, half_width=1.0)
    middle = slice(13, 19)  # where the support is about as deep as the grid
    expected = 0.3 * (slant.lengths() / 2.8)[middle, middle]
    assert float((seen[middle, middle] - expected).abs().max()) < 0.01


def test_hidden_pixels_are_not_answered(prior) -> None:
    image, posterior, volumes = found(prior, 270.0)
    mask = torch.ones_like(image)
    mask[:, :, 16:] = 0
    films, rng = Films.of(image, mask), Generator().manual_seed(0)
    _, members = with_answers(prior, posterior, volumes, films, rng)
    answer = members.values[2]
    # image right is the patient's left, +x, at 270 degrees
    assert float(answer[12, 12, :10].max()) > 0.05 and float(answer[12, 12, 15:].max()) < 1e-6


def test_another_view_leaves_the_codes_alone(prior) -> None:
    image, posterior, volumes = found(prior, 0.0)
    films, rng = Films.of(image), Generator().manual_seed(0)
    joined, members = with_answers(prior, posterior, volumes, films, rng)
    assert joined is posterior and members is volumes


def test_predictions_count_the_answers(prior) -> None:
    image, posterior, _ = found(prior, 270.0)
    geometry = prior.geometry.at([0.0, 270.0])
    assert len(predict(prior, posterior, geometry, films=Films.of(image)).members) == 2 + ANSWERS
    assert len(predict(prior, posterior, geometry).members) == 2


def test_a_guide_shows_the_best_guess_from_where_no_film_was_taken(prior) -> None:
    xray, mask = torch.full((32, 32), 0.3), torch.ones(32, 32)
    guide = guide_of(prior, xray, mask, 270.0)
    assert guide.angles_deg.tolist() == [270.0 + turn for turn in GUIDE_TURNS_DEG]
    turns = list(GUIDE_TURNS_DEG)
    # the echo fills a slab as deep as the support: from behind it looks as it does from the front
    behind = guide.images[turns.index(180.0)][13:19, 13:19]
    assert float((behind - 0.3).abs().max()) < 0.02
    pixels = guide.draw(500, Generator().manual_seed(0))
    assert pixels.amin(0).tolist() == [0, 0, 0]
    assert pixels.amax(0).tolist() == [len(turns) - 1, 31, 31]


def test_codes_follow_a_guide_where_there_is_one(prior) -> None:
    """A lateral view twice as bright, as a guide, makes the codes' own lateral view brighter."""
    film, lateral = tiny_prior.orbit_of(prior, 1, (270.0, 0.0)).split(1)
    brightness = {}
    for guided in (False, True):
        rng = Generator().manual_seed(0)
        options = tiny_prior.QUICK(samples=0, guided_locality=1.0)
        problem = Problem(prior, film, torch.tensor([270.0]), options, rng)
        if guided:
            problem.guide = Guide(2 * lateral, torch.tensor([0.0]))
        state, _ = problem.descend(problem.start(), 40, deadline=math.inf, pivot=True)
        code = prior.generator.weights(problem.latent(state))
        volume = bake(prior.generator, code, prior.geometry, size=24)
        seen = volume.project(prior.geometry.at([0.0]), prior.distance)
        brightness[guided] = float(seen.mean() / lateral.mean())
    assert abs(brightness[False] - 1) < 0.1
    assert brightness[True] > brightness[False] + 0.02


@pytest.mark.parametrize("film", [False, True])
def test_the_search_asks_for_a_guide_by_itself(prior, film: bool) -> None:
    """At once where a gain is all that is unknown, after the curve was fitted for a film."""
    image, angle = torch.rand(1, 32, 32) * 0.3, torch.tensor([270.0])
    search = tiny_prior.QUICK(samples=1, film_code_steps=6, guided_steps=3, guided_pivot_steps=3)
    found = {}
    for one in (prior, replace(prior, conditional=None)):
        rng = Generator().manual_seed(0)
        found[one.conditional is None] = search(one, image, angle, rng, films=[film]).latent.w
    assert not torch.allclose(found[True], found[False])
