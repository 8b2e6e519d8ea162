"""From X-rays back to scenes: several codes at once, whose mean is the answer and whose spread says
how much it is worth.

1. Best of N: random and trained codes are rendered at the input's angles; the closest start the
   search.
2. Codes: the prior's standard normal numbers eps minimise  Σ w (g·p(eps) − y)² / σ² + |eps −
   eps_k|².  The first member has eps_k = 0 (the maximum a posteriori); the others draw eps_k ~ N(0,
   1), which for a linear model makes each an exact posterior sample ("randomise, then optimise",
   Bardsley et al. 2014): what the X-ray does not determine keeps the prior's variance.
3. Pivot: the style itself and low-rank additions to every layer's factors are tuned, held near by a
   locality penalty (after Roich et al. 2022), together with each view's angle, the field of view
   and each view's gain.
One tenth of the input's pixels are held out; the state with the lowest held-out error is kept,
never the one that fits best.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import trange

from ..core.types import Rays
from ..fields.hyper import SHARP_EDGE, MlpWeights
from ..gan.generator import HyperGenerator, Latent
from ..prior.load import INVERSIONS, Prior
from ..rays.render import Level, line_integral, render
from ..rays.samplers.stratified import Stratified

# Field units over which a scan ends, above and below, while codes are searched: a soft end lets a
# patient be moved along the axis.
SOFT_EDGE = 0.08


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
    """How an X-ray is inverted."""

    samples: int = 6  # K members beside the best guess
    candidates: int = 96
    code_steps: int = 80
    pivot_steps: int = 30
    rays: int = 224
    nodes: int = 32
    sigma: float = 0.05  # what a pixel is trusted to, in image values, model error included
    pixels: float = 256.0  # how many independent pixels a view is worth
    code_rate: float = 0.08
    locality: float = 1e-2
    gain_sigma: float = 0.05
    max_seconds: float = math.inf

    def __call__(
        self, prior: Prior, images: Tensor, angles_deg: Tensor, rng: Generator
    ) -> Posterior:
        """Invert views [n, rows, cols] of one patient taken at ``angles_deg`` [n]."""
        started = time.perf_counter()
        problem = Problem(prior, images, angles_deg, self, rng)
        state = problem.start()
        state = problem.descend(state, self.code_steps, pivot=False, started=started)
        state = problem.descend(state, self.pivot_steps, pivot=True, started=started)
        return problem.result(state, time.perf_counter() - started)


@dataclass(frozen=True)
class State:
    """Everything that is optimised; M = 1 + K members, n views."""

    eps: Tensor  # [M, latent_dim]
    style: Tensor  # [M, code_dim] added to w
    deltas: tuple[Tensor, ...]  # [M, …] added to each layer's factors
    log_gain: Tensor  # [M, n]
    turn_deg: Tensor  # [n] added to the angles
    log_distance: Tensor  # [] added to the prior's

    def tensors(self) -> list[Tensor]:
        return [self.eps, self.style, self.log_gain, self.turn_deg, self.log_distance, *self.deltas]

    def cloned(self) -> State:
        def copied(t: Tensor) -> Tensor:
            return t.detach().clone()

        return State(
            copied(self.eps),
            copied(self.style),
            tuple(copied(d) for d in self.deltas),
            copied(self.log_gain),
            copied(self.turn_deg),
            copied(self.log_distance),
        )


class Problem:
    """One patient's views against one prior."""

    def __init__(
        self, prior: Prior, images: Tensor, angles_deg: Tensor, options: Inversion, rng: Generator
    ) -> None:
        assert isinstance(prior.generator, HyperGenerator)
        self.prior, self.g, self.options, self.rng = prior, prior.generator, options, rng
        self.device = prior.device
        self.images, self.angles_deg = images.float().to(self.device), angles_deg.to(self.device)
        self.geometry = replace(prior.geometry.resized(images.shape[-1]), angles_deg=())
        rows, cols = images.shape[-2:]
        pick = torch.rand(len(images), rows, cols, generator=rng)
        self.training, self.held_out = (pick >= 0.1).nonzero(), (pick < 0.1).nonzero()
        self.held_out = self.held_out[torch.randperm(len(self.held_out), generator=rng)[:256]]
        self.sampler = [Level(Stratified(n=options.nodes))]
        self.expected_gain = prior.expected_gain(self.angles_deg)
        self.wanted = torch.zeros(1, self.g.latent_dim, device=self.device)  # eps_k of each member

    def start(self) -> State:
        """Best of N codes."""
        g, o = self.g, self.options
        drawn = torch.randn(o.candidates, g.latent_dim, generator=self.rng).to(self.device)
        eps = torch.cat(
            [
                torch.zeros_like(self.wanted),
                0.8 * g.whiten(self.prior.codes.to(self.device))[: o.candidates],
                drawn,
            ]
        )
        pixels = self._draw(160)
        with torch.no_grad():
            error = torch.cat(
                [
                    self._misfit(self._fresh(some), pixels, edge=SOFT_EDGE, gain_fit=True)
                    for some in eps.split(16)
                ]
            )
        order = error.argsort()[: 1 + o.samples]
        self.wanted = torch.cat(
            [
                torch.zeros_like(eps[:1]),
                torch.randn(o.samples, g.latent_dim, generator=self.rng).to(self.device),
            ]
        )
        return self._fresh(eps[order])

    def _fresh(self, eps: Tensor) -> State:
        n, m, device = len(self.images), len(eps), self.device
        return State(
            eps.clone(),
            torch.zeros(m, self.g.code_dim, device=device),
            self.g.no_deltas(m),
            torch.zeros(m, n, device=device),
            torch.zeros(n, device=device),
            torch.zeros((), device=device),
        )

    def latent(self, state: State) -> Latent:
        """The scenes a state stands for."""
        base = self.g.latent(state.eps)
        return Latent(base.w + state.style, base.pose, state.deltas)

    def _draw(self, n: int) -> Tensor:
        return self.training[torch.randint(len(self.training), (n,), generator=self.rng)]

    def _misfit(
        self,
        state: State,
        pixels: Tensor,
        *,
        edge: float = SHARP_EDGE,
        gain_fit: bool = False,
        rng: Generator | None = None,
    ) -> Tensor:
        """Mean squared error of each member at pixels [R, 3] (view, row, column): [M]."""
        view, yx = pixels[:, 0].to(self.device), pixels[:, 1:].float().to(self.device)
        angles = (self.angles_deg + state.turn_deg)[view]
        distance = self.prior.distance * state.log_distance.exp()
        rays = self.geometry.field_rays(angles, yx, distance, self.g.field.support)
        members = len(state.eps)
        rays = Rays(
            *(
                v.expand(members, *v.shape)
                for v in (rays.origin, rays.direction, rays.near, rays.far)
            )
        )
        code = self.g.weights(self.latent(state), edge=edge)
        seen = render(
            rays, self.g.field, self.sampler, image_model=line_integral, code=code, rng=rng
        )[-1].rendering.image[..., 0]
        truth = self.images[view, pixels[:, 1], pixels[:, 2]]
        gain = state.log_gain.exp()[:, view]
        seen = seen * self.expected_gain[view]
        if gain_fit:
            gain = ((seen * truth).sum(1) / seen.square().sum(1).clamp_min(1e-6)).clamp(0.7, 1.4)[
                :, None
            ]
        return (gain * seen - truth).square().mean(1)

    def descend(self, state: State, steps: int, *, pivot: bool, started: float) -> State:
        """Adam on the codes, or on everything when ``pivot``; returns the state with the lowest
        held-out error.
        """
        o, rate = self.options, self.options.code_rate * (0.3 if pivot else 1.0)
        state = state.cloned()
        groups: list[dict[str, Any]] = [
            {"params": [state.eps], "peak": rate},
            {"params": [state.log_gain], "peak": 0.01},
        ]
        if pivot:
            groups += [
                {"params": [state.style], "peak": 0.01},
                {"params": list(state.deltas), "peak": 0.003},
                {"params": [state.turn_deg], "peak": 0.2},
                {"params": [state.log_distance], "peak": 0.005},
            ]
        for group in groups:
            for tensor in group["params"]:
                tensor.requires_grad_(True)
        adam = torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.95))
        best, best_error = state.cloned(), self._held_out_error(state)
        for i in trange(steps, desc="pivot" if pivot else "codes", leave=False, disable=None):
            for group in adam.param_groups:
                group["lr"] = (
                    group["peak"]
                    * min(1, (i + 1) / 5)
                    * (0.5 + 0.5 * math.cos(math.pi * i / steps))
                )
            edge = SHARP_EDGE if pivot else max(SHARP_EDGE, SOFT_EDGE * (1 - 1.5 * i / steps))
            fit = self._misfit(state, self._draw(o.rays), edge=edge, rng=self.rng)
            loss = (fit + self._penalty(state, pivot)).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            late = time.perf_counter() - started > o.max_seconds
            if i % 10 == 9 or i == steps - 1 or late:
                error = self._held_out_error(state)
                if error < best_error:
                    best, best_error = state.cloned(), error
            if late:
                break
        self.held_out_mse = best_error
        return best

    @torch.no_grad()
    def _held_out_error(self, state: State) -> float:
        """Mean squared error over members at the pixels kept aside, of the finished (sharp-edged)
        scenes.
        """
        return float(self._misfit(state, self.held_out).mean())

    def _penalty(self, state: State, pivot: bool) -> Tensor:
        """Negative log prior of each member, in units of the mean squared error: [M]."""
        o = self.options
        unit = o.sigma**2 / (o.pixels * len(self.images))
        cost = (state.eps - self.wanted).square().sum(1) + (
            state.log_gain / o.gain_sigma
        ).square().sum(1)
        if pivot:
            local = state.style.square().mean(1) + sum(d.square().mean(1) for d in state.deltas)
            cost = (
                cost
                + (local / o.locality).clamp_max(1e6)
                + (state.turn_deg / 2).square().sum()
                + (state.log_distance / 0.05).square()
            )
        return unit * cost

    @torch.no_grad()
    def result(self, state: State, seconds: float) -> Posterior:
        """The finished scenes."""
        latent = self.latent(state)
        distance = self.prior.distance * float(state.log_distance.exp())
        return Posterior(
            latent,
            self.g.weights(latent),
            state.log_gain.exp(),
            self.angles_deg + state.turn_deg,
            distance,
            self.held_out_mse,
            seconds,
        )
