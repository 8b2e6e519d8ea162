"""Which pixels are supervised: importance always sits in ``weight``, so a loss is always a weighted mean."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..core.config import Registry
from ..core.errors import UserError
from ..core.types import Pixels, Selector

SELECTORS: Registry[Selector] = Registry("selector")


@SELECTORS.register("random")
class RandomRays:
    """``n`` pixels drawn uniformly over all views (pixel centres)."""

    def __init__(self, *, n: int = 256, views: int, rows: int, cols: int) -> None:
        self.n, self.views, self.rows, self.cols = n, views, rows, cols

    def select(self, step: int, generator: Generator) -> Pixels:
        u = torch.rand((self.n, 3), generator=generator, device=generator.device)
        size = torch.tensor([self.views, self.rows, self.cols], device=u.device)
        index = (u * size).long().minimum(size - 1)
        return Pixels(index[:, 0], index[:, 1:].float(), torch.ones(self.n, device=u.device))


@SELECTORS.register("patch")
class Patch:
    """One ``size``×``size`` patch of a random view, its pixels ``stride`` apart (1: contiguous), placed uniformly."""

    def __init__(self, *, size: int = 32, stride: int = 1, views: int, rows: int, cols: int) -> None:
        if (size - 1) * stride + 1 > min(rows, cols):
            raise UserError(f"got a patch of {size} pixels {stride} apart", f"wanted one inside {rows}×{cols}", "make it smaller")
        self.size, self.stride, self.views, self.rows, self.cols = size, stride, views, rows, cols

    def select(self, step: int, generator: Generator) -> Pixels:
        return self.place(self.stride, generator)

    def place(self, stride: float, generator: Generator) -> Pixels:
        """A patch with this stride; positions are continuous when the stride is."""
        u = torch.rand(3, generator=generator, device=generator.device)
        reach = (self.size - 1) * stride
        free = torch.tensor([self.rows - 1 - reach, self.cols - 1 - reach], device=u.device)
        whole = float(stride).is_integer()
        corner = (u[1:] * (free + 1)).floor().minimum(free) if whole else u[1:] * free
        step = torch.arange(self.size, device=u.device) * stride
        grid = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1) + corner
        view = (u[0] * self.views).long().clamp_max(self.views - 1)
        n = self.size**2
        return Pixels(view.expand(n), grid.reshape(n, 2).float(), torch.ones(n, device=u.device))


@SELECTORS.register("strided_patch")
class StridedPatch:
    """GRAF's patch: a stride between 1 and what fills the picture, so that small patches see the whole (arXiv 2007.02442)."""

    def __init__(self, *, size: int = 32, views: int, rows: int, cols: int) -> None:
        self.patch = Patch(size=size, views=views, rows=rows, cols=cols)
        self.longest = (min(rows, cols) - 1) / max(size - 1, 1)

    def select(self, step: int, generator: Generator) -> Pixels:
        u = float(torch.rand((), generator=generator, device=generator.device))
        return self.patch.place(1 + u * (self.longest - 1), generator)


def look_up(images: Tensor, pixels: Pixels) -> Tensor:
    """Values of images [V, H, W] at pixels [...]: bilinear, exact on pixel centres, [...]."""
    rows, cols = images.shape[-2:]
    y, x = pixels.yx[..., 0].clamp(0, rows - 1), pixels.yx[..., 1].clamp(0, cols - 1)
    y0, x0 = y.floor().long().clamp_max(max(rows - 2, 0)), x.floor().long().clamp_max(max(cols - 2, 0))
    y1, x1 = (y0 + 1).clamp_max(rows - 1), (x0 + 1).clamp_max(cols - 1)
    fy, fx = y - y0, x - x0
    v = pixels.view
    top = images[v, y0, x0] * (1 - fx) + images[v, y0, x1] * fx
    bottom = images[v, y1, x0] * (1 - fx) + images[v, y1, x1] * fx
    return top * (1 - fy) + bottom * fy
