"""Where along a ray the field is asked. A sampler is a quadrature rule: nodes and lengths, ``dt = 0`` means "not there".

All share one signature, ``sampler(rays, previous, generator) -> Samples``: ``previous`` is the coarser level's samples and
weights; without a generator the nodes are the midpoints, which makes test renders deterministic. No gradient flows through nodes.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..core.config import Registry
from ..core.errors import UserError
from ..core.raymath import cell_lengths, inverse_cdf
from ..core.types import Rays, Sampler, Samples

SAMPLERS: Registry[Sampler] = Registry("sampler")
Previous = tuple[Samples, Tensor] | None


def offsets(shape: tuple[int, ...], generator: Generator | None, device: torch.device) -> Tensor:
    """Positions inside unit strata: uniform random, or the middle without a generator."""
    if generator is None:
        return torch.full(shape, 0.5, device=device)
    return torch.rand(shape, generator=generator, device=device)


def stratum_edges(samples: Samples, rays: Rays) -> Tensor:
    """Edges [..., S+1] of the cells a tiling quadrature stands for."""
    return torch.cat([rays.near[..., None], rays.near[..., None] + samples.dt.cumsum(-1)], -1)


@SAMPLERS.register("stratified")
class Stratified:
    """One node in each of n equal strata of [near, far] (Mildenhall et al. 2020, eq. 2)."""

    def __init__(self, *, n: int = 48) -> None:
        self.n = at_least_one(n)

    @torch.no_grad()
    def __call__(self, rays: Rays, previous: Previous = None, generator: Generator | None = None) -> Samples:
        step = ((rays.far - rays.near) / self.n)[..., None]
        index = torch.arange(self.n, device=step.device)
        place = index + offsets((*rays.near.shape, self.n), generator, step.device)
        return Samples(rays.near[..., None] + place * step, step.expand_as(place))


@SAMPLERS.register("importance")
class Importance:
    """n nodes by inverse transform of the coarser level's weights; ``merge`` keeps its nodes too (as NeRF's fine pass does)."""

    refines = True

    def __init__(self, *, n: int = 64, merge: bool = True) -> None:
        self.n, self.merge = at_least_one(n), merge

    @torch.no_grad()
    def __call__(self, rays: Rays, previous: Previous, generator: Generator | None = None) -> Samples:
        coarse, w = needed(previous, "importance")
        return by_weight(rays, coarse, w, self.n, merge=self.merge, generator=generator)


@SAMPLERS.register("local")
class Local:
    """L-NeRF's local sampling: fine nodes by inverse transform of only those coarse weights that exceed a threshold, per ray.

    ``threshold`` is absolute, or a share of the ray's largest weight with ``relative``; ``kappa`` scales the number of fine
    nodes. The cells left out contribute their coarse node (``merge``), so that nothing is dropped from the integral; a ray on
    which no cell passes is sampled over its full length. ``explore`` is the share of nodes spread over the whole ray regardless,
    so that an early mistake cannot hide a structure.
    """

    refines = True

    def __init__(self, *, n: int = 64, threshold: float = 5e-4, relative: bool = False, kappa: float = 0.4, merge: bool = True,
                 explore: float = 0.0) -> None:  # fmt: skip
        self.n = max(1, round(at_least_one(n) * kappa))
        self.threshold, self.relative, self.merge, self.explore = threshold, relative, merge, explore

    @torch.no_grad()
    def __call__(self, rays: Rays, previous: Previous, generator: Generator | None = None) -> Samples:
        coarse, w = needed(previous, "local")
        limit = self.threshold * w.amax(-1, keepdim=True) if self.relative else self.threshold
        inside = w > limit
        inside = inside | ~inside.any(-1, keepdim=True)
        local = inside * (w + 1e-5)
        local = local / local.sum(-1, keepdim=True)
        spread = coarse.dt / coarse.dt.sum(-1, keepdim=True).clamp_min(1e-12)
        mixed = (1 - self.explore) * local + self.explore * spread
        return by_weight(rays, coarse, mixed, self.n, merge=self.merge, generator=generator)


def by_weight(rays: Rays, coarse: Samples, w: Tensor, n: int, *, merge: bool, generator: Generator | None) -> Samples:
    """n nodes by inverse transform of weights w [..., S] of the coarse cells, one in each of n strata
    of equal weight.

    Merged with the coarse nodes each node stands for what lies nearer to it than to its neighbours; alone, for its own
    stratum, so that cells without weight are left out.
    """
    edges = stratum_edges(coarse, rays)
    index = torch.arange(n, device=w.device)
    t = inverse_cdf(edges, w, (index + offsets((*w.shape[:-1], n), generator, w.device)) / n)
    if not merge:
        borders = torch.arange(n + 1, device=w.device) / n
        return Samples(t, inverse_cdf(edges, w, borders.expand(*w.shape[:-1], n + 1)).diff(dim=-1))
    t = torch.cat([t, coarse.t], -1).sort(-1).values
    return Samples(t, cell_lengths(t, rays.near, rays.far))


def at_least_one(n: int) -> int:
    """A number of samples a sampler can use."""
    if n < 1:
        raise UserError(f"got {n} samples per ray", "wanted at least 1", "set the level's n higher")
    return n


def needed(previous: Previous, name: str) -> tuple[Samples, Tensor]:
    """The coarser level, which a refining sampler cannot do without."""
    if previous is None:
        raise UserError(f"got sampler '{name}' on the first level", "wanted a coarser level before it", "put 'stratified' first")
    return previous
