"""Occupancy sampling: even steps along the ray, of which only those in occupied cells of a grid are
asked.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...core.errors import RunError, UserError
from ...core.raymath import exclusive_sum
from ...core.types import Field, Rays, Samples
from .base import SAMPLERS, Previous, at_least_one, by_weight, cells, spread, strata

CHUNK = 1 << 17  # points the field is asked at once


@SAMPLERS.register("occupancy")
class Occupancy(nn.Module):
    """Even steps, those in empty cells of a grid left out (instant-NGP, Müller et al. 2022 §E.2;
    NerfAcc, Li et al. 2023).

    A step is 1/n of the box's diagonal, or of the ray where that is longer; with n ≥ √3 ·
    ``resolution`` no cell is stepped over. Nodes are the middles of the steps; in training all
    steps of a ray shift together by up to half of one. The grid remembers, for each of its
    resolution³ cells, the optical depth of a step, v ← max(``decay`` · v, density · step at a
    random point), every ``every`` training steps: all cells in the first ``warmup_steps``, then a
    random quarter and as many of the occupied. A cell is occupied when v ≥ min(mean v,
    ``threshold``). Unobserved, every cell is; outside the box none is.

    ``keep`` gathers the occupied nodes of a ray into the first ``keep`` places, so that memory
    falls with them; a ray that has more is given ``keep`` longer steps over its occupied part.
    ``refine`` adds as many nodes by inverse transform of the previous level's weights, inside
    occupied cells only (the first level has none to follow and adds nothing).
    """

    box: Tensor
    value: Tensor
    occupied: Tensor
    age: Tensor

    def __init__(
        self,
        *,
        n: int = 256,
        resolution: int = 128,
        threshold: float = 0.01,
        decay: float = 0.95,
        every: int = 16,
        warmup_steps: int = 256,
        keep: int = 0,
        refine: int = 0,
        box: Tensor | None = None,
    ) -> None:
        super().__init__()
        if box is None:
            raise UserError(
                "got sampler 'occupancy' without a box",
                "wanted a scene with bounds",
                "use 'stratified' here",
            )
        if min(resolution, every) < 1:
            raise UserError(
                f"got resolution {resolution}, every {every}",
                "wanted at least 1",
                "correct the recipe or --set",
            )
        self.n, self.resolution, self.threshold, self.decay = (
            at_least_one(n),
            resolution,
            threshold,
            decay,
        )
        self.every, self.warmup_steps, self.keep, self.refine = every, warmup_steps, keep, refine
        self.register_buffer("box", box.detach().float().clone())
        self.register_buffer("value", torch.zeros(resolution**3))
        self.register_buffer("occupied", torch.ones(resolution**3, dtype=torch.bool))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        edges = self.steps(rays, rng)
        start, length, t = (
            edges[..., :-1],
            edges.diff(dim=-1),
            0.5 * (edges[..., 1:] + edges[..., :-1]),
        )
        x = rays.origin[..., None, :] + t[..., None] * rays.direction[..., None, :]
        length = torch.where(self.is_occupied(x), length, 0.0)
        found = Samples(t, length)
        if self.keep:
            found = self.gathered(found, start, rays, rng)
        if not self.refine or previous is None:
            return found
        start, length = cells(rays, found)
        w = weight_within(rays, previous, start, length)
        return by_weight(rays, found, start, length, w, self.refine, merge=True, rng=rng)

    def steps(self, rays: Rays, rng: Generator | None) -> Tensor:
        """Ends of the steps along each ray, [..., n + 1]; those past the ray's end have length
        0.
        """
        near, far = rays.near[..., None], rays.far[..., None]
        step = (far - near).maximum((self.box[1] - self.box[0]).norm()) / self.n
        shift = strata(near.shape, rng, near.device)
        inner = near + (torch.arange(1, self.n, device=near.device) - 0.5 + shift) * step
        return torch.cat([near, inner.minimum(far), far], -1)

    def gathered(
        self, samples: Samples, start: Tensor, rays: Rays, rng: Generator | None
    ) -> Samples:
        """At most ``keep`` nodes per ray [..., keep]; the occupied part is covered as before."""
        here = samples.dt > 0
        k = min(self.keep, self.n)
        far = rays.far[..., None]
        t, order = torch.where(here, samples.t, torch.inf).sort(-1)
        few, dt = t[..., :k].minimum(far), samples.dt.gather(-1, order[..., :k])
        many = spread(start, samples.dt, k, rng)
        crowded = here.sum(-1, keepdim=True) > k
        return Samples(torch.where(crowded, many.t, few), torch.where(crowded, many.dt, dt))

    def is_occupied(self, x: Tensor) -> Tensor:
        """Whether points x [..., 3] lie in occupied cells, [...]."""
        u = (x - self.box[0]) / (self.box[1] - self.box[0])
        inside = ((u >= 0) & (u <= 1)).all(-1)
        i, j, k = (u * self.resolution).long().clamp(0, self.resolution - 1).unbind(-1)
        return self.occupied[(i * self.resolution + j) * self.resolution + k] & inside

    @torch.no_grad()
    def observe(self, step: int, field: Field) -> None:
        """Look at the field where it is this sampler's turn; call after or before every training
        step.
        """
        age = int(self.age)
        self.age += 1
        if age % self.every:
            return
        warm = age < self.warmup_steps
        # Its own dice, thrown anew from the age: a resumed training sees the same cells.
        rng = Generator(self.value.device).manual_seed(age)
        chosen = (
            torch.arange(len(self.value), device=self.value.device)
            if warm
            else self.some_cells(rng)
        )
        step_length = (self.box[1] - self.box[0]).norm() / self.n
        for part in chosen.split(CHUNK):
            seen = field.density(self.points(part, rng)) * step_length
            self.value[part] = (self.decay * self.value[part]).maximum(seen.float())
        limit = self.value.double().mean().clamp_max(self.threshold)
        self.occupied.copy_((self.value >= limit) & (self.value > 0))
        if bool(self.occupied.any()):
            return
        if not warm:
            raise RunError(
                f"got an empty occupancy grid at step {step}",
                "wanted something in the scene's box",
                "check the box and the poses, or restart with another seed or with 'stratified'",
            )
        self.occupied.fill_(True)

    def some_cells(self, rng: Generator) -> Tensor:
        """A random quarter of all cells, and of the occupied as many at most: indices, each
        once.
        """
        roll = torch.rand(self.value.shape, generator=rng, device=self.value.device)
        share = 0.25 * len(self.value) / self.occupied.sum().clamp_min(1)
        again = torch.rand(self.value.shape, generator=rng, device=self.value.device) < share
        return ((roll < 0.25) | (self.occupied & again)).nonzero()[:, 0]

    def points(self, index: Tensor, rng: Generator) -> Tensor:
        """A random point in each of the cells, [P, 3]."""
        r = self.resolution
        corner = torch.stack([index // (r * r), index // r % r, index % r], -1)
        place = corner + torch.rand(corner.shape, generator=rng, device=index.device)
        return self.box[0] + place / r * (self.box[1] - self.box[0])


def weight_within(
    rays: Rays, previous: tuple[Samples, Tensor], start: Tensor, length: Tensor
) -> Tensor:
    """How much of the previous level's weight falls into each of the cells [start, start + length]
    [..., S].
    """
    samples, w = previous
    old_start, old_length = cells(rays, samples)
    before = exclusive_sum(w)

    def up_to(t: Tensor) -> Tensor:
        k = (torch.searchsorted(old_start.contiguous(), t.contiguous(), right=True) - 1).clamp_min(
            0
        )
        share = (t - old_start.gather(-1, k)) / old_length.gather(-1, k).clamp_min(1e-12)
        return before.gather(-1, k) + w.gather(-1, k) * share.clamp(0, 1)

    return (up_to(start + length) - up_to(start)).clamp_min(0)
