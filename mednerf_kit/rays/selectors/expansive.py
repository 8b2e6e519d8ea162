"""Expansive Supervision: fixed anchors, a few pixels that stand for the rest, fewer rays (2025)."""

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
    """Expansive Supervision (ICME 2025): a part of the rays is rendered, half of it on anchors.

    Anchors are the strongest edges of every view (:func:`pixel_maps.anchors`). The loss is
    λa · mean(anchors) + c · λs · mean(others), as weights scaled to mean 1, so that regularisers
    keep their share.

    Options:
        n: rays per step before ``rendered``.
        rendered: share of n that is rendered.
        anchors: α, the share of every view that becomes anchors; where a picture has fewer edges,
            what it really has.
        anchor_rays: β, the share of the rendered rays on anchors; the rest is on other pixels.
        scale: of the other pixels. ``fade``: c falls linearly from (1 − α)/α to 1, which is
            unbiased at first and ends with the anchors at 3:1 (for α = 0.25); ``add``: c = 1
            (`--a_s_add` of the public code); ``plain``: every ray counts the same (`--use_mse`).
        anchor_weight: λa.
        source_weight: λs.
    """

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
        self.scale = scale
        self.anchor_weight = anchor_weight
        self.source_weight = source_weight
        self.progress = 0.0
        masks = pixel_maps.edge_maps(images, partial(pixel_maps.anchors, share=anchors))
        self.rows, self.cols = masks.shape[1:]
        self.strata = Strata(masks)
        is_anchor = torch.arange(self.rays) < self.anchor_rays
        self.register_buffer("is_anchor", is_anchor, persistent=False)

    def advance(self, progress: float) -> None:
        self.progress = progress

    def select(self, step: int, rng: Generator) -> Pixels:
        place = self.strata.draw(self.is_anchor, uniform(self.rays, rng))
        if self.scale == "plain":
            weight = torch.ones(self.rays, device=place.device)
        else:
            first = (1 - self.strata.share) / self.strata.share
            c = first + (1 - first) * self.progress if self.scale == "fade" else 1.0
            anchor = self.anchor_weight
            other = c * self.source_weight
            others = self.rays - self.anchor_rays
            weight = torch.where(self.is_anchor, anchor / self.anchor_rays, other / others)
            weight = weight * self.rays / (anchor + other)
        return at(place, self.rows, self.cols, weight)
