"""Field units, millimetres, attenuation, Hounsfield units: each conversion against its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from balls import GEOMETRY

from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.recon.field_volume import (
    HALF_EXTENT,
    FieldVolume,
    at_distance,
    cylinder,
    sample_trilinear,
    voxel_axis,
    voxel_centres,
)

UNIT_MM = GEOMETRY.half_width_mm


def test_voxel_centres_fill_the_cube_x_first():
    """Eight voxels over ±1.4 lie 0.35 apart, the first half a voxel from the side."""
    line = [-1.4 + 0.35 * (k + 0.5) for k in range(8)]
    torch.testing.assert_close(voxel_axis(8), torch.tensor(line))
    points = voxel_centres(8)
    assert points.shape == (8, 8, 8, 3)
    torch.testing.assert_close(points[1, 2, 5], torch.tensor([line[5], line[2], line[1]]))


def test_the_cylinder_touches_the_sides():
    x, y, _ = voxel_centres(24).unbind(-1)
    assert torch.equal(cylinder(24), x**2 + y**2 < 1.4**2)


def test_values_between_voxels_are_trilinear():
    """Channels that are linear in space are read back exactly."""
    x, y, z = voxel_centres(16).unbind(-1)
    grids = torch.stack([x + 2 * y - z, 3 * z])[None]
    points = 2.4 * torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0)) - 1.2
    wanted = torch.stack([points[0] @ torch.tensor([1.0, 2, -1]), 3 * points[0, :, 2]])
    torch.testing.assert_close(sample_trilinear(grids, points)[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_ray_through_the_middle_sums_values_times_field_units():
    """A cube of ones is 2.8 field units thick, whatever the millimetres; leading axes stay."""
    geometry = replace(GEOMETRY, rows=1, cols=1, pixel_mm=360.0).at([0.0, 90.0])
    volume = FieldVolume.of(torch.ones(2, 3, 20, 20, 20), geometry)
    seen = volume.project(geometry)
    assert seen.shape == (2, 3, 2, 1, 1)
    torch.testing.assert_close(seen, torch.full_like(seen, 2 * HALF_EXTENT))


def test_a_source_at_another_distance_keeps_the_field():
    moved = at_distance(GEOMETRY, 4.0)
    assert moved.distance == pytest.approx(4.0, rel=1e-5)
    assert moved.half_width_mm == pytest.approx(UNIT_MM)
    volume = FieldVolume.of(torch.rand(12, 12, 12), GEOMETRY)
    near, far = volume.project(GEOMETRY, 4.0), volume.project(GEOMETRY)
    torch.testing.assert_close(near, volume.project(moved))
    assert not torch.allclose(near, far, atol=1e-2)


def test_spacing_follows_the_box():
    cube = FieldVolume.of(torch.zeros(8, 8, 8), GEOMETRY)
    assert cube.spacing_mm == pytest.approx((2.8 * UNIT_MM / 8,) * 3)
    flat = FieldVolume(torch.zeros(4, 8, 16), 100.0, half_extents=(1.6, 0.8, 0.2))
    assert flat.spacing_mm == pytest.approx((20.0, 20.0, 10.0))


def test_hounsfield_units_where_the_scale_is_known_else_relative():
    values = torch.rand(4, 4, 4)
    for scale, quantity in ((None, "relative"), (9.0, "hu")):
        field = FieldVolume.of(values, replace(GEOMETRY, line_integral_scale=scale))
        volume, spread = field.to_volume(), field.to_volume("Std dev.", difference=True)
        assert volume.quantity == spread.quantity == quantity
        assert volume.note.startswith("Estimate. ") and spread.note.startswith("Std dev. ")
        assert "not for diagnosis" in volume.note
        mu = values * 9.0 / UNIT_MM
        hu, difference_hu = 1000 * (mu / 0.0205 - 1), 1000 * mu / 0.0205
        assert torch.allclose(volume.values, values if scale is None else hu, atol=1e-2)
        assert torch.allclose(spread.values, values if scale is None else difference_hu, atol=1e-2)
        torch.testing.assert_close(field.per_mm, values / UNIT_MM if scale is None else mu)


def test_a_ct_comes_back_as_it_was_written(tmp_path):
    """Into field units from a file and back to Hounsfield units, on the same grid."""
    geometry = replace(GEOMETRY, line_integral_scale=7.0)
    hu = 200 * torch.rand(10, 10, 10, generator=torch.Generator().manual_seed(0))
    write_volume(Volume.centred(hu, 2.8 * UNIT_MM / 10, "hu"), tmp_path / "ct.nii.gz")
    field = FieldVolume.from_ct(str(tmp_path / "ct.nii.gz"), geometry, size=10)
    torch.testing.assert_close(field.per_mm, 0.0205 * (1 + hu / 1000), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(field.to_volume().values, hu, rtol=1e-3, atol=0.05)
