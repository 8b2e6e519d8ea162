"""Error maps: a multinomial draw by the error that each tile or pixel had."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from .base import SELECTORS, RaySelector
from .drawing import Tiles, cumulative, enough, importance, in_range, invert, tile_means, uniform


@SELECTORS.register("error_map")
class ErrorMap(RaySelector):
    """A multinomial draw in proportion to |error|, with a uniform share.

    Options:
        n: rays per step.
        refresh: ``tiles`` keeps the mean error of the tiles of every view, updated by the rays
            themselves, new = keep · old + (1 − keep) · seen: it costs nothing, and a tile never
            visited counts as an error of 1. ``exact`` keeps every pixel's error from a render of
            all views, whose rays are counted in ``evaluations``: it holds 18 bytes per pixel.
        grid: tiles along each side of a view (``tiles``).
        keep: share of a tile's old mean that stays when it is seen again (``tiles``).
        every: steps between renders of all views (``exact``).
        explore: share of the chance that is uniform.
        correction: share of the emphasis that the weights take back, from 0 to 1 (unbiased, if
            ``explore`` is above 0).
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
        self.n = enough(n, 1, "batch")
        self.keep = keep
        self.explore = explore
        self.correction = correction
        self.unbiased = correction == 1 and explore > 0
        self.exact = refresh == "exact"
        self.wants_full_error_every = every if self.exact else 0
        self.tiles = Tiles(rows, cols, rows, cols) if self.exact else Tiles(rows, cols, grid, grid)
        self.views = views
        self.cdf = None
        # as many values as pixels are kept at half precision
        dtype = torch.float16 if self.exact else torch.float32
        self.register_buffer("errors", torch.ones(views, self.tiles.count, dtype=dtype))
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
