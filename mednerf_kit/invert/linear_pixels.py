"""Pixels as a linear function of codes, learned from the candidates that a search starts with.

Candidates with codes x_c [D] and pixels p_c [P] are rendered to find the closest. Ridge regression,

    p(x) ≈ p̄ + (x − x̄) W,    W = (XᵀX + λ C)⁻¹ Xᵀ P    of C centred rows X, P,

tells how pixels follow codes; λ is that of the least error e² of a candidate that is left out. What
minimises  Σ (y − p(x))² / s² + |x − x_k|²  of such a model is known, so that one step goes as far
as dozens of a descent (Gauss-Newton by an ensemble, Chen & Oliver, Math. Geosci. 44, 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

GAINS = (0.7, 1.4)  # between which a candidate's gain is fitted
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # λ, for codes of variance 1


@dataclass(frozen=True)
class LinearPixels:
    """The model."""

    slope: Tensor  # [D, P] W
    error: float  # e², mean squared over pixels

    @classmethod
    def fit(cls, codes: Tensor, pixels: Tensor) -> LinearPixels:
        """From candidates' codes [C, D] and pixels [C, P].

        >>> codes = torch.randn(40, 2)
        >>> model = LinearPixels.fit(codes, codes @ torch.tensor([[1.0], [-2.0]]))
        >>> bool((model.slope.flatten() - torch.tensor([1.0, -2.0])).abs().max() < 0.2)
        True
        """
        x, p = codes - codes.mean(0), pixels - pixels.mean(0)
        u, s, vt = torch.linalg.svd(x, full_matrices=False)
        along = u.T @ p
        found = []
        for ridge in RIDGES:
            kept = s.square() / (s.square() + ridge * len(x))
            leverage = u.square() @ kept + 1 / len(x)
            left_out = (p - u @ (kept[:, None] * along)) / (1 - leverage)[:, None]
            slope = vt.T @ ((kept / s.clamp_min(1e-12))[:, None] * along)
            found.append(cls(slope, float(left_out.square().mean())))
        return min(found, key=lambda model: model.error)

    def step(self, codes: Tensor, left: Tensor, centres: Tensor, variance: float) -> Tensor:
        """The step [M, D] of codes [M, D] that leave ``left`` [M, P] of what they shall show.

        ``centres`` [M, D] are the x_k, ``variance`` is s².
        """
        system = self.slope @ self.slope.T / variance + torch.eye(len(self.slope)).to(left)
        wanted = left @ self.slope.T / variance + centres - codes
        return torch.linalg.solve(system, wanted.T).T


def fitted_gain(seen: Tensor, truth: Tensor) -> Tensor:
    """The gain, within GAINS, that brings pixels [M, R] closest to [R], or each to its own: [M, 1].

    >>> fitted_gain(torch.ones(1, 3), torch.full((3,), 1.2))
    tensor([[1.2000]])
    """
    fitted = (seen * truth).sum(1) / seen.square().sum(1).clamp_min(1e-6)
    return fitted.clamp(*GAINS)[:, None]
