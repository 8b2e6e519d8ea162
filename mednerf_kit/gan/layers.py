"""Layers of generators and discriminators: equalised learning rate, binomial resampling, batch
statistics.

Every operation is plain torch on any device and can be differentiated twice, which gradient
penalties need.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

SLOPE = 0.2  # of every leaky ReLU here


def leaky_gain(slope: float = SLOPE) -> float:
    """The gain that undoes a leaky ReLU's loss of second moment: sqrt(2 / (1 + slope²)) (He et al.
    2015, eq. 14).

    >>> round(leaky_gain(0.0) ** 2, 6)
    2.0
    """
    return math.sqrt(2 / (1 + slope**2))


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2. The layer before it carries the gain, because positive factors pass
    through.
    """
    return functional.leaky_relu(x, SLOPE)


class Linear(nn.Module):
    """A linear layer with equalised learning rate (Karras et al. 2018, section 4.1):
    y = gain · (W x / sqrt(fan_in) + b) with W ~ N(0, 1).

    The constant stays outside the parameter, so that one optimiser step moves every layer by the
    same relative amount; ``lr_multiplier`` shrinks that amount without changing the function at the
    start.

    >>> layer = Linear(512, 64, lr_multiplier=0.01, rng=torch.Generator().manual_seed(0))
    >>> layer(torch.ones(2, 512)).shape, round(layer.weight.detach().std().item())
    (torch.Size([2, 64]), 100)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        gain: float = 1.0,
        lr_multiplier: float = 1.0,
        bias: float | None = 0.0,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.scale = gain * lr_multiplier
        self.weight = nn.Parameter(torch.randn(outputs, inputs, generator=rng) / lr_multiplier)
        self.bias = (
            None if bias is None else nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        weight = self.weight * (self.scale / math.sqrt(self.weight.shape[1]))
        return functional.linear(x, weight, None if self.bias is None else self.bias * self.scale)


class Conv2d(nn.Module):
    """Convolution that keeps the picture's size, with the equalised learning rate of
    :class:`Linear`.

    >>> Conv2d(3, 8, 3)(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 8, 16, 16])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        gain: float = 1.0,
        lr_multiplier: float = 1.0,
        bias: float | None = 0.0,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.scale = gain * lr_multiplier
        self.weight = nn.Parameter(
            torch.randn(outputs, inputs, kernel, kernel, generator=rng) / lr_multiplier
        )
        self.bias = (
            None if bias is None else nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H, W]"""
        weight = self.weight * (self.scale / math.sqrt(self.weight[0].numel()))
        bias = None if self.bias is None else self.bias * self.scale
        return functional.conv2d(x, weight, bias, padding=self.weight.shape[-1] // 2)


def _binomial(x: Tensor) -> Tensor:
    """The filter [1, 3, 3, 1] ⊗ [1, 3, 3, 1] / 64, once per channel."""
    return _binomial_2d(x.dtype, x.device).expand(x.shape[1], 1, 4, 4)


@functools.cache  # made once: a constant from the host would make a GPU wait at every layer
def _binomial_2d(dtype: torch.dtype, device: torch.device) -> Tensor:
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=dtype, device=device) / 8
    return torch.outer(row, row)


class _Down(torch.autograd.Function):
    """Down-sampling is linear and its adjoint is the up-sampling: each is the other's gradient, at
    every order.

    Saying so replaces autograd's second derivative of a grouped convolution, which costs several
    times the convolution.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.size = x.shape[-2:]
        return functional.conv2d(x, _binomial(x), stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Up.apply(gradient, ctx.size)


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        odd = [n - 2 * m for n, m in zip(size, x.shape[-2:], strict=True)]
        return functional.conv_transpose2d(
            x, _binomial(x), stride=2, padding=1, output_padding=odd, groups=x.shape[1]
        )

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Down.apply(gradient), None


def downsample(x: Tensor) -> Tensor:
    """Half the resolution, low-passed by [1, 3, 3, 1]/8 along both axes; outside counts as 0.
    [B, C, H, W] -> [B, C, H//2, W//2]

    >>> downsample(torch.ones(1, 1, 8, 8))[0, 0, 1, 1].item()
    1.0
    """
    return _Down.apply(x)


def upsample(x: Tensor) -> Tensor:
    """Twice the resolution, interpolated by [1, 3, 3, 1]/4: four times the adjoint of
    :func:`downsample`.

    >>> upsample(torch.ones(1, 1, 4, 4))[0, 0, 3, 3].item()
    1.0
    """
    return 4 * _Up.apply(x, (2 * x.shape[-2], 2 * x.shape[-1]))


def blurred(x: Tensor) -> Tensor:
    """A picture low-passed by [1, 4, 6, 4, 1]/16 along both axes, mirrored at its border.
    [B, C, H, W] -> the same

    >>> blurred(torch.ones(1, 1, 8, 8))[0, 0, 0, 0].item()
    1.0
    """
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16
    kernel = (row[:, None] * row).expand(x.shape[1], 1, 5, 5)
    return functional.conv2d(
        functional.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1]
    )


def minibatch_stddev(x: Tensor, group: int) -> Tensor:
    """One channel more, which says how much the pictures of a group differ (Karras et al. 2018,
    section 3).

    The standard deviation over ``group`` consecutive pictures, averaged over channels and pixels,
    is repeated for each of them. A batch that ``group`` does not divide uses their greatest common
    divisor. [B, C, H, W] -> [B, C + 1, H, W]

    >>> minibatch_stddev(torch.arange(4.0).reshape(4, 1, 1, 1), 2)[:, 1].flatten()
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    batch, _, height, width = x.shape
    variance = x.unflatten(0, (-1, math.gcd(batch, group))).float().var(1, unbiased=False)
    # the epsilon keeps equal pictures differentiable
    spread = (variance + 1e-8).sqrt().mean((1, 2, 3))
    repeated = spread.to(x.dtype).repeat_interleave(batch // len(spread))
    channel = repeated[:, None, None, None].expand(-1, -1, height, width)
    return torch.cat([x, channel], 1)
