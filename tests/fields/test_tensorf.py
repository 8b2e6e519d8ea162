"""TensoRF: density, alpha mask, shrinking, coarse to fine."""

from __future__ import annotations

import math

import pytest
import torch
from field_cases import BOX, SMALL_TENSORF, build, points

from mednerf_kit.core.errors import UserError
from mednerf_kit.fields.base import FIELDS
from mednerf_kit.fields.factors import Corners
from mednerf_kit.fields.grids import grid_points
from mednerf_kit.fields.tensorf import TensoRF


def solid(field: TensoRF, low: float, high: float) -> None:
    """Make a TensoRF opaque where all coordinates, in [0, 1] of its box, lie in [low, high]."""
    with torch.no_grad():
        for table in field.density_grid.tables():
            table.zero_()
        plane, line = field.density_grid.planes[0], field.density_grid.lines[0]
        inside = [
            ((u := torch.linspace(0, 1, n)) >= low - 1e-6) & (u <= high + 1e-6)
            for n in (*plane.shape[:2], len(line))
        ]
        plane[..., 0] = 20.0 * (inside[0][:, None] & inside[1])
        line[..., 0] = 1.0 * inside[2]


class TestTensoRF:
    node = {
        "name": "tensorf",
        **SMALL_TENSORF,
        "start_voxels": 21**3,
        "upsample": [0.5],
        "masks": [0.2],
    }

    def test_density_is_what_the_paper_says(self):
        field = build({**self.node, "start_voxels": 1000})
        x = points(20)
        raw = field.density_grid.sum(Corners.find(x, BOX, field.density_grid.resolution))
        longest = 2.5
        torch.testing.assert_close(
            field.density(x), torch.log1p(torch.exp(raw - 10)) * 25 * 3 / longest
        )

    def test_mask_and_shrink_keep_the_scene(self):
        field = build(self.node)
        solid(field, 0.4, 0.6)
        x = points(4000)
        before = field.density(x)
        assert field.advance(0.25) and field.note is None
        size, full = field.box[1] - field.box[0], BOX[1] - BOX[0]
        assert bool((size < 0.55 * full).all()) and bool((size > 0.2 * full).all())
        after = field.density(x)
        occupied = before > 1e-3 * 25
        assert int(occupied.sum()) > 10
        torch.testing.assert_close(after[occupied], before[occupied], rtol=1e-3, atol=1e-3)
        assert not after[((x < field.box[0]) | (x > field.box[1])).any(-1)].any()
        assert float((after > 0).float().mean()) < 0.2  # empty space is no longer asked

    def test_an_empty_mask_is_not_used(self):
        field = build(self.node)
        with torch.no_grad():
            for table in field.density_grid.tables():
                table.zero_()
        before = field.density(points(50))
        assert not field.advance(0.25)
        assert "empty" in field.note and "25%" in field.note
        assert bool((before > 0).all()) and torch.equal(field.density(points(50)), before)

    def test_a_mask_of_what_has_only_begun_to_take_shape_leaves_nothing_out(self):
        field = build({**self.node, "mask_threshold": 1e-3})
        solid(field, 0.4, 0.6)
        x = points(4000)
        with torch.no_grad():
            field.density_grid.planes[0].mul_(0.17)
        before = field.density(x)
        half_voxel = float((BOX[1] - BOX[0]).mean()) / 40
        largest = -float(torch.expm1(-before.detach() * half_voxel).min())
        assert 1e-3 < largest < 0.01  # it would be all that is left
        assert not field.advance(0.25) and field.note is None
        assert torch.equal(field.box, BOX) and torch.equal(field.density(x), before)

    def test_coarse_to_fine_follows_the_progress(self):
        field = build(
            {
                **SMALL_TENSORF,
                "name": "tensorf",
                "upsample": [0.25, 0.5, 0.75],
                "end_voxels": 30**3,
                "masks": [],
            }
        )
        sizes = []
        for progress in (0.0, 0.2, 0.25, 0.3, 0.9, 1.0):
            replaced = field.advance(progress)
            sizes.append((replaced, math.prod(field.density_grid.resolution)))
        assert [replaced for replaced, _ in sizes] == [False, False, True, False, True, False]
        assert sizes[0][1] == pytest.approx(12**3, rel=0.15) and sizes[-1][1] == pytest.approx(
            30**3, rel=0.15
        )
        assert field.appearance_grid.resolution == field.density_grid.resolution
        assert not field.advance(1.0)

    def test_a_scene_in_other_units_starts_alike(self):
        one = build(self.node)
        torch.manual_seed(0)
        ten = FIELDS.build(self.node, box=10 * BOX, channels=3)
        x = points(20)
        torch.testing.assert_close(10 * ten.density(10 * x), one.density(x), rtol=1e-4, atol=1e-9)

    def test_ranks_must_fit(self):
        for bad in (
            {"density_ranks": [1, 2]},
            {"factorisation": "cp", "appearance_ranks": [1, 2, 3]},
        ):
            with pytest.raises(UserError, match="ranks"):
                build({**self.node, **bad})

    def test_grids_learn_faster_than_networks(self):
        grids, networks = build(self.node).groups()
        assert grids["rate"] == 1.0 and networks["rate"] == 0.05
        assert len(grids["params"]) == 12 and len(networks["params"]) == 7

    def test_grid_points_are_cubes(self):
        assert grid_points(torch.tensor([[0.0, 0, 0], [1, 1, 1]]), 27_000) == (30, 30, 30)
