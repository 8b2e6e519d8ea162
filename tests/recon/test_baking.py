"""A generated field baked into voxels: its values, and its views against marching along rays."""

from __future__ import annotations

import pytest
import torch
from tiny import random_prior
from tiny_inversion import marched, seeded

from mednerf_kit.prior.load import Prior
from mednerf_kit.recon.field_volume import FieldVolume, bake, sample_trilinear, voxel_axis


@pytest.fixture(scope="module")
def prior() -> Prior:
    return random_prior()


@pytest.fixture(scope="module")
def baked(prior):
    """Three scenes of the prior: their networks and their volumes."""
    eps = torch.randn(3, prior.generator.latent_dim, generator=seeded(5))
    code = prior.generator.weights(prior.generator.latent(eps))
    return code, bake(prior.generator, code, prior.geometry, size=48)


def test_baked_values_are_the_fields_at_voxel_centres(prior, baked):
    code, volumes = baked
    line, values = voxel_axis(48), volumes.values
    for z, y, x in ((24, 24, 24), (10, 30, 20), (35, 12, 31)):
        point = torch.stack([line[x], line[y], line[z]]).expand(3, 1, 3)
        torch.testing.assert_close(
            prior.generator.field.density(point, code)[:, 0],
            values[:, z, y, x],
            rtol=1e-4,
            atol=1e-5,
        )
    outside = (line[:, None] ** 2 + line**2) >= prior.generator.field.support**2
    assert values[:, :, outside].abs().max() == 0 and values[:, line.abs() > 1.2].abs().max() == 0


@pytest.mark.parametrize("angle_deg", [0.0, 45.0, 270.0])
@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_projecting_what_was_baked_agrees_with_marching(prior, baked, angle_deg, factor):
    code, volumes = baked
    distance = factor * prior.geometry.distance
    seen = volumes.project(prior.geometry.at([angle_deg]), distance)[0, 0]
    truth = marched(prior, code.one(0), angle_deg, distance)
    assert float(-10 * ((seen - truth) / truth.amax()).square().mean().log10()) > 38


def test_what_interpolation_takes_is_given_back():
    """Voxels of a wave of four voxels a cycle: its own integral, where plain ones lose a fifth."""
    size = 32
    axis = voxel_axis(size)
    wave = 1 + torch.cos(torch.arange(size) * torch.pi / 2)
    inside = (axis.abs() < 0.8).float()
    values = wave * inside[:, None] * inside[:, None, None] * torch.ones(size, 1, 1)
    places = torch.linspace(-0.5, 0.5, 400)
    points = torch.stack([places, places * 0, places * 0], -1)[None]
    truth = 1 + torch.cos((places / (axis[1] - axis[0]) + (size - 1) / 2) * torch.pi / 2)
    volume = FieldVolume(values, unit_mm=100.0)
    plain, better = (
        float((sample_trilinear(v.values[None, None], points)[0, 0] - truth).square().mean())
        for v in (volume, volume.unblurred())
    )
    assert better < 0.5 * plain
