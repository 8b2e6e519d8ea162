"""Smooth random pictures for the tests of metrics."""

import math

import torch


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n, size, seed=0, blur=2.0):
    """Smooth random pictures in [0, 1], [n, size, size]."""
    noise = torch.randn(n, size, size, generator=rng(seed))
    frequency = torch.fft.fftfreq(size)
    low = torch.exp(-2 * (math.pi * blur) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    image = torch.fft.ifft2(torch.fft.fft2(noise) * low).real
    return (image - image.amin((1, 2), keepdim=True)) / (
        image.amax((1, 2), keepdim=True) - image.amin((1, 2), keepdim=True)
    )
