"""The frequency encoding: sines and cosines of octaves of a point's coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Octaves(torch.autograd.Function):
    """[x, sin 2^k x, cos 2^k x], whose derivatives come from the stored values.

    d sin(2^k x)/dx = 2^k cos(2^k x). On a CPU the values of one feature lie together, point after
    point, so that they are computed and written in long runs: 2 to 4 times as fast as features side
    by side, and a product of matrices takes either.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, octaves: int, dtype: torch.dtype, width: int) -> Tensor:
        n = 3 + 6 * octaves
        if x.device.type == "cpu":
            points = x.transpose(-1, -2).contiguous()  # [..., 3, N]
            across = x.new_zeros((*x.shape[:-2], width, x.shape[-2]), dtype=dtype)
            across[..., :3, :] = points
            if octaves:
                scales = octave_scales(octaves, x.device)[:, None, None]
                phase = points[..., None, :, :] * scales
                waves = across[..., 3:n, :].unflatten(-2, (octaves, 2, 3))
                waves[..., 0, :, :] = phase.sin()
                waves[..., 1, :, :] = phase.cos()
            features = across.transpose(-1, -2)
        else:
            features = x.new_zeros((*x.shape[:-1], width), dtype=dtype)
            features[..., :3] = x
            if octaves:
                phase = x[..., None, :] * octave_scales(octaves, x.device)[:, None]
                waves = torch.stack([phase.sin(), phase.cos()], -2)
                features[..., 3:n] = waves.flatten(-3)
        ctx.octaves = octaves
        if x.requires_grad:
            ctx.save_for_backward(features)
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (features,) = ctx.saved_tensors
        return encoding_gradient(gradient, features, ctx.octaves), None, None, None


def encoding_gradient(gradient: Tensor, features: Tensor, octaves: int) -> Tensor:
    """The chain rule of :func:`frequency_encoding`: the gradient [..., 3] by the points.

    ``gradient`` [..., F] is that by the features [..., F].
    """
    n = 3 + 6 * octaves
    across = gradient[..., :n].transpose(-1, -2).contiguous()  # as the features lie on a CPU
    if not octaves:
        return across.transpose(-1, -2).float()
    g = across[..., 3:, :].unflatten(-2, (octaves, 2, 3))
    waves = features[..., 3:n].transpose(-1, -2).unflatten(-2, (octaves, 2, 3))
    sines, cosines = waves.unbind(-3)
    slope = (cosines * g[..., 0, :, :] - sines * g[..., 1, :, :]).float()
    slope = slope * octave_scales(octaves, slope.device)[:, None, None]
    return (across[..., :3, :].float() + slope.sum(-3)).transpose(-1, -2)


def octave_scales(octaves: int, device: torch.device) -> Tensor:
    """2⁰ … 2^{L−1}, [L]."""
    return 2.0 ** torch.arange(octaves, device=device)


def frequency_encoding(
    x: Tensor, octaves: int, dtype: torch.dtype = torch.float32, width: int | None = None
) -> Tensor:
    """[x, sin 2⁰x, cos 2⁰x, …, sin 2^{L−1}x, cos 2^{L−1}x]: points [..., 3] -> [..., 3 + 6L].

    This is eq. 4 of Mildenhall et al. 2020 without π, with L ``octaves``. ``width`` pads with zeros
    (matrix products like multiples of 16). Phases are fp32 whatever the features' ``dtype``.

    >>> frequency_encoding(torch.zeros(1, 3), 2).shape
    torch.Size([1, 15])
    """
    if x.ndim == 1:
        return frequency_encoding(x[None], octaves, dtype, width)[0]
    return _Octaves.apply(x.float(), octaves, dtype, width or encoded_width(octaves))


def encoded_width(octaves: int) -> int:
    """Number of features of :func:`frequency_encoding`."""
    return 3 + 6 * octaves
