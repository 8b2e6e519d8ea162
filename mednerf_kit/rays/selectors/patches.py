"""GRAF's patch with its annealed scale: at first always most of the picture, later down to its
details (arXiv 2007.02442).
"""

from __future__ import annotations

import math

import torch
from torch import Generator

from ...core.errors import UserError
from ...core.types import Pixels
from .base import SELECTORS, Patch, PatchSelector


def smallest_scale(
    step: int, *, least: float = 0.25, most: float = 0.9, rate: float = 7.5e-6
) -> float:
    """Lower end of the scales drawn at a step, of the side: min(most, max(least,
    exp(−1000·rate·floor(step / 1000)))).

    >>> [round(smallest_scale(step), 2) for step in (0, 20_000, 100_000, 200_000)]
    [0.9, 0.86, 0.47, 0.25]
    """
    return min(most, max(least, math.exp(-1000 * rate * (step // 1000))))


@SELECTORS.register("annealed_patch")
class AnnealedPatch(PatchSelector):
    """``size``² pixels spread evenly over a square of s times the side anywhere, s uniform from
    :func:`smallest_scale` to 1.

    The default ``rate`` is GRAF's for 100 000 steps of training; a shorter training wants a larger
    one.
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
        self.least, self.most, self.rate = least, most, rate

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        low = smallest_scale(step, least=self.least, most=self.most, rate=self.rate)
        u = torch.rand(count, generator=rng, device=rng.device)
        return self.patch.placed((low + (1 - low) * u) * self.longest, rng)
