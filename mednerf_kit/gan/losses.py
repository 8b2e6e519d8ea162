"""Adversarial losses: pure functions of logits per head, and the pairs of them that a recipe names.

Every loss takes logits [B, K] of DAG heads (arXiv 2006.05338): head 0 judges the picture as it is,
the others its transforms.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError

LOSSES: Registry[AdversarialLoss] = Registry("adversarial loss")


class AdversarialLoss(Protocol):
    """What generator and discriminator minimise, per picture [B]; ``u`` in [0, 1] is drawn once a
    step for losses in which something is random.
    """

    def discriminator(
        self, real_heads: Tensor, fake_heads: Tensor, dag_weight: float, u: float
    ) -> Tensor: ...

    def generator(self, fake_heads: Tensor, dag_weight: float) -> Tensor: ...


def combined(per_head: Tensor, dag_weight: float) -> Tensor:
    """L_0 + λ/(K−1) Σ_{k≥1} L_k per picture: [B, K] -> [B] (the identity is not counted twice).

    >>> combined(torch.tensor([[1.0, 2.0, 4.0]]), 0.5)
    tensor([2.5000])
    """
    first, others = per_head[:, 0], per_head[:, 1:]
    return first + dag_weight * others.mean(1) if others.shape[1] else first


def nonsaturating_d(real_heads: Tensor, fake_heads: Tensor, dag_weight: float) -> Tensor:
    """The discriminator's logistic loss per picture, softplus(−real) + softplus(fake) per head:
    [B, K], [B, K] -> [B].

    >>> nonsaturating_d(torch.zeros(1, 4), torch.zeros(1, 4), 0.2)  # 2·ln 2·(1 + 0.2)
    tensor([1.6636])
    """
    return combined(functional.softplus(-real_heads) + functional.softplus(fake_heads), dag_weight)


def nonsaturating_g(fake_heads: Tensor, dag_weight: float) -> Tensor:
    """The generator's logistic loss per picture, softplus(−fake) per head: [B, K] -> [B].

    >>> nonsaturating_g(torch.zeros(1, 1), 0.2)
    tensor([0.6931])
    """
    return combined(functional.softplus(-fake_heads), dag_weight)


def hinge_d(
    real_heads: Tensor, fake_heads: Tensor, dag_weight: float, *, margin: float = 1.0
) -> Tensor:
    """The discriminator's hinge loss per picture, max(0, m − real) + max(0, m + fake) per head:
    [B, K], [B, K] -> [B].

    >>> hinge_d(torch.tensor([[2.0]]), torch.tensor([[0.5]]), 0.2)
    tensor([1.5000])
    """
    return combined(
        functional.relu(margin - real_heads) + functional.relu(margin + fake_heads), dag_weight
    )


def hinge_g(fake_heads: Tensor, dag_weight: float) -> Tensor:
    """The generator's side of the hinge, −fake per head: [B, K] -> [B].

    >>> hinge_g(torch.tensor([[2.0, 1.0]]), 0.5)
    tensor([-2.5000])
    """
    return combined(-fake_heads, dag_weight)


def r1_penalty(real_logits: Tensor, real_images: Tensor) -> Tensor:
    """Squared gradient |∂D/∂x|² of head 0 at each real picture, differentiable (arXiv 1801.04406):
    [B], [B, C, H, W] -> [B].

    The caller multiplies its mean by gamma / 2. ``real_images`` is what the discriminator was
    given, with gradients on. Pictures span [0, 1]: a gamma published for pictures in [−1, 1]
    corresponds to a quarter of it here.

    >>> x = torch.ones(1, 1, 2, 2, requires_grad=True)
    >>> r1_penalty(3 * x.sum((1, 2, 3)), x).item()
    36.0
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return gradient.square().sum((1, 2, 3))


@LOSSES.register("nonsaturating")
class NonSaturating:
    """The logistic loss; the generator maximises log D(fake) (Goodfellow et al. 2014)."""

    def discriminator(
        self, real_heads: Tensor, fake_heads: Tensor, dag_weight: float, u: float
    ) -> Tensor:
        return nonsaturating_d(real_heads, fake_heads, dag_weight)

    def generator(self, fake_heads: Tensor, dag_weight: float) -> Tensor:
        return nonsaturating_g(fake_heads, dag_weight)


@LOSSES.register("bce")
class BinaryCrossEntropy:
    """Binary cross-entropy of logits: 1 for reals, 0 for fakes, 1 for the generator's fakes (GRAF).

    BCE(x, 1) = softplus(−x) and BCE(x, 0) = softplus(x), so its values are those of
    ``nonsaturating``.
    """

    def discriminator(
        self, real_heads: Tensor, fake_heads: Tensor, dag_weight: float, u: float
    ) -> Tensor:
        per_head = _cross_entropy(real_heads, 1.0) + _cross_entropy(fake_heads, 0.0)
        return combined(per_head, dag_weight)

    def generator(self, fake_heads: Tensor, dag_weight: float) -> Tensor:
        return combined(_cross_entropy(fake_heads, 1.0), dag_weight)


def _cross_entropy(logits: Tensor, truth: float) -> Tensor:
    return functional.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, truth), reduction="none"
    )


@LOSSES.register("hinge")
class Hinge:
    """The hinge of each picture, with a margin that is drawn once a step (MedNeRF: 0.8 to 1).

    Options:
        margin_low: the smallest margin.
        margin_high: the largest margin; it is uniform in between.
        batch_mean: apply the hinge to the batch's mean logit, as the published code does. Pictures
            that are judged wrongly then hide behind others that are judged rightly; for
            comparisons.
    """

    def __init__(
        self, *, margin_low: float = 1.0, margin_high: float = 1.0, batch_mean: bool = False
    ) -> None:
        if not 0 < margin_low <= margin_high:
            bounds = f"got margins {margin_low:g} to {margin_high:g}"
            raise UserError(bounds, "wanted 0 < margin_low <= margin_high", "correct them")
        self.low, self.high, self.batch_mean = margin_low, margin_high, batch_mean

    def discriminator(
        self, real_heads: Tensor, fake_heads: Tensor, dag_weight: float, u: float
    ) -> Tensor:
        """``u`` in [0, 1] places the margin between its bounds."""
        if self.batch_mean:
            real_heads = real_heads.mean(0, keepdim=True)
            fake_heads = fake_heads.mean(0, keepdim=True)
        margin = self.low + u * (self.high - self.low)
        return hinge_d(real_heads, fake_heads, dag_weight, margin=margin)

    def generator(self, fake_heads: Tensor, dag_weight: float) -> Tensor:
        return hinge_g(fake_heads, dag_weight)
