"""Selectors whose chances the pictures fix before the training starts: edges, the context prior,
and a mask.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...core.types import Pixels
from . import pixel_maps
from .base import SELECTORS, RaySelector
from .drawing import Strata, at, cumulative, enough, importance, in_range, invert, uniform


@SELECTORS.register("egra")
class EdgeGuided(RaySelector):
    """Edge-guided rays (EGRA): a pixel's chance is proportional to E·p + (1 − p)·flat, E = 1 on
    Canny edges and 0 elsewhere.

    The defaults are the public constants: an edge pixel is drawn 1.39 times as often. ``shift``
    moves every batch 6 to 9 pixels along the rows (over the end of a row into the next), the
    published "dynamic range", which supervises one side of each edge too. The public code has
    ``correction`` 0. Draws are with replacement.
    """

    def __init__(
        self,
        *,
        n: int = 1024,
        p: float = 0.0025,
        flat: float = 0.0064,
        low: float = 30.0,
        high: float = 40.0,
        shift: bool = False,
        correction: float = 1.0,
        images: Tensor,
    ) -> None:
        super().__init__()
        in_range("p", p, 0, 1)
        in_range("flat", flat, 0, 1, strictly=True)
        in_range("high", high, 0, 1020)
        in_range("low", low, 0, high)
        in_range("correction", correction, 0, 1)
        self.n, self.shift, self.correction, self.unbiased = (
            enough(n, 1, "batch"),
            shift,
            correction,
            correction == 1,
        )
        edges = pixel_maps.edge_maps(images, partial(pixel_maps.canny_edges, low=low, high=high))
        self.rows, self.cols = edges.shape[1:]
        self.strata = Strata(edges)
        edge, elsewhere = p + (1 - p) * flat, (1 - p) * flat
        mean = self.strata.share * edge + (1 - self.strata.share) * elsewhere
        self.density_on, self.density_off = edge / mean, elsewhere / mean

    def select(self, step: int, rng: Generator) -> Pixels:
        inside = uniform(self.n, rng) < self.strata.share * self.density_on
        place = self.strata.draw(inside, uniform(self.n, rng)).long()
        if self.shift:
            by = torch.randint(6, 10, (), generator=rng, device=rng.device)
            view = self.rows * self.cols
            place = place // view * view + (place % view + by) % view
        density = torch.where(inside, self.density_on, self.density_off)
        return at(place, self.rows, self.cols, importance(density, self.correction))


@SELECTORS.register("context")
class ContextPrior(RaySelector):
    """A ``share`` of the chance follows the spread of each 3×3 neighbourhood, the rest is uniform
    (Zhang et al., TIP 2023).
    """

    cdf: Tensor

    def __init__(
        self, *, n: int = 1024, share: float = 0.5, correction: float = 1.0, images: Tensor
    ) -> None:
        super().__init__()
        in_range("share", share, 0, 1)
        in_range("correction", correction, 0, 1)
        self.n, self.correction, self.unbiased = enough(n, 1, "batch"), correction, correction == 1
        prior = pixel_maps.per_view(images, pixel_maps.local_spread)
        self.rows, self.cols = prior.shape[1:]
        self.register_buffer(
            "cdf",
            cumulative(share * prior / len(prior) + (1 - share) / prior.numel()),
            persistent=False,
        )

    def select(self, step: int, rng: Generator) -> Pixels:
        place = invert(self.cdf, uniform(self.n, rng))
        density = (self.cdf[place + 1] - self.cdf[place]) * (len(self.cdf) - 1)
        return at(place, self.rows, self.cols, importance(density, self.correction))


@SELECTORS.register("mask")
class Masked(RaySelector):
    """A ``share`` of the batch inside the views' masks (above one half), the rest outside.

    At ``correction`` 0 this says where the loss should look; at 1 it is only a stratified draw.
    """

    is_inside: Tensor

    def __init__(
        self,
        *,
        n: int = 1024,
        share: float = 0.75,
        correction: float = 0.0,
        views: int,
        rows: int,
        cols: int,
        masks: Tensor | None = None,
    ) -> None:
        super().__init__()
        in_range("share", share, 0, 1, strictly=True)
        in_range("correction", correction, 0, 1)
        if masks is None:
            raise UserError(
                "got selector 'mask' for views without masks",
                "wanted an alpha channel or masks",
                "choose 'random'",
            )
        if masks.shape != (views, rows, cols):
            raise UserError(
                f"got masks of {'×'.join(map(str, masks.shape))}",
                f"wanted {views}×{rows}×{cols} like the views",
                "resize the masks with the pictures",
            )
        self.rows, self.cols, self.correction, self.unbiased = (
            rows,
            cols,
            correction,
            correction == 1,
        )
        self.strata = Strata(masks > 0.5)
        if self.strata.share in (0, 1):
            raise UserError(
                f"got masks that cover {'nothing' if self.strata.share == 0 else 'everything'}",
                "wanted pixels on both sides",
                "choose the selector 'random'",
            )
        inside = round(n * share)
        if not 0 < inside < n:
            raise UserError(
                f"got a batch of {n} rays at share {share:g}",
                "wanted one ray on each side",
                "set n higher",
            )
        self.register_buffer("is_inside", torch.arange(n) < inside, persistent=False)
        self.density_in, self.density_out = (
            inside / n / self.strata.share,
            (1 - inside / n) / (1 - self.strata.share),
        )

    def select(self, step: int, rng: Generator) -> Pixels:
        place = self.strata.draw(self.is_inside, uniform(len(self.is_inside), rng))
        density = torch.where(self.is_inside, self.density_in, self.density_out)
        return at(place, self.rows, self.cols, importance(density, self.correction))
