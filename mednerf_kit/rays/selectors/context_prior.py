"""The context prior: more rays where a picture changes (Zhang et al., TIP 2023)."""

from __future__ import annotations

from torch import Generator, Tensor

from ...core.types import Pixels
from . import pixel_maps
from .base import SELECTORS, RaySelector
from .drawing import at, cumulative, enough, importance, in_range, invert, uniform


@SELECTORS.register("context")
class ContextPrior(RaySelector):
    """The context prior: chances by the spread of each 3×3 neighbourhood (TIP 2023).

    Options:
        n: rays per step.
        share: of the chance that follows the spread; the rest is uniform.
        correction: share of the emphasis that the weights take back, from 0 (the published method)
            to 1 (unbiased).
    """

    cdf: Tensor

    def __init__(
        self, *, n: int = 1024, share: float = 0.5, correction: float = 1.0, images: Tensor
    ) -> None:
        super().__init__()
        in_range("share", share, 0, 1)
        in_range("correction", correction, 0, 1)
        self.n = enough(n, 1, "batch")
        self.correction = correction
        self.unbiased = correction == 1
        spread = pixel_maps.per_view(images, pixel_maps.local_spread)
        self.rows, self.cols = spread.shape[1:]
        chances = share * spread / len(spread) + (1 - share) / spread.numel()
        self.register_buffer("cdf", cumulative(chances), persistent=False)

    def select(self, step: int, rng: Generator) -> Pixels:
        place = invert(self.cdf, uniform(self.n, rng))
        density = (self.cdf[place + 1] - self.cdf[place]) * (len(self.cdf) - 1)
        return at(place, self.rows, self.cols, importance(density, self.correction))
