"""Ridge regression from a few views: the training patients' own pictures, mixed.

What a linear method makes of the same training set; a learned prior has to beat it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..imaging.film.exposure import blurred

LAMBDA = 0.1  # of the mean eigenvalue: the least error on real chests, flat from 0.03 to 0.3
BLUR_SHARE = 1 / 64  # of a picture's width: finer detail differs by pose, and says little


def ridge_weights(training: Tensor, views: Tensor, lam: float = LAMBDA) -> Tensor:
    """Weights [P] that sum to one, with which training data [P, ...] repeat ``views`` [...].

    With the centred rows D = training − mean and d = views − mean, the dual form of ridge
    regression (Hoerl & Kennard 1970; Saunders et al. 1998) is

        w = 1/P + (D Dᵀ + λ tr(D Dᵀ)/P · I)⁻¹ D d,

    so that Σ w X is the prediction of anything X [P, ...] that depends linearly on the views:
    orbits, volumes, codes. λ is relative to the mean eigenvalue. As λ grows the weights tend to 1/P
    (the mean patient), as it vanishes to the least-squares mixture. Computed in float64.

    >>> training = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> ridge_weights(training, torch.tensor([2.0, 0.0]), 1.0).round(decimals=2).tolist()
    [0.19, 0.75, 0.06]
    """
    rows = training.flatten(1).double()
    centre = rows.mean(0)
    rows, wanted = rows - centre, views.flatten().double() - centre
    gram, patients = rows @ rows.T, len(rows)
    # equal patients have no differences to weigh: their right-hand side is zero as well
    damping = (lam * gram.trace() / patients).clamp_min(torch.finfo(gram.dtype).eps)
    identity = torch.eye(patients, dtype=gram.dtype, device=gram.device)
    return 1 / patients + torch.linalg.solve(gram + damping * identity, rows @ wanted)


def mixture(weights: Tensor, training: Tensor) -> Tensor:
    """Σ w X of training data X [P, ...], in float32, one patient at a time: [...].

    >>> mixture(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 2.0], [3.0, 6.0]])).tolist()
    [2.0, 4.0]
    """
    total = torch.zeros(training.shape[1:], device=training.device)
    for weight, one in zip(weights.tolist(), training, strict=True):
        total.add_(one, alpha=weight)
    return total


def ridge_orbit(
    training: Tensor, views: Tensor, inputs: Sequence[int], lam: float = LAMBDA
) -> Tensor:
    """The orbit [V, H, W] that ridge regression over training orbits [P, V, H, W] predicts from
    ``views`` [n, H, W], those at the indices ``inputs``.

    Input views are compared under a Gaussian of :data:`BLUR_SHARE` of their width.
    """
    sigma_px = BLUR_SHARE * views.shape[-1]
    known = blurred(training[:, list(inputs)].float(), sigma_px)
    return mixture(ridge_weights(known, blurred(views.float(), sigma_px), lam), training)
