"""Square patches: contiguous ones, and the spread ones of GRAF (arXiv 2007.02442)."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...core.types import Pixels
from .base import SELECTORS, PatchSelector


@SELECTORS.register("patch")
class Patch(PatchSelector):
    """A square patch of a random view, placed uniformly.

    Options:
        size: pixels along each side.
        stride: distance between neighbouring pixels, in pixels; 1: contiguous.
    """

    def __init__(
        self, *, size: int = 32, stride: int = 1, views: int, rows: int, cols: int
    ) -> None:
        super().__init__()
        if (size - 1) * stride + 1 > min(rows, cols):
            raise UserError(
                f"got a patch of {size} pixels {stride} apart",
                f"wanted one inside {rows}×{cols}",
                "make it smaller",
            )
        self.size = size
        self.stride = stride
        self.views = views
        self.rows = rows
        self.cols = cols

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        return self.placed(torch.full((count,), float(self.stride), device=rng.device), rng)

    def placed(self, strides: Tensor, rng: Generator) -> Pixels:
        """A patch with each of these strides [B]; positions are continuous where the stride is."""
        count = len(strides)
        device = strides.device
        u = torch.rand((count, 3), generator=rng, device=device)
        last = torch.tensor([self.rows - 1, self.cols - 1], device=device)
        free = last - (self.size - 1) * strides[:, None]
        corner = u[:, 1:] * free
        whole = (u[:, 1:] * (free + 1)).floor().minimum(free)
        corner = torch.where((strides == strides.round())[:, None], whole, corner)
        line = torch.arange(self.size, device=device)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        view = (u[:, :1] * self.views).long().clamp_max(self.views - 1).expand(-1, len(grid))
        yx = grid * strides[:, None, None] + corner[:, None]
        return Pixels(view, yx, torch.ones(view.shape, device=device))


@SELECTORS.register("strided_patch")
class StridedPatch(PatchSelector):
    """GRAF's patch: a random stride between 1 and what fills the picture.

    So a small patch sees the whole picture too.

    Options:
        size: pixels along each side.
    """

    def __init__(self, *, size: int = 32, views: int, rows: int, cols: int) -> None:
        super().__init__()
        self.patch = Patch(size=size, views=views, rows=rows, cols=cols)
        self.longest = (min(rows, cols) - 1) / max(size - 1, 1)

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        u = torch.rand(count, generator=rng, device=rng.device)
        return self.patch.placed(1 + u * (self.longest - 1), rng)


@SELECTORS.register("annealed_patch")
class AnnealedPatch(PatchSelector):
    """GRAF's patch with an annealed scale: at first most of the picture, later its details too.

    The pixels are spread evenly over a square of s times the picture's side anywhere in it, with s
    uniform from :func:`smallest_scale` to 1.

    Options:
        size: pixels along each side.
        least: smallest scale at the end.
        most: smallest scale at the beginning.
        rate: by which the smallest scale falls per step. The default is GRAF's for 100 000 steps
            of training; a shorter training wants a larger one.
    """

    def __init__(
        self,
        *,
        size: int = 8,
        least: float = 0.25,
        most: float = 0.9,
        rate: float = 7.5e-6,
        views: int,
        rows: int,
        cols: int,
    ) -> None:
        super().__init__()
        if not (0 < least <= most <= 1 and rate >= 0):
            raise UserError(
                f"got scales from {least:g}, at most {most:g}, and rate {rate:g}",
                "wanted 0 < least <= most <= 1 and a rate of at least 0",
                "correct the patch's options",
            )
        self.patch = Patch(size=size, views=views, rows=rows, cols=cols)
        self.longest = (min(rows, cols) - 1) / max(size - 1, 1)
        self.least = least
        self.most = most
        self.rate = rate

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        low = smallest_scale(step, least=self.least, most=self.most, rate=self.rate)
        u = torch.rand(count, generator=rng, device=rng.device)
        return self.patch.placed((low + (1 - low) * u) * self.longest, rng)


def smallest_scale(
    step: int, *, least: float = 0.25, most: float = 0.9, rate: float = 7.5e-6
) -> float:
    """Lower end of the scales that are drawn at a step, as a share of the picture's side.

    It is min(most, max(least, exp(−1000 · rate · ⌊step / 1000⌋))).

    >>> [round(smallest_scale(step), 2) for step in (0, 20_000, 100_000, 200_000)]
    [0.9, 0.86, 0.47, 0.25]
    """
    return min(most, max(least, math.exp(-1000 * rate * (step // 1000))))
