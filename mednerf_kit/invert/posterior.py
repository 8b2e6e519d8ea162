"""From X-rays back to scenes of a posed prior, by several codes at once.

The mean of the codes' scenes is the answer, and their spread says how much it is worth.

1. Best of N: random and trained codes are rendered at the input's angles; the closest start the
   search.
2. Codes: the prior's standard normal numbers eps minimise  Σ (g·p(eps) − y)² / σ² + |eps − eps_k|².
   The first member has eps_k = 0 (the maximum a posteriori); the others draw eps_k ~ N(0, 1), which
   for a linear model makes each an exact posterior sample ("randomise, then optimise", Bardsley et
   al. 2014): what the X-ray does not determine keeps the prior's variance.
3. Pivot: the style itself and low-rank additions to every layer's factors are tuned, held near by a
   locality penalty (after pivotal tuning, Roich et al. 2022), together with each view's angle, the
   source distance and each view's gain.
One tenth of the input's pixels is held out; the state with the lowest held-out error is kept, never
the one that fits best (:mod:`.descent`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.optim.lr_scheduler import LambdaLR

from ..fields.hyper import SHARP_EDGE, MlpWeights
from ..gan.generator import HyperGenerator, Latent
from ..prior.load import INVERSIONS, Prior, Search
from ..prior.rendering import as_batch
from ..rays.render import Level, render
from ..rays.samplers.stratified import Stratified
from .descent import SearchState, descend, split_pixels

# Field units over which a scan ends, above and below, while codes are searched: a soft end lets a
# patient be moved along the axis. It sharpens linearly over the first two thirds of the steps.
SOFT_EDGE = 0.08
SHARPENING = 1.5
START_PIXELS = 160  # that candidates are compared at
START_BATCH = 16  # candidates rendered at once
START_SHRINK = 0.8  # of trained codes towards the prior's mean
START_GAINS = (0.7, 1.4)  # between which a candidate's gain is fitted

# Adam's learning rates, at their peak: each in the unit of what it moves, per step
BETAS = (0.9, 0.95)
WARM_UP_STEPS = 5
LOG_GAIN_RATE = 0.01
PIVOT_CODE_SHARE = 0.3  # of ``code_rate``
STYLE_RATE = 0.01
DELTA_RATE = 0.003
TURN_RATE_DEG = 0.2
LOG_DISTANCE_RATE = 0.005

# standard deviations of what the set-up may deviate by, and the most that the locality may cost
TURN_SIGMA_DEG = 2.0
LOG_DISTANCE_SIGMA = 0.05
MOST_LOCALITY = 1e6


@dataclass(frozen=True)
class Posterior:
    """Scenes that explain the X-rays, the best guess first."""

    latent: Latent  # [1 + K]
    code: MlpWeights  # [1 + K] their networks
    gains: Tensor  # [1 + K, n] of the input views
    angles_deg: Tensor  # [n] fitted
    distance: float  # fitted source distance, field units
    held_out_mse: float
    seconds: float


@INVERSIONS.register("posterior")
@dataclass(frozen=True, kw_only=True)
class Inversion:
    """Inversion through a prior of line integrals whose generator is ``hyper``.

    Options:
        samples: members K beside the best guess; their spread is the uncertainty.
        candidates: random codes that are tried first, beside the trained ones.
        code_steps: steps on the codes.
        pivot_steps: steps on style, layers and set-up.
        rays: pixels a step, over all views.
        nodes: samples along a ray.
        sigma: what a pixel is trusted to, in image values, model error included.
        pixels: independent pixels that a view is worth.
        code_rate: learning rate of the codes, standard deviations a step.
        locality: variance of style and layers around the codes' own, in the pivot's penalty.
        gain_sigma: standard deviation of the logarithm of a view's gain.
        max_seconds: of the whole search, in s; the state found so far is then the answer.
    """

    samples: int = 6
    candidates: int = 96
    code_steps: int = 80
    pivot_steps: int = 30
    rays: int = 224
    nodes: int = 32
    sigma: float = 0.05
    pixels: float = 256.0
    code_rate: float = 0.08
    locality: float = 1e-2
    gain_sigma: float = 0.05
    max_seconds: float = math.inf

    def __call__(
        self, prior: Prior, images: Tensor, angles_deg: Tensor, rng: Generator
    ) -> Posterior:
        """Invert views [n, rows, cols] of one patient taken at ``angles_deg`` [n]."""
        started = time.perf_counter()
        deadline = started + self.max_seconds
        problem = Problem(prior, images, angles_deg, self, rng)
        state = problem.start()
        state, mse = problem.descend(state, self.code_steps, pivot=False, deadline=deadline)
        state, mse = problem.descend(state, self.pivot_steps, pivot=True, deadline=deadline)
        return problem.result(state, mse, time.perf_counter() - started)


def inversion_of(prior: Prior, default: Callable[..., Search], **options: Any) -> Search:
    """The inversion that the prior's recipe names, else ``default``.

    ``options`` are the caller's and go before the recipe's.
    """
    node = prior.meta.get("recipe", {}).get("inversion")
    return default(**options) if node is None else INVERSIONS.build({**node, **options})


@dataclass(frozen=True)
class State(SearchState):
    """Everything that is optimised; M = 1 + K members, n views."""

    eps: Tensor  # [M, latent_dim]
    style: Tensor  # [M, code_dim] added to w
    deltas: tuple[Tensor, ...]  # [M, …] added to each layer's factors
    log_gain: Tensor  # [M, n]
    turn_deg: Tensor  # [n] added to the angles
    log_distance: Tensor  # [] added to the prior's


class Problem:
    """One patient's views against one prior."""

    def __init__(
        self, prior: Prior, images: Tensor, angles_deg: Tensor, options: Inversion, rng: Generator
    ) -> None:
        assert isinstance(prior.generator, HyperGenerator)
        self.prior, self.g, self.options, self.rng = prior, prior.generator, options, rng
        self.device = prior.device
        self.images = images.float().to(self.device)
        self.angles_deg = angles_deg.to(self.device)
        self.geometry = replace(prior.geometry.resized(images.shape[-1]), angles_deg=())
        self.pixels = split_pixels(images.shape, rng)
        self.levels = [Level(Stratified(n=options.nodes))]
        self.expected_gain = prior.expected_gain(self.angles_deg)
        # eps_k of each member: [1 + K, latent_dim] once the members are chosen
        self.centres = torch.zeros(1, self.g.latent_dim, device=self.device)

    def start(self) -> State:
        """Best of N codes."""
        g, o = self.g, self.options
        drawn = torch.randn(o.candidates, g.latent_dim, generator=self.rng).to(self.device)
        trained = START_SHRINK * g.whiten(self.prior.codes.to(self.device))[: o.candidates]
        eps = torch.cat([torch.zeros_like(self.centres), trained, drawn])
        pixels = self.pixels.draw(START_PIXELS, self.rng)
        with torch.no_grad():
            errors = [
                self._mse(self._fresh(some), pixels, edge=SOFT_EDGE, gain_fit=True)
                for some in eps.split(START_BATCH)
            ]
        order = torch.cat(errors).argsort()[: 1 + o.samples]
        others = torch.randn(o.samples, g.latent_dim, generator=self.rng).to(self.device)
        self.centres = torch.cat([torch.zeros_like(eps[:1]), others])
        return self._fresh(eps[order])

    def _fresh(self, eps: Tensor) -> State:
        """The state of codes [M, latent_dim] in the set-up as stated."""
        n, m, device = len(self.images), len(eps), self.device
        return State(
            eps=eps.clone(),
            style=torch.zeros(m, self.g.code_dim, device=device),
            deltas=self.g.no_deltas(m),
            log_gain=torch.zeros(m, n, device=device),
            turn_deg=torch.zeros(n, device=device),
            log_distance=torch.zeros((), device=device),
        )

    def latent(self, state: State) -> Latent:
        """The scenes a state stands for."""
        base = self.g.latent(state.eps)
        return Latent(base.w + state.style, base.pose, state.deltas)

    def _mse(
        self,
        state: State,
        pixels: Tensor,
        *,
        edge: float = SHARP_EDGE,
        gain_fit: bool = False,
        rng: Generator | None = None,
    ) -> Tensor:
        """Mean squared error of each member at pixels [R, 3] (view, row, column): [M].

        ``gain_fit`` takes the gain that fits these pixels best instead of the state's.
        """
        pixels = pixels.to(self.device)
        view, y, x = pixels.unbind(1)
        angles_deg = (self.angles_deg + state.turn_deg)[view]
        distance = self.prior.distance * state.log_distance.exp()
        rays = self.geometry.field_rays(
            angles_deg, pixels[:, 1:].float(), distance, self.g.field.support
        )
        code = self.g.weights(self.latent(state), edge=edge)
        batch = as_batch(rays, len(state.eps))
        (level,) = render(batch, self.g.field, self.levels, code=code, rng=rng)
        seen = level.rendering.image[..., 0] * self.expected_gain[view]
        truth = self.images[view, y, x]
        gain = state.log_gain.exp()[:, view]
        if gain_fit:
            fitted = (seen * truth).sum(1) / seen.square().sum(1).clamp_min(1e-6)
            gain = fitted.clamp(*START_GAINS)[:, None]
        return (gain * seen - truth).square().mean(1)

    def descend(
        self, state: State, steps: int, *, pivot: bool, deadline: float
    ) -> tuple[State, float]:
        """Adam on codes and gains, or on everything when ``pivot``.

        Returns the state with the lowest held-out error, and that error.
        """
        state = state.copied()
        code_rate = self.options.code_rate * (PIVOT_CODE_SHARE if pivot else 1.0)
        groups: list[dict[str, Any]] = [
            {"params": [state.eps], "lr": code_rate},
            {"params": [state.log_gain], "lr": LOG_GAIN_RATE},
        ]
        if pivot:
            groups += [
                {"params": [state.style], "lr": STYLE_RATE},
                {"params": list(state.deltas), "lr": DELTA_RATE},
                {"params": [state.turn_deg], "lr": TURN_RATE_DEG},
                {"params": [state.log_distance], "lr": LOG_DISTANCE_RATE},
            ]
        adam = torch.optim.Adam(groups, betas=BETAS)

        def rate(i: int) -> float:
            cosine = 0.5 + 0.5 * math.cos(math.pi * i / max(1, steps))
            return min(1, (i + 1) / WARM_UP_STEPS) * cosine

        def loss(i: int) -> Tensor:
            soft = 0.0 if pivot else SOFT_EDGE * (1 - SHARPENING * i / steps)
            pixels = self.pixels.draw(self.options.rays, self.rng)
            mse = self._mse(state, pixels, edge=max(SHARP_EDGE, soft), rng=self.rng)
            return mse + self._penalty(state, pivot)

        return descend(
            state,
            loss=loss,
            held_out_mse=self._held_out_mse,
            optimisers=[adam],
            schedule=LambdaLR(adam, rate),
            steps=steps,
            deadline=deadline,
            label="pivot" if pivot else "codes",
        )

    @torch.no_grad()
    def _held_out_mse(self, state: State) -> float:
        """Mean squared error over members, at the pixels kept aside, of the sharp-edged scenes."""
        return float(self._mse(state, self.pixels.held_out).mean())

    def _penalty(self, state: State, pivot: bool) -> Tensor:
        """Negative log prior of each member, in units of the mean squared error: [M]."""
        o = self.options
        unit = o.sigma**2 / (o.pixels * len(self.images))
        cost = (state.eps - self.centres).square().sum(1)
        cost = cost + (state.log_gain / o.gain_sigma).square().sum(1)
        if pivot:
            local = state.style.square().mean(1) + sum(d.square().mean(1) for d in state.deltas)
            cost = (
                cost
                + (local / o.locality).clamp_max(MOST_LOCALITY)
                + (state.turn_deg / TURN_SIGMA_DEG).square().sum()
                + (state.log_distance / LOG_DISTANCE_SIGMA).square()
            )
        return unit * cost

    @torch.no_grad()
    def result(self, state: State, held_out_mse: float, seconds: float) -> Posterior:
        """The finished scenes."""
        latent = self.latent(state)
        return Posterior(
            latent=latent,
            code=self.g.weights(latent),
            gains=state.log_gain.exp(),
            angles_deg=self.angles_deg + state.turn_deg,
            distance=self.prior.distance * float(state.log_distance.exp()),
            held_out_mse=held_out_mse,
            seconds=seconds,
        )
