"""Sums along a ray. Every function is pure and broadcasts over leading axes.

``tau`` [..., S] is the optical depth of each sample: attenuation times the length it stands for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .types import Rendering


def line_integral(tau: Tensor) -> Rendering:
    """p = Σ tau, the picture a DRR holds; w is each sample's share of it.

    >>> line_integral(torch.tensor([[1.0, 3.0]])).w
    tensor([[0.2500, 0.7500]])
    """
    total = tau.sum(-1, keepdim=True)
    return Rendering(total, tau / total.clamp_min(1e-12))


def transmission(tau: Tensor) -> Rendering:
    """T = exp(−Σ tau), Beer–Lambert: what a linear detector counts, relative to no patient."""
    integral = line_integral(tau)
    return Rendering(torch.exp(-integral.image), integral.w)


def exclusive_sum(x: Tensor) -> Tensor:
    """Running sum that leaves the element itself out.

    >>> exclusive_sum(torch.tensor([1.0, 2.0, 3.0]))
    tensor([0., 1., 3.])
    """
    return x.cumsum(-1) - x


def emission_absorption(tau: Tensor, color: Tensor, background: Tensor | float = 0.0) -> Rendering:
    """Volume rendering: each sample emits its colour and absorbs what lies behind it.

    w = exp(−Σ_before tau)(1 − exp(−tau)), image = Σ w·color + (1 − Σ w)·background.

    Max 1995, eq. 3 in the discrete form of Mildenhall et al. 2020, eq. 3; ``color`` [..., S, C].
    The medical default has a black background.
    """
    w = torch.exp(-exclusive_sum(tau)) * -torch.expm1(-tau)
    image = (w[..., None] * color).sum(-2)
    return Rendering(image + (1 - w.sum(-1, keepdim=True)) * background, w)


def inverse_cdf(edges: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Positions whose cumulative weight is ``u``: inverse transform sampling of a step function.

    ``edges`` [..., S+1] sorted, ``w`` [..., S] non-negative, ``u`` [..., n] in [0, 1]; a ray
    without weight counts as uniform.

    >>> edges, w = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0])
    >>> inverse_cdf(edges, w, torch.tensor([0.25, 0.625]))
    tensor([1.0000, 1.5000])
    """
    lengths = edges.diff(dim=-1)
    w = torch.where(w.sum(-1, keepdim=True) > 0, w, lengths)
    w = torch.where(w.sum(-1, keepdim=True) > 0, w, torch.ones_like(w))
    cdf = torch.nn.functional.pad((w / w.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    cdf = torch.cat([cdf[..., :-1], torch.ones_like(cdf[..., :1])], -1)
    right = torch.searchsorted(cdf.contiguous(), u.contiguous(), right=True).clamp(1, w.shape[-1])
    low, high = cdf.gather(-1, right - 1), cdf.gather(-1, right)
    fraction = ((u - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    start = edges.gather(-1, right - 1)
    return start + fraction * (edges.gather(-1, right) - start)


def cell_lengths(t: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """The length that lies nearer to each sorted node than to its neighbours, within [near, far].

    This is trapezoidal quadrature for nodes that may lie anywhere: t [..., S] -> [..., S].

    >>> cell_lengths(torch.tensor([1.0, 2.0, 4.0]), torch.tensor(0.0), torch.tensor(5.0))
    tensor([1.5000, 1.5000, 2.0000])
    """
    middle = 0.5 * (t[..., 1:] + t[..., :-1])
    return torch.cat([near[..., None], middle, far[..., None]], -1).diff(dim=-1)
