"""Drawing pixels from chances: cumulative sums, tiles, masks, and importance weights."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...core.errors import UserError
from ...core.types import Pixels


def in_range(name: str, value: float, low: float, high: float, *, strictly: bool = False) -> None:
    """Refuse an option outside [low, high]; with ``strictly`` its ends are refused too."""
    if not low <= value <= high or (strictly and value in (low, high)):
        words = "strictly between" if strictly else "between"
        raise UserError(
            f"got selector option {name} = {value:g}",
            f"wanted it {words} {low:g} and {high:g}",
            "change the option",
        )


def enough(n: int, least: int, what: str) -> int:
    """A batch of n rays, refused when smaller than ``least``, the number of ``what``."""
    if n < least:
        raise UserError(
            f"got a batch of {n} rays for {least} {what}",
            f"wanted at least {least}",
            "set the selector's n higher",
        )
    return n


def at(index: Tensor, rows: int, cols: int, weight: Tensor) -> Pixels:
    """Pixels from their place [N] in the row-major list of all pixels of all views.

    >>> at(torch.tensor([7]), 2, 3, torch.ones(1)).yx
    tensor([[0., 1.]])
    """
    place = index.long()
    yx = torch.stack([place // cols % rows, place % cols], -1)
    return Pixels(place // (rows * cols), yx.float(), weight.float())


def index_of(pixels: Pixels, rows: int, cols: int) -> Tensor:
    """Places [N] of the pixel centres nearest to pixels: the inverse of :func:`at`."""
    y, x = pixels.yx.detach().round().long().unbind(-1)
    return (pixels.view * rows + y.clamp(0, rows - 1)) * cols + x.clamp(0, cols - 1)


def uniform(n: int, rng: Generator) -> Tensor:
    """n random numbers of [0, 1), doubles: single precision cannot tell 2^24 pixels apart."""
    return torch.rand(n, generator=rng, device=rng.device, dtype=torch.float64)


def systematic(n: int, rng: Generator) -> Tensor:
    """n evenly spaced numbers of [0, 1) with one random offset, doubles.

    Any interval holds as many of them as its length says, give or take one.
    """
    u = torch.rand(1, generator=rng, device=rng.device, dtype=torch.float64)
    return (torch.arange(n, device=u.device) + u) / n


def cumulative(chances: Tensor) -> Tensor:
    """The cumulative sum [M + 1] of chances [M], from 0 to 1, in double precision."""
    total = torch.cat(
        [chances.new_zeros(1, dtype=torch.float64), chances.flatten().double().cumsum(0)]
    )
    return total / total[-1]


def invert(
    cdf: Tensor, u: Tensor, start: Tensor | None = None, end: Tensor | None = None
) -> Tensor:
    """The cells [N] of a cumulative sum [M + 1] in which u [N] falls.

    With ``start`` and ``end`` [N], u counts within the cells start … end − 1 alone.

    >>> u = torch.tensor([0.1, 0.3], dtype=torch.float64)
    >>> invert(cumulative(torch.tensor([1.0, 0.0, 3.0])), u).tolist()
    [0, 2]
    """
    if start is not None and end is not None:
        u = cdf[start] + u * (cdf[end] - cdf[start])
        return torch.searchsorted(cdf, u, right=True).sub(1).maximum(start).minimum(end - 1)
    return torch.searchsorted(cdf, u, right=True).sub(1).clamp(0, len(cdf) - 2)


def importance(density: Tensor, correction: float) -> Tensor:
    """Weights density^−correction [N] of pixels drawn at density times the uniform chance.

    A correction of 1 makes any weighted mean unbiased, with mean weight 1 in expectation; 0 leaves
    the emphasis in the loss. Weights between the two are scaled to mean 1 over the batch.
    """
    weight = density.pow(-correction)
    return weight if correction in (0.0, 1.0) else weight / weight.mean()


class Strata(nn.Module):
    """The pixels inside and outside a mask [V, H, W], drawn evenly and with replacement."""

    inside: Tensor
    outside: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.rows, self.cols = mask.shape[1:]
        flat = mask.flatten()
        self.register_buffer("inside", flat.nonzero()[:, 0].int(), persistent=False)
        self.register_buffer("outside", (~flat).nonzero()[:, 0].int(), persistent=False)
        self.share = len(self.inside) / len(flat)

    def draw(self, inside: Tensor, u: Tensor) -> Tensor:
        """Places [N] of pixels by uniform numbers u [N]; inside the mask where ``inside`` [N]."""
        n = torch.where(inside, len(self.inside), len(self.outside))
        k = (u * n).long().minimum(n - 1)
        return torch.where(
            inside,
            self.inside[k.clamp_max(len(self.inside) - 1)],
            self.outside[k.clamp_max(len(self.outside) - 1)],
        )


class Tiles:
    """A grid of ``down`` × ``across`` tiles over a picture; its sides need not divide evenly.

    >>> tiles = Tiles(5, 4, 2, 2)
    >>> tiles.pixels.tolist()
    [6, 6, 4, 4]
    """

    def __init__(self, rows: int, cols: int, down: int, across: int) -> None:
        if not 1 <= down <= rows or not 1 <= across <= cols:
            raise UserError(
                f"got {down}×{across} tiles for pictures of {rows}×{cols}",
                "wanted at most one per pixel",
                "make the selector's grid coarser",
            )
        self.rows = rows
        self.cols = cols
        self.down = down
        self.across = across
        self.count = down * across
        top = self._starts(torch.arange(down + 1), rows, down)
        left = self._starts(torch.arange(across + 1), cols, across)
        self.pixels = (top.diff()[:, None] * left.diff()).flatten()

    @staticmethod
    def _starts(tile: Tensor, length: int, tiles: int) -> Tensor:
        return -(-tile * length // tiles)

    def of(self, yx: Tensor) -> Tensor:
        """The tiles [N] of the pixels nearest to yx [N, 2]."""
        y, x = yx.detach().round().long().unbind(-1)
        row = y.clamp(0, self.rows - 1) * self.down // self.rows
        col = x.clamp(0, self.cols - 1) * self.across // self.cols
        return row * self.across + col

    def draw(self, tile: Tensor, rng: Generator) -> Tensor:
        """A pixel centre [N, 2] of each tile [N], uniform within it."""
        sides = (
            (tile // self.across, self.rows, self.down),
            (tile % self.across, self.cols, self.across),
        )
        parts = []
        for k, length, tiles in sides:
            start = self._starts(k, length, tiles)
            end = self._starts(k + 1, length, tiles)
            u = uniform(len(tile), rng)
            parts.append((start + u * (end - start)).floor().minimum(end - 1))
        return torch.stack(parts, -1).float()


def tile_means(tile: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The mean of values [N] in each of ``count`` tiles, and how many fell there, [count] both.

    >>> tile_means(torch.tensor([0, 2, 2]), torch.tensor([1.0, 2.0, 4.0]), 3)
    (tensor([1., 0., 3.]), tensor([1, 0, 2]))
    """
    hits = torch.bincount(tile, minlength=count)
    total = torch.zeros(count, device=values.device).index_add(0, tile, values)
    return total / hits.clamp_min(1), hits
