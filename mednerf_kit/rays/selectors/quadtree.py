"""Adaptive quadtree: leaves that still err keep all their pixels, the others a handful (Zhang et
al., TIP 2023).
"""

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
    """Which of 4^depth cells each pixel [rows·cols] is in, and the first [4^depth + 1] of each
    among pixels sorted by cell.

    Cells are numbered by interleaving the bits of their row and column, so every node of the
    quadtree is a run of cells.

    >>> z_order(2, 4, 1)[0].tolist()
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    y, x = torch.arange(rows) * 2**depth // rows, torch.arange(cols) * 2**depth // cols
    cell = torch.zeros(rows, cols, dtype=torch.int64)
    for bit in range(depth):
        cell += ((y >> bit & 1) << (2 * bit + 1))[:, None] + ((x >> bit & 1) << (2 * bit))
    count = torch.bincount(cell.flatten(), minlength=4**depth)
    return cell.flatten(), torch.cat([torch.zeros(1, dtype=torch.int64), count.cumsum(0)])


@dataclass(frozen=True)
class Plan:
    """The leaves of one epoch: for L leaves of all views, their pixels' run in z-order and their
    share of the rays.
    """

    view: Tensor  # [L]
    start: Tensor  # [L]
    end: Tensor  # [L]
    cdf: Tensor  # [L + 1] of the rays
    rays: int


@SELECTORS.register("quadtree")
class Quadtree(RaySelector):
    """Every view is a quadtree, from ``depth`` on. An epoch gives an open leaf a ray per pixel, a
    closed one ``n0``.

    After ``refresh_epochs`` epochs an open leaf whose mean error (√ of the squared one, from its
    own rays) exceeds ``threshold`` is split in four, down to ``max_depth``; the others are closed
    for good. Within a leaf a share ``prior`` of the chance follows the context prior, the rest is
    uniform. From ``uniform_from`` of the training on, all pixels are drawn uniformly. The published
    method renders every view for its refresh and has ``correction`` 0.
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
    prior_cdf: Tensor
    hits: Tensor
    background: Tensor

    def __init__(
        self,
        *,
        n: int = 1024,
        depth: int = 2,
        max_depth: int = 6,
        threshold: float = 0.015,
        n0: int = 10,
        refresh_epochs: int = 1,
        prior: float = 0.5,
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
        in_range("n0", n0, 1, float("inf"))
        in_range("refresh_epochs", refresh_epochs, 1, float("inf"))
        for name, value in (
            ("prior", prior),
            ("uniform_from", uniform_from),
            ("correction", correction),
        ):
            in_range(name, value, 0, 1)
        self.n, self.max_depth, self.threshold = (
            enough(n, 1, "batch"),
            min(max_depth, deepest),
            threshold,
        )
        self.n0, self.refresh_epochs, self.prior, self.uniform_from = (
            n0,
            refresh_epochs,
            prior,
            uniform_from,
        )
        self.correction, self.unbiased, self.progress = correction, correction == 1, 0.0
        cell, first = z_order(self.rows, self.cols, self.max_depth)
        order = cell.argsort(stable=True)
        chances = pixel_maps.per_view(images, pixel_maps.local_spread).flatten(1)[:, order]
        fixed = {
            "cell": cell,
            "first": first,
            "order": order,
            "rank": order.argsort(),
            "prior_cdf": cumulative(chances),
            "hits": torch.zeros(self.views, self.rows, self.cols, dtype=torch.bool),
            "background": torch.stack([pixel_maps.gray(image).half() for image in images]),
        }
        shape = (self.views, 4**self.max_depth)
        state = {
            "depth": torch.full(shape, depth),
            "closed": torch.zeros(shape, dtype=torch.bool),
            "error": torch.zeros(shape),
            "seen": torch.zeros(shape),
            "drawn": torch.zeros((), dtype=torch.int64),
        }
        for key, buffer in {**fixed, **state}.items():
            self.register_buffer(key, buffer, persistent=key in state)
        self.plan: Plan | None = None
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "plan", None))

    def advance(self, progress: float) -> None:
        self.progress = progress

    def heads(self) -> Tensor:
        """For every cell [V, 4^max_depth] the first cell of its leaf: leaves are told apart by
        it.
        """
        cell = torch.arange(self.depth.shape[1], device=self.depth.device)
        return cell - cell % 4 ** (self.max_depth - self.depth)

    def planned(self) -> Plan:
        """The rays of an epoch over the leaves as they are now."""
        heads = self.heads()
        view, head = (
            (heads == torch.arange(heads.shape[1], device=heads.device)).nonzero().unbind(-1)
        )
        start = self.first[head]
        end = self.first[head + 4 ** (self.max_depth - self.depth[view, head])]
        rays = torch.where(self.closed[view, head], (end - start).clamp_max(self.n0), end - start)
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
        view, start, end = plan.view[leaf], plan.start[leaf], plan.end[leaf]
        z = start + (uniform(self.n, rng) * (end - start)).long()
        run = view * pixels
        guided = invert(self.prior_cdf, uniform(self.n, rng), run + start, run + end) - run
        z = torch.where(uniform(self.n, rng) < self.prior, guided, z)
        chance = (plan.cdf[leaf + 1] - plan.cdf[leaf]) * self.views * pixels / (end - start)
        weight = importance(chance * self.emphasis(view, z, start, end), self.correction)
        chosen = at(run + self.order[z], self.rows, self.cols, weight)
        self.hits.view(-1)[run + self.order[z]] = True
        self.drawn += self.n
        return chosen

    def emphasis(self, view: Tensor, z: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """How much likelier than uniform pixels z [N] (in z-order) are within their leaves' runs
        [start, end).
        """
        run = view * self.rows * self.cols
        own = self.prior_cdf[run + z + 1] - self.prior_cdf[run + z]
        whole = self.prior_cdf[run + end] - self.prior_cdf[run + start]
        return 1 - self.prior + self.prior * own / whole * (end - start)

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
        error, seen = self.error.gather(1, heads), self.seen.gather(1, heads)
        judged = ~self.closed & (seen > 0)
        errs = error > self.threshold * seen
        self.closed |= judged & ~errs
        self.depth += (judged & errs & (self.depth < self.max_depth)).long()
        for is_line_integral in (self.error, self.seen, self.hits, self.drawn):
            is_line_integral.zero_()
        self.plan = None

    def overlay(self, view: int) -> Tensor:
        """A picture [H, W, 3] of a view: open leaves outlined in green, closed in blue, the rays
        since the refresh in red.
        """
        picture = 0.6 * self.background[view].float()[..., None].repeat(1, 1, 3)
        leaf = self.heads()[view][self.cell].view(self.rows, self.cols)
        closed = self.closed[view][self.cell].view(self.rows, self.cols)
        border = torch.zeros_like(closed)
        border[1:] |= leaf.diff(dim=0) != 0
        border[:, 1:] |= leaf.diff(dim=1) != 0
        for mask, colour in (
            (self.hits[view], (1.0, 0.2, 0.1)),
            (border & ~closed, (0.2, 0.9, 0.3)),
            (border & closed, (0.3, 0.5, 1.0)),
        ):
            picture[mask] = picture.new_tensor(colour)
        return picture
