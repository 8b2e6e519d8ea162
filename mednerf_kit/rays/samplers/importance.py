"""Importance sampling: nodes where the coarser level found weight (NeRF's fine pass)."""

from __future__ import annotations

import torch
from torch import Generator

from ...core.types import Rays, Samples
from .base import SAMPLERS, Previous, Sampler, at_least_one, by_weight, cells, coarser_level


@SAMPLERS.register("importance")
class Importance(Sampler):
    """Nodes by inverse transform of the coarser level's weights (Mildenhall et al. 2020, §5.2).

    Cells end halfway between coarse nodes. Where the coarser level has gaps (an occupancy grid's
    empty cells) no node falls into them.

    Options:
        n: new samples per ray.
        merge: keep the coarser level's nodes too, as NeRF's fine pass does.
    """

    refines = True

    def __init__(self, *, n: int = 64, merge: bool = True) -> None:
        self.n = at_least_one(n)
        self.merge = merge

    @torch.no_grad()
    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        coarse, w = coarser_level(previous, "importance")
        start, length = cells(rays, coarse)
        return by_weight(rays, coarse, start, length, w, self.n, merge=self.merge, rng=rng)
