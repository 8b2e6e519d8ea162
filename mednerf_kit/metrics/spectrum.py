"""How much detail a picture keeps: its power by spatial frequency. Pure functions of views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Octaves in cycles per picture: the lower edge counts, the upper does not.
BANDS = ((1, 4), (4, 8), (8, 16), (16, 32), (32, 64))


def band_name(band: tuple[int, int]) -> str:
    """How a band is called in tables.

    >>> band_name((8, 16))
    '8-16'
    """
    return f"{band[0]}-{band[1]}"


def band_powers(views: Tensor, bands: Sequence[tuple[int, int]] = BANDS) -> Tensor:
    """Spectral power Σ |F(k)|² of views [..., H, W] over rings low ≤ |k| < high of the plane of
    frequencies k, in cycles per picture: [..., bands].

    A Hann window keeps what is cut at a picture's edge from counting as detail. A ring that the
    pixels cannot hold, beyond H/2 or W/2, is NaN.

    >>> x = torch.arange(64) / 64
    >>> wave = torch.sin(2 * torch.pi * 10 * x).expand(64, 64)
    >>> (band_powers(wave) / band_powers(wave).nansum()).round(decimals=3).tolist()
    [0.0, 0.0, 1.0, 0.0, nan]
    """
    rows, cols = views.shape[-2:]
    window = torch.hann_window(rows)[:, None] * torch.hann_window(cols)
    power = torch.fft.fft2(views.float() * window.to(views.device)).abs().square()
    y = torch.fft.fftfreq(rows, 1 / rows, device=views.device)[:, None]
    radius = torch.hypot(y, torch.fft.fftfreq(cols, 1 / cols, device=views.device))
    found = [
        power[..., (low <= radius) & (radius < high)].sum(-1)
        if 2 * high <= min(rows, cols)
        else power.new_full(power.shape[:-2], torch.nan)
        for low, high in bands
    ]
    return torch.stack(found, -1)


def power_kept(views: Tensor, truth: Tensor, bands: Sequence[tuple[int, int]] = BANDS) -> Tensor:
    """Power of views [..., H, W] over that of the true ones, both summed over all views, by band:
    [bands].

    1 keeps all detail, 0 none; a picture that invents detail may keep more than 1. The mean of
    samples keeps less than they do wherever they differ.

    >>> truth = torch.rand(3, 128, 128)
    >>> power_kept(0.5 * truth, truth).round(decimals=4).tolist()
    [0.25, 0.25, 0.25, 0.25, 0.25]
    """
    mine, true = (band_powers(v, bands).flatten(0, -2).sum(0) for v in (views, truth))
    return mine / true
