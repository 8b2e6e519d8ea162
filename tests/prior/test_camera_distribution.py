"""Cameras that nobody recorded: on the orbit, about the isocentre, spread over their band."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import SIZE, small_geometry

from mednerf_kit.core.errors import UserError
from mednerf_kit.prior.cameras import CameraDistribution


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_level_poses_are_the_orbit():
    geometry = small_geometry()
    yx = torch.rand(3, 5, 2, generator=seeded()) * (SIZE - 1)
    angles = torch.tensor([0.0, 45.0, 270.0])
    found = CameraDistribution().rays(geometry, torch.stack([angles, torch.zeros(3)], 1), yx, 1.4)
    known = geometry.field_rays(angles[:, None], yx, geometry.distance)
    tilted = CameraDistribution().rays(
        geometry, torch.stack([angles, torch.full((3,), 20.0)], 1), yx, 1.4
    )
    known_tilted = replace(geometry, tilt_deg=20.0).field_rays(
        angles[:, None], yx, geometry.distance
    )
    for a, b in ((found, known), (tilted, known_tilted)):
        for name in ("origin", "direction", "near", "far"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-4)


def test_a_depth_range_stays_about_the_isocentre():
    rays = CameraDistribution(depth=0.7).rays(
        small_geometry(), torch.tensor([[30.0, 90.0]]), torch.full((1, 1, 2), (SIZE - 1) / 2), 1.4
    )
    middle = rays.origin + (rays.near + rays.far)[..., None] / 2 * rays.direction
    torch.testing.assert_close(middle, torch.zeros_like(middle), atol=1e-4, rtol=0)
    torch.testing.assert_close(rays.far - rays.near, torch.full((1, 1), 1.4))
    torch.testing.assert_close(
        rays.direction[0, 0], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4, rtol=0
    )


def test_poses_cover_their_band_evenly():
    drawn = CameraDistribution(azimuth_deg=(-30, 90), elevation_deg=(0, 90)).draw(4000, seeded())
    height = torch.deg2rad(drawn[:, 1]).sin()
    assert drawn[:, 0].min() >= -30 and drawn[:, 0].max() <= 90
    assert torch.histc(height, 4, 0, 1).sub(1000).abs().max() < 120
    with pytest.raises(UserError, match="smaller first"):
        CameraDistribution(azimuth_deg=(90, 0))
