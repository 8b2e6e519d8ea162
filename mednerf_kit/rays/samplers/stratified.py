"""Stratified sampling: one node in each of n equal strata of a ray."""

from __future__ import annotations

import torch
from torch import Generator

from ...core.errors import UserError
from ...core.types import Rays, Samples
from .base import SAMPLERS, Previous, Sampler, at_least_one, between_in_disparity, strata


@SAMPLERS.register("stratified")
class Stratified(Sampler):
    """One node in each of n equal strata of [near, far] (Mildenhall et al. 2020, eq. 2).

    Options:
        n: samples per ray.
        disparity: make the strata equal in 1/t instead of t, finer towards the camera; near must
            then be above 0.
    """

    def __init__(self, *, n: int = 48, disparity: bool = False) -> None:
        self.n = at_least_one(n)
        self.disparity = disparity

    @torch.no_grad()
    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        near = rays.near[..., None]
        far = rays.far[..., None]
        place = strata((*rays.near.shape, self.n), rng, near.device)
        if not self.disparity:
            return Samples(near + place * (far - near), ((far - near) / self.n).expand_as(place))
        if bool(((near <= 0) & (near < far)).any()):
            raise UserError(
                "got strata equal in disparity on rays that begin at 0",
                "wanted near > 0",
                "set disparity=false (NDC scenes are even in disparity already)",
            )
        borders = torch.arange(self.n + 1, device=near.device) / self.n
        t = between_in_disparity(near, far, place)
        return Samples(t, between_in_disparity(near, far, borders).diff(dim=-1))
