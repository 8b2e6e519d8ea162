"""Selectors that prefer no pixel: at random, in shuffled epochs, and by Latin hypercubes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from ...core.types import Pixels
from .base import SELECTORS, RaySelector
from .drawing import at, enough


@SELECTORS.register("random")
class RandomRays(RaySelector):
    """Pixel centres drawn uniformly and independently over all views.

    Options:
        n: rays per step.
    """

    unbiased = True

    def __init__(self, *, n: int = 256, views: int, rows: int, cols: int) -> None:
        super().__init__()
        self.n = n
        self.views = views
        self.rows = rows
        self.cols = cols

    def select(self, step: int, rng: Generator) -> Pixels:
        u = torch.rand((self.n, 3), generator=rng, device=rng.device)
        size = torch.tensor([self.views, self.rows, self.cols], device=u.device)
        index = (u * size).long().minimum(size - 1)
        return Pixels(index[:, 0], index[:, 1:].float(), torch.ones(self.n, device=u.device))


@SELECTORS.register("shuffled")
class Shuffled(RaySelector):
    """Every pixel of every view once per epoch, in a random order that is new each epoch.

    An incomplete last batch of an epoch is dropped.

    Options:
        n: rays per step.
    """

    unbiased = True
    seed: Tensor
    taken: Tensor

    def __init__(self, *, n: int = 1024, views: int, rows: int, cols: int) -> None:
        super().__init__()
        self.total = views * rows * cols
        self.rows = rows
        self.cols = cols
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
            self.order = None
            taken = 0
        if self.order is None:
            epoch_rng = Generator(rng.device).manual_seed(int(self.seed))
            self.order = torch.randperm(
                self.total, generator=epoch_rng, device=rng.device, dtype=torch.int32
            )
        self.taken.fill_(taken + self.n)
        place = self.order[taken : taken + self.n]
        return at(place, self.rows, self.cols, torch.ones(self.n, device=place.device))


@SELECTORS.register("latin_hypercube")
class LatinHypercube(RaySelector):
    """A Latin hypercube (McKay et al. 1979): of n rays, one in each n-th of every axis.

    Options:
        n: rays per step.
        over: ``scene`` makes one hypercube whose axes are the views, rows and columns; ``view``
            makes one of n/views rays (rounded down) over the rows and columns of every view.
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
        self.n = enough(n, views, "views")
        self.over = over
        self.views = views
        self.rows = rows
        self.cols = cols

    def select(self, step: int, rng: Generator) -> Pixels:
        device = rng.device
        whole = self.over == "scene"
        cubes = 1 if whole else self.views
        axes = (self.views, self.rows, self.cols) if whole else (self.rows, self.cols)
        n = self.n // cubes
        shape = (cubes, len(axes), n)
        strata = torch.rand(shape, generator=rng, device=device).argsort(-1)
        offset = torch.rand(shape, generator=rng, device=device, dtype=torch.float64)
        size = torch.tensor(axes, device=device)[:, None]
        place = ((strata + offset) / n * size).long().minimum(size - 1).transpose(1, 2)
        view = torch.arange(cubes, device=device).repeat_interleave(n)
        view = place[0, :, 0] if whole else view
        yx = place[..., -2:].reshape(-1, 2).float()
        return Pixels(view, yx, torch.ones(cubes * n, device=device))
