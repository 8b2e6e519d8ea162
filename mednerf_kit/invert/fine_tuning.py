"""From an X-ray to a scene of a generator that was trained without poses: latents first, then the
network itself.

1. Best of N: random latents are rendered at the input's angles, each scene turned to several
   azimuths, for nobody told such a generator which way a patient faces.
2. Latents and turns descend on a perceptual distance and a squared error of patches, with |z|²/2 as
   the prior's share.
3. The networks themselves are tuned as well: MedNeRF's relaxed reconstruction (after arXiv
   2003.13659), RMSprop on the weights. Tuning a scene's own network rather than the generator's
   parameters reaches the same functions, and each member has its own.
One tenth of the input's pixels is held out; the state with the lowest held-out error is kept (the
published scripts stop when the input view itself fits well enough, which rewards overfitting it).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor
from tqdm import trange

from ..core.types import Rays
from ..gan.generator import Latent
from ..metrics.perceptual import PERCEPTUAL, Perceptual
from ..prior.load import INVERSIONS, Prior, Search
from ..prior.rendering import Renderer, as_batch
from .posterior import Posterior


def inversion_of(prior: Prior, default: Callable[..., Search], **options: Any) -> Search:
    """The inversion that the prior's recipe names, else ``default``; ``options`` are the caller's
    and go before the recipe's.
    """
    node = prior.meta.get("recipe", {}).get("inversion")
    return default(**options) if node is None else INVERSIONS.build({**node, **options})


@dataclass(frozen=True)
class Ensemble:
    """Everything that is optimised; M members, the best guess first."""

    eps: Tensor  # [M, latent_dim]
    turn_deg: Tensor  # [M] about the orbit's axis
    deltas: tuple[Tensor, ...]  # [M, …] added to each layer of each network
    sigma: Tensor  # [M, 2] of the two terms, where they weigh themselves

    def tensors(self) -> list[Tensor]:
        return [self.eps, self.turn_deg, self.sigma, *self.deltas]

    def cloned(self) -> Ensemble:
        eps, turn, sigma, *deltas = (t.detach().clone() for t in self.tensors())
        return Ensemble(eps, turn, tuple(deltas), sigma)


@INVERSIONS.register("relaxed")
@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """How an X-ray is inverted; the weights of the three terms are MedNeRF's.

    ``weighting`` ``uncertainty`` lets the two image terms weigh themselves, Σ L / (2 σ²) + log(1 +
    σ²) with learned σ (UMedNeRF; Kendall et al. 2018). ``tune_steps`` 0 stays on what the generator
    can make.
    """

    samples: int = 2  # members beside the best guess
    candidates: int = 48
    azimuths: int = 8  # turns that every candidate is tried at
    code_steps: int = 100
    tune_steps: int = 60
    patch_px: int = 32
    perceptual: dict = field(default_factory=lambda: {"name": "pyramid"})
    perceptual_weight: float = 0.3
    mse_weight: float = 0.1
    prior_weight: float = 0.3
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    code_rate: float = 0.05
    tune_rate: float = 5e-4
    max_seconds: float = math.inf

    def __call__(
        self, prior: Prior, images: Tensor, angles_deg: Tensor, rng: Generator
    ) -> Posterior:
        """Invert views [n, rows, cols] of one patient taken at ``angles_deg`` [n]."""
        started = time.perf_counter()
        problem = FineTuningProblem(prior, images, angles_deg, self, rng)
        members = problem.start()
        members = problem.descend(members, self.code_steps, tune=False, started=started)
        members = problem.descend(members, self.tune_steps, tune=True, started=started)
        return problem.result(members, time.perf_counter() - started)


class FineTuningProblem:
    """One patient's views against one prior."""

    def __init__(
        self, prior: Prior, images: Tensor, angles_deg: Tensor, options: FineTuning, rng: Generator
    ) -> None:
        self.prior, self.g, self.options, self.rng = prior, prior.generator, options, rng
        self.device = prior.device
        self.images, self.angles_deg = (
            images.float().to(self.device),
            angles_deg.float().to(self.device),
        )
        self.geometry = replace(prior.geometry.resized(images.shape[-1]), angles_deg=())
        self.renderer = Renderer.of(prior.meta["recipe"])
        self.perceptual: Perceptual = PERCEPTUAL.build(options.perceptual)
        self.ray_rng = Generator(device=self.device).manual_seed(
            int(torch.randint(2**31, (), generator=rng))
        )
        pick = torch.rand(images.shape, generator=rng) < 0.1
        self.kept_out = pick.to(self.device)
        held = pick.nonzero()
        self.held_out = held[torch.randperm(len(held), generator=rng)[:256]]
        self.training = (~pick).nonzero()
        self.held_out_mse = math.inf

    def start(self) -> Ensemble:
        """Best of N latents, each at every turn; a latent is kept once, at its best turn."""
        o = self.options
        eps = torch.randn(o.candidates, self.g.latent_dim, generator=self.rng).to(self.device)
        turns = torch.arange(o.azimuths, device=self.device) * (360.0 / o.azimuths)
        pixels = self.training[torch.randint(len(self.training), (160,), generator=self.rng)]
        with torch.no_grad():
            error = torch.stack(
                [
                    torch.cat(
                        [
                            self._pixel_error(self._fresh(some, turn), pixels)
                            for some in eps.split(16)
                        ]
                    )
                    for turn in turns
                ]
            )
        best, which = error.min(0)
        order = best.argsort()[: 1 + o.samples]
        return self._fresh(eps[order], turns[which[order]])

    def _fresh(self, eps: Tensor, turn_deg: Tensor) -> Ensemble:
        m = len(eps)
        return Ensemble(
            eps.clone(),
            turn_deg.expand(m).clone(),
            self.g.no_deltas(m),
            torch.ones(m, 2, device=self.device),
        )

    def latent(self, members: Ensemble) -> Latent:
        """The scenes that members stand for."""
        base = self.g.latent(members.eps)
        axis = torch.zeros(3, device=self.device)
        axis["xyz".index(self.geometry.axis)] = 1
        return Latent(base.w, torch.deg2rad(members.turn_deg)[:, None] * axis, members.deltas)

    def _seen(
        self, members: Ensemble, view: Tensor, yx: Tensor, rng: Generator | None = None
    ) -> Tensor:
        """Grey values of pixels yx [R, 2] of views [R], [M, R]."""
        poses = torch.stack(
            [
                self.angles_deg[view],
                torch.full(view.shape, self.geometry.tilt_deg, device=self.device),
            ],
            -1,
        )
        rays = self.renderer.poses.rays(
            self.geometry, poses, yx.float()[:, None], self.g.field.support
        )
        flat = Rays(*(v[:, 0] for v in (rays.origin, rays.direction, rays.near, rays.far)))
        code = self.g.weights(self.latent(members))
        return self.renderer.image(self.g.field, as_batch(flat, len(members.eps)), code, rng).mean(
            -1
        )

    def _pixel_error(self, members: Ensemble, pixels: Tensor) -> Tensor:
        """Mean squared error at pixels [R, 3] (view, row, column): [M]."""
        view, y, x = pixels.to(self.device).unbind(1)
        return (
            (self._seen(members, view, pixels[:, 1:].to(self.device)) - self.images[view, y, x])
            .square()
            .mean(1)
        )

    def _terms(self, members: Ensemble) -> Tensor:
        """Perceptual distance and squared error of a random patch, [M, 2]; held-out pixels have no
        say.
        """
        n, rows, cols = self.images.shape
        size = min(self.options.patch_px, rows, cols)
        stride = 1 + int(
            torch.randint((min(rows, cols) - 1) // max(size - 1, 1), (), generator=self.rng)
        )
        reach = (size - 1) * stride
        view = int(torch.randint(n, (), generator=self.rng))
        top, left = (
            int(torch.randint(side - reach, (), generator=self.rng)) for side in (rows, cols)
        )
        y, x = (start + stride * torch.arange(size, device=self.device) for start in (top, left))
        yx = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).flatten(0, 1)
        seen = self._seen(
            members, torch.full((len(yx),), view, device=self.device), yx, self.ray_rng
        )
        truth, hidden = (t[view, yx[:, 0], yx[:, 1]] for t in (self.images, self.kept_out))
        truth = torch.where(hidden, seen.detach(), truth)
        pair = [t.unflatten(1, (size, size))[:, None] for t in (seen, truth)]
        return torch.stack([self.perceptual(*pair), (seen - truth).square().mean(1)], 1)

    def loss(self, members: Ensemble) -> Tensor:
        """What every member minimises, [M]."""
        o, terms = self.options, self._terms(members)
        if o.weighting == "uncertainty":
            return uncertainty_weighted(terms, members.sigma)
        weights = torch.tensor([o.perceptual_weight, o.mse_weight], device=self.device)
        return (weights * terms).sum(1) + o.prior_weight * members.eps.square().mean(1) / 2

    def descend(self, members: Ensemble, steps: int, *, tune: bool, started: float) -> Ensemble:
        """Adam on latents and turns, with RMSprop on the networks when ``tune``; the state with the
        lowest held-out error.
        """
        o, members = self.options, members.cloned()
        rate = 5e-4 if tune else o.code_rate
        groups: list[dict[str, Any]] = [
            {"params": [members.eps], "lr": rate},
            {"params": [members.turn_deg], "lr": 20 * rate},
        ]
        if o.weighting == "uncertainty":
            groups.append({"params": [members.sigma], "lr": 1e-3})
        for tensor in [t for group in groups for t in group["params"]] + (
            list(members.deltas) if tune else []
        ):
            tensor.requires_grad_(True)
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(groups, betas=(0.0 if tune else 0.9, 0.999))
        ]
        if tune:
            optimisers.append(
                torch.optim.RMSprop(list(members.deltas), lr=o.tune_rate, alpha=0.99, eps=1e-8)
            )
        best, best_error = members.cloned(), self._held_out_error(members)
        for i in trange(steps, desc="networks" if tune else "latents", leave=False, disable=None):
            loss = self.loss(members).sum()
            for optimiser in optimisers:
                optimiser.zero_grad()
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            late = time.perf_counter() - started > o.max_seconds
            if i % 10 == 9 or i == steps - 1 or late:
                error = self._held_out_error(members)
                if error < best_error:
                    best, best_error = members.cloned(), error
            if late:
                break
        self.held_out_mse = best_error
        return best

    @torch.no_grad()
    def _held_out_error(self, members: Ensemble) -> float:
        return float(self._pixel_error(members, self.held_out).mean())

    @torch.no_grad()
    def result(self, members: Ensemble, seconds: float) -> Posterior:
        """The finished scenes; their turns sit in the latents' poses, so the input's angles stay as
        given.
        """
        latent = self.latent(members)
        gains = torch.ones(len(members.eps), len(self.images), device=self.device)
        return Posterior(
            latent,
            self.g.weights(latent),
            gains,
            self.angles_deg,
            self.prior.distance,
            self.held_out_mse,
            seconds,
        )


def uncertainty_weighted(terms: Tensor, sigma: Tensor) -> Tensor:
    """Σ_i L_i / (2 σ_i²) + log(1 + σ_i²) over the last axis (UMedNeRF, arXiv 2311.05836).

    >>> uncertainty_weighted(torch.tensor([2.0, 4.0]), torch.ones(2)).round(decimals=3)
    tensor(4.3860)
    """
    return (terms / (2 * sigma.square()) + torch.log1p(sigma.square())).sum(-1)
