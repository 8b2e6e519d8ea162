"""Edge-guided rays (EGRA): slightly more rays on the pictures' edges."""

from __future__ import annotations

from functools import partial

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from . import pixel_maps
from .base import SELECTORS, RaySelector
from .drawing import Strata, at, enough, importance, in_range, uniform


@SELECTORS.register("egra")
class EdgeGuided(RaySelector):
    """Edge-guided rays (EGRA): pixels on Canny edges are drawn more often than the others.

    A pixel's chance is proportional to E · edge_chance + (1 − edge_chance) · flat_chance, with
    E = 1 on edges and 0 elsewhere. The default constants are those of the public code: an edge
    pixel is drawn 1.39 times as often. Draws are with replacement.

    Options:
        n: rays per step.
        edge_chance: what an edge adds to a pixel's chance.
        flat_chance: the chance of a pixel without an edge, before scaling.
        canny_low: threshold of weak edges, on the Sobel magnitude of 8-bit values.
        canny_high: threshold of strong edges.
        shift: move every batch 6 to 9 pixels along the rows (over the end of a row into the next);
            the published "dynamic range", which supervises one side of each edge too.
        correction: share of the emphasis that the weights take back, from 0 (the public code) to 1
            (unbiased).
    """

    def __init__(
        self,
        *,
        n: int = 1024,
        edge_chance: float = 0.0025,
        flat_chance: float = 0.0064,
        canny_low: float = 30.0,
        canny_high: float = 40.0,
        shift: bool = False,
        correction: float = 1.0,
        images: Tensor,
    ) -> None:
        super().__init__()
        in_range("edge_chance", edge_chance, 0, 1)
        in_range("flat_chance", flat_chance, 0, 1, strictly=True)
        in_range("canny_high", canny_high, 0, 1020)
        in_range("canny_low", canny_low, 0, canny_high)
        in_range("correction", correction, 0, 1)
        self.n = enough(n, 1, "batch")
        self.shift = shift
        self.correction = correction
        self.unbiased = correction == 1
        canny = partial(pixel_maps.canny_edges, low=canny_low, high=canny_high)
        edges = pixel_maps.edge_maps(images, canny)
        self.rows, self.cols = edges.shape[1:]
        self.strata = Strata(edges)
        elsewhere = (1 - edge_chance) * flat_chance
        edge = edge_chance + elsewhere
        mean = self.strata.share * edge + (1 - self.strata.share) * elsewhere
        self.density_on = edge / mean
        self.density_off = elsewhere / mean

    def select(self, step: int, rng: Generator) -> Pixels:
        inside = uniform(self.n, rng) < self.strata.share * self.density_on
        place = self.strata.draw(inside, uniform(self.n, rng)).long()
        if self.shift:
            by = torch.randint(6, 10, (), generator=rng, device=rng.device)
            view = self.rows * self.cols
            place = place // view * view + (place % view + by) % view
        density = torch.where(inside, self.density_on, self.density_off)
        return at(place, self.rows, self.cols, importance(density, self.correction))
