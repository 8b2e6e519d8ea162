"""A grid along the rays of one view against closed forms and the projector."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.recon.field_volume import FieldVolume, voxel_centres
from mednerf_kit.recon.ray_grid import RayGrid

CHEST = DEFAULTS["chest"].resized(32)


def grid_at(angle_deg: float, geometry=CHEST, **options) -> RayGrid:
    defaults = {"rays": 32, "planes": 48, "half_width": 1.0}
    return RayGrid.of(geometry, angle_deg, geometry.distance, **(defaults | options))


@pytest.mark.parametrize("angle_deg", [0.0, 37.0, 270.0])
@pytest.mark.parametrize("tilt_deg", [0.0, 8.0])
def test_places_undo_points(angle_deg: float, tilt_deg: float) -> None:
    geometry = replace(CHEST, tilt_deg=tilt_deg, offset_mm=(30.0, -20.0))
    grid = grid_at(angle_deg, geometry, rays=6, planes=5, half_width=1.3)
    centres = torch.stack(
        torch.meshgrid(*((torch.arange(n) + 0.5) / n * 2 - 1 for n in (5, 6, 6)), indexing="ij"), -1
    ).flip(-1)
    torch.testing.assert_close(grid.places(grid.points()), centres, atol=2e-6, rtol=0)


def test_points_lie_on_the_rays_of_their_pixels() -> None:
    geometry = replace(CHEST, offset_mm=(30.0, -20.0), tilt_deg=5.0)
    grid = grid_at(200.0, geometry)
    yx = geometry.pixel_grid()[5, 20]
    rays = geometry.field_rays(torch.tensor([200.0]), yx[None], geometry.distance)
    towards = grid.points()[:, 5, 20] - rays.origin
    aside = torch.linalg.cross(towards, rays.direction.expand_as(towards))
    assert float(aside.norm(dim=-1).max()) < 1e-5
    steps = towards.norm(dim=-1).diff().abs()
    torch.testing.assert_close(steps, grid.lengths()[5, 20].expand_as(steps), rtol=1e-4, atol=0)


def test_a_balls_chords() -> None:
    grid = grid_at(270.0, rays=33, planes=200)
    inside = (grid.points().norm(dim=-1) < 0.6).float()
    found = grid.line_integrals(inside)
    u, v = grid.detector
    # the distance of a ray from the isocentre, by its slant
    aside = (u**2 + v**2).sqrt()
    aside = aside / (1 + aside**2 / grid.distance**2).sqrt()
    chord = 2 * (0.36 - aside**2).clamp_min(0).sqrt()
    assert float((found - chord).abs().max()) < 0.03


@pytest.mark.parametrize("angle_deg", [270.0, 20.0])
def test_line_integrals_agree_with_the_projector(angle_deg: float) -> None:
    x = voxel_centres(48)
    body = torch.exp(-(((x - torch.tensor([0.2, -0.1, 0.15])) / 0.35) ** 2).sum(-1))
    volume = FieldVolume.of(body[None], CHEST)
    seen = volume.project(CHEST.at([angle_deg]))[0, 0]
    grid = grid_at(angle_deg)
    found = grid.line_integrals(grid.sampled(body[None]))[0]
    assert float((found - seen).abs().max()) < 0.01 * float(seen.max())


def test_cubes_undo_sampling() -> None:
    x = voxel_centres(24)
    body = torch.exp(-(((x - torch.tensor([0.1, 0.3, -0.2])) / 0.4) ** 2).sum(-1))
    grid = grid_at(270.0, rays=96, planes=96, half_width=1.5)
    back = grid.cubes(grid.sampled(body[None]), 24)[0]
    assert float((back - body).abs().max()) < 0.04
