"""Selectors that keep a map of the error and aim at it: multinomial error maps and iMAP's
blocks.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from .base import SELECTORS, RaySelector
from .drawing import Tiles, cumulative, enough, importance, in_range, invert, systematic, uniform


def tile_means(tile: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean of values [N] in each of ``count`` tiles, and how many fell there."""
    hits = torch.bincount(tile, minlength=count)
    return torch.zeros(count, device=values.device).index_add(0, tile, values) / hits.clamp_min(
        1
    ), hits


@SELECTORS.register("error_map")
class ErrorMap(RaySelector):
    """A multinomial draw by the error: a share ``explore`` of the chance is uniform, the rest
    proportional to |error|.

    ``refresh: tiles`` keeps the mean error of grid×grid tiles per view, updated by the rays
    themselves: new = keep·old + (1 − keep)·seen. It costs nothing; a tile never visited counts as
    an error of 1. ``refresh: exact`` keeps every pixel's error from a render of all views every
    ``every`` steps, whose rays are counted in ``evaluations``; it holds 18 bytes per pixel.
    """

    errors: Tensor
    pixels: Tensor
    refreshes: Tensor
    cdf: Tensor | None

    def __init__(
        self,
        *,
        n: int = 1024,
        refresh: Literal["tiles", "exact"] = "tiles",
        grid: int = 32,
        keep: float = 0.5,
        every: int = 1000,
        explore: float = 0.2,
        correction: float = 1.0,
        views: int,
        rows: int,
        cols: int,
    ) -> None:
        super().__init__()
        in_range("keep", keep, 0, 1)
        in_range("explore", explore, 0, 1)
        in_range("correction", correction, 0, 1)
        in_range("every", every, 1, float("inf"))
        self.n, self.keep, self.explore, self.correction = (
            enough(n, 1, "batch"),
            keep,
            explore,
            correction,
        )
        self.unbiased = correction == 1 and explore > 0
        self.exact = refresh == "exact"
        self.wants_full_error_every = every if self.exact else 0
        self.tiles = Tiles(rows, cols, rows, cols) if self.exact else Tiles(rows, cols, grid, grid)
        self.views, self.cdf = views, None
        self.register_buffer(
            "errors",
            torch.ones(
                views, self.tiles.count, dtype=torch.float16 if self.exact else torch.float32
            ),
        )
        self.register_buffer("pixels", self.tiles.pixels, persistent=False)
        self.register_buffer("refreshes", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "cdf", None))

    def select(self, step: int, rng: Generator) -> Pixels:
        if self.cdf is None:
            mass = self.errors.double() * self.pixels + 1e-12
            even = self.pixels / (self.views * self.pixels.sum())
            self.cdf = cumulative(self.explore * even + (1 - self.explore) * mass / mass.sum())
        tile = invert(self.cdf, uniform(self.n, rng))
        here = tile % self.tiles.count
        all_pixels = self.views * self.tiles.rows * self.tiles.cols
        density = (self.cdf[tile + 1] - self.cdf[tile]) * all_pixels / self.pixels[here]
        weight = importance(density, self.correction).float()
        return Pixels(tile // self.tiles.count, self.tiles.draw(here, rng), weight)

    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        if self.exact:
            return
        tile = pixels.view * self.tiles.count + self.tiles.of(pixels.yx)
        mean, hits = tile_means(tile, error.to(self.errors).sqrt(), self.errors.numel())
        new = self.keep * self.errors + (1 - self.keep) * mean.view_as(self.errors)
        self.errors.copy_(torch.where(hits.view_as(self.errors) > 0, new, self.errors))
        self.cdf = None

    def observe_full(self, errors: Tensor) -> None:
        if self.exact:
            self.errors.copy_(errors.flatten(1).sqrt())
            self.refreshes += 1
            self.cdf = None

    @property
    def evaluations(self) -> int:
        return int(self.refreshes) * self.errors.numel()


@SELECTORS.register("imap")
class IMap(RaySelector):
    """iMAP's active sampling (Sucar et al., ICCV 2021): ``frames`` random views per step, each with
    a uniform pilot and the rest of its rays shared out over blocks×blocks in proportion to their
    mean error, evenly within a block.

    A block's mean is that of the latest pilot rays that fell in it (1 before any did): no second
    render in the same step.
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
        self.frames, self.views, self.correction, self.unbiased = (
            min(frames, views),
            views,
            correction,
            correction == 1,
        )
        self.each = (
            enough(n, 2 * self.frames, "pilot and guided rays of the step's views") // self.frames
        )
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
        start = (
            torch.arange(self.frames, device=device).repeat_interleave(self.each - self.pilots)
            * count
        )
        u = torch.cat([systematic(self.each - self.pilots, rng) for _ in range(self.frames)])
        guided = invert(cumulative(share), u, start, start + count) % count
        pilot = invert(cumulative(self.pixels), uniform(self.frames * self.pilots, rng))
        tile = torch.cat([pilot.view(self.frames, -1), guided.view(self.frames, -1)], 1)
        share_of = share.gather(1, tile) * self.pixels.sum() / self.pixels[tile]
        density = (self.pilots + (self.each - self.pilots) * share_of) / self.each
        yx = self.tiles.draw(tile.flatten(), rng)
        return Pixels(
            frames.repeat_interleave(self.each),
            yx,
            importance(density.flatten(), self.correction).float(),
        )

    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        is_pilot = torch.arange(len(error), device=self.errors.device) % self.each < self.pilots
        tile = (pixels.view * self.tiles.count + self.tiles.of(pixels.yx))[is_pilot]
        mean, hits = tile_means(tile, error.to(self.errors).sqrt()[is_pilot], self.errors.numel())
        self.errors.copy_(
            torch.where(hits.view_as(self.errors) > 0, mean.view_as(self.errors), self.errors)
        )
