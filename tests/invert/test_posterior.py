"""From X-rays back to scenes: a known scene is found again, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import SIZE
from tiny_inversion import FASTEST, FRONTAL, QUICK, db, inverted, marched, seeded
from tiny_prior import NODE, snapshot

from mednerf_kit.core.adam import Adam
from mednerf_kit.fields.hyper import SHARP_EDGE
from mednerf_kit.invert.fine_tuning import FineTuning
from mednerf_kit.invert.members import Posterior
from mednerf_kit.invert.posterior import Inversion, Problem, inversion_of
from mednerf_kit.invert.predict import predict
from mednerf_kit.prior.load import Prior, load_prior


def test_a_known_scene_is_found_from_one_view(prior, scenes, posterior, mean_orbit):
    """Every view but the one given: far better than the mean scene, and the input is explained."""
    truth = scenes[2][0]
    found = predict(prior, posterior, prior.geometry, size=48)
    assert db(found.views, truth) > db(mean_orbit, truth) + 6
    assert float((found.views - truth)[FRONTAL].square().mean()) < 2e-3
    assert posterior.held_out_mse < 2e-3


def test_the_fitted_geometry_stays_near_the_true_one(prior, posterior):
    assert abs(float(posterior.angles_deg[0]) - 270) < 3 and posterior.distance == pytest.approx(
        prior.geometry.distance, rel=0.1
    )
    assert (posterior.gains - 1).abs().max() < 0.2 and posterior.gains.shape == (3, 1)
    assert posterior.latent.w.shape[0] == posterior.code.batch == 3
    assert posterior.latent.pose.shape[0] == 3 and posterior.seconds > 0


def test_the_volume_is_found_too(prior, scenes, posterior):
    found = predict(prior, posterior, prior.geometry, size=48)
    truth = scenes[1].values[0]
    inside = truth > 0
    error = (found.volume.values - truth)[inside].square().mean()
    assert error < 0.3 * (truth[inside] - truth[inside].mean()).square().mean()


def test_inversion_repeats_by_seed_and_leaves_the_prior_alone(prior, scenes):
    before = {k: v.clone() for k, v in prior.generator.state_dict().items()}
    one, same, other = (inverted(prior, scenes[2][1], options=FASTEST, seed=s) for s in (3, 3, 4))
    assert (
        torch.equal(one.latent.w, same.latent.w)
        and torch.equal(one.gains, same.gains)
        and one.held_out_mse == same.held_out_mse
    )
    assert not torch.equal(one.latent.w, other.latent.w)
    assert all(torch.equal(v, before[k]) for k, v in prior.generator.state_dict().items())


def test_an_interrupted_inversion_leaves_the_prior_alone(prior, scenes, monkeypatch):
    """Ctrl-C in the middle of the search for codes, where the scan still ends softly."""
    generator = prior.generator

    def everything() -> dict[str, object]:
        return {k: v for k, v in vars(generator).items() if not k.startswith("_")}

    attributes = everything()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    code = generator.weights(generator.latent(torch.zeros(1, generator.latent_dim)))
    steps, step = [], Adam.step

    def interrupted(self, *args, **kwargs):
        steps.append(step(self, *args, **kwargs))
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inverted(prior, scenes[2][1], options=FASTEST)
    assert len(steps) == 3 and everything() == attributes
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    again = generator.weights(generator.latent(torch.zeros(1, generator.latent_dim)))
    assert again.pose.edge == code.pose.edge == SHARP_EDGE
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())


def test_a_scan_ends_softly_while_codes_are_searched(prior, scenes, monkeypatch):
    """Over 0.08 field units for the candidates, then ever less, and sharply where it is judged."""
    options = Inversion(
        samples=1, candidates=20, code_steps=5, pivot_steps=1, rays=16, nodes=4, max_seconds=1e9
    )
    pose, edges = prior.generator.canonical_pose, []

    def noting(numbers, *, edge=SHARP_EDGE):
        edges.append(edge)
        return pose(numbers, edge=edge)

    monkeypatch.setattr(prior.generator, "canonical_pose", noting)
    inverted(prior, scenes[2][1], options=options)
    candidates = 3 * [0.08]  # 1 + 12 + 20, in batches of 16
    steps = [0.08, 0.056, 0.032, 0.02, 0.02]
    judged, pivot, result = [0.02], 3 * [0.02], [0.02]
    assert edges == pytest.approx(candidates + judged + steps + judged + pivot + result)


def test_two_views_say_more_than_one(prior, scenes):
    """Where one is ambiguous; here: the pictures of both inputs are explained, each with a gain and
    an angle of its own.
    """
    both = inverted(prior, scenes[2][2], views=(0, FRONTAL))
    assert both.gains.shape == (3, 2) and both.angles_deg.shape == (2,)
    found = predict(prior, both, prior.geometry, size=48)
    assert ((found.views - scenes[2][2])[[0, FRONTAL]].square().mean((1, 2)) < 2e-3).all()


def test_members_differ_and_the_best_guess_comes_first(posterior):
    w = posterior.latent.w
    assert (w[0] - w[1]).abs().max() > 1e-3 and (w[1] - w[2]).abs().max() > 1e-3


def test_a_time_limit_ends_the_search(prior, scenes):
    hurried = inverted(
        prior,
        scenes[2][0],
        options=replace(QUICK, max_seconds=0.0, code_steps=5000, pivot_steps=5000),
    )
    assert hurried.seconds < 10 and hurried.held_out_mse < 1


def held_out_error(prior: Prior, problem: Problem, found: Posterior) -> float:
    """Mean squared error of the members at the problem's held-out pixels, by the ordinary
    renderer.
    """
    total = 0.0
    for member in range(found.code.batch):
        seen = torch.stack(
            [
                marched(
                    prior, found.code.one(member), float(a), found.distance, problem.options.nodes
                )
                for a in found.angles_deg
            ]
        )
        view, y, x = problem.pixels.held_out.unbind(1)
        total += float(
            (found.gains[member, view] * seen[view, y, x] - problem.images[view, y, x])
            .square()
            .mean()
        )
    return total / found.code.batch


@pytest.mark.parametrize("wild_pivot", [False, True])
def test_the_state_with_the_lowest_held_out_error_is_kept(prior, scenes, wild_pivot):
    """Also when tuning everything makes it worse: then the codes alone are the answer."""
    problem = Problem(prior, scenes[2][0][[FRONTAL]], torch.tensor([270.0]), QUICK, seeded())
    never = torch.inf
    state, mse = problem.descend(problem.start(), 30, pivot=False, deadline=never)
    coded = held_out_error(prior, problem, problem.result(state, mse, 0.0))
    if wild_pivot:
        problem.options = replace(QUICK, code_rate=30.0)
    found = problem.result(*problem.descend(state, 5, pivot=True, deadline=never), 0.0)
    assert held_out_error(prior, problem, found) == pytest.approx(found.held_out_mse, rel=0.05), (
        "it says what it is"
    )
    assert held_out_error(prior, problem, found) <= 1.05 * coded


def test_held_out_pixels_are_never_fitted(prior, scenes):
    problem = Problem(
        prior, scenes[2][0][[0, FRONTAL]], torch.tensor([0.0, 270.0]), QUICK, seeded()
    )
    held, fitted = (
        {tuple(p) for p in pixels.tolist()}
        for pixels in (problem.pixels.held_out, problem.pixels.training)
    )
    assert (
        not held & fitted
        and len(fitted) == pytest.approx(0.9 * 2 * SIZE**2, rel=0.05)
        and len(held) > 100
    )


def test_a_recipe_names_its_inversion_also_by_a_former_name(tmp_path):
    for name in ("fine_tuning", "relaxed"):
        recipe = {"generator": NODE, "inversion": {"name": name, "candidates": 3, "samples": 1}}
        search = inversion_of(
            load_prior(snapshot(tmp_path / name, recipe=recipe)), Inversion, samples=5
        )
        assert search == FineTuning(candidates=3, samples=5)
    plain = load_prior(snapshot(tmp_path / "plain"))
    assert inversion_of(plain, Inversion, samples=5) == Inversion(samples=5)
