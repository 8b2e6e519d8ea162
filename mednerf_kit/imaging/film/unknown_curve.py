"""A tone curve of which nothing but a prior over real curves is known.

With u in [0, 1] the apparent line integral over its scale, as in ``curves.py``,

    log f'(u) = Σ_k c_k φ_k(u),    f(u) = offset + ∫_0^u f'(v) dv,    c = m + L z,

so that f rises whatever z is. φ are a constant, log(u + 0.03), whose coefficient is a gamma less 1,
and cosines. m and L Lᵀ are the mean and the covariance of c over curves drawn from the families of
``curves.py``, each stretched so that the densest ray of some patient is white; z is standard normal
a priori.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor

from .curves import Curve, Gamma, LightBox, Linear, Sigmoid, ToeShoulder, Transmission, Window

END = 1.25  # largest u of the table: a patient may be denser than every one in training
NODES = 80  # of the table
COSINES = 7
GAMMA_OFFSET = 0.03  # keeps log(u) finite at 0
OFFSET_STD = 0.04  # of f(0): a stretch between percentiles leaves little
FLATTEST = -4.0  # log slope of what a curve clips
DRAWS = 700  # curves that the prior is made from
DENSEST = (0.55, 0.95)  # u of a patient's densest ray


@dataclass(frozen=True)
class UnknownCurve:
    """Monotone curves by standard normal numbers z [..., Q].

    >>> curve = UnknownCurve.of_real_curves()
    >>> u = torch.linspace(0, 1, 5)[None]
    >>> y = curve(torch.randn(3, curve.parameters, generator=Generator().manual_seed(0)), u)
    >>> bool((y.diff(dim=-1) > 0).all())
    True
    """

    basis: Tensor  # [K, NODES] φ at the table's nodes
    mean: Tensor  # [K] m
    root: Tensor  # [K, K] L, lower triangular

    @classmethod
    @cache
    def of_real_curves(cls) -> UnknownCurve:
        """The prior over the families of ``curves.py``; the same at every call."""
        basis = _basis()
        drawn = torch.stack([_coefficients(basis, *one) for one in _real_curves()])
        covariance = torch.cov(drawn.T) + 1e-6 * torch.eye(len(basis))
        return cls(basis, drawn.mean(0), torch.linalg.cholesky(covariance))

    @property
    def parameters(self) -> int:
        """Q, the length of z."""
        return 1 + len(self.mean)

    def to(self, device: torch.device) -> UnknownCurve:
        """The same curve on a device."""
        return UnknownCurve(*(t.to(device) for t in (self.basis, self.mean, self.root)))

    def __call__(self, z: Tensor, u: Tensor) -> Tensor:
        """f(u) for u [..., R] by z [..., Q]: [..., R]; beyond the table f stays what it is there.

        Both broadcast, and it is differentiable in both.
        """
        slope = ((self.mean + z[..., 1:] @ self.root.T) @ self.basis).clamp(-7, 5).exp()
        rise = 0.5 * (slope[..., 1:] + slope[..., :-1]) * (END / (NODES - 1))
        table = torch.cat([torch.zeros_like(rise[..., :1]), rise.cumsum(-1)], -1)
        shape = torch.broadcast_shapes(table.shape[:-1], u.shape[:-1])
        table, u = table.expand(*shape, -1), u.expand(*shape, -1)
        place = (u / END).clamp(0, 1) * (NODES - 1)
        left = place.detach().long().clamp_max(NODES - 2)
        low, high = table.gather(-1, left), table.gather(-1, left + 1)
        return OFFSET_STD * z[..., :1] + low + (place - left) * (high - low)


def _grid() -> Tensor:
    return torch.linspace(0, END, NODES)


def _basis() -> Tensor:
    """φ at the nodes: [K, NODES]."""
    u = _grid()
    log_u = (u + GAMMA_OFFSET).log()
    cosines = [torch.cos(math.pi * k * u / END) for k in range(1, COSINES + 1)]
    return torch.stack([torch.ones_like(u), log_u - log_u.mean(), *cosines])


def _real_curves() -> list[tuple[Curve, float]]:
    """Curves of every family with options at random, and u of the ray that each makes white."""
    rng = Generator().manual_seed(0)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng))

    families = (
        lambda: Linear(),
        lambda: Gamma(gamma=math.exp(between(math.log(0.5), math.log(2.5)))),
        lambda: Sigmoid(slope=between(4, 11), centre=between(0.25, 0.6)),
        lambda: ToeShoulder(toe=between(0.02, 0.15), shoulder=between(0.5, 0.95)),
        lambda: Window(low=between(0, 0.15), high=between(0.5, 1.0)),
        lambda: Transmission(depth=between(2, 5)),
        lambda: LightBox(density=between(1, 2.5)),
    )
    return [(families[k % len(families)](), between(*DENSEST)) for k in range(DRAWS)]


def _coefficients(basis: Tensor, curve: Curve, densest: float) -> Tensor:
    """c [K] of a curve that makes u = ``densest`` white, by ridge regression of its log slope."""
    u = _grid().double()
    values = curve(u.clamp_max(1)) / curve(u.new_tensor([densest]))
    slope = torch.gradient(values, spacing=float(u[1]))[0]
    known = u < 0.97  # curves end at 1
    log_slope = slope.clamp_min(1e-6).log().clamp_min(FLATTEST)
    log_slope[~known] = log_slope[known][-1]
    weights = torch.where(known, 1.0, 0.1)
    rows = basis.double() * weights
    ridge = 0.002 * NODES * torch.eye(len(basis), dtype=torch.float64)
    return torch.linalg.solve(rows @ basis.double().T + ridge, rows @ log_slope).float()
