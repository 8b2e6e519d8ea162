"""From an X-ray to a scene of a generator that was trained without poses.

1. Best of N: random latents are rendered at the input's angles, each scene turned to several
   azimuths, because such a generator was never told which way a patient faces.
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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..core.adam import Adam
from ..core.errors import UserError
from ..core.types import Rays
from ..gan.generator import Latent
from ..imaging.view_frames import ViewFrame
from ..metrics.perceptual import PERCEPTUAL, Perceptual
from ..prior.load import INVERSIONS, Prior
from ..prior.rendering import Renderer, as_batch
from .descent import SearchState, descend, split_pixels
from .members import Posterior
from .posterior import START_BATCH, START_PIXELS
from .progress import Watch, coarse_pixels

# Adam's learning rate of the latents while the networks are tuned, of turns (degrees a step) as a
# multiple of it, and of the weights of the two terms
TUNED_CODE_RATE = 5e-4
TURN_RATE_SHARE = 20
SIGMA_RATE = 1e-3


@INVERSIONS.register("fine_tuning")
@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Inversion through any generator: latents first, then the scene's own networks are tuned.

    This is MedNeRF's relaxed reconstruction; the default weights of the terms are MedNeRF's.

    Options:
        samples: members beside the best guess; their spread is the uncertainty.
        candidates: random latents that are tried first.
        azimuths: turns about the orbit's axis that every candidate is tried at.
        code_steps: steps on latents and turns.
        tune_steps: steps on the networks as well; 0 stays on what the generator can make.
        patch_px: side of the patches that are compared, in pixels.
        perceptual: the perceptual distance, a name with its options.
        perceptual_weight: of the perceptual distance.
        mse_weight: of the mean squared error.
        prior_weight: of |z|²/2 per latent number.
        weighting: ``fixed`` weights as above, or ``uncertainty``: the two image terms weigh
            themselves, Σ L / (2 σ²) + log(1 + σ²) with learned σ (UMedNeRF; Kendall et al. 2018).
        code_rate: Adam's learning rate of the latents, standard deviations a step.
        tune_rate: RMSprop's learning rate of the networks' weights.
        max_seconds: of the whole search, in s; the state found so far is then the answer.
    """

    samples: int = 2
    candidates: int = 48
    azimuths: int = 8
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
        self,
        prior: Prior,
        images: Tensor,
        angles_deg: Tensor,
        rng: Generator,
        *,
        mask: Tensor | None = None,
        films: Sequence[bool] = (),
        view_frames: Sequence[ViewFrame] = (),
        watch: Watch | None = None,
    ) -> Posterior:
        """Invert views [n, rows, cols] of one patient taken at ``angles_deg`` [n].

        ``mask`` [n, rows, cols] is below one half where a pixel says nothing of the patient. Films
        are taken as they are stretched: no tone curve is fitted, whatever ``films`` says. Raises
        UserError for ``view_frames``: such a prior's cameras stand on its orbit. ``watch`` is told
        how far the search is.
        """
        if view_frames:
            raise UserError(
                "got X-rays that stand on no orbit of the prior's",
                "wanted a prior of line integrals for them",
                "choose another --run, such as bundled:chest",
            )
        started = time.perf_counter()
        deadline = started + self.max_seconds
        problem = FineTuningProblem(prior, images, angles_deg, self, rng, mask)
        state = problem.start()
        state, mse = problem.descend(
            state, self.code_steps, tune=False, deadline=deadline, watch=watch
        )
        state, mse = problem.descend(
            state, self.tune_steps, tune=True, deadline=deadline, watch=watch
        )
        return problem.result(state, mse, time.perf_counter() - started)


@dataclass(frozen=True)
class FineTuningState(SearchState):
    """Everything that is optimised; M members, the best guess first."""

    eps: Tensor  # [M, latent_dim]
    turn_deg: Tensor  # [M] about the orbit's axis
    deltas: tuple[Tensor, ...]  # [M, …] added to each layer of each network
    sigma: Tensor  # [M, 2] of the two terms, where they weigh themselves


