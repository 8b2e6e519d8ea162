"""Both inversions in closed form: parabolas with known minima, and scripted held-out errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import pytest
import torch
from linear_game import adam, rmsprop
from tiny import SIZE, random_prior
from tiny_inversion import seeded

from mednerf_kit.engine import session
from mednerf_kit.invert import posterior
from mednerf_kit.invert.descent import SearchState
from mednerf_kit.invert.fine_tuning import FineTuning, FineTuningProblem, FineTuningState
from mednerf_kit.invert.posterior import Inversion, Problem
from mednerf_kit.invert.posterior_state import State
from mednerf_kit.prior.load import Prior

FALLING = range(10**6, 0, -1)  # held-out errors: the last state is the best


@pytest.fixture(scope="module")
def prior() -> Prior:
    made = random_prior()
    return replace(
        made, meta={**made.meta, "recipe": session.resolve("chest", "chest_mednerf", "default", [])}
    )


def same(one: SearchState, other: SearchState) -> bool:
    """Whether two states agree in every number."""
    for f in fields(one):
        ours, theirs = getattr(one, f.name), getattr(other, f.name)
        if isinstance(ours, torch.Tensor):
            ours, theirs = (ours,), (theirs,)
        if not all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            return False
    return True


def inputs(views: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(views, SIZE, SIZE, generator=seeded()), torch.arange(views) * 90.0


# The posterior


class Parabola(Problem):
    """The squared error is Σ (x − place)² where there is a place; held-out errors are scripted."""

    def __init__(
        self,
        prior: Prior,
        options: Inversion,
        places: dict[str, torch.Tensor | float],
        *,
        views: int = 1,
        script: Sequence[float] = FALLING,
    ) -> None:
        super().__init__(prior, *inputs(views), options, seeded())
        self.places, self.script = places, iter(script)
        self.seen: list[State] = []  # at which the held-out error was computed

    def _mse(self, state, pixels, **options):
        if pixels is self.pixels.held_out:
            self.seen.append(state.copied())
            return torch.full((len(state.eps),), float(next(self.script)))
        total = torch.zeros(len(state.eps))
        for name, place in self.places.items():
            values = getattr(state, name)
            for numbers in values if isinstance(values, tuple) else (values,):
                apart = (numbers - place).square()
                per_member = (
                    numbers.dim() and len(numbers) == len(total) and name not in ("turn_deg",)
                )
                total = total + (apart.flatten(1).sum(1) if per_member else apart.sum())
        return total


def members(prior: Prior, problem: Problem, count: int = 2) -> State:
    """Members that start at nothing and are to stay near 0 and random numbers."""
    eps = torch.randn(count, prior.generator.latent_dim, generator=seeded(1))
    eps[0] = 0
    problem.centres = eps
    return problem._fresh(torch.zeros_like(eps))


@pytest.mark.parametrize(
    ("views", "sigma", "pixels"), [(1, 1.0, 1.0), (2, 1.0, 1.0), (2, 0.5, 0.25), (3, 2.0, 4.0)]
)
def test_a_members_code_is_the_posteriors_of_its_prior_sample(prior, views, sigma, pixels):
    """Minimum of n P |x − y|² / σ² + |x − e|²: with u = σ²/(n P) it is (y + u e) / (1 + u)."""
    options = Inversion(sigma=sigma, pixels=pixels, code_rate=0.1)
    problem = Parabola(prior, options, {"eps": 1.0}, views=views)
    found, _ = problem.descend(members(prior, problem), 150, pivot=False, deadline=math.inf)
    unit = sigma**2 / (pixels * views)
    torch.testing.assert_close(
        found.eps, (1.0 + unit * problem.centres) / (1 + unit), rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("views", [1, 2])
def test_what_is_tuned_beside_the_code_pays_for_every_deviation(prior, views):
    """Two pulls on a number x: (x − y)² and u (x/s)² with u = σ²/(n P) meet at y / (1 + u/s²).

    s is 1 for a code (about the member's prior sample), 2° for an angle, 0.05 for the logarithm of
    the distance, ``gain_sigma`` for that of a gain; styles and layers pay their mean square over
    ``locality``.
    """
    options = Inversion(sigma=0.1, pixels=4.0, gain_sigma=0.04, locality=0.02, code_rate=0.1)
    unit = 0.1**2 / (4.0 * views)
    places = {
        "eps": 0.5,
        "style": 0.4,
        "deltas": 0.2,
        "log_gain": 0.6,
        "log_distance": 0.1,
        "turn_deg": 4.0,
    }
    problem = Parabola(prior, options, places, views=views)
    start = members(prior, problem)
    problem.centres = torch.zeros_like(problem.centres)
    found, _ = problem.descend(start, 200, pivot=True, deadline=math.inf)
    code_dim = prior.generator.code_dim
    pulls = {
        "eps": unit,
        "style": unit / (code_dim * 0.02),
        "log_gain": unit / 0.04**2,
        "log_distance": unit / 0.05**2,
        "turn_deg": unit / 2**2,
    }
    assert pulls["log_gain"] > 0.5 and pulls["log_distance"] > 0.4
    for name, pull in pulls.items():
        values = getattr(found, name)
        wanted = torch.full_like(values, places[name] / (1 + pull))
        torch.testing.assert_close(
            values, wanted, rtol=1e-3, atol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    for delta in found.deltas:
        wanted = torch.full_like(delta, 0.2 / (1 + unit / (delta.shape[1] * 0.02)))
        torch.testing.assert_close(delta, wanted, rtol=1e-3, atol=0)


def test_a_turn_of_two_degrees_costs_as_much_as_a_number_of_the_code(prior):
    """With σ²/P = 4 half of the turn that the pictures ask for is left, however many members."""
    for count in (1, 3):
        problem = Parabola(prior, Inversion(sigma=2.0, pixels=1.0), {"turn_deg": 4.0})
        found, _ = problem.descend(
            members(prior, problem, count), 100, pivot=True, deadline=math.inf
        )
        assert found.turn_deg.item() == pytest.approx(2.0, abs=0.01)


def test_angles_and_distance_stay_while_codes_are_searched(prior):
    problem = Parabola(prior, Inversion(), {"turn_deg": 8.0, "log_distance": 1.0, "eps": 1.0})
    found, _ = problem.descend(members(prior, problem), 10, pivot=False, deadline=math.inf)
    assert not found.turn_deg.any() and not found.log_distance.any() and not found.style.any()
    assert found.eps.any()


@pytest.mark.parametrize("pivot", [False, True])
def test_the_search_goes_adams_way_along_warm_up_and_cosine(prior, pivot):
    """Betas (0.9, 0.95), warm-up over five steps, half a cosine; tuning has 0.3 of the rate."""
    steps = 8
    problem = Parabola(prior, Inversion(sigma=1.0, pixels=2.0, code_rate=0.4), {"eps": 1.0})
    start = members(prior, problem)
    with torch.no_grad():
        start.eps.copy_(torch.randn(start.eps.shape, generator=seeded(3)))
    found, _ = problem.descend(start, steps, pivot=pivot, deadline=math.inf)
    x, gradients, rates = start.eps.double(), [], []
    for i in range(steps):
        gradients.append(2 * (x - 1.0) + 2 * 0.5 * (x - problem.centres))
        share = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1][i] * (1 + math.cos(math.pi * i / steps)) / 2
        rates.append(0.4 * (0.3 if pivot else 1.0) * share)
        x = start.eps.double() + adam(gradients, rates, (0.9, 0.95))
    torch.testing.assert_close(found.eps.double(), x, rtol=1e-4, atol=1e-5)


SCRIPTS = [[1, 2, 3, 4], [4, 1, 2, 3], [4, 3, 1, 2], [4, 3, 2, 1], [3, 1, 4, 1.5]]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("pivot", [False, True])
def test_the_state_with_the_lowest_held_out_error_is_the_answer(prior, script, pivot):
    """Of the start and of every tenth step, whichever it is."""
    problem = Parabola(
        prior, Inversion(), {"eps": 1.0, "log_gain": 1.0, "turn_deg": 5.0}, script=script
    )
    found, mse = problem.descend(members(prior, problem), 30, pivot=pivot, deadline=math.inf)
    kept = problem.seen[script.index(min(script))]
    assert len(problem.seen) == 4 and mse == 1
    assert same(found, kept)
    others = [state for state in problem.seen if state is not kept]
    assert all(not torch.equal(found.eps, other.eps) for other in others)


def test_the_best_candidates_start_the_search_in_their_order(prior, monkeypatch):
    """Here those nearest to a known code, which is one of the trained, before the leap."""
    monkeypatch.setattr(posterior, "LEAP", 0.0)
    place = 0.8 * prior.generator.whiten(prior.codes)[3]
    problem = Parabola(prior, Inversion(samples=3, candidates=20), {})
    problem.images = torch.zeros_like(problem.images)

    def seen(state, pixels, **options):
        return (state.eps - place).norm(dim=1, keepdim=True).expand(-1, len(pixels))

    monkeypatch.setattr(problem, "_seen", seen)
    start = problem.start()
    apart = (start.eps - place).square().sum(1)
    assert start.eps.shape[0] == 4 and apart[0] < 1e-9 and (apart.diff() >= 0).all()
    others = 0.8 * prior.generator.whiten(prior.codes)
    assert apart[3] <= (others - place).square().sum(1).sort().values[3]
    assert not problem.centres[0].any() and problem.centres[1:].std() > 0.5, "a mode, and samples"


# Tuning networks


class ScriptedProblem(FineTuningProblem):
    """The loss and candidates' errors are parabolas; held-out errors follow a script."""

    def __init__(
        self,
        prior: Prior,
        options: FineTuning,
        *,
        script: Sequence[float] = FALLING,
        turn_deg: float = 90.0,
    ) -> None:
        super().__init__(prior, *inputs(1), options, seeded())
        self.script: Iterator[float] = iter(script)
        self.place, self.turn_deg = torch.full((prior.generator.latent_dim,), 1.0), turn_deg
        self.seen: list[FineTuningState] = []

    def _mse(self, state, pixels):
        if pixels is self.pixels.held_out:
            self.seen.append(state.copied())
            return torch.full((len(state.eps),), float(next(self.script)))
        turn = (state.turn_deg - self.turn_deg).square()
        return (state.eps - self.place).square().sum(1) + turn

    def loss(self, state):
        turn = (state.turn_deg - self.turn_deg).square() / 100
        layers = sum(0.5 * (delta - 1.0).square().sum(1) for delta in state.deltas)
        return (state.eps - self.place).square().sum(1) + turn + layers


class OwnLoss(ScriptedProblem):
    """The real loss of scripted terms."""

    loss = FineTuningProblem.loss
    terms = torch.tensor([[2.0, 3.0], [4.0, 5.0]])

    def _terms(self, state):
        return self.terms + 0 * (state.eps.sum() + state.turn_deg.sum())


def test_members_begin_at_their_best_turn_and_in_their_order(prior):
    """An eighth of a turn apart, at 90°: the others are 45° farther."""
    problem = ScriptedProblem(prior, FineTuning(samples=4, candidates=30, azimuths=8))
    begun = problem.start()
    assert begun.turn_deg.tolist() == [90.0] * 5
    apart = (begun.eps - problem.place).square().sum(1)
    assert (apart.diff() >= 0).all()
    drawn = torch.randn(2000, prior.generator.latent_dim, generator=seeded(9))
    assert apart[-1] < (drawn - problem.place).square().sum(1).median(), "the nearer half"


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("tune", [False, True])
def test_the_members_with_the_lowest_held_out_error_are_the_answer(prior, script, tune):
    problem = ScriptedProblem(
        prior, FineTuning(samples=1, candidates=4, tune_rate=0.05), script=script
    )
    found, mse = problem.descend(problem.start(), 30, tune=tune, deadline=math.inf)
    kept = problem.seen[script.index(min(script))]
    assert len(problem.seen) == 4 and mse == 1
    assert same(found, kept)
    others = [members for members in problem.seen if members is not kept]
    assert all(not torch.equal(found.eps, other.eps) for other in others)
    assert tune == all(not torch.equal(found.deltas[0], other.deltas[0]) for other in others)


@pytest.mark.parametrize(("tune", "rate", "beta1"), [(False, 0.2, 0.9), (True, 5e-4, 0.0)])
def test_latents_turns_and_networks_go_their_optimisers_way(prior, tune, rate, beta1):
    """Adam (0.9, 0.999), while tuning (0, 0.999) at 5e-4; RMSprop (0.99); turns 20 times."""
    steps = 8
    options = FineTuning(samples=1, candidates=4, code_rate=0.2, tune_rate=0.05)
    problem = ScriptedProblem(prior, options, turn_deg=70.0)
    start = problem.start()
    found, _ = problem.descend(start, steps, tune=tune, deadline=math.inf)

    eps, turn, delta = start.eps.double(), start.turn_deg.double(), start.deltas[0].double()
    past = ([], [], [])
    for i in range(steps):
        for gradients, new in zip(
            past, (2 * (eps - 1.0), (turn - 70.0) / 50, delta - 1.0), strict=True
        ):
            gradients.append(new)
        eps = start.eps.double() + adam(past[0], [rate] * (i + 1), (beta1, 0.999))
        turn = start.turn_deg.double() + adam(past[1], [20 * rate] * (i + 1), (beta1, 0.999))
        if tune:
            delta = start.deltas[0].double() + rmsprop(past[2], [0.05] * (i + 1), 0.99)
    for ours, theirs in ((found.eps, eps), (found.turn_deg, turn), (found.deltas[0], delta)):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


def test_the_loss_is_the_weighted_terms_and_half_a_square(prior):
    """MedNeRF's weights: 0.3 perceptual + 0.1 squared + 0.3 · mean z²/2."""
    problem = OwnLoss(prior, FineTuning(samples=1, candidates=4))
    members = problem._fresh(
        torch.tensor([[1.0], [2.0]]).expand(2, prior.generator.latent_dim), torch.zeros(2)
    )
    assert problem.loss(members).tolist() == pytest.approx([0.6 + 0.3 + 0.15, 1.2 + 0.5 + 0.6])


def test_terms_that_weigh_themselves_learn_how_much(prior):
    """∂/∂σ of L/(2σ²) + log(1 + σ²) at σ = 1 is 1 − L; Adam's first step is ∓1e-3."""
    options = FineTuning(samples=1, candidates=4, weighting="uncertainty")
    problem = OwnLoss(prior, options)
    members = problem._fresh(
        torch.ones(2, prior.generator.latent_dim, requires_grad=True), torch.zeros(2)
    )
    problem.terms = torch.tensor([[2.0, 0.5], [0.25, 3.0]])
    found, _ = problem.descend(members, 1, tune=False, deadline=math.inf)
    torch.testing.assert_close(
        found.sigma, 1 + 1e-3 * torch.tensor([[1.0, -1], [-1, 1]]), rtol=0, atol=1e-6
    )
