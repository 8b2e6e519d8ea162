"""The two optimisers of an adversarial training."""

from __future__ import annotations

import pytest
import torch

from mednerf_kit.gan.optimisers import OPTIMISERS


def test_lazy_penalties_change_adams_constants():
    parameter = torch.nn.Parameter(torch.zeros(1))
    pair = OPTIMISERS.build("adam", generator=[parameter], discriminator=[parameter], d_interval=16)
    generator, discriminator = (o.param_groups[0] for o in (pair.generator, pair.discriminator))
    assert generator["lr"] == pytest.approx(0.002) and generator["betas"] == (
        0.0,
        pytest.approx(0.992, abs=1e-4),
    )
    assert discriminator["lr"] == pytest.approx(0.00235, abs=1e-5) and discriminator["betas"][
        1
    ] == pytest.approx(0.9906, abs=1e-4)
    pair = OPTIMISERS.build(
        {"name": "rmsprop", "halve_at": [10, 20]}, generator=[parameter], discriminator=[parameter]
    )
    rates = []
    for step in (0, 10, 25):
        pair.at(step)
        rates.append(pair.generator.param_groups[0]["lr"])
    assert rates == [5e-4, 2.5e-4, 1.25e-4]
