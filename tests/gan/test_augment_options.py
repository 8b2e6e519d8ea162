"""Options of the augmentation that no recipe sets: each does what it promises."""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.gan.augment.parameters import Augment
from mednerf_kit.gan.augment.probability import AdaptiveProbability


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("strength", [0.2, 0.5])
def test_brightness_and_contrast_have_their_spread(strength):
    """A shift ~ N(0, std²), and a gain whose logarithm to base 2 is ~ N(0, octaves²)."""
    one = Augment(brightness=1.0, brightness_std=strength).draw(20_000, (1, 8, 8), 1.0, seeded())
    assert one.color[:, 0, 3].std().item() == pytest.approx(strength, rel=0.02)
    assert (one.color[:, 0, 0] == 1).all()
    one = Augment(contrast=1.0, contrast_octaves=strength, contrast_pivot=0.0)
    gain = one.draw(20_000, (1, 8, 8), 1.0, seeded()).color
    assert gain[:, 0, 0].log2().std().item() == pytest.approx(strength, rel=0.02)
    assert gain[:, 0, 0].log2().mean().abs() < 0.02 and not gain[:, 0, 3].any()


@pytest.mark.parametrize("most_deg", [180.0, 30.0])
def test_hues_turn_evenly_up_to_their_angle(most_deg):
    """A turn about the grey axis: its trace is 1 + 2 cos θ, and |θ| is even in [0, most]."""
    drawn = Augment(hue=1.0, hue_max_deg=most_deg).draw(20_000, (3, 8, 8), 1.0, seeded())
    turn = torch.rad2deg(
        (drawn.color[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1) - 1).div(2).clamp(-1, 1).acos()
    )
    assert turn.max() <= most_deg + 0.1 and turn.mean().item() == pytest.approx(
        most_deg / 2, rel=0.02
    )


@pytest.mark.parametrize("octaves", [1.0, 0.25])
def test_saturation_has_its_spread_and_leaves_grey_alone(octaves):
    """The trace is 1 + 2 · chroma, log2 chroma ~ N(0, octaves²)."""
    color = (
        Augment(saturation=1.0, saturation_octaves=octaves)
        .draw(20_000, (3, 8, 8), 1.0, seeded())
        .color
    )
    chroma = (color[:, :3, :3].diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert chroma.log2().std().item() == pytest.approx(octaves, rel=0.03)
    torch.testing.assert_close(color[:, :3, :3].sum(2), torch.ones(20_000, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("octaves", [1.0, 0.25])
def test_bands_are_louder_by_independent_octaves(octaves):
    """The power is restored in all bands alike: their ratio has √2 times the spread of one gain."""
    bands = Augment(filter=1.0, filter_octaves=octaves).draw(20_000, (1, 8, 8), 1.0, seeded()).bands
    ratio = (bands[:, 1] / bands[:, 3]).log2()
    assert ratio.std().item() == pytest.approx(math.sqrt(2) * octaves, rel=0.02)


def test_the_probability_stops_at_its_most():
    adaptive = AdaptiveProbability(start=0.1, p_max=0.25, interval=1, kimg=0.1)
    found = []
    for _ in range(3):
        adaptive.observe(torch.ones(10))
        found.append(adaptive.p)
    assert found == pytest.approx([0.2, 0.25, 0.25])
    assert AdaptiveProbability(start=0.9, p_max=0.25).p == 0.25
    default = AdaptiveProbability(interval=1, kimg=0.001)
    default.observe(torch.ones(10))
    assert default.p == 0.8
