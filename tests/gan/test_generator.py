"""The generator: modulation, rank, the Gaussian of its codes, and scenes that do not depend on
their partners.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mednerf_kit.core.errors import UserError
from mednerf_kit.gan.generator import GENERATORS, POSE_DIM, HyperGenerator, Latent

TINY = {"code_dim": 6, "width": 16, "depth": 2, "octaves": 3, "rank": 2, "mapping_width": 8}
MODULATIONS = ["demod", "tanh", "sigmoid"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny(**options) -> HyperGenerator:
    torch.manual_seed(0)
    return HyperGenerator(**{**TINY, "precision": "fp32", **options})


def without_mapping(g: HyperGenerator) -> HyperGenerator:
    """The same, whose style is the code itself: what ``latent`` does to the codes becomes
    visible.
    """
    g.mapping = nn.Identity()
    return g


def table(patients: int = 40, dim: int = TINY["code_dim"] + POSE_DIM) -> torch.Tensor:
    """Codes with correlated columns."""
    return (
        torch.randn(patients, dim, generator=seeded(1))
        @ torch.randn(dim, dim, generator=seeded(2))
        * 0.3
        + 0.5
    )


def codes_of(latent: Latent) -> torch.Tensor:
    return torch.cat([latent.w, latent.pose], 1)


# Modulation


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_modulation_keeps_its_bounds(modulation):
    g = tiny(modulation=modulation)
    code = g.weights(g.draw(8, seeded(), truncation=5.0))
    for shared, (w, bias) in zip(g.shared, code.layers, strict=True):
        assert w.shape == (8, *shared.shape) and bias.shape == (8, shared.shape[0])
        if modulation == "demod":
            torch.testing.assert_close(
                w.norm(dim=-1), torch.full(w.shape[:2], math.sqrt(2)), rtol=1e-4, atol=1e-5
            )
        elif modulation == "tanh":
            assert (w.abs() <= 2 * shared.abs() + 1e-6).all()
        else:
            assert (w.abs() <= 1.5 * shared.abs() + 1e-6).all() and (
                w.abs() >= 0.5 * shared.abs() - 1e-6
            ).all()
        assert (w[0] - w[1]).abs().max() > 1e-3, "scenes differ"


@pytest.mark.parametrize("rank", [1, 3])
def test_modulation_has_the_rank_asked_for(rank):
    g = tiny(rank=rank)
    seen = []
    g.modulate = lambda shared, m: seen.append(m) or shared.expand(len(m), *shared.shape)
    g.weights(g.draw(2, seeded()))
    for m in seen:
        assert torch.linalg.matrix_rank(m, rtol=1e-4).tolist() == [min(rank, *m.shape[1:])] * 2


def test_modulation_without_factors_is_the_shared_weight():
    zero = torch.zeros(1, 4, 5)
    shared = torch.randn(4, 5, generator=seeded())
    torch.testing.assert_close(tiny(modulation="tanh").modulate(shared, zero)[0], shared)
    torch.testing.assert_close(tiny(modulation="sigmoid").modulate(shared, zero)[0], shared)
    torch.testing.assert_close(
        tiny(modulation="demod").modulate(shared, zero)[0],
        shared * math.sqrt(2) / shared.norm(dim=1, keepdim=True),
    )


# Networks


@pytest.mark.parametrize(
    "options", [{}, {"skip": 1}, {"outputs": 4}, {"depth": 4, "skip": 3}, {"depth": 1}]
)
def test_scenes_do_not_depend_on_their_partners(options):
    g = tiny(**options)
    x, latent = torch.rand(3, 20, 3, generator=seeded(2)) - 0.5, g.draw(3, seeded())
    together = g.field(x, None, torch.ones(3, 20), g.weights(latent))
    for b in range(3):
        alone = g.field(
            x[b : b + 1],
            None,
            torch.ones(1, 20),
            g.weights(Latent(latent.w[b : b + 1], latent.pose[b : b + 1])),
        )
        torch.testing.assert_close(alone.tau, together.tau[b : b + 1], rtol=1e-4, atol=1e-5)
    assert (together.color is None) == (options.get("outputs", 1) == 1)


@pytest.mark.parametrize("modulation", MODULATIONS)
def test_gradients_reach_every_parameter(modulation):
    g = tiny(modulation=modulation, skip=1, outputs=4)
    answer = g.field(
        torch.rand(2, 200, 3, generator=seeded()) - 0.5,
        None,
        torch.ones(2, 200),
        g.weights(g.draw(2, seeded(1))),
    )
    (answer.tau.sum() + answer.color.square().sum()).backward()
    assert {
        name
        for name, p in g.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().max() == 0
    } == set()


def test_pose_moves_the_patient_and_style_does_not():
    g = tiny()
    w = g.draw(1, seeded()).w
    still, shifted = torch.zeros(1, POSE_DIM), torch.zeros(1, POSE_DIM)
    shifted[0, 0] = 2.0
    x = torch.rand(1, 50, 3, generator=seeded(1)) * 0.8 - 0.4
    moved = x + torch.tensor([2 * g.pose_log_std[0].exp().item(), 0, 0])
    a, b = (
        g.field.density(x, g.weights(Latent(w, still))),
        g.field.density(moved, g.weights(Latent(w, shifted))),
    )
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_spread_brings_random_patients_together():
    """About the same mean, nearer to it by the share."""
    pose = torch.randn(8, POSE_DIM, generator=seeded())
    wide, narrow = (tiny(pose_spread=spread).canonical_pose(pose) for spread in (1.0, 0.25))
    for name, middle in (("shift", 0), ("log_scale", 0), ("extent", torch.tensor([-1, 1]))):
        far, near = (getattr(found, name) - middle for found in (wide, narrow))
        torch.testing.assert_close(near, 0.25 * far)


def test_deltas_are_added_to_the_factors():
    g = tiny()
    latent = g.draw(2, seeded())
    plain = g.weights(latent)
    zero = g.weights(Latent(latent.w, latent.pose, g.no_deltas(2)))
    for (a, _), (b, _) in zip(plain.layers, zero.layers, strict=True):
        assert torch.equal(a, b)
    deltas = g.no_deltas(2)
    deltas[1][0] += 0.3
    tuned = g.weights(Latent(latent.w, latent.pose, deltas))
    changed = [
        [bool((a[b] != c[b]).any()) for b in range(2)]
        for (a, _), (c, _) in zip(plain.layers, tuned.layers, strict=True)
    ]
    assert changed == [[False, False], [True, False], [False, False]]


# The prior over codes


def test_whitening_and_latent_are_inverse():
    g, codes = without_mapping(tiny()), table()
    g.fit_prior(codes)
    torch.testing.assert_close(codes_of(g.latent(g.whiten(codes))), codes, rtol=1e-3, atol=1e-3)
    eps = torch.randn(5, g.latent_dim, generator=seeded(3))
    torch.testing.assert_close(g.whiten(codes_of(g.latent(eps))), eps, rtol=1e-3, atol=1e-3)


def test_drawn_codes_have_the_mean_and_shrunk_covariance_of_the_table():
    g, codes = without_mapping(tiny()), table(400)
    g.fit_prior(codes, shrink=0.25)
    drawn = codes_of(g.draw(40_000, seeded(4)))
    c = torch.cov(codes.T)
    wanted = 0.75 * c + 0.25 * torch.diag(c.diagonal())
    assert (drawn.mean(0) - codes.mean(0)).abs().max() < 0.05
    assert (torch.cov(drawn.T) - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("patients", [1, 2, 5])
def test_fewer_patients_than_numbers_are_enough(patients):
    g = without_mapping(tiny())
    g.fit_prior(table(patients))
    assert (
        codes_of(g.draw(4, seeded())).isfinite().all()
        and g.whiten(table(patients)).isfinite().all()
    )


def test_truncation_draws_nearer_to_the_mean():
    g = without_mapping(tiny())
    g.fit_prior(table())
    whole, half, none = (codes_of(g.draw(3, seeded(), truncation=t)) for t in (1.0, 0.5, 0.0))
    torch.testing.assert_close(none, g.prior_mean.expand(3, -1))
    torch.testing.assert_close(half - none, 0.5 * (whole - none))


def test_draws_repeat_by_seed():
    g = tiny()
    assert torch.equal(g.draw(3, seeded(1)).w, g.draw(3, seeded(1)).w)
    assert not torch.equal(g.draw(3, seeded(1)).w, g.draw(3, seeded(2)).w)


def test_a_saved_generator_makes_the_same_scenes():
    g, other = tiny(), HyperGenerator(**TINY)
    g.fit_prior(table())
    other.load_state_dict(g.state_dict())
    for (a, _), (b, _) in zip(
        g.weights(g.draw(2, seeded())).layers,
        other.weights(other.draw(2, seeded())).layers,
        strict=True,
    ):
        assert torch.equal(a, b)


# Options


@pytest.mark.parametrize(
    "node, said",
    [
        ({"wdth": 8}, "did you mean 'width'"),
        ({"width": "wide"}, "'wide'.*int"),
        ({"modulation": "tan"}, "'tan'.*tanh"),
        ({"outputs": 3}, "outputs"),
    ],
)
def test_a_wrong_option_is_named(node, said):
    with pytest.raises(UserError, match=said):
        GENERATORS.build({"name": "hyper", **node})


@pytest.mark.parametrize(
    "node",
    [
        {"depth": 4, "skip": 5},
        {"depth": 0},
        {"rank": 0},
        {"skip": -1},
        {"width": 0},
        {"pose_spread": 0.0},
    ],
)
def test_an_impossible_size_is_a_users_error(node):
    with pytest.raises(UserError):
        GENERATORS.build({"name": "hyper", **TINY, **node})
