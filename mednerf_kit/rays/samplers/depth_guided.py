"""Depth-guided sampling: most nodes near a surface whose distance is known."""

from __future__ import annotations

import torch
from torch import Generator

from ...core.errors import UserError
from ...core.types import Rays, Samples
from .base import SAMPLERS, Previous, Sampler, at_least_one, in_unit_interval, spread, together


@SAMPLERS.register("guided")
class Guided(Sampler):
    """Known depth D: a share of the nodes lies in a window about it, the others elsewhere.

    The window is [D − eps/2, D + eps/2]. Both parts are stratified and every node stands for its
    stratum, so that the whole ray is covered. eps falls geometrically over the training, from
    ``window`` to ``window_end``. A ray of unknown depth (nan, or a window outside [near, far]) is
    sampled evenly with all n nodes. Training needs rays with depth; test renders of views without
    it are even too, since a scored view's depth may not be used.

    Options:
        n: samples per ray.
        share: of the nodes that lie in the window, from 0 to 1; with 1 only the window is covered
            (for studies of a few samples at the surface).
        window: its length at the beginning of the training, in the units of the scene.
        window_end: its length at the end.
    """

    needs_depth = True

    def __init__(
        self, *, n: int = 64, share: float = 0.5, window: float = 0.3, window_end: float = 0.05
    ) -> None:
        self.n = at_least_one(n)
        self.share = in_unit_interval(share, "share")
        for name, value in (("window", window), ("window_end", window_end)):
            if value <= 0:
                raise UserError(
                    f"got {name} {value:g}",
                    "wanted a length above 0",
                    "give it in the units of the scene",
                )
        self.window = window
        self.window_end = window_end
        self.progress = 1.0

    def advance(self, progress: float) -> None:
        self.progress = progress

    @property
    def eps(self) -> float:
        """The window's length now, in the units of the scene."""
        return self.window * (self.window_end / self.window) ** self.progress

    @torch.no_grad()
    def __call__(
        self, rays: Rays, previous: Previous = None, rng: Generator | None = None
    ) -> Samples:
        near = rays.near
        far = rays.far
        if rays.depth is None and rng is not None:
            raise UserError(
                "got sampler 'guided' on rays without depth",
                "wanted a scene with depth",
                "add depth (`mednerf-kit data depth`) or use 'stratified'",
            )
        depth = torch.full_like(near, torch.nan) if rays.depth is None else rays.depth
        low = (depth - 0.5 * self.eps).maximum(near)
        high = (depth + 0.5 * self.eps).minimum(far)
        inside = max(1, round(self.share * self.n)) if self.share else 0
        known = (low < high) & (inside > 0)  # false for nan
        # Without a window its nodes take the beginning of the ray, as many strata of the common
        # length as there are nodes.
        low = torch.where(known, low, near)
        high = torch.where(known, high, near + (far - near) * (inside / self.n))
        rest_start = torch.stack([near, high], -1)
        rest_length = torch.stack([low - near, far - high], -1)
        if not inside:
            return spread(rest_start, rest_length, self.n, rng)
        at_surface = spread(low[..., None], (high - low)[..., None], inside, rng)
        if inside == self.n:
            return at_surface
        return together(at_surface, spread(rest_start, rest_length, self.n - inside, rng))
