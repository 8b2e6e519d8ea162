"""What generator and discriminator play for, against numbers made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.gan.losses import LOSSES, Hinge


def test_losses_by_hand():
    real, fake, weight = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[-0.5, 0.0, 3.0]]), 0.2

    def sp(x: float) -> float:
        return math.log1p(math.exp(x))

    logistic = sp(-2) + sp(-0.5) + 0.1 * (sp(1) + sp(0) + sp(-0.5) + sp(3))
    hinge = 0 + 0.5 + 0.1 * (2 + 1 + 0.5 + 4)
    hinge_09 = 0 + 0.4 + 0.1 * (1.9 + 0.9 + 0.4 + 3.9)
    for node, u, discriminator, generator in [
        ("nonsaturating", 0.0, logistic, sp(0.5) + 0.1 * (sp(0) + sp(-3))),
        ("bce", 0.0, logistic, sp(0.5) + 0.1 * (sp(0) + sp(-3))),
        ("hinge", 0.0, hinge, 0.5 - 0.1 * 3),
        ({"name": "hinge", "margin_low": 0.8, "margin_high": 1.0}, 0.5, hinge_09, 0.5 - 0.1 * 3),
    ]:
        loss = LOSSES.build(node)
        assert float(loss.discriminator(real, fake, weight, u)) == pytest.approx(
            discriminator, abs=1e-5
        )
        assert float(loss.generator(fake, weight)) == pytest.approx(generator, abs=1e-5)


def test_in_the_batch_mean_one_picture_hides_behind_another():
    real, fake = torch.tensor([[3.0], [-1.0]]), torch.tensor([[-3.0], [1.0]])
    each, mean = (
        Hinge().discriminator(real, fake, 0.2, 0.0),
        Hinge(batch_mean=True).discriminator(real, fake, 0.2, 0.0),
    )
    assert each.tolist() == [0.0, 4.0] and mean.tolist() == [0.0]
