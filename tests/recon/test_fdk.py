"""Filtered back-projection: balls where they are, the filter against its sum written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from balls import BALLS, GEOMETRY

from mednerf_kit.recon.fdk import fdk, ramp, tapered
from mednerf_kit.recon.field_volume import voxel_centres


def test_feldkamp_has_the_balls_where_they_are_with_a_shifted_detector_and_uneven_views():
    # every other view of one half
    angles = [k * 5.0 for k in range(36)] + [180 + k * 10.0 for k in range(18)]
    geometry = replace(GEOMETRY, offset_mm=(12.0, -9.0)).at(angles)
    grid = geometry.pixel_grid().expand(geometry.views, -1, -1, -1)
    rays = geometry.field_rays(
        torch.tensor(angles)[:, None, None].expand(grid.shape[:-1]), grid, geometry.distance
    )
    total = torch.zeros(grid.shape[:-1])
    for centre, radius, mu in BALLS:
        away = torch.tensor(centre) - rays.origin
        across = away - (away * rays.direction).sum(-1, keepdim=True) * rays.direction
        total += mu * 2 * (radius**2 - across.square().sum(-1)).clamp_min(0).sqrt()
    found = fdk(total, geometry, size=40)
    for centre, wanted in (
        ((0.3, 0.3, 0.2), 0.9),
        ((-0.25, 0.25, -0.35), 1.2),
        ((-0.3, 0.3, 0.2), 0.3),
        ((0.0, 0.0, 0.0), 0.3),
    ):
        near = (voxel_centres(40) - torch.tensor(centre)).norm(dim=-1) < 0.1
        assert float(found.values[near].mean()) == pytest.approx(wanted, rel=0.05)


def test_the_ramp_filter_is_its_kernel():
    """Against the sum written out, h(0) = 1/(4 a²), h(odd n) = −1/(π n a)², times a; a row that
    never ends has no ramp.
    """
    rows = torch.rand(
        3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).float()
    step, n = 0.1, torch.arange(16)
    apart = (n[:, None] - n).float()
    kernel = torch.where(
        apart == 0,
        1 / (4 * step**2),
        torch.where(apart % 2 != 0, -1 / (torch.pi * apart * step) ** 2, 0.0),
    )
    torch.testing.assert_close(
        ramp(rows, step), rows @ kernel.nan_to_num() * step, rtol=1e-4, atol=1e-4
    )
    flat = ramp(torch.ones(1, 4096), step)[0, 2048]
    assert abs(float(flat)) < 0.01 * float(ramp(torch.eye(64)[32:33], step).max())
    assert float(ramp(rows, step, cutoff=0.5).std()) < float(ramp(rows, step).std())


def test_rows_end_in_zero():
    rows = torch.tensor([[2.0, 3.0, 4.0]])
    wide = tapered(rows, 4)
    assert (
        wide.shape == (1, 11)
        and torch.equal(wide[:, 4:7], rows)
        and torch.equal(tapered(rows, 0), rows)
    )
    assert float(wide[0, 0]) == pytest.approx(0, abs=1e-6) and float(wide[0, -1]) == pytest.approx(
        0, abs=1e-6
    )
    assert bool((wide[0, 7:].diff() < 0).all())
