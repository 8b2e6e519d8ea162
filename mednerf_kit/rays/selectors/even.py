"""Selectors that spread rays more evenly than chance does: shuffled epochs and Latin hypercubes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from .base import SELECTORS, RaySelector
from .drawing import at, enough


@SELECTORS.register("shuffled")
class Shuffled(RaySelector):
    """Every pixel of every view once per epoch in a random order, new each epoch; an incomplete
    last batch is dropped.
    """

    unbiased = True
    seed: Tensor
    taken: Tensor

    def __init__(self, *, n: int = 1024, views: int, rows: int, cols: int) -> None:
        super().__init__()
        self.total, self.rows, self.cols = views * rows * cols, rows, cols
        self.n = min(enough(n, 1, "batch"), self.total)
        self.order: Tensor | None = None
        # An epoch is kept as its seed: a snapshot need not hold the order of every pixel.
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        self.register_buffer("taken", torch.tensor(self.total))
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "order", None))

    def select(self, step: int, rng: Generator) -> Pixels:
        taken = int(self.taken)
        if taken + self.n > self.total:
            self.seed.fill_(torch.randint(2**62, (), generator=rng, device=rng.device))
            taken, self.order = 0, None
        if self.order is None:
            dealer = Generator(rng.device).manual_seed(int(self.seed))
            self.order = torch.randperm(
                self.total, generator=dealer, device=rng.device, dtype=torch.int32
            )
        self.taken.fill_(taken + self.n)
        place = self.order[taken : taken + self.n]
        return at(place, self.rows, self.cols, torch.ones(self.n, device=place.device))


@SELECTORS.register("latin_hypercube")
class LatinHypercube(RaySelector):
    """A Latin hypercube (McKay et al. 1979): of n rays, one in each n-th of the views, of the rows
    and of the columns.

    ``over: view`` makes one of n/views rays (rounded down) over the rows and columns of every view
    instead.
    """

    unbiased = True

    def __init__(
        self,
        *,
        n: int = 1024,
        over: Literal["scene", "view"] = "scene",
        views: int,
        rows: int,
        cols: int,
    ) -> None:
        super().__init__()
        self.n, self.over, self.views, self.rows, self.cols = (
            enough(n, views, "views"),
            over,
            views,
            rows,
            cols,
        )

    def select(self, step: int, rng: Generator) -> Pixels:
        device = rng.device
        cubes, axes = (
            (1, (self.views, self.rows, self.cols))
            if self.over == "scene"
            else (self.views, (self.rows, self.cols))
        )
        n = self.n // cubes
        strata = torch.rand((cubes, len(axes), n), generator=rng, device=device).argsort(-1)
        u = (
            strata + torch.rand(strata.shape, generator=rng, device=device, dtype=torch.float64)
        ) / n
        size = torch.tensor(axes, device=device)[:, None]
        place = (u * size).long().minimum(size - 1).transpose(1, 2)
        view = (
            place[0, :, 0]
            if self.over == "scene"
            else torch.arange(cubes, device=device).repeat_interleave(n)
        )
        return Pixels(
            view, place[..., -2:].reshape(-1, 2).float(), torch.ones(cubes * n, device=device)
        )
