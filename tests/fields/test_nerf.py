"""NeRF's MLP: noise, toggles, size and precision."""

from __future__ import annotations

from dataclasses import replace

import torch
from field_cases import SMALL, build, rays, seeded

from mednerf_kit.fields.base import FIELDS
from mednerf_kit.fields.encodings import frequency_encoding


class TestNerf:
    def test_noise_comes_from_the_given_generator_and_only_in_training(self):
        node = {"name": "nerf", **SMALL["nerf"], "noise": 1.0}
        field, (x, d, dt) = build(node), rays()
        quiet = field(x, d, dt).tau  # no generator, no noise
        field.rng = seeded(5)
        first = field(x, d, dt).tau
        field.rng = seeded(5)
        assert torch.equal(field(x, d, dt).tau, first) and not torch.equal(first, quiet)
        assert torch.equal(field.eval()(x, d, dt).tau, quiet)

    def test_toggles_take_their_inputs_away(self):
        x, d, dt = rays()
        plain = build({"name": "nerf", **SMALL["nerf"], "view_directions": False})
        assert torch.equal(plain(x, d, dt).color, plain(x, -d, dt).color)
        seen = build({"name": "nerf", **SMALL["nerf"]})
        assert not torch.equal(seen(x, d, dt).color, seen(x, -d, dt).color)
        assert (
            build({"name": "nerf", **SMALL["nerf"], "positional": False}).trunk[0].in_features == 3
        )

    def test_colours_are_the_layers_of_features_and_directions_side_by_side(self):
        """The direction's share is computed once per ray; written out, every sample has its own."""
        field, (x, d, dt) = build({"name": "nerf", **SMALL["nerf"]}), rays()
        torch.nn.init.normal_(field.to_color[0].bias, generator=seeded(3))
        _, (h,) = field.at(x.reshape(-1, 3))
        along = frequency_encoding(d, field.options.view_octaves).expand(*x.shape[:-1], -1)
        both = torch.cat([field.to_feature(h), along.reshape(len(h), -1)], -1)
        plain = torch.sigmoid(field.to_color(both)).view(*x.shape[:-1], -1)
        there = dt > 0
        torch.testing.assert_close(field(x, d, dt).color[there], plain[there])

    def test_the_published_size(self):
        field = build({"name": "nerf"})
        # nerf-pytorch's 8 x 256 with 63 and 27 inputs
        assert sum(p.numel() for p in field.parameters()) == 595_844


def test_nerf_in_half_precision_answers_nearly_the_same_in_single():
    torch.manual_seed(0)
    field = FIELDS.build(
        {"name": "nerf", "width": 32, "depth": 3, "skip": 1},
        box=torch.tensor([[-1.0] * 3, [1.0] * 3]),
        channels=3,
    )
    x, d, dt = (
        torch.rand(5, 7, 3),
        torch.nn.functional.normalize(torch.randn(5, 1, 3), dim=-1),
        torch.full((5, 7), 0.1),
    )
    exact = field(x, d, dt)
    field.options = replace(field.options, precision="bfloat16")
    rounded = field(x, d, dt)
    assert rounded.tau.dtype == rounded.color.dtype == torch.float32
    assert not torch.equal(rounded.tau, exact.tau)
    torch.testing.assert_close(rounded.tau, exact.tau, rtol=0.1, atol=3e-3)
    torch.testing.assert_close(rounded.color, exact.color, rtol=0.02, atol=0.02)
