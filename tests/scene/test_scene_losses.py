"""Losses of scenes against their formulas and against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.core.types import FieldOutput, Rays, Rendering, Samples
from mednerf_kit.rays.render import Level, LevelRendering
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.scene.losses import LOSSES, Outcome, build_losses


def outcome(
    w: Tensor,
    t: Tensor,
    *,
    depth: Tensor,
    tau: Tensor | None = None,
    confidence: Tensor | None = None,
    alpha: Tensor | None = None,
) -> Outcome:
    """Rays with these weights [R, S] at these nodes."""
    dt = torch.full_like(t, 0.1)
    nothing = torch.zeros(len(t), 3)
    rays = Rays(nothing, nothing, t[:, 0], t[:, -1], depth=depth)
    seen = LevelRendering(
        Rendering(nothing, w),
        Samples(t, dt),
        FieldOutput(torch.zeros_like(t) if tau is None else tau),
    )
    return Outcome(
        [seen],
        [Level(Stratified(n=1))],
        rays,
        nothing + 0.5,
        torch.ones(len(t)),
        0.5,
        alpha,
        confidence,
    )


def test_depth_losses_are_their_formulas():
    t = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    w = torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.2, 0.2]])
    record = outcome(
        w,
        t,
        depth=torch.tensor([2.0, torch.nan]),
        tau=torch.tensor([[0.3, 0.1, 9.0], [9.0, 9.0, 9.0]]),
    )
    mean, variance = 2.5, 0.5 * 4 + 0.5 * 9 - 2.5**2
    losses = build_losses({"depth_soft": 1.0, "depth_free": {"margin": 0.5}, "depth_surface": 1.0})
    assert float(losses["depth_soft"](record)) == pytest.approx((mean - 2) ** 2)
    # only the node at 1 lies before 2 − 0.5
    assert float(losses["depth_free"](record)) == pytest.approx(0.3 / 0.1)
    assert float(losses["depth_surface"](record)) == pytest.approx(abs(mean - 2) + 0.1 * variance)


def test_depth_losses_weigh_with_confidence_and_do_without_depth():
    t = torch.tensor([[1.0, 2.0], [1.0, 2.0]])
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = build_losses({"depth_soft": 1.0})["depth_soft"]
    both = outcome(w, t, depth=torch.tensor([1.0, 1.0]), confidence=torch.tensor([1.0, 0.25]))
    assert float(loss(both)) == pytest.approx(0.25 / 1.25)
    assert float(loss(outcome(w, t, depth=torch.full((2,), torch.nan)))) == 0.0


def test_a_transparent_pixel_is_free_space_to_the_end():
    t = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    w = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    tau = torch.tensor([[0.3, 9.0, 9.0], [0.1, 0.2, 0.3]])
    losses = build_losses({"depth_soft": 1.0, "depth_free": {"margin": 0.5}, "depth_sight": 1.0})
    facts = {
        "depth": torch.tensor([2.0, torch.nan]),
        "tau": tau,
        "confidence": torch.tensor([0.5, torch.nan]),
    }
    empty = outcome(w, t, **facts, alpha=torch.tensor([1.0, 0.0]))
    assert float(losses["depth_free"](empty)) == pytest.approx((0.5 * 0.3 / 0.1 + 0.6 / 0.3) / 1.5)
    assert float(losses["depth_sight"](empty)) == pytest.approx((0.5 * 0.0 + 0.5) / 1.5)
    assert float(losses["depth_soft"](empty)) == 0.0
    unknown = outcome(w, t, **facts, alpha=torch.tensor([1.0, 0.1]))
    assert float(losses["depth_free"](unknown)) == pytest.approx(0.3 / 0.1)


def test_line_of_sight_is_least_at_the_bell():
    t = torch.linspace(0.05, 3.95, 40)[None]
    loss = build_losses({"depth_sight": {"window": 0.6, "window_end": 0.6}})["depth_sight"]
    bell = torch.exp(-0.5 * ((t - 2.0) / 0.2).square())
    right, early = bell / bell.sum(), torch.exp(-0.5 * ((t - 1.0) / 0.2).square())
    depth = torch.tensor([2.0])
    assert (
        float(loss(outcome(right, t, depth=depth)))
        < 2e-5
        < 0.01
        < float(loss(outcome(early / early.sum(), t, depth=depth)))
    )


@pytest.mark.parametrize("name", LOSSES.entries)
def test_every_loss_has_the_gradient_of_its_differences(name):
    rng = torch.Generator().manual_seed(0)
    rays, samples = 4, 8

    def some(*shape: int) -> Tensor:
        return 0.1 + 0.4 * torch.rand(shape, generator=rng, dtype=torch.float64)

    t = torch.linspace(0.1, 0.9, samples, dtype=torch.float64).expand(rays, samples)
    tau, color, truth, weight = (
        some(rays, samples),
        some(rays, samples, 3),
        some(rays, 3),
        some(rays),
    )
    depth = torch.tensor([0.5, 0.63, 0.4, torch.nan], dtype=torch.float64)
    # several would have gains, which have no gradient on purpose
    one_view = torch.zeros(rays, 3, dtype=torch.float64)
    seen = Rays(one_view, some(rays, 3), t[:, 0], t[:, -1], depth=depth)

    def value(tau: Tensor) -> Tensor:
        level = LevelRendering(
            emission_absorption(tau, color),
            Samples(t, torch.full_like(t, 0.1)),
            FieldOutput(tau, color),
        )
        record = Outcome(
            [level],
            [Level(Stratified(n=samples))],
            seen,
            truth,
            weight,
            0.5,
            alpha=weight,
            confidence=weight,
            regularisers=[{name: tau.square().mean()}],
        )
        return LOSSES.build({"name": name})(record)

    found = value(tau)
    assert found.isfinite() and found.shape == ()
    assert torch.autograd.gradcheck(value, tau.requires_grad_(True))
