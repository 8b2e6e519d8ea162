"""Occupancy sampling: even steps along the ray, evaluated only in the occupied cells of a grid."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...core.errors import RunError, UserError
from ...core.raymath import exclusive_sum
from ...core.types import Field, Rays, Samples
from .base import SAMPLERS, Previous, Sampler, at_least_one, by_weight, cells, spread, strata

CHUNK = 1 << 17  # points at which the field is evaluated at once


@SAMPLERS.register("occupancy")
class Occupancy(Sampler, nn.Module):
    """Even steps without those in empty cells of a grid (Müller et al. 2022, §E.2).

    This is Instant-NGP's way; see NerfAcc (Li et al. 2023) too. Nodes are the middles of the steps;
    in training all steps of a ray shift together by up to half of one. For each of its cells the
    grid remembers the optical depth of a step, v ← max(decay · v, density · step at a random
    point). A cell is occupied when v ≥ min(mean v, threshold). Before the first observation every
    cell is occupied; outside the box none is.

    Options:
        n: steps per ray. A step is 1/n of the box's diagonal, or of the ray where that is longer;
            with n ≥ √3 · ``resolution`` no cell is stepped over.
        resolution: cells along each side of the box.
        threshold: optical depth of a step from which a cell is occupied, whatever the mean is.
        decay: factor on what a cell remembers, at each observation.
        every: training steps between observations.
        warmup_steps: training steps in which all cells are observed; later a random quarter of
            them, and as many of the occupied ones.
        keep: gather the occupied nodes of a ray into so many places, so that memory falls with
            them; a ray that has more gets ``keep`` longer steps over its occupied part. 0: off.
        refine: add so many nodes by inverse transform of the coarser level's weights, in occupied
            cells only; the first level has no weights to follow and adds nothing.
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
        self.n = at_least_one(n)
        self.resolution = resolution
        self.threshold = threshold
        self.decay = decay
        self.every = every
        self.warmup_steps = warmup_steps
        self.keep = keep
        self.refine = refine
        self.register_buffer("box", box.detach().float().clone())
        self.register_buffer("value", torch.zeros(resolution**3))
        self.register_buffer("occupied", torch.ones(resolution**3, dtype=torch.bool))
        self.register_buffer("age", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        edges = self.steps(rays, rng)
        start = edges[..., :-1]
        length = edges.diff(dim=-1)
        t = 0.5 * (edges[..., 1:] + edges[..., :-1])
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
        """Ends of the steps along each ray, [..., n + 1]; steps past its end have length 0."""
        near = rays.near[..., None]
        far = rays.far[..., None]
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
        few = t[..., :k].minimum(far)
        dt = samples.dt.gather(-1, order[..., :k])
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
        """Evaluate the field in some of the cells, on every ``every``-th call.

        Raises:
            RunError: when no cell is occupied any more after the warm-up.
        """
        age = int(self.age)
        self.age += 1
        if age % self.every:
            return
        warm = age < self.warmup_steps
        # A generator of its own, seeded by the age: a resumed training sees the same cells.
        rng = Generator(self.value.device).manual_seed(age)
        everywhere = torch.arange(len(self.value), device=self.value.device)
        chosen = everywhere if warm else self.some_cells(rng)
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
        """Indices of a random quarter of all cells, and of at most as many of the occupied ones."""
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
    """How much of the coarser level's weight falls into each of the cells, [..., S].

    The cells are [start, start + length], [..., S] both; a coarse node's weight is spread evenly
    over its own cell.
    """
    samples, w = previous
    old_start, old_length = cells(rays, samples)
    before = exclusive_sum(w)

    def up_to(t: Tensor) -> Tensor:
        after = torch.searchsorted(old_start.contiguous(), t.contiguous(), right=True)
        k = (after - 1).clamp_min(0)
        share = (t - old_start.gather(-1, k)) / old_length.gather(-1, k).clamp_min(1e-12)
        return before.gather(-1, k) + w.gather(-1, k) * share.clamp(0, 1)

    return (up_to(start + length) - up_to(start)).clamp_min(0)
