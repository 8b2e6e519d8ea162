"""Discriminators that draw what they saw, and those that judge each picture alone."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mednerf_kit.core.errors import UserError
from mednerf_kit.gan.discriminator import DISCRIMINATORS
from mednerf_kit.gan.selfsup import SelfSupervisedDiscriminator, quadrant


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [8, 9])
def test_a_quadrant_of_a_map_is_the_quadrant_of_its_picture(size):
    row, column = torch.meshgrid(torch.arange(2.0 * size), torch.arange(2.0 * size), indexing="ij")
    picture = torch.stack([row, column])
    for which in range(4):
        coarse = quadrant(functional.avg_pool2d(picture, 2), which)
        fine = functional.avg_pool2d(quadrant(picture, which), 2) if size % 2 == 0 else coarse
        torch.testing.assert_close(coarse, fine)
        assert (coarse[0].mean() > size - 0.5) == (which in (2, 3)) and (
            coarse[1].mean() > size - 0.5
        ) == (which in (1, 3))


def test_what_is_drawn_of_a_part_comes_from_that_part():
    discriminator = SelfSupervisedDiscriminator(
        size=32, channels=1, width=8, policy="none", doublings=1, rng=seeded()
    )
    for seed in range(4):
        images = torch.rand(1, 1, 32, 32, generator=seeded(seed)).requires_grad_()
        extras = discriminator(images, rng=seeded(seed)).extras
        which = int(torch.randint(4, (), generator=seeded(seed)))
        torch.testing.assert_close(
            extras["part_target"][0], functional.interpolate(quadrant(images, which), (16, 16))
        )
        (influence,) = torch.autograd.grad(extras["part"].square().sum(), images)
        shares = torch.stack([quadrant(influence.abs(), k).sum() for k in range(4)])
        assert int(shares.argmax()) == which


def test_every_head_is_asked_to_draw_what_it_saw():
    discriminator = SelfSupervisedDiscriminator(size=16, channels=1, width=4, doublings=1)
    images = torch.rand(3, 1, 16, 16, generator=seeded())
    extras = discriminator(images, rng=seeded()).extras
    torch.testing.assert_close(extras["whole_target"][1], images.flip(-2))
    assert {k: v.shape for k, v in extras.items()} == dict.fromkeys(extras, (4, 3, 1, 16, 16))


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS.entries))
def test_a_head_count_must_match_the_policy(name):
    with pytest.raises(UserError, match="got 3 heads; wanted 4"):
        DISCRIMINATORS.build({"name": name, "policy": "fliprot", "heads": 3}, size=16, channels=1)


@pytest.mark.parametrize("name", ["selfsup", "patchgan"])
def test_a_verdict_does_not_depend_on_the_company(name):
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS.build(
        {"name": name, "width": 4, "policy": "fliprot"}, size=16, channels=1
    ).eval()
    images = torch.rand(4, 1, 16, 16, generator=seeded())
    torch.testing.assert_close(
        discriminator(images).heads[:1], discriminator(images[:1]).heads, rtol=1e-4, atol=1e-5
    )