class FineTuningProblem:
    """One patient's views against one prior."""

    def __init__(
        self,
        prior: Prior,
        images: Tensor,
        angles_deg: Tensor,
        options: FineTuning,
        rng: Generator,
        mask: Tensor | None = None,
    ) -> None:
        self.prior, self.g, self.options, self.rng = prior, prior.generator, options, rng
        self.device = prior.device
        self.images = images.float().to(self.device)
        self.angles_deg = angles_deg.float().to(self.device)
        self.geometry = prior.geometry.resized(images.shape[-1]).at(())
        self.renderer = Renderer.of(prior.meta["recipe"])
        self.perceptual: Perceptual = PERCEPTUAL.build(options.perceptual)
        self.ray_rng = Generator(device=self.device).manual_seed(
            int(torch.randint(2**31, (), generator=rng))
        )
        self.pixels = split_pixels(images.shape, rng, mask)
        self.hidden = self.pixels.hidden.to(self.device)

    def start(self) -> FineTuningState:
        """Best of N latents, each at every turn; a latent is kept once, at its best turn."""
        o = self.options
        eps = torch.randn(o.candidates, self.g.latent_dim, generator=self.rng).to(self.device)
        turns_deg = torch.arange(o.azimuths, device=self.device) * (360.0 / o.azimuths)
        pixels = self.pixels.draw(START_PIXELS, self.rng)

        def errors(turn_deg: Tensor) -> Tensor:
            batches = eps.split(START_BATCH)
            return torch.cat([self._mse(self._fresh(some, turn_deg), pixels) for some in batches])

        with torch.no_grad():
            best, which = torch.stack([errors(turn_deg) for turn_deg in turns_deg]).min(0)
        order = best.argsort()[: 1 + o.samples]
        return self._fresh(eps[order], turns_deg[which[order]])

    def _fresh(self, eps: Tensor, turn_deg: Tensor) -> FineTuningState:
        """The state of latents [M, latent_dim] turned by [M] or [] degrees."""
        m = len(eps)
        return FineTuningState(
            eps=eps.clone(),
            turn_deg=turn_deg.expand(m).clone(),
            deltas=self.g.no_deltas(m),
            sigma=torch.ones(m, 2, device=self.device),
        )

    def latent(self, state: FineTuningState) -> Latent:
        """The scenes a state stands for."""
        base = self.g.latent(state.eps)
        axis = torch.zeros(3, device=self.device)
        axis["xyz".index(self.geometry.axis)] = 1
        return Latent(base.w, torch.deg2rad(state.turn_deg)[:, None] * axis, state.deltas)

    def _seen(
        self, state: FineTuningState, view: Tensor, yx: Tensor, rng: Generator | None = None
    ) -> Tensor:
        """Grey values of pixels yx [R, 2] of views [R]: [M, R]."""
        tilt_deg = torch.full(view.shape, self.geometry.tilt_deg, device=self.device)
        poses = torch.stack([self.angles_deg[view], tilt_deg], -1)
        support = self.g.field.support
        rays = self.renderer.cameras.rays(self.geometry, poses, yx.float()[:, None], support)
        flat = Rays(*(v[:, 0] for v in (rays.origin, rays.direction, rays.near, rays.far)))
        code = self.g.weights(self.latent(state))
        colours = self.renderer.image(self.g.field, as_batch(flat, len(state.eps)), code, rng)
        return colours.mean(-1)

    def _mse(self, state: FineTuningState, pixels: Tensor) -> Tensor:
        """Mean squared error of each member at pixels [R, 3] (view, row, column): [M]."""
        pixels = pixels.to(self.device)
        view, y, x = pixels.unbind(1)
        seen = self._seen(state, view, pixels[:, 1:])
        return (seen - self.images[view, y, x]).square().mean(1)

    def _terms(self, state: FineTuningState) -> Tensor:
        """Perceptual distance and squared error of a random patch: [M, 2].

        Held-out pixels have no say in either.
        """
        view, yx, size = self._patch()
        views = torch.full((len(yx),), view, device=self.device)
        seen = self._seen(state, views, yx, self.ray_rng)
        truth, hidden = (t[view, yx[:, 0], yx[:, 1]] for t in (self.images, self.hidden))
        truth = torch.where(hidden, seen.detach(), truth)
        pair = [t.unflatten(1, (size, size))[:, None] for t in (seen, truth)]
        return torch.stack([self.perceptual(*pair), (seen - truth).square().mean(1)], 1)

    def _patch(self) -> tuple[int, Tensor, int]:
        """A random square patch of a random view: the view, its pixels [size², 2], its size.

        The pixels may lie several apart, so that a patch covers anything up to the whole view.
        """
        n, rows, cols = self.images.shape
        size = min(self.options.patch_px, rows, cols)
        most = (min(rows, cols) - 1) // max(size - 1, 1)
        stride = 1 + int(torch.randint(most, (), generator=self.rng))
        reach = (size - 1) * stride
        view = int(torch.randint(n, (), generator=self.rng))
        top = int(torch.randint(rows - reach, (), generator=self.rng))
        left = int(torch.randint(cols - reach, (), generator=self.rng))
        steps = stride * torch.arange(size, device=self.device)
        grid = torch.meshgrid(top + steps, left + steps, indexing="ij")
        return view, torch.stack(grid, -1).flatten(0, 1), size

    def loss(self, state: FineTuningState) -> Tensor:
        """What every member minimises, [M]."""
        o, terms = self.options, self._terms(state)
        if o.weighting == "uncertainty":
            return uncertainty_weighted(terms, state.sigma)
        weights = torch.tensor([o.perceptual_weight, o.mse_weight], device=self.device)
        return (weights * terms).sum(1) + o.prior_weight * state.eps.square().mean(1) / 2

    def descend(
        self,
        state: FineTuningState,
        steps: int,
        *,
        tune: bool,
        deadline: float,
        watch: Watch | None = None,
    ) -> tuple[FineTuningState, float]:
        """Adam on latents and turns, with RMSprop on the networks when ``tune``.

        Returns the state with the lowest held-out error, and that error.
        """
        o, state = self.options, state.copied()
        code_rate = TUNED_CODE_RATE if tune else o.code_rate
        groups: list[dict[str, Any]] = [
            {"params": [state.eps], "lr": code_rate},
            {"params": [state.turn_deg], "lr": TURN_RATE_SHARE * code_rate},
        ]
        if o.weighting == "uncertainty":
            groups.append({"params": [state.sigma], "lr": SIGMA_RATE})
        optimisers: list[Adam | torch.optim.Optimizer] = [
            Adam(groups, betas=(0.0 if tune else 0.9, 0.999))
        ]
        if tune:
            optimisers.append(
                torch.optim.RMSprop(list(state.deltas), lr=o.tune_rate, alpha=0.99, eps=1e-8)
            )
        return descend(
            state,
            loss=lambda _: self.loss(state),
            held_out_mse=self._held_out_mse,
            optimisers=optimisers,
            steps=steps,
            deadline=deadline,
            label="networks" if tune else "latents",
            watch=watch,
            pictures=self.pictures,
        )

    @torch.no_grad()
    def _held_out_mse(self, state: FineTuningState) -> float:
        """Mean squared error over members at the pixels kept aside."""
        return float(self._mse(state, self.pixels.held_out).mean())

    @torch.no_grad()
    def pictures(self, state: FineTuningState) -> Tensor:
        """The X-rays and the best guess at them: [2, n, rows, cols], coarser than they are."""
        grid = coarse_pixels(self.images.shape)
        view, y, x = grid.flatten(0, 2).to(self.device).unbind(1)
        best = replace(
            state,
            eps=state.eps[:1],
            turn_deg=state.turn_deg[:1],
            deltas=tuple(delta[:1] for delta in state.deltas),
        )
        seen = self._seen(best, view, torch.stack([y, x], 1))[0]
        return torch.stack([self.images[view, y, x], seen]).unflatten(1, grid.shape[:3]).cpu()

    @torch.no_grad()
    def result(self, state: FineTuningState, held_out_mse: float, seconds: float) -> Posterior:
        """The finished scenes; turns sit in the latents' poses, so the angles stay as given."""
        latent = self.latent(state)
        return Posterior(
            latent=latent,
            code=self.g.weights(latent),
            gains=torch.ones(len(state.eps), len(self.images), device=self.device),
            angles_deg=self.angles_deg,
            distance=self.prior.distance,
            held_out_mse=held_out_mse,
            seconds=seconds,
        )


def uncertainty_weighted(terms: Tensor, sigma: Tensor) -> Tensor:
    """Σ_i L_i / (2 σ_i²) + log(1 + σ_i²) over the last axis (UMedNeRF, arXiv 2311.05836).

    >>> uncertainty_weighted(torch.tensor([2.0, 4.0]), torch.ones(2)).round(decimals=3)
    tensor(4.3860)
    """
    return (terms / (2 * sigma.square()) + torch.log1p(sigma.square())).sum(-1)
