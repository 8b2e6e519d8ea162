"""iMAP's active sampling: a few views per step, more rays in the blocks that err."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from .base import SELECTORS, RaySelector
from .drawing import (
    Tiles,
    cumulative,
    enough,
    importance,
    in_range,
    invert,
    systematic,
    tile_means,
    uniform,
)


@SELECTORS.register("imap")
class IMap(RaySelector):
    """iMAP's active sampling (Sucar et al., ICCV 2021): rays by the errors of blocks.

    Each of the step's views gets a uniform pilot; the rest of its rays are shared out over its
    blocks in proportion to their mean error, and lie evenly within a block. A block's mean is that
    of the latest pilot rays that fell in it (1 before any did): no second render in the same step.

    Options:
        n: rays per step.
        blocks: along each side of a view.
        frames: random views per step.
        pilot: share of a view's rays that are its pilot.
        correction: share of the emphasis that the weights take back, from 0 to 1 (unbiased).
    """

    errors: Tensor
    pixels: Tensor

    def __init__(
        self,
        *,
        n: int = 1024,
        blocks: int = 8,
        frames: int = 5,
        pilot: float = 0.5,
        correction: float = 1.0,
        views: int,
        rows: int,
        cols: int,
    ) -> None:
        super().__init__()
        in_range("pilot", pilot, 0, 1, strictly=True)
        in_range("frames", frames, 1, float("inf"))
        in_range("correction", correction, 0, 1)
        self.frames = min(frames, views)
        self.views = views
        self.correction = correction
        self.unbiased = correction == 1
        least = "pilot and guided rays of the step's views"
        self.each = enough(n, 2 * self.frames, least) // self.frames
        self.pilots = min(max(round(pilot * self.each), 1), self.each - 1)
        self.tiles = Tiles(rows, cols, blocks, blocks)
        self.register_buffer("errors", torch.ones(views, self.tiles.count))
        self.register_buffer("pixels", self.tiles.pixels, persistent=False)

    def select(self, step: int, rng: Generator) -> Pixels:
        device = rng.device
        frames = torch.randperm(self.views, generator=rng, device=device)[: self.frames]
        mass = (self.errors[frames] * self.pixels).double() + 1e-12
        share = mass / mass.sum(-1, keepdim=True)
        count = self.tiles.count
        guided_rays = self.each - self.pilots
        start = torch.arange(self.frames, device=device).repeat_interleave(guided_rays) * count
        u = torch.cat([systematic(guided_rays, rng) for _ in range(self.frames)])
        guided = invert(cumulative(share), u, start, start + count) % count
        pilot = invert(cumulative(self.pixels), uniform(self.frames * self.pilots, rng))
        tile = torch.cat([pilot.view(self.frames, -1), guided.view(self.frames, -1)], 1)
        share_of = share.gather(1, tile) * self.pixels.sum() / self.pixels[tile]
        density = (self.pilots + guided_rays * share_of) / self.each
        weight = importance(density.flatten(), self.correction).float()
        yx = self.tiles.draw(tile.flatten(), rng)
        return Pixels(frames.repeat_interleave(self.each), yx, weight)

    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        is_pilot = torch.arange(len(error), device=self.errors.device) % self.each < self.pilots
        tile = (pixels.view * self.tiles.count + self.tiles.of(pixels.yx))[is_pilot]
        mean, hits = tile_means(tile, error.to(self.errors).sqrt()[is_pilot], self.errors.numel())
        seen = hits.view_as(self.errors) > 0
        self.errors.copy_(torch.where(seen, mean.view_as(self.errors), self.errors))
