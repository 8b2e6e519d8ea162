"""Rays inside and outside the views' masks, in a given share."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...core.types import Pixels
from .base import SELECTORS, RaySelector
from .drawing import Strata, at, importance, in_range, uniform


@SELECTORS.register("mask")
class Masked(RaySelector):
    """A share of the batch inside the views' masks (above one half), the rest outside.

    Options:
        n: rays per step.
        share: of the rays inside the masks.
        correction: share of the emphasis that the weights take back. At 0 the masks say where the
            loss should look; at 1 they only stratify the draw, which is unbiased.
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
        self.rows = rows
        self.cols = cols
        self.correction = correction
        self.unbiased = correction == 1
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
        self.density_in = inside / n / self.strata.share
        self.density_out = (1 - inside / n) / (1 - self.strata.share)

    def select(self, step: int, rng: Generator) -> Pixels:
        place = self.strata.draw(self.is_inside, uniform(len(self.is_inside), rng))
        density = torch.where(self.is_inside, self.density_in, self.density_out)
        return at(place, self.rows, self.cols, importance(density, self.correction))
