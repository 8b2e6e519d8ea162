"""The contract of selectors, which choose the pixels that a training step supervises.

Importance always sits in ``weight``, so that a loss is always a weighted mean. The facts that a
selector's constructor may name are ``views``, ``rows``, ``cols``, ``images`` [V, H, W, C] and
``masks`` [V, H, W] or None. ``docs/selectors.md`` says which to choose. A new selector is a new
module of this package that registers itself.
"""

from __future__ import annotations

from torch import Generator, Tensor, nn

from ...core.config import Registry
from ...core.types import Pixels


class RaySelector(nn.Module):
    """What every selector promises; all but ``select`` has a default.

    A task calls ``advance(progress)``, then ``select(step, rng)``, renders the pixels, takes the
    weights of the loss from ``weigh(pixels, error)``, and then calls ``observe``. ``error`` [N] is
    always the mean over channels of the squared difference at the pixels of the last ``select``,
    detached. A selector's state sits in buffers.
    """

    # the weighted mean of any f over a batch has the mean of f over all pixels as its expectation
    unbiased: bool = False
    wants_gradient: bool = False  # ``observe`` needs its third argument
    wants_full_error_every: int = 0  # steps between calls of ``observe_full``; 0: never

    @property
    def weighs(self) -> bool:
        """Whether a step's own errors change its weights, and so must be there before the loss."""
        return type(self).weigh is not RaySelector.weigh

    @property
    def observes(self) -> bool:
        """Whether the batch's errors are of use; if not, they need not leave the device."""
        return type(self).observe is not RaySelector.observe

    def select(self, step: int, rng: Generator) -> Pixels:
        """The batch of this step; ``step`` counts from 0."""
        raise NotImplementedError

    def weigh(self, pixels: Pixels, error: Tensor) -> Tensor:
        """The weights [N] of the loss, which may depend on the errors of this very step."""
        return pixels.weight

    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        """Learn from the batch; ``pixels.weight`` are the weights that the loss used.

        ``gradient`` [N, 2] is that of weight · error by ``pixels.yx``, through the ray and not
        through the lookup of the target.
        """

    def observe_full(self, errors: Tensor) -> None:
        """Learn from the squared errors [V, H, W] of a render of every pixel."""

    def advance(self, progress: float) -> None:
        """Take note of how far the training is, in [0, 1]; called before ``select``."""

    @property
    def evaluations(self) -> int:
        """Rays that were rendered for this selector alone, beside the batches."""
        return 0


SELECTORS: Registry[RaySelector] = Registry("selector", home=__package__)


class PatchSelector(RaySelector):
    """The contract of selectors of square patches: whatever judges pictures needs neighbours."""

    def select(self, step: int, rng: Generator) -> Pixels:
        chosen = self.patches(1, step, rng)
        return Pixels(chosen.view[0], chosen.yx[0], chosen.weight[0])

    def patches(self, count: int, step: int, rng: Generator) -> Pixels:
        """``count`` independent patches; the fields of the result begin with [count, size²]."""
        raise NotImplementedError


def sample_bilinear(images: Tensor, pixels: Pixels) -> Tensor:
    """Values of images at pixels [...], bilinear between pixel centres and exact on them.

    Images [V, H, W] give [...], images [V, H, W, C] give [..., C]. Pixels outside an image take
    the value of its border.
    """
    rows, cols = images.shape[1:3]
    y = pixels.yx[..., 0].clamp(0, rows - 1)
    x = pixels.yx[..., 1].clamp(0, cols - 1)
    y0 = y.floor().long().clamp_max(max(rows - 2, 0))
    x0 = x.floor().long().clamp_max(max(cols - 2, 0))
    y1 = (y0 + 1).clamp_max(rows - 1)
    x1 = (x0 + 1).clamp_max(cols - 1)
    fy = y - y0
    fx = x - x0
    if images.dim() == 4:
        fy, fx = fy[..., None], fx[..., None]
    v = pixels.view
    top = images[v, y0, x0] * (1 - fx) + images[v, y0, x1] * fx
    bottom = images[v, y1, x0] * (1 - fx) + images[v, y1, x1] * fx
    return top * (1 - fy) + bottom * fy
