"""The inversion that tunes networks: its terms, its start, and the pixels that it never sees."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import SIZE
from tiny_inversion import seeded

from mednerf_kit.invert.fine_tuning import FineTuning, FineTuningProblem, uncertainty_weighted
from mednerf_kit.invert.progress import Progress
from mednerf_kit.prior import gan_setup
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.rendering import Renderer


def test_uncertainty_weights_by_hand():
    terms, sigma = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    assert float(uncertainty_weighted(terms, sigma)) == pytest.approx(
        1 + math.log(2) + 3 / 8 + math.log(5)
    )


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_inversion_approaches_its_input_without_the_held_out_pixels(mednerf, toys, weighting):
    prior = prior_load.load_prior(mednerf)
    with torch.no_grad():
        code = prior.generator.weights(prior.generator.draw(1, seeded(5)))
        renderer = Renderer.of(prior.meta["recipe"])
        view = renderer.views(prior.generator.field, code, prior.geometry.at((45.0,))).mean(-1)[0]
        view = (view / view.max().clamp_min(1e-6)).clamp(0, 1)
    options = FineTuning(
        samples=1,
        candidates=6,
        azimuths=4,
        code_steps=10,
        tune_steps=30,
        patch_px=16,
        tune_rate=5e-3,
        weighting=weighting,
    )
    problem = FineTuningProblem(prior, view, torch.tensor([45.0]), options, seeded())
    members = problem.start()
    before = problem._held_out_mse(members)
    told: list[Progress] = []
    posterior = options(prior, view, torch.tensor([45.0]), seeded(), watch=told.append)
    assert posterior.held_out_mse < 0.8 * before and posterior.latent.w.shape[0] == 2
    assert [(p.text, p.step) for p in told[:2]] == [("latents", 0), ("latents", 10)]
    assert (told[-1].text, told[-1].held_out_mse) == ("networks", posterior.held_out_mse)
    xray, projection = told[-1].pictures()
    assert torch.equal(xray, view) and float((projection - xray).square().mean()) < before
    hidden = view.clone()
    hidden[problem.pixels.hidden] = 7.0
    seeing, blind = (
        FineTuningProblem(prior, v, torch.tensor([45.0]), options, seeded()).loss(members)
        for v in (view, hidden)
    )
    assert torch.equal(seeing, blind)


def test_candidates_are_tried_at_several_azimuths(mednerf):
    prior = prior_load.load_prior(mednerf)
    problem = FineTuningProblem(
        prior,
        torch.rand(1, SIZE, SIZE, generator=seeded()),
        torch.tensor([0.0]),
        FineTuning(samples=3, candidates=8, azimuths=4),
        seeded(),
    )
    members = problem.start()
    assert len(members.eps) == 4 and set(members.turn_deg.tolist()) <= {0.0, 90.0, 180.0, 270.0}
    assert gan_setup.compat_options(prior.meta["recipe"]).named() == []
