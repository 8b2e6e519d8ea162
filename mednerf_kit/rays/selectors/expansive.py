"""Expansive Supervision: a static set of anchors, a few other pixels that stand for the rest, and
fewer rays (ICME 2025).
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...core.types import Pixels
from . import pixel_maps
from .base import SELECTORS, RaySelector
from .drawing import Strata, at, enough, in_range, uniform


@SELECTORS.register("expansive")
class Expansive(RaySelector):
    """Of n rays only ``rendered``·n are rendered: a share ``anchor_rays`` (β) on anchors, the rest
    on the other pixels.

    Anchors are the strongest edges, ``anchors`` (α) of every view (:func:`pixel_maps.anchors`). The
    loss is λa·mean(anchors) + c·λs·mean(others), as weights scaled to mean 1, so that regularisers
    keep their share. ``fade``: c falls linearly from (1 − α)/α to 1, which is unbiased at first and
    ends with the anchors at 3:1 (for α = 0.25); ``add``: c = 1 (`--a_s_add`); ``plain``: every ray
    counts the same (`--use_mse`). α is what the pictures really have where they have fewer edges.
    """

    weights: Tensor
    is_anchor: Tensor

    def __init__(
        self,
        *,
        n: int = 2048,
        rendered: float = 0.5,
        anchors: float = 0.25,
        anchor_rays: float = 0.5,
        scale: Literal["fade", "add", "plain"] = "fade",
        anchor_weight: float = 1.0,
        source_weight: float = 1.0,
        images: Tensor,
    ) -> None:
        super().__init__()
        in_range("rendered", rendered, 0, 1)
        in_range("anchors", anchors, 0, 1, strictly=True)
        in_range("anchor_rays", anchor_rays, 0, 1, strictly=True)
        in_range("anchor_weight", anchor_weight, 0, float("inf"))
        in_range("source_weight", source_weight, 0, float("inf"))
        if anchor_weight + source_weight == 0:
            raise UserError(
                "got anchor_weight and source_weight both 0",
                "wanted one above 0",
                "raise one of them",
            )
        self.rays = enough(round(n * rendered), 2, "kinds of rays, anchors and others")
        self.anchor_rays = min(max(round(self.rays * anchor_rays), 1), self.rays - 1)
        self.scale, self.anchor_weight, self.source_weight, self.progress = (
            scale,
            anchor_weight,
            source_weight,
            0.0,
        )
        masks = pixel_maps.edge_maps(images, partial(pixel_maps.anchors, share=anchors))
        self.rows, self.cols = masks.shape[1:]
        self.strata = Strata(masks)
        self.register_buffer(
            "is_anchor", torch.arange(self.rays) < self.anchor_rays, persistent=False
        )

    def advance(self, progress: float) -> None:
        self.progress = progress

    def select(self, step: int, rng: Generator) -> Pixels:
        place = self.strata.draw(self.is_anchor, uniform(self.rays, rng))
        if self.scale == "plain":
            weight = torch.ones(self.rays, device=place.device)
        else:
            first = (1 - self.strata.share) / self.strata.share
            c = first + (1 - first) * self.progress if self.scale == "fade" else 1.0
            anchor, other = self.anchor_weight, c * self.source_weight
            weight = torch.where(
                self.is_anchor, anchor / self.anchor_rays, other / (self.rays - self.anchor_rays)
            )
            weight = weight * self.rays / (anchor + other)
        return at(place, self.rows, self.cols, weight)
