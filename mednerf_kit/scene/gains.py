"""Pictures whose scale is known up to one factor a view: a set in which each view was stretched to
its own maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rays.render import LevelRendering
from .losses import LOSSES, Loss, Outcome

LEAST, MOST = 0.5, 2.0  # of a gain: a young field says little about it


@LOSSES.register("mse_gain")
class SquaredErrorUpToGain(Loss):
    """Weighted mean of (p − g_v y)², each view v with the gain that fits its rays of the batch
    best, g_v = Σ w p y / Σ w y².

    Gains average 1 over the views, which fixes the scale, and carry no gradient. Views are told
    apart by where their rays start, so this is for cameras at different places.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, outcome: Outcome) -> Tensor:
        sources, view = outcome.rays.origin.unique(dim=0, return_inverse=True)

        def term(seen: LevelRendering) -> Tensor:
            gain = fitted_gains(
                seen.picture.image.detach(), outcome.truth, outcome.importance, view, len(sources)
            )
            return (
                outcome.importance
                * (seen.picture.image - gain[view, None] * outcome.truth).square().mean(-1)
            ).mean()

        return outcome.over_levels(term)


def fitted_gains(image: Tensor, truth: Tensor, weight: Tensor, view: Tensor, views: int) -> Tensor:
    """Least-squares gains [V] of truth [R, C] for image [R, C], rays of weight [R] from view [R];
    their mean is 1.

    >>> truth = torch.tensor([[1.0], [2.0], [1.0], [3.0]])
    >>> fitted_gains(truth * torch.tensor([[0.8], [0.8], [1.2], [1.2]]), truth, torch.ones(4), torch.tensor([0, 0, 1, 1]), 2)
    tensor([0.8000, 1.2000])
    """
    both = image.new_zeros(2, views)
    products = torch.stack([(image * truth).sum(-1), truth.square().sum(-1)]) * weight
    both.index_add_(1, view, products)
    gain = both[0] / both[1].clamp_min(1e-9)
    gain = torch.where(
        both[1] > 1e-6, gain / gain.mean().clamp_min(1e-9), torch.ones_like(gain)
    ).clamp(LEAST, MOST)
    return gain / gain.mean()
