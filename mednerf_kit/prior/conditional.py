"""The task that learns to answer an X-ray with volumes, from an endless stream of varied patients.

Each step varies a few training patients (:mod:`mednerf_kit.imaging.variation`) and takes the X-ray
of each by summing along its rays. At first the generator is asked for one answer without random
numbers, whose squared error is minimised: the best single guess. Later it is asked for two answers
with random numbers. What is minimised then is the energy score in its one-dimensional form, the
continuous ranked probability score (Gneiting & Raftery 2007, eq. 20 and 21):

    CRPS = (|a − t| + |b − t|)/2 − |a − b|/2,   a, b two answers, t the truth.

Its expectation is least where the answers are distributed as the truth is, given the X-ray; so the
answers learn to differ where they cannot know. Single cells are scored, and averages over cells, so
that the answers differ in shape and not in noise.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, avg_pool3d

from ..core import config
from ..core.types import SUPPORT
from ..engine.loop import TASKS, Task
from ..engine.snapshots import (
    ema_update,
    optimiser_tensors,
    restore_optimiser,
    set_rng_state,
    strip_prefix,
    with_prefix,
)
from ..gan.conditional import ConditionalGenerator
from ..imaging.geometry import FRONTAL_DEG, Geometry
from ..imaging.variation import Variation, varied
from ..recon.ray_grid import RayGrid

WARM_UP_STEPS = 100
LAST_RATE = 0.005  # of the peak, where the cosine ends
MOST_GRADIENT = 1.0
MOST_EMA = 0.995  # kept of the running average a step
SLAB = 12  # planes of which single cells are scored in a step; of the others, their averages
# what is scored: single cells, blocks of 4³ cells, and sums along three axes, by weight
CELLS, BLOCKS, FRONT, SIDE, TOP = 1.0, 2.0, 0.4, 0.6, 0.3
GUESS_SCALE, SCORE_SCALE = 100.0, 5.0  # of the two losses, so that both move the weights alike
BORDER = 0.15  # largest share of the X-ray that a hidden border takes
LEAST_WHITE = 1e-3  # image value that no densest ray lies below, so that none is divided by 0
HIDDEN = 0.15  # of the X-rays have a hidden border


@dataclass(frozen=True, kw_only=True)
class ConditionalOptions:
    """Options of :class:`ConditionalTask`.

    Options:
        angle_deg: of the X-ray that is answered.
        batch: varied patients a step.
        guess_share: of the training, from its start, which learns the best single guess.
        learning_rate: at its peak; it falls along a cosine.
        weight_decay: of AdamW.
        noise: standard deviation of the X-ray's noise, image values.
        gain_sigma: standard deviation of the X-ray's gain.
        beside: run folder of the prior that the finished generator joins; null: none.
    """

    angle_deg: float = FRONTAL_DEG
    batch: int = 8
    guess_share: float = 0.75
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    noise: float = 0.003
    gain_sigma: float = 0.02
    beside: str | None = None


def conditional_options(recipe: Mapping[str, Any]) -> ConditionalOptions:
    """The task node of a recipe."""
    node = {key: value for key, value in recipe["task"].items() if key != "name"}
    return config.bind(ConditionalOptions, node, where="task 'conditional'")


@TASKS.register("conditional")
class ConditionalTask(Task):
    """Teaches a conditional generator with varied copies of known volumes."""

    def __init__(
        self,
        options: ConditionalOptions,
        *,
        generator: ConditionalGenerator,
        variation: Variation,
        volumes: Tensor,
        distance: float,
        geometry: Geometry,
        water: float,
        view_gain: float | None = None,
        seed: int = 0,
    ) -> None:
        """``volumes`` [P, D, H, W] are attenuation per field unit, in which water is ``water``.

        In a set whose views were each stretched to their own maximum, ``view_gain`` is the mean
        gain of the X-ray's angle: a varied patient then has the scale at which his X-ray, times
        this gain, is white at its densest ray.
        """
        self.options, self.generator, self.variation = options, generator, variation
        self.volumes, self.water, self.distance = volumes, water, distance
        self.view_gain = view_gain
        self.voxel_mm = 2 * SUPPORT * geometry.half_width_mm / volumes.shape[-1]
        self.rng = Generator().manual_seed(seed)
        self.grid = RayGrid.of(
            geometry,
            options.angle_deg,
            distance,
            rays=generator.rays,
            planes=generator.planes,
            half_width=generator.half_width,
        )
        self.ema = copy.deepcopy(generator).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            generator.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step at ``progress`` in [0, 1] through the training."""
        cosine = 0.5 + 0.5 * math.cos(math.pi * progress)
        rate = min(1.0, (index + 1) / WARM_UP_STEPS) * (LAST_RATE + (1 - LAST_RATE) * cosine)
        for group in self.optimiser.param_groups:
            group["lr"] = self.options.learning_rate * rate
        truth, xray, seen = self.draw()
        first = int(torch.randint(max(1, len(truth[0]) - SLAB), (), generator=self.rng))
        if progress < self.options.guess_share:
            guess = self.generator(xray, seen, self.rng, spread=0.0)
            error = squared_error(guess, truth, self.grid.lengths(), first)
            name, scale = "squared_error", GUESS_SCALE
        else:
            answers = self.generator(xray, seen, self.rng, samples=2)
            error = ranked_score(answers, truth, self.grid.lengths(), first)
            name, scale = "ranked_score", SCORE_SCALE
        loss = scale * error
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.generator.parameters(), MOST_GRADIENT)
        self.optimiser.step()
        ema_update(self.ema, self.generator, min(MOST_EMA, (index + 1) / (index + 10)))
        return {"rate": rate, name: float(error.detach())}

    @torch.no_grad()
    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Varied patients in the grid [B, S, R, R], their X-rays and what is seen of these."""
        o, n = self.options, self.options.batch
        ids = torch.randint(len(self.volumes), (n,), generator=self.rng)
        bodies = varied(
            self.volumes[ids], self.rng, self.variation, water=self.water, voxel_mm=self.voxel_mm
        )
        truth = self.grid.sampled(bodies)
        g = self.generator
        inner = slice(g.margin, g.margin + g.pixels)
        xray = self.grid.line_integrals(truth)[:, inner, inner]
        if self.view_gain is not None:
            white = xray.amax((1, 2), keepdim=True).clamp_min(LEAST_WHITE)
            truth, xray = truth / (self.view_gain * white)[:, None], xray / white
        xray = xray * (1 + o.gain_sigma * torch.randn(n, 1, 1, generator=self.rng))
        xray = xray + o.noise * torch.randn(xray.shape, generator=self.rng)
        return truth, xray, hidden_borders(n, g.pixels, self.rng)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a continued run needs: named tensors, and plain values."""
        tensors = with_prefix("model", self.generator.state_dict())
        tensors |= with_prefix("ema", self.ema.state_dict())
        tensors |= with_prefix("optim", optimiser_tensors(self.optimiser))
        return tensors | {"rng": self.rng.get_state()}, {"task_state": {}, **self.fitted()}

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.generator.load_state_dict(strip_prefix("model", tensors))
        self.ema.load_state_dict(strip_prefix("ema", tensors))
        restore_optimiser(self.optimiser, strip_prefix("optim", tensors))
        set_rng_state(self.rng, tensors["rng"])

    def fitted(self) -> dict[str, Any]:
        """The source distance that X-rays are taken from."""
        return {"distance": self.distance}


