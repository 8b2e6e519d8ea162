"""The published generators against straightforward networks: GRAF's conditioning, HyperNeRFGAN's
modulation, their field.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mednerf_kit.core.errors import UserError
from mednerf_kit.fields.coloured import ColouredField, shifted
from mednerf_kit.fields.frequency import frequency_encoding
from mednerf_kit.fields.hyper import MlpWeights, rotation_matrix
from mednerf_kit.gan.generator import GENERATORS, Latent
from mednerf_kit.gan.graf import GrafGenerator
from mednerf_kit.gan.hypernerfgan import HyperNerfGan

TINY = {
    "graf": {
        "shape_dim": 3,
        "appearance_dim": 2,
        "width": 12,
        "depth": 4,
        "skip": 2,
        "octaves": 3,
        "view_octaves": 2,
    },
    "hypernerfgan": {"code_dim": 6, "width": 12, "depth": 4, "skip": 2, "octaves": 3, "rank": 2},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(name: str, **options):
    torch.manual_seed(0)
    generator = GENERATORS.build({"name": name, **TINY[name], **options})
    generator.field.precision = "fp32"
    return generator


def rays(batch: int = 2, n: int = 5, samples: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.rand(batch, n, samples, 3, generator=seeded(1)) * 3 - 1.5
    d = functional.normalize(torch.randn(batch, n, 1, 3, generator=seeded(2)), dim=-1)
    return x, d, torch.rand(batch, n, samples, generator=seeded(3))


def test_published_sizes():
    def count(generator) -> int:
        return sum(p.numel() for p in generator.parameters())

    assert count(GrafGenerator()) == 677_764  # 0.678 M
    assert count(HyperNerfGan()) == 2_977_836  # 2.98 M
    layers = HyperNerfGan().weights(Latent(torch.randn(1, 128), torch.zeros(1, 3))).layers
    assert sum(w[0].numel() for w, _ in layers) - 2 * 128 == 131_328, (
        "multiply-adds per point; two columns meet padding only"
    )


@pytest.mark.parametrize("view_octaves", [0, 2])
def test_graf_is_a_network_of_concatenated_codes(view_octaves):
    g = tiny("graf", view_octaves=view_octaves)
    latent = g.draw(2, seeded())
    x, d, dt = rays()
    answer = g.field(x, d, dt, g.weights(latent))
    for i in range(2):
        shape, appearance = latent.w[i, :3], latent.w[i, 3:]
        point = torch.cat([frequency_encoding(x[i], 3), shape.expand(5, 7, 3)], -1)
        h = point
        for k, layer in enumerate(g.trunk):
            h = layer(torch.cat([h, point], -1) if k == 2 else h).relu()
        raw = g.head(h)
        density = raw[..., 0].relu() * (x[i, ..., :2].square().sum(-1) < 1.4**2)
        seen = [frequency_encoding(d[i].expand(5, 7, 3), 2)] if view_octaves else []
        color = torch.sigmoid(
            g.color(
                g.branch(torch.cat([raw[..., 1:], *seen, appearance.expand(5, 7, 2)], -1)).relu()
            )
        )
        torch.testing.assert_close(answer.tau[i], density * dt[i])
        torch.testing.assert_close(answer.color[i], color)
    assert answer.tau.gt(0).any() and answer.tau.eq(0).any()


def test_only_a_viewing_branch_sees_the_direction():
    x, d, dt = rays()
    for view_octaves in (0, 2):
        g = tiny("graf", view_octaves=view_octaves)
        code = g.weights(g.draw(2, seeded()))
        one, other = g.field(x, d, dt, code), g.field(x, -d, dt, code)
        assert torch.equal(one.tau, other.tau) and torch.equal(one.color, other.color) == (
            view_octaves == 0
        )


@pytest.mark.parametrize("modulation", ["demod", "tanh", "sigmoid"])
def test_hypernerfgan_modulates_every_layer(modulation):
    g = tiny("hypernerfgan", modulation=modulation)
    eps = torch.randn(2, 6, generator=seeded())
    code = g.weights(g.latent(eps))
    x, d, dt = rays()
    answer = g.field(x, d, dt, code)
    z = eps / eps.square().mean(1, keepdim=True).sqrt()
    for layer in g.mapping:
        weight = layer.weight * 0.01 * math.sqrt(2 / 1.04) / math.sqrt(6)
        z = functional.leaky_relu(z @ weight.T + layer.bias * 0.01, 0.2)
    for i in range(2):
        encoded = functional.pad(frequency_encoding(x[i], 3), (0, 11))
        h = encoded
        for k, (s, b, affine) in enumerate(zip(g.shared, g.bias, g.affine, strict=True)):
            factors = z[i] @ (affine.weight / math.sqrt(6)).T
            m = factors[: len(s) * 2].view(-1, 2) @ factors[len(s) * 2 :].view(2, -1) / math.sqrt(2)
            if modulation == "demod":
                w = s * (1 + m)
                w = w / w.norm(dim=1, keepdim=True)
            else:
                w = (
                    s
                    * (1 + (m.tanh() if modulation == "tanh" else m.sigmoid() - 0.5))
                    / math.sqrt(s.shape[1])
                )
            h = (torch.cat([h, encoded], -1) if k == 2 else h) @ w.T + b
            h = h.relu() * math.sqrt(2) if k < 4 else h
        density = h[..., 0].relu() * (x[i, ..., :2].square().sum(-1) < 1.4**2)
        torch.testing.assert_close(answer.tau[i], density * dt[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(answer.color[i], h[..., 1:].sigmoid(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_gradients_reach_every_parameter(name):
    g = tiny(name)
    x, d, dt = rays()
    answer = g.field.evaluate(
        x, d, dt, g.weights(g.draw(2, seeded())), torch.randn(dt.shape, generator=seeded())
    )
    (answer.tau.sum() + answer.color.square().sum()).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0
        for p in g.parameters()
    )


@pytest.mark.parametrize("name", TINY)
def test_a_turned_scene_is_the_scene_seen_from_elsewhere(name):
    g = tiny(name)
    w = g.draw(1, seeded()).w
    x, d, dt = (t[:1] for t in rays())
    pose = torch.tensor([[0.0, 0.0, 0.7]])
    turn = rotation_matrix(pose)[0]
    turned = g.field(x, d, dt, g.weights(Latent(w, pose)))
    moved = g.field(x @ turn.T, d @ turn.T, dt, g.weights(Latent(w, torch.zeros(1, 3))))
    torch.testing.assert_close(turned.tau, moved.tau, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned.color, moved.color, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_additions_to_a_network_reach_all_of_it(name):
    g = tiny(name)
    latent = g.draw(2, seeded())
    plain, deltas = g.weights(latent), g.no_deltas(2)
    for (w, b), delta in zip(plain.layers, deltas, strict=True):
        assert delta.shape == (2, w[0].numel() + b[0].numel())
    same = g.weights(Latent(latent.w, latent.pose, deltas))
    for one, two in zip(plain.layers, same.layers, strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    back = tuple(-torch.cat([w.flatten(1), b], 1) for w, b in plain.layers)
    assert all(
        w.abs().max() < 1e-6 and b.abs().max() < 1e-6 for w, b in shifted(plain.layers, back)
    )


def test_noise_moves_the_density_before_its_relu():
    field = ColouredField(octaves=1)
    layers = ((torch.zeros(1, 4, 16), torch.tensor([[-1.0, 0, 0, 0]])),)
    x, d, dt = (t[:1] for t in rays())
    quiet, loud = (
        field.evaluate(x, d, dt, MlpWeights(layers), noise)
        for noise in (None, torch.full(dt.shape, 3.0))
    )
    inside = x[..., :2].square().sum(-1) < 1.4**2
    assert quiet.tau.eq(0).all()
    torch.testing.assert_close(loud.tau, 2 * dt * inside)


@pytest.mark.parametrize(
    "node",
    [
        {"name": "graf", "width": 1},
        {"name": "graf", "depth": 2, "skip": 2},
        {"name": "hypernerfgan", "rank": 0},
        {"name": "hypernerfgan", "skip": 9},
        {"name": "graph"},
    ],
)
def test_a_bad_generator_is_refused(node):
    with pytest.raises(UserError, match="wanted"):
        GENERATORS.build(node)
