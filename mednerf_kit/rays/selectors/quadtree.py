"""Adaptive quadtree: leaves that still err keep all their pixels, the others a handful."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from . import pixel_maps
from .base import SELECTORS, RaySelector
from .drawing import (
    at,
    cumulative,
    enough,
    importance,
    in_range,
    index_of,
    invert,
    systematic,
    uniform,
)


def z_order(rows: int, cols: int, depth: int) -> tuple[Tensor, Tensor]:
    """Which of 4^depth cells each pixel [rows·cols] is in, and where each cell's run begins.

    The runs [4^depth + 1] are those of the pixels sorted by cell. Cells are numbered by
    interleaving the bits of their row and column, so every node of the quadtree is a run of cells.

    >>> z_order(2, 4, 1)[0].tolist()
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    y = torch.arange(rows) * 2**depth // rows
    x = torch.arange(cols) * 2**depth // cols
    cell = torch.zeros(rows, cols, dtype=torch.int64)
    for bit in range(depth):
        cell += ((y >> bit & 1) << (2 * bit + 1))[:, None] + ((x >> bit & 1) << (2 * bit))
    count = torch.bincount(cell.flatten(), minlength=4**depth)
    return cell.flatten(), torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])


@dataclass(frozen=True)
class Plan:
    """The L leaves of all views in one epoch: their pixels' runs in z-order, their rays."""

    view: Tensor  # [L]
    start: Tensor  # [L] of the run
    end: Tensor  # [L] of the run
    cdf: Tensor  # [L + 1] cumulative share of the rays
    rays: int  # in the epoch


