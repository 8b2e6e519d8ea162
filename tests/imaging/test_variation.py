"""Varied patients against closed forms: balls scaled and moved, lungs thinned, scans cut flat."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mednerf_kit.imaging.variation import (
    LIMIT,
    Variation,
    draw_variants,
    lung_weight,
    read_positions,
    varied,
)

SIZE, VOXEL_MM, WATER = 48, 8.0, 0.2
NOTHING = Variation(
    **{field.name: 0.0 for field in dataclasses.fields(Variation) if field.type == "float"}
    | {"grid_mm": 90.0},
    flat_ends=False,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def positions_mm() -> Tensor:
    """Voxel centres (x, y, z) about the middle, [3, D, H, W]."""
    axis = (torch.arange(SIZE) - (SIZE - 1) / 2) * VOXEL_MM
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z])


def ball(radius_mm: float = 80.0) -> Tensor:
    """A ball of water with a soft rim one voxel wide, [1, D, H, W]."""
    radius = positions_mm().norm(dim=0)
    return WATER * ((radius_mm - radius) / VOXEL_MM + 0.5).clamp(0, 1)[None]


def box(half_mm: tuple[float, float, float], value: float = WATER) -> Tensor:
    inside = (positions_mm().abs() < torch.tensor(half_mm)[:, None, None, None]).all(0)
    return value * inside.float()[None]


def varied_by(volume: Tensor, seed: int = 0, **strengths: float | bool) -> Tensor:
    options = dataclasses.replace(NOTHING, **strengths)
    return varied(volume, seeded(seed), options, water=WATER, voxel_mm=VOXEL_MM)


def centroid_mm(volume: Tensor) -> Tensor:
    return (volume * positions_mm()).sum((1, 2, 3)) / volume.sum()


def spread_mm(volume: Tensor) -> Tensor:
    """Standard deviation of a body along x, y and z."""
    away = positions_mm() - centroid_mm(volume)[:, None, None, None]
    return ((volume * away**2).sum((1, 2, 3)) / volume.sum()).sqrt()


def test_no_variation_changes_nothing():
    volume = torch.rand(2, 20, 24, 28, generator=seeded(0))
    same = varied(volume, seeded(1), NOTHING, water=WATER, voxel_mm=(5.0, 6.0, 7.0))
    torch.testing.assert_close(same, volume, atol=2e-5, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_a_ball_of_another_size_has_the_radius_and_the_volume_of_that_size(seed):
    scale = float((0.1 * torch.randn(1, 1, generator=seeded(seed)).clamp(-LIMIT, LIMIT)).exp())
    before, after = ball(), varied_by(ball(), seed, size=0.1)
    # a ball's standard deviation along an axis is its radius / √5
    torch.testing.assert_close(
        spread_mm(after) * 5**0.5, torch.full((3,), 80 * scale), rtol=0.01, atol=0
    )
    assert float(after.sum() / before.sum()) == pytest.approx(scale**3, rel=0.01)


def test_a_stretched_ball_is_an_ellipsoid_of_the_same_attenuation():
    after = varied_by(ball(), 3, stretch=0.15)
    ratio = spread_mm(after) / spread_mm(ball())
    assert float(ratio.max() / ratio.min()) > 1.05
    assert float(after.sum() / ball().sum()) == pytest.approx(float(ratio.prod()), rel=0.02)
    assert float(after.max()) == pytest.approx(WATER, rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_another_pose_keeps_mass_and_shape(seed):
    body = box((60.0, 30.0, 100.0))
    after = varied_by(body, seed, rotation_deg=20.0, shift_mm=15.0)
    assert float(after.sum() / body.sum()) == pytest.approx(1, rel=0.005)
    moments = [
        torch.linalg.eigvalsh(torch.cov(positions_mm().flatten(1), aweights=one.flatten()))
        for one in (body, after)
    ]
    torch.testing.assert_close(moments[1].sqrt(), moments[0].sqrt(), rtol=0.02, atol=0)
    assert float((centroid_mm(after) - centroid_mm(body)).norm()) > 3


def test_the_same_seed_gives_the_same_bodies_and_every_one_is_another():
    pair = ball().expand(2, -1, -1, -1)
    one, again, other = (
        varied(pair, seeded(seed), Variation(), water=WATER, voxel_mm=VOXEL_MM)
        for seed in (5, 5, 6)
    )
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.01)
    assert not torch.allclose(one[0], one[1], atol=0.01)


def test_displacements_are_as_strong_as_asked():
    options = dataclasses.replace(NOTHING, deformation_mm=7.0)
    drawn = draw_variants(200, (360.0,) * 3, seeded(0), options)
    still = draw_variants(1, (360.0,) * 3, seeded(0), NOTHING)
    shape = (12, 12, 12)
    moved = (read_positions(drawn, shape) - read_positions(still, shape)) * 180
    # the draws are cut at 2.5 standard deviations, which takes 2.4 % of their spread
    assert float(moved.std()) == pytest.approx(7.0 * 0.976, rel=0.03)
    assert abs(float(moved.mean())) < 0.1


@pytest.mark.parametrize("length_mm", [350.0, 500.0])
def test_bodies_do_not_fold_at_the_default_strengths(length_mm):
    drawn = draw_variants(150, (length_mm,) * 3, seeded(1), Variation())
    at = read_positions(drawn, (24,) * 3) * 12  # in voxels
    corner = at[:, :-1, :-1, :-1]
    along = [at[:, :-1, :-1, 1:], at[:, :-1, 1:, :-1], at[:, 1:, :-1, :-1]]
    jacobian = torch.linalg.det(torch.stack([step - corner for step in along], -1))
    assert float(jacobian.min()) > 0.1
    assert float(jacobian.mean()) == pytest.approx(1, abs=0.1)


def test_left_stays_left():
    body = box((120.0, 80.0, 100.0))
    heart = WATER * (
        (positions_mm() - torch.tensor([50.0, 0, 0])[:, None, None, None]).norm(dim=0) < 30
    )
    for seed in range(20):
        after = varied(body + heart, seeded(seed), Variation(), water=WATER, voxel_mm=VOXEL_MM)
        assert float(centroid_mm((after - 1.2 * WATER).clamp_min(0))[0]) > 15


def test_lungs_change_their_density_and_the_skin_and_the_tissue_do_not():
    body = box((130.0, 90.0, 110.0))
    inner = box((90.0, 60.0, 80.0), 1.0)
    volume = body * (1 - 0.8 * inner)
    volume[:, :, 24 + 11] *= 0.4  # a skin that its voxels hold a part of
    after = varied_by(volume, 1, lung=0.3)
    deep = box((50.0, 30.0, 40.0), 1.0) > 0
    options = dataclasses.replace(NOTHING, lung=0.3)
    factor = float(draw_variants(1, (SIZE * VOXEL_MM,) * 3, seeded(1), options).lung)
    assert abs(factor - 1) > 0.02
    torch.testing.assert_close(after[deep], volume[deep] * factor, rtol=1e-4, atol=0)
    outside = (inner == 0) & (volume > 0)
    torch.testing.assert_close(after[outside], volume[outside], rtol=0.02, atol=1e-4)


def test_lung_is_neither_air_nor_tissue_nor_a_thin_layer():
    relative = torch.full((24, 24, 24), 1.0)
    relative[6:18, 6:18, 6:18] = 0.2
    relative[:, :2] = 0.0
    relative[:, 2] = 0.3  # skin
    weight = lung_weight(relative)
    assert float(weight[8:16, 8:16, 8:16].min()) == 1
    assert float(weight[:, :4].max()) == 0
    assert float(weight[:, 20:].max()) == 0


def test_bone_changes_what_it_has_above_tissue():
    volume = box((100.0, 100.0, 100.0))
    bone = box((30.0, 30.0, 100.0), 1.0) > 0
    volume[bone] = 2 * WATER
    options = dataclasses.replace(NOTHING, bone=0.3)
    factor = float(draw_variants(1, (SIZE * VOXEL_MM,) * 3, seeded(2), options).bone)
    after = varied_by(volume, 2, bone=0.3)
    assert float(after[bone].mean()) == pytest.approx(WATER * (2 + (factor - 1) * 0.85), rel=1e-3)
    torch.testing.assert_close(after[~bone], volume[~bone], atol=1e-5, rtol=0)


def test_a_turned_scan_ends_in_planes_again():
    body = box((120.0, 60.0, 100.0))
    for seed in range(4):
        tilted = varied_by(body, seed, rotation_deg=8.0)[0]
        flat = varied_by(body, seed, rotation_deg=8.0, flat_ends=True)[0]
        areas = (flat > 0.5 * WATER).sum((1, 2)).float()
        assert float(areas[areas > 0].min()) > 0.85 * float(areas.max())
        areas = (tilted > 0.5 * WATER).sum((1, 2)).float()
        assert float(areas[areas > 0].min()) < 0.7 * float(areas.max())
        kept = flat.amax((1, 2)) > 0
        assert torch.equal(flat[kept], tilted[kept])


def test_cuts_take_shares_of_the_height_from_the_ends_and_leave_half_of_them():
    body = box((60.0, 60.0, 120.0)).expand(64, -1, -1, -1)
    after = varied_by(body, 0, cut=0.3)
    height = after[:, :, SIZE // 2, SIZE // 2].sum(1) / WATER * VOXEL_MM
    options = dataclasses.replace(NOTHING, cut=0.3)
    cut = draw_variants(64, (SIZE * VOXEL_MM,) * 3, seeded(0), options).cut
    torch.testing.assert_close(height, 240 * (1 - cut.sum(1)), rtol=1e-3, atol=0)
    assert 0.35 < float((cut == 0).float().mean()) < 0.65
    assert 0.2 < float(cut.max()) <= 0.3


def test_an_empty_volume_stays_empty():
    empty = torch.zeros(1, 16, 16, 16)
    assert torch.equal(varied(empty, seeded(0), Variation(), water=WATER, voxel_mm=10.0), empty)


def test_a_shift_along_the_axis_moves_bodies_up_and_down_alone() -> None:
    still = {
        f.name: 0 for f in dataclasses.fields(Variation) if f.name not in ("grid_mm", "flat_ends")
    }
    options = Variation(**(still | {"along_mm": 20.0}))
    drawn = draw_variants(200, (400.0,) * 3, torch.Generator().manual_seed(0), options)
    middle = drawn.control.flatten(2).mean(2) * 200  # mm that the box's middle reads from
    assert float(middle[:, :2].abs().max()) < 1e-3
    assert 17 < float(middle[:, 2].std()) < 23