def squared_error(guess: Tensor, truth: Tensor, lengths: Tensor, first: int) -> Tensor:
    """The mean squared error of a guess [B, S, R, R], over what :func:`ranked_score` looks at."""
    pairs = zip(_scored(guess, lengths, first), _scored(truth, lengths, first), strict=True)
    return torch.stack([w * (found - t).square().mean() for (w, found), (_, t) in pairs]).sum()


def ranked_score(answers: Tensor, truth: Tensor, lengths: Tensor, first: int) -> Tensor:
    """The mean CRPS of two answers [2 · B, S, R, R] to each truth [B, S, R, R], over cells of the
    planes from ``first`` on, blocks and sums.

    It is 0 where both answers are the truth.

    >>> truth = torch.rand(1, 4, 8, 8)
    >>> float(ranked_score(truth.repeat(2, 1, 1, 1), truth, torch.ones(8, 8), 0))
    0.0
    """
    total = torch.zeros(())
    pairs = zip(_scored(answers, lengths, first), _scored(truth, lengths, first), strict=True)
    for (weight, found), (_, t) in pairs:
        a, b = found.chunk(2)
        error = (a - t).abs().mean() + (b - t).abs().mean()
        total = total + weight / 2 * (error - (a - b).abs().mean())
    return total


def _scored(values: Tensor, lengths: Tensor, first: int) -> list[tuple[float, Tensor]]:
    """What of densities [B, S, R, R] is scored, each with its weight."""
    cell = lengths.mean()
    return [
        (CELLS, values[:, first : first + SLAB]),
        (BLOCKS, avg_pool3d(values[:, None], 4)[:, 0]),
        (FRONT, avg_pool2d((values * lengths).sum(1), 2)),
        (SIDE, avg_pool2d(values.sum(3) * cell, 2)),
        (TOP, avg_pool2d(values.sum(2) * cell, 2)),
    ]


def hidden_borders(n: int, pixels: int, rng: Generator) -> Tensor:
    """What is seen of n X-rays, [n, pixels, pixels]: some have a border that tells nothing."""
    seen = torch.ones(n, pixels, pixels)
    for one in seen:
        if float(torch.rand((), generator=rng)) < HIDDEN:
            top, bottom, left, right = (
                int(k) for k in torch.rand(4, generator=rng) * BORDER * pixels
            )
            one[:top], one[pixels - bottom :] = 0, 0
            one[:, :left], one[:, pixels - right :] = 0, 0
    return seen
