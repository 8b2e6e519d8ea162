"""Factorised grids (Chen et al., TensoRF, ECCV 2022): features as products of planes and lines.

With vertices 0 … n−1 on each axis and both corners of the box on grid points, mode m pairs the
plane of two axes with the line of the third. VM: feature r of mode m is M_m[y, x, r] · v_m[z, r]
(eq. 4); CP: v_0[x, r] · v_1[y, r] · v_2[z, r] (eq. 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .grids import axis_position, gather, line_corners, plane_corners

PLANE_AXES = ((1, 0), (2, 0), (2, 1))  # (row, column) axis of each mode's plane
LINE_AXIS = (2, 1, 0)


class Corners:
    """Where points lie on the planes and lines of a grid.

    This is found once for all tables of that shape. ``rows`` holds index and weights of each plane
    and of each line, [N, ...] each, so that a part of the points can be taken.
    """

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows = tuple(rows)
        pairs = list(zip(self.rows[0::2], self.rows[1::2], strict=True))
        self.planes = pairs[:3]
        self.lines = pairs[3:]

    @classmethod
    def find(cls, x: Tensor, box: Tensor, resolution: Sequence[int]) -> Corners:
        """The corners of points x [N, 3] in a box [2, 3] with this resolution along x, y, z."""
        size = (box[1] - box[0])[:, None]
        cells = x.new_tensor(resolution)[:, None] - 1
        u = (x.T.contiguous() - box[0][:, None]) * (cells / size)
        low, beyond = zip(*(axis_position(u[a], n) for a, n in enumerate(resolution)), strict=True)
        planes = [
            plane_corners((low[r], low[c]), (beyond[r], beyond[c]), resolution[c])
            for r, c in PLANE_AXES
        ]
        lines = [line_corners(low[a], beyond[a]) for a in LINE_AXIS]
        return cls([row for pair in [*planes, *lines] for row in pair])


class Factors(nn.Module):
    """Tables of a factorised grid: a plane [rows, columns, R] and a line [points, R] a mode."""

    planes: nn.ParameterList
    lines: nn.ParameterList

    def __init__(
        self, ranks: Sequence[int], resolution: Sequence[int], *, planes: bool, scale: float
    ) -> None:
        super().__init__()
        pairs = zip(PLANE_AXES, ranks, strict=True) if planes else ()
        self.planes = nn.ParameterList(
            scale * torch.randn(resolution[r], resolution[c], k) for (r, c), k in pairs
        )
        self.lines = nn.ParameterList(
            scale * torch.randn(resolution[a], k) for a, k in zip(LINE_AXIS, ranks, strict=True)
        )

    @property
    def resolution(self) -> tuple[int, int, int]:
        """Grid points along x, y, z."""
        z, y, x = (len(line) for line in self.lines)
        return x, y, z

    def tables(self) -> list[Tensor]:
        """Every plane and line."""
        return [*self.planes, *self.lines]

    def at_resolution(self, resolution: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Planes and lines at another resolution, by (bi)linear interpolation."""
        planes = [
            resampled(p, (resolution[r], resolution[c]))
            for p, (r, c) in zip(self.planes, PLANE_AXES, strict=False)
        ]
        lines = [
            resampled(v[:, None], (resolution[a], 1))[:, 0]
            for v, a in zip(self.lines, LINE_AXIS, strict=True)
        ]
        return planes, lines

    def resize(self, resolution: Sequence[int]) -> None:
        """Change the resolution; where old grid points stay, so does the function."""
        planes, lines = self.at_resolution(resolution)
        self.planes = nn.ParameterList(own(p) for p in planes)
        self.lines = nn.ParameterList(own(v) for v in lines)

    def crop(self, first: Sequence[int], last: Sequence[int]) -> None:
        """Keep grid points first … last (included) along x, y, z."""
        keep = [slice(a, b + 1) for a, b in zip(first, last, strict=True)]
        planes = zip(self.planes, PLANE_AXES, strict=False)  # CP has none
        self.planes = nn.ParameterList([own(p[keep[r], keep[c]]) for p, (r, c) in planes])
        self.lines = nn.ParameterList(
            [own(v[keep[a]]) for v, a in zip(self.lines, LINE_AXIS, strict=True)]
        )

    def l1(self) -> Tensor:
        """Σ over tables of the mean absolute value."""
        return torch.stack([table.abs().mean() for table in self.tables()]).sum()

    def tv(self) -> Tensor:
        """Σ over planes (CP: lines) of the mean squared step along each axis, times 0.02.

        The factor is that of the public code.
        """
        tables = self.planes or self.lines
        steps = [t.diff(dim=axis).square().mean() for t in tables for axis in range(t.ndim - 1)]
        return 0.02 * torch.stack(steps).sum()