@SELECTORS.register("quadtree")
class Quadtree(RaySelector):
    """A quadtree of every view (Zhang et al., TIP 2023): rays go to the leaves that still err.

    An epoch gives an open leaf a ray per pixel, and a closed one a handful. At a refresh an open
    leaf whose mean error (√ of the squared one, from its own rays) exceeds the threshold is split
    in four; the others are closed for good. The published method renders every view for its
    refresh.

    Options:
        n: rays per step.
        depth: of the quadtrees at first; 4^depth leaves per view.
        max_depth: depth from which leaves are not split any more.
        threshold: mean error up to which a leaf is closed.
        closed_rays: rays of a closed leaf per epoch.
        refresh_epochs: epochs between refreshes.
        context_share: of the chance within a leaf that follows the context prior; the rest is
            uniform.
        uniform_from: share of the training from which on all pixels are drawn uniformly.
        correction: share of the emphasis that the weights take back, from 0 (the published method)
            to 1 (unbiased).
    """

    depth: Tensor
    closed: Tensor
    error: Tensor
    seen: Tensor
    drawn: Tensor
    cell: Tensor
    first: Tensor
    order: Tensor
    rank: Tensor
    context_cdf: Tensor
    hits: Tensor
    background: Tensor

    def __init__(
        self,
        *,
        n: int = 1024,
        depth: int = 2,
        max_depth: int = 6,
        threshold: float = 0.015,
        closed_rays: int = 10,
        refresh_epochs: int = 1,
        context_share: float = 0.5,
        uniform_from: float = 11 / 12,
        correction: float = 0.0,
        images: Tensor,
    ) -> None:
        super().__init__()
        self.views, self.rows, self.cols = images.shape[:3]
        deepest = int(math.log2(min(self.rows, self.cols)))
        in_range("depth", depth, 0, deepest)
        in_range("max_depth", max_depth, depth, 12)
        in_range("threshold", threshold, 0, float("inf"))
        in_range("closed_rays", closed_rays, 1, float("inf"))
        in_range("refresh_epochs", refresh_epochs, 1, float("inf"))
        in_range("context_share", context_share, 0, 1)
        in_range("uniform_from", uniform_from, 0, 1)
        in_range("correction", correction, 0, 1)
        self.n = enough(n, 1, "batch")
        self.max_depth = min(max_depth, deepest)
        self.threshold = threshold
        self.closed_rays = closed_rays
        self.refresh_epochs = refresh_epochs
        self.context_share = context_share
        self.uniform_from = uniform_from
        self.correction = correction
        self.unbiased = correction == 1
        self.progress = 0.0
        self.plan: Plan | None = None
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "plan", None))
        self._register_pixels(images)
        self._register_leaves(depth)

    def _register_pixels(self, images: Tensor) -> None:
        """Buffers that follow from the images: z-order, context prior, background of overlays."""
        cell, first = z_order(self.rows, self.cols, self.max_depth)
        order = cell.argsort(stable=True)
        chances = pixel_maps.per_view(images, pixel_maps.local_spread).flatten(1)[:, order]
        fixed = {
            "cell": cell,
            "first": first,
            "order": order,
            "rank": order.argsort(),
            "context_cdf": cumulative(chances),
            "hits": torch.zeros(self.views, self.rows, self.cols, dtype=torch.bool),
            "background": torch.stack([pixel_maps.gray(image).half() for image in images]),
        }
        for name, buffer in fixed.items():
            self.register_buffer(name, buffer, persistent=False)

    def _register_leaves(self, depth: int) -> None:
        """Buffers that a snapshot keeps: the leaves, and what was seen in them."""
        shape = (self.views, 4**self.max_depth)
        self.register_buffer("depth", torch.full(shape, depth))
        self.register_buffer("closed", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("error", torch.zeros(shape))
        self.register_buffer("seen", torch.zeros(shape))
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))

    def advance(self, progress: float) -> None:
        self.progress = progress

    def heads(self) -> Tensor:
        """The first cell of every cell's leaf, [V, 4^max_depth]: leaves are told apart by it."""
        cell = torch.arange(self.depth.shape[1], device=self.depth.device)
        return cell - cell % 4 ** (self.max_depth - self.depth)

    def planned(self) -> Plan:
        """The rays of an epoch over the leaves as they are now."""
        heads = self.heads()
        is_head = heads == torch.arange(heads.shape[1], device=heads.device)
        view, head = is_head.nonzero().unbind(-1)
        start = self.first[head]
        end = self.first[head + 4 ** (self.max_depth - self.depth[view, head])]
        pixels = end - start
        rays = torch.where(self.closed[view, head], pixels.clamp_max(self.closed_rays), pixels)
        return Plan(view, start, end, cumulative(rays), int(rays.sum()))

    def select(self, step: int, rng: Generator) -> Pixels:
        pixels = self.rows * self.cols
        if self.progress >= self.uniform_from:
            place = torch.randint(self.views * pixels, (self.n,), generator=rng, device=rng.device)
            return at(place, self.rows, self.cols, torch.ones(self.n, device=place.device))
        if self.plan is not None and self.drawn >= self.refresh_epochs * self.plan.rays:
            self.refresh()
        plan = self.plan = self.plan or self.planned()
        leaf = invert(plan.cdf, systematic(self.n, rng))
        view = plan.view[leaf]
        start = plan.start[leaf]
        end = plan.end[leaf]
        z = start + (uniform(self.n, rng) * (end - start)).long()
        run = view * pixels
        guided = invert(self.context_cdf, uniform(self.n, rng), run + start, run + end) - run
        z = torch.where(uniform(self.n, rng) < self.context_share, guided, z)
        chance = (plan.cdf[leaf + 1] - plan.cdf[leaf]) * self.views * pixels / (end - start)
        weight = importance(chance * self.emphasis(view, z, start, end), self.correction)
        chosen = at(run + self.order[z], self.rows, self.cols, weight)
        self.hits.view(-1)[run + self.order[z]] = True
        self.drawn += self.n
        return chosen

    def emphasis(self, view: Tensor, z: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """How much likelier than uniform pixels z [N] (in z-order) are within their leaves.

        The leaves are the runs [start, end), [N] both.
        """
        run = view * self.rows * self.cols
        own = self.context_cdf[run + z + 1] - self.context_cdf[run + z]
        whole = self.context_cdf[run + end] - self.context_cdf[run + start]
        return 1 - self.context_share + self.context_share * own / whole * (end - start)

    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        if self.progress >= self.uniform_from:
            return
        place = index_of(pixels, self.rows, self.cols) % (self.rows * self.cols)
        cell = self.cell[place]
        size = 4 ** (self.max_depth - self.depth[pixels.view, cell])
        head = cell - cell % size
        weight = 1 / self.emphasis(
            pixels.view, self.rank[place], self.first[head], self.first[head + size]
        )
        leaf = pixels.view * self.depth.shape[1] + head
        self.error.view(-1).index_add_(0, leaf, (weight * error.to(weight).sqrt()).to(self.error))
        self.seen.view(-1).index_add_(0, leaf, weight.to(self.seen))

    def refresh(self) -> None:
        """Split or close the open leaves that were seen, and begin another epoch."""
        heads = self.heads()
        error = self.error.gather(1, heads)
        seen = self.seen.gather(1, heads)
        known = ~self.closed & (seen > 0)
        errs = error > self.threshold * seen
        self.closed |= known & ~errs
        self.depth += (known & errs & (self.depth < self.max_depth)).long()
        for total in (self.error, self.seen, self.hits, self.drawn):
            total.zero_()
        self.plan = None

    def overlay(self, view: int) -> Tensor:
        """A picture [H, W, 3] of a view with the leaves outlined: open green, closed blue.

        The pixels drawn since the last refresh are red.
        """
        picture = 0.6 * self.background[view].float()[..., None].repeat(1, 1, 3)
        leaf = self.heads()[view][self.cell].view(self.rows, self.cols)
        closed = self.closed[view][self.cell].view(self.rows, self.cols)
        border = torch.zeros_like(closed)
        border[1:] |= leaf.diff(dim=0) != 0
        border[:, 1:] |= leaf.diff(dim=1) != 0
        picture[self.hits[view]] = picture.new_tensor((1.0, 0.2, 0.1))
        picture[border & ~closed] = picture.new_tensor((0.2, 0.9, 0.3))
        picture[border & closed] = picture.new_tensor((0.3, 0.5, 1.0))
        return picture
