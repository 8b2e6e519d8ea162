"""Which pixels are supervised: importance always sits in ``weight``, so a loss is always a weighted
mean.

A selector is a :class:`RaySelector`; the task calls its methods in this order, and every one but
``select`` may be left out: ``advance(progress)``, ``select(step, generator)``, (render),
``weigh(pixels, error)`` for the loss, then ``observe``. The facts a constructor may name are
``views``, ``rows``, ``cols``, ``images`` [V, H, W, C] and ``masks`` [V, H, W] or None.
docs/selectors.md says which to choose.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from ...core.config import Registry
from ...core.errors import UserError
from ...core.types import Pixels


class RaySelector(nn.Module):
    """What a selector may promise beside ``select``;
    state sits in buffers.

    ``error`` [N] is always the mean over channels of the squared difference at the pixels of the
    last ``select``, detached.
    """

    # the weighted mean of any f over a batch has the mean of f over all pixels as its expectation
    unbiased: bool = False
    wants_gradient: bool = False  # ``observe`` needs its third argument
    wants_full_error_every: int = 0  # steps between calls of ``observe_full``; 0: never

    @property
    def weighs(self) -> bool:
        """Whether this step's errors change its weights: the errors must then be at hand before the
        loss is.
        """
        return type(self).weigh is not RaySelector.weigh

    @property
    def observes(self) -> bool:
        """Whether the batch's errors are of any use to it: who has them on a device need not bring
        them otherwise.
        """
        return type(self).observe is not RaySelector.observe

    def select(self, step: int, rng: Generator) -> Pixels:
        """The batch of this step; ``step`` counts from 0."""
        raise NotImplementedError

    def weigh(self, pixels: Pixels, error: Tensor) -> Tensor:
        """The weights [N] the loss uses, for a selector that corrects by the errors of this very
        step.
        """
        return pixels.weight

    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        """Learn from the batch; ``pixels.weight`` are the weights the loss used.

        ``gradient`` [N, 2] is that of weight·error by ``pixels.yx``, through the ray and not
        through the target's lookup.
        """

    def observe_full(self, errors: Tensor) -> None:
        """Learn from the squared errors [V, H, W] of a render of every pixel."""

    def advance(self, progress: float) -> None:
        """Hear how far the training is, in [0, 1], before ``select``."""

    @property
    def evaluations(self) -> int:
        """Rays rendered only for this selector, beside the batches."""
        return 0


SELECTORS: Registry[RaySelector] = Registry("selector", home=__package__)


@SELECTORS.register("random")
class RandomRays(RaySelector):
    """``n`` pixels drawn uniformly and independently over all views (pixel centres)."""

    unbiased = True

    def __init__(self, *, n: int = 256, views: int, rows: int, cols: int) -> None:
        super().__init__()
        self.n, self.views, self.rows, self.cols = n, views, rows, cols

    def select(self, step: int, rng: Generator) -> Pixels:
        u = torch.rand((self.n, 3), generator=rng, device=rng.device)
        size = torch.tensor([self.views, self.rows, self.cols], device=u.device)
        index = (u * size).long().minimum(size - 1)
        return Pixels(index[:, 0], index[:, 1:].float(), torch.ones(self.n, device=u.device))


class PatchSelector(RaySelector):
    """Chooses square patches: whatever judges pictures needs neighbours."""

    def select(self, step: int, rng: Generator) -> Pixels:
        chosen = self.patches(1, step, rng)
        return Pixels(chosen.view[0], chosen.yx[0], chosen.weight[0])

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        """So many independent patches at once: the records' fields begin with [count, size²]."""
        raise NotImplementedError


@SELECTORS.register("patch")
class Patch(PatchSelector):
    """One ``size``×``size`` patch of a random view, its pixels ``stride`` apart (1: contiguous),
    placed uniformly.
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
        self.size, self.stride, self.views, self.rows, self.cols = size, stride, views, rows, cols

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        return self.placed(torch.full((count,), float(self.stride), device=rng.device), rng)

    def placed(self, strides: Tensor, rng: Generator) -> Pixels:
        """A patch with each of these strides [B]; positions are continuous where the stride is."""
        count, device = len(strides), strides.device
        u = torch.rand((count, 3), generator=rng, device=device)
        free = (
            torch.tensor([self.rows - 1, self.cols - 1], device=device)
            - (self.size - 1) * strides[:, None]
        )
        corner = u[:, 1:] * free
        whole = (u[:, 1:] * (free + 1)).floor().minimum(free)
        corner = torch.where((strides == strides.round())[:, None], whole, corner)
        line = torch.arange(self.size, device=device)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
        view = (u[:, :1] * self.views).long().clamp_max(self.views - 1).expand(-1, len(grid))
        return Pixels(
            view,
            grid * strides[:, None, None] + corner[:, None],
            torch.ones(view.shape, device=device),
        )


@SELECTORS.register("strided_patch")
class StridedPatch(PatchSelector):
    """GRAF's patch: a stride between 1 and what fills the picture, so that small patches see the
    whole (arXiv 2007.02442).
    """

    def __init__(self, *, size: int = 32, views: int, rows: int, cols: int) -> None:
        super().__init__()
        self.patch = Patch(size=size, views=views, rows=rows, cols=cols)
        self.longest = (min(rows, cols) - 1) / max(size - 1, 1)

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        u = torch.rand(count, generator=rng, device=rng.device)
        return self.patch.placed(1 + u * (self.longest - 1), rng)


def sample_bilinear(images: Tensor, pixels: Pixels) -> Tensor:
    """Values of images [V, H, W] or [V, H, W, C] at pixels [...]: bilinear, exact on pixel centres,
    [...] or [..., C].
    """
    rows, cols = images.shape[1:3]
    y, x = pixels.yx[..., 0].clamp(0, rows - 1), pixels.yx[..., 1].clamp(0, cols - 1)
    y0, x0 = (
        y.floor().long().clamp_max(max(rows - 2, 0)),
        x.floor().long().clamp_max(max(cols - 2, 0)),
    )
    y1, x1 = (y0 + 1).clamp_max(rows - 1), (x0 + 1).clamp_max(cols - 1)
    fy, fx = y - y0, x - x0
    if images.dim() == 4:
        fy, fx = fy[..., None], fx[..., None]
    v = pixels.view
    top = images[v, y0, x0] * (1 - fx) + images[v, y0, x1] * fx
    bottom = images[v, y1, x0] * (1 - fx) + images[v, y1, x1] * fx
    return top * (1 - fy) + bottom * fy