class VectorMatrix(Factors):
    """VM: a plane times a line in each of three modes; ``ranks`` products in each."""

    @classmethod
    def of_rank(cls, rank: int, resolution: Sequence[int]) -> VectorMatrix:
        """The same rank in each mode."""
        return cls((rank,) * 3, resolution)

    def __init__(
        self, ranks: Sequence[int], resolution: Sequence[int], *, scale: float = 0.1
    ) -> None:
        super().__init__(ranks, resolution, planes=True, scale=scale)
        self.width = sum(ranks)

    def forward(self, at: Corners) -> Tensor:
        """All products at points: [N, ΣR]."""
        return torch.cat(self.modes(at), -1)

    def sum(self, at: Corners) -> Tensor:
        """Σ of all products at points: [N]."""
        return torch.stack([product.sum(-1) for product in self.modes(at)]).sum(0)

    def modes(self, at: Corners) -> list[Tensor]:
        """The products of each mode: [N, R_m]."""
        return [
            gather(plane.flatten(0, 1), *at.planes[m]) * gather(line, *at.lines[m])
            for m, (plane, line) in enumerate(zip(self.planes, self.lines, strict=True))
        ]

    def lattice(self, resolution: Sequence[int]) -> Tensor:
        """Σ of all products at the points of a grid of this resolution: [X, Y, Z]."""
        equations = ("yxr,zr->xyz", "zxr,yr->xyz", "zyr,xr->xyz")
        parts = zip(equations, *self.at_resolution(resolution), strict=True)
        return torch.stack(
            [torch.einsum(equation, plane, line) for equation, plane, line in parts]
        ).sum(0)


class LineProducts(Factors):
    """CP: ``rank`` products of three lines."""

    def __init__(self, rank: int, resolution: Sequence[int], *, scale: float = 0.2) -> None:
        super().__init__((rank,) * 3, resolution, planes=False, scale=scale)
        self.width = rank

    def forward(self, at: Corners) -> Tensor:
        """All products at points: [N, R]."""
        first, second, third = (
            gather(line, *where) for line, where in zip(self.lines, at.lines, strict=True)
        )
        return first * second * third

    def sum(self, at: Corners) -> Tensor:
        """Σ of all products at points: [N]."""
        return self(at).sum(-1)

    def lattice(self, resolution: Sequence[int]) -> Tensor:
        """Σ of all products at the points of a grid of this resolution: [X, Y, Z]."""
        z, y, x = self.at_resolution(resolution)[1]
        return torch.einsum("xr,yr,zr->xyz", x, y, z)


class Triplane(nn.Module):
    """A triplane: ``rank`` sums of three plane features (Chan et al., EG3D, CVPR 2022)."""

    def __init__(self, rank: int, resolution: Sequence[int], *, scale: float = 0.1) -> None:
        super().__init__()
        self.planes = nn.ParameterList(
            scale * torch.randn(resolution[r], resolution[c], rank) for r, c in PLANE_AXES
        )
        self.width = rank

    def forward(self, at: Corners) -> Tensor:
        """Features at points: [N, R]."""
        parts = zip(self.planes, at.planes, strict=True)
        return torch.stack([gather(plane.flatten(0, 1), *where) for plane, where in parts]).sum(0)


def own(table: Tensor) -> Tensor:
    """A copy with its own memory, features last.

    So a state that is loaded again is read in the same order of sums.
    """
    return table.detach().new_empty(table.shape).copy_(table.detach())


def resampled(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A plane [rows, columns, R] at another size, bilinearly, corners kept.

    >>> resampled(torch.tensor([[[0.0], [2.0]]]), (1, 3))[0, :, 0]
    tensor([0., 1., 2.])
    """
    if table.shape[:2] == size:
        return table
    channels_first = table.permute(2, 0, 1)[None]
    found = interpolate(channels_first, size=size, mode="bilinear", align_corners=True)[0]
    return found.permute(1, 2, 0).contiguous()
