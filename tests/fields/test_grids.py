"""Grids: sums of table rows, factorised grids against plain loops, masks of cells."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from field_cases import BOX, points, seeded

from mednerf_kit.fields.factors import LINE_AXIS, PLANE_AXES, Corners, LineProducts, VectorMatrix
from mednerf_kit.fields.grids import Mask, gather


class TestGather:
    def case(self, n=40, rows=30, k=4, c=3):
        g = seeded()
        table = torch.randn(rows, c, generator=g)
        return (
            table,
            torch.randint(rows, (n, k), generator=g, dtype=torch.int32),
            torch.rand(n, k, generator=g),
        )

    def test_is_a_weighted_sum_of_rows(self):
        table, index, weight = self.case()
        torch.testing.assert_close(
            gather(table, index, weight), (table[index.long()] * weight[..., None]).sum(1)
        )

    def test_slopes_and_their_slopes(self):
        table, index, weight = self.case(n=5, rows=6, k=2)
        table, weight = table.double().requires_grad_(), weight.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda t, w: gather(t, index, w), (table, weight))
        assert torch.autograd.gradgradcheck(lambda t, w: gather(t, index, w), (table, weight))

    def test_fp32_slopes_are_those_of_plain_indexing(self):
        table, index, weight = self.case(n=200)
        plain = table.clone().requires_grad_()
        ours = table.clone().requires_grad_()
        (plain[index.long()] * weight[..., None]).sum(1).square().sum().backward()
        gather(ours, index, weight).square().sum().backward()
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-4)


def axis_weights(u: float, n: int) -> dict[int, float]:
    """Linear interpolation written out: grid points and their weights at u in [0, 1]."""
    place = u * (n - 1)
    low = min(int(place), n - 2)
    return {low: 1 - (place - low), low + 1: place - low}


@pytest.mark.parametrize("kind", ["vm", "cp"])
class TestFactors:
    resolution = (5, 6, 4)

    def make(self, kind: str, resolution=None) -> VectorMatrix | LineProducts:
        torch.manual_seed(3)
        size = resolution or self.resolution
        return VectorMatrix((3, 2, 4), size) if kind == "vm" else LineProducts(5, size)

    def volume(self, grid) -> torch.Tensor:
        """All products at every grid point by loops: [X, Y, Z, K]."""
        x, y, z = self.resolution
        out = torch.zeros(x, y, z, grid.width)
        for place in itertools.product(range(x), range(y), range(z)):
            if isinstance(grid, VectorMatrix):
                parts = [
                    plane[place[r], place[c]] * line[place[a]]
                    for plane, line, (r, c), a in zip(
                        grid.planes, grid.lines, PLANE_AXES, LINE_AXIS, strict=True
                    )
                ]
                out[place] = torch.cat(parts)
            else:
                out[place] = math.prod(
                    line[place[a]] for line, a in zip(grid.lines, LINE_AXIS, strict=True)
                )
        return out

    def test_grid_points_are_outer_products(self, kind):
        grid = self.make(kind)
        truth = self.volume(grid)
        axes = [
            torch.linspace(float(BOX[0, a]), float(BOX[1, a]), n)
            for a, n in enumerate(self.resolution)
        ]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
        at = Corners.find(x, BOX, self.resolution)
        torch.testing.assert_close(grid(at), truth.view(-1, grid.width), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(grid.sum(at), truth.sum(-1).flatten(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            grid.lattice(self.resolution), truth.sum(-1), rtol=1e-4, atol=1e-6
        )

    def test_between_grid_points_planes_and_lines_interpolate(self, kind):
        grid = self.make(kind)
        x = points(7)
        seen = grid(Corners.find(x, BOX, self.resolution))
        for n, u in enumerate(((x - BOX[0]) / (BOX[1] - BOX[0])).tolist()):
            w = [axis_weights(u[a], self.resolution[a]) for a in range(3)]
            lines = [
                sum(k * line[i] for i, k in w[a].items())
                for line, a in zip(grid.lines, LINE_AXIS, strict=True)
            ]
            if kind == "cp":
                expected = lines[0] * lines[1] * lines[2]
            else:
                planes = [
                    sum(kr * kc * plane[i, j] for i, kr in w[r].items() for j, kc in w[c].items())
                    for plane, (r, c) in zip(grid.planes, PLANE_AXES, strict=True)
                ]
                expected = torch.cat([p * v for p, v in zip(planes, lines, strict=True)])
            torch.testing.assert_close(seen[n], expected, rtol=1e-4, atol=1e-6)

    def test_a_finer_grid_with_the_old_points_is_the_same_function(self, kind):
        grid, x = self.make(kind), points(50)
        before = grid.sum(Corners.find(x, BOX, grid.resolution))
        grid.resize(tuple(2 * n - 1 for n in self.resolution))
        assert grid.resolution == (9, 11, 7)
        torch.testing.assert_close(
            grid.sum(Corners.find(x, BOX, grid.resolution)), before, rtol=1e-4, atol=1e-6
        )

    def test_cropping_keeps_what_lies_inside(self, kind):
        grid = self.make(kind)
        first, last = (1, 0, 1), (3, 4, 3)
        step = (BOX[1] - BOX[0]) / (torch.tensor(self.resolution) - 1)
        inner = BOX[0] + torch.tensor([first, last]) * step
        x = inner[0] + torch.rand(50, 3, generator=seeded()) * (inner[1] - inner[0])
        before = grid.sum(Corners.find(x, BOX, grid.resolution))
        grid.crop(first, last)
        assert grid.resolution == (3, 5, 3)
        torch.testing.assert_close(
            grid.sum(Corners.find(x, inner, grid.resolution)), before, rtol=1e-4, atol=1e-5
        )

    def test_penalties_at_closed_form(self, kind):
        grid = self.make(kind)
        with torch.no_grad():
            for table in grid.tables():
                table.fill_(-0.5)
        assert grid.l1().item() == pytest.approx(0.5 * len(grid.tables()))
        assert grid.tv().item() == 0
        with torch.no_grad():
            tables = list(grid.planes or grid.lines)
            tables[0].copy_(
                2.0 * torch.arange(tables[0].shape[0]).view(-1, *[1] * (tables[0].ndim - 1))
            )
        assert grid.tv().item() == pytest.approx(0.02 * 4)  # steps of 2 along one axis of one table


class TestMask:
    def test_cells_are_found_by_coordinates(self):
        cells = torch.rand(4, 4, 4, generator=seeded()) > 0.5
        mask = Mask(BOX)
        mask.set(cells, BOX)
        x = points(300, reach=1.4)
        u = (x - BOX[0]) / (BOX[1] - BOX[0])
        for point, found in zip(u.tolist(), mask(x).tolist(), strict=True):
            inside = all(0 <= c <= 1 for c in point)
            assert found == (inside and bool(cells[tuple(min(int(4 * c), 3) for c in point)]))

    def test_a_new_one_is_the_box(self):
        assert bool(Mask(BOX)(points(50)).all()) and bool(Mask(BOX)(BOX).all())
