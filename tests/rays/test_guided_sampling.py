"""Depth-guided sampling: the window about a known depth."""

from __future__ import annotations

import math

import pytest
import torch
from sampler_cases import one_ray, seeded

from mednerf_kit.core.errors import UserError
from mednerf_kit.rays.samplers.depth_guided import Guided
from mednerf_kit.rays.samplers.stratified import Stratified


def test_guided_nodes_lie_in_the_window_with_their_share():
    rays = one_ray(2.0, 6.0, depth=4.1)
    found = Guided(n=64, share=0.75, window=0.3, window_end=0.3)(rays, None, seeded())
    near_it = (found.t - 4.1).abs() <= 0.15
    assert near_it.sum() == 48
    torch.testing.assert_close(found.dt[near_it], torch.full((48,), 0.3 / 48), rtol=1e-3, atol=0)
    torch.testing.assert_close(found.dt[~near_it], torch.full((16,), 3.7 / 16), rtol=1e-3, atol=0)
    alone = Guided(n=8, share=1.0, window=0.3, window_end=0.3)(rays, None, None)
    assert (
        alone.dt.sum().item() == pytest.approx(0.3, rel=1e-3) and (alone.t - 4.1).abs().max() < 0.15
    )


@pytest.mark.parametrize("depth", [math.nan, math.inf, 1.0, 9.0])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_guided_is_even_without_a_usable_depth(depth, share):
    rays = one_ray(2.0, 6.0, depth=depth)
    found = Guided(n=16, share=share)(rays, None, None)
    torch.testing.assert_close(found.t, Stratified(n=16)(rays).t, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.dt, Stratified(n=16)(rays).dt, atol=1e-5, rtol=0)


def test_guided_needs_depth_in_training_and_is_even_in_a_scored_view():
    rays = one_ray(2.0, 6.0)
    torch.testing.assert_close(
        Guided(n=16)(rays, None, None).t, Stratified(n=16)(rays).t, atol=1e-5, rtol=0
    )
    with pytest.raises(UserError, match="without depth"):
        Guided(n=16)(rays, None, seeded())


def test_guided_window_shrinks_with_the_training():
    sampler = Guided(window=0.3, window_end=0.05)
    assert sampler.eps == pytest.approx(0.05)
    for progress, eps in ((0.0, 0.3), (0.5, math.sqrt(0.3 * 0.05)), (1.0, 0.05)):
        sampler.advance(progress)
        assert sampler.eps == pytest.approx(eps)


def test_guided_clips_its_window_to_the_ray():
    found = Guided(n=8, share=0.5, window=1.0, window_end=1.0)(
        one_ray(2.0, 6.0, depth=2.2), None, None
    )
    assert found.t.min() > 2.0 and (found.t < 2.7).sum() == 4
    assert found.dt.sum().item() == pytest.approx(4.0)
