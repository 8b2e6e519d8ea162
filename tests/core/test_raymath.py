"""Sums along a ray against closed forms (a slab, an opaque wall) and brute force (loops in double
precision).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mednerf_kit.core.raymath import (
    cell_lengths,
    emission_absorption,
    exclusive_sum,
    inverse_cdf,
    line_integral,
    transmission,
)
from mednerf_kit.core.types import Rays


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def composited(tau: np.ndarray, color: np.ndarray, background: float) -> np.ndarray:
    """Emission and absorption front to back, one sample after another."""
    light, clear = np.zeros(color.shape[-1]), 1.0
    for depth, shade in zip(tau, color, strict=True):
        light += clear * (1 - np.exp(-depth)) * shade
        clear *= np.exp(-depth)
    return light + clear * background


@pytest.mark.parametrize("samples", [1, 7, 256])
def test_a_slab_attenuates_by_beer_lambert(samples):
    mu, length = 0.02, 150.0
    tau = torch.full((3, samples), mu * length / samples, dtype=torch.float64)
    assert line_integral(tau).image.flatten().tolist() == pytest.approx([mu * length] * 3)
    assert transmission(tau).image.flatten().tolist() == pytest.approx([np.exp(-mu * length)] * 3)


def test_weights_are_each_samples_share_of_the_line_integral():
    tau = torch.rand(4, 9, generator=seeded())
    for picture in (line_integral(tau), transmission(tau)):
        torch.testing.assert_close(picture.w, tau / tau.sum(-1, keepdim=True))
        assert picture.image.shape == (4, 1)


def test_an_empty_ray_is_black_and_weighs_nothing():
    empty = torch.zeros(2, 5, requires_grad=True)
    seen = line_integral(empty)
    assert seen.image.tolist() == [[0.0], [0.0]] and seen.w.abs().sum() == 0
    assert transmission(empty).image.tolist() == [[1.0], [1.0]]
    (seen.image.sum() + seen.w.sum()).backward()
    assert empty.grad.isfinite().all()


def test_exclusive_sum_leaves_the_element_out():
    x = torch.rand(3, 6, generator=seeded())
    torch.testing.assert_close(
        exclusive_sum(x), torch.stack([x[:, :i].sum(1) for i in range(6)], 1)
    )


def test_emission_absorption_is_compositing_front_to_back():
    tau, color = (
        2 * torch.rand(8, 12, generator=seeded()).double(),
        torch.rand(8, 12, 3, generator=seeded(1)).double(),
    )
    seen = emission_absorption(tau, color, background=0.7).image
    wanted = np.stack(
        [composited(t, c, 0.7) for t, c in zip(tau.numpy(), color.numpy(), strict=True)]
    )
    np.testing.assert_allclose(seen.numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 10, 100])
def test_a_uniform_glow_does_not_depend_on_the_number_of_samples(samples):
    mu, length, color = 1.3, 2.0, 0.6
    tau = torch.full((1, samples), mu * length / samples, dtype=torch.float64)
    seen = emission_absorption(tau, torch.full((1, samples, 1), color, dtype=torch.float64))
    assert seen.image.item() == pytest.approx(color * (1 - np.exp(-mu * length)))
    assert seen.w.sum().item() == pytest.approx(1 - np.exp(-mu * length))


def test_an_opaque_sample_hides_what_is_behind_it():
    tau = torch.tensor([[0.0, 1e4, 1e4, 0.5]])
    color = torch.tensor([[[0.1, 0.1], [0.2, 0.9], [1.0, 1.0], [1.0, 1.0]]])
    seen = emission_absorption(tau, color, background=1.0)
    torch.testing.assert_close(seen.image, torch.tensor([[0.2, 0.9]]))
    torch.testing.assert_close(seen.w, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e4])
def test_gradients_stay_finite_at_extremes(scale):
    tau = (scale * torch.rand(2, 16, generator=seeded())).requires_grad_(True)
    color = torch.rand(2, 16, 3, generator=seeded(1), requires_grad=True)
    for picture in (line_integral(tau), transmission(tau), emission_absorption(tau, color, 0.5)):
        gradients = torch.autograd.grad(
            picture.image.sum() + picture.w.square().sum(), [tau, color], allow_unused=True
        )
        assert all(g.isfinite().all() for g in gradients if g is not None)


def test_inverse_cdf_is_the_brute_force_inverse():
    edges = torch.rand(20, 9, generator=seeded()).double().sort(-1).values
    w = torch.rand(20, 8, generator=seeded(1)).double() + 0.01
    u = torch.rand(20, 33, generator=seeded(2)).double()
    found = inverse_cdf(edges, w, u)
    for e, weights, levels, t in zip(
        edges.numpy(), w.numpy(), u.numpy(), found.numpy(), strict=True
    ):
        cdf = np.concatenate([[0], np.cumsum(weights / weights.sum())])
        np.testing.assert_allclose(t, np.interp(levels, cdf, e), atol=1e-9)


def test_inverse_cdf_never_lands_in_a_cell_without_weight():
    edges, w = torch.arange(7.0), torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0, 0.0])
    t = inverse_cdf(edges, w, torch.linspace(0.001, 1.0, 500))
    assert (((t >= 1) & (t <= 2)) | ((t >= 4) & (t <= 5))).all()
    assert (t <= 2).float().mean().item() == pytest.approx(2 / 3, abs=0.01)


def test_inverse_cdf_covers_a_ray_without_weight_evenly():
    edges, u = torch.tensor([0.0, 1.0, 4.0]), torch.linspace(0, 1, 9)
    torch.testing.assert_close(inverse_cdf(edges, torch.zeros(2), u), 4 * u)
    assert inverse_cdf(torch.full((3,), 2.5), torch.zeros(2), u).tolist() == [2.5] * 9


def test_cell_lengths_are_what_lies_nearest_to_each_node():
    t = 1 + 2 * torch.rand(5, 6, generator=seeded()).double().sort(-1).values
    near, far = torch.full((5,), 0.8).double(), torch.full((5,), 3.3).double()
    found = cell_lengths(t, near, far)
    grid = torch.linspace(0.8, 3.3, 20001).double()
    owner = (grid[None, :, None] - t[:, None]).abs().argmin(-1)
    counted = torch.stack([(owner == k).double().mean(1) for k in range(6)], -1) * 2.5
    assert (found - counted).abs().max() < 1e-3
    torch.testing.assert_close(found.sum(-1), far - near)


def test_scaled_rays_are_the_same_lines_in_another_unit():
    rays = Rays(
        torch.tensor([10.0, 0, 0]),
        torch.tensor([0.0, 0.6, 0.8]),
        torch.tensor(5.0),
        torch.tensor(15.0),
    )
    half = rays.scaled(0.5)
    torch.testing.assert_close(
        half.origin + half.far * half.direction, 0.5 * (rays.origin + rays.far * rays.direction)
    )
    assert torch.equal(half.direction, rays.direction) and half.near == 2.5
