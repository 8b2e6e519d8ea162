"""The frequency encoding: sines and cosines of octaves of a point's coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Octaves(torch.autograd.Function):
    """[x, sin 2^k x, cos 2^k x], whose derivatives come from the stored values.

    On the CPU the octaves come from one sine and cosine by the double-angle recurrence:
    sin 2a = 2 sin a cos a and cos 2a = 1 − 2 sin² a, in fp32 (the recurrence doubles the rounding
    error each octave; after ten octaves it is below 1e-3). d sin(2^k x)/dx = 2^k cos(2^k x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, octaves: int, dtype: torch.dtype, width: int) -> Tensor:
        features = x.new_zeros((*x.shape[:-1], width), dtype=dtype)
        features[..., :3] = x
        if x.device.type == "cpu":
            s, c = x.sin(), x.cos()
            for k in range(octaves):
                features[..., 3 + 6 * k : 6 + 6 * k] = s
                features[..., 6 + 6 * k : 9 + 6 * k] = c
                s, c = 2 * s * c, 1 - 2 * s * s
        elif octaves:  # a sine costs a GPU nothing, going over memory for every octave does
            phase = x[..., None, :] * octave_scales(octaves, x.device)[:, None]
            waves = torch.stack([phase.sin(), phase.cos()], -2)
            features[..., 3 : 3 + 6 * octaves] = waves.flatten(-3)
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
    waves = features[..., 3:n].unflatten(-1, (octaves, 2, 3))
    g = gradient[..., 3:n].unflatten(-1, (octaves, 2, 3))
    slope = (waves[..., 1, :] * g[..., 0, :] - waves[..., 0, :] * g[..., 1, :]).float()
    scales = octave_scales(octaves, slope.device)
    return gradient[..., :3].float() + torch.einsum("...ki,k->...i", slope, scales)


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
    return _Octaves.apply(x.float(), octaves, dtype, width or encoded_width(octaves))


def encoded_width(octaves: int) -> int:
    """Number of features of :func:`frequency_encoding`."""
    return 3 + 6 * octaves
