"""Grids of features in a box: places between grid points, and weighted sums of table rows.

Tables are [rows, C], features last: a point's row is one piece of memory. Reading is
``torch.embedding_bag``; adding gradients back is a sparse product (scipy) on the CPU, some ten
times faster there than any scatter of torch, and ``index_add_`` elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag


class _Gather(torch.autograd.Function):
    """out[n] = Σ_k weight[n, k] · table[index[n, k]], differentiable to all orders."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weight)
        return embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weight = ctx.saved_tensors
        to_table = to_weight = None
        if ctx.needs_input_grad[0]:
            to_table = _Scatter.apply(gradient, index, weight, len(table))
        if ctx.needs_input_grad[2]:
            to_weight = (table[index.long()] * gradient[:, None]).sum(-1)
        return to_table, None, to_weight


class _Scatter(torch.autograd.Function):
    """out[index[n, k]] += weight[n, k] · values[n]: the adjoint of a gather."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, weight: Tensor, rows: int) -> Tensor:
        ctx.save_for_backward(values, index, weight)
        if values.device.type != "cpu" or values.dtype != torch.float32:
            spread = (values[:, None] * weight[..., None]).flatten(0, 1)
            return values.new_zeros(rows, values.shape[1]).index_add_(0, index.flatten(), spread)
        from scipy.sparse import csr_array

        starts = torch.arange(0, index.numel() + 1, index.shape[1], dtype=torch.int32)
        triple = [t.detach().numpy() for t in (weight.flatten(), index.flatten(), starts)]
        matrix = csr_array(tuple(triple), shape=(len(index), rows))
        return torch.from_numpy(matrix.T @ values.detach().contiguous().numpy())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        values, index, weight = ctx.saved_tensors
        to_values = to_weight = None
        if ctx.needs_input_grad[0]:
            to_values = _Gather.apply(gradient, index, weight)
        if ctx.needs_input_grad[2]:
            to_weight = (gradient[index.long()] * values[:, None]).sum(-1)
        return to_values, None, to_weight, None


def gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums Σ_k weight[n, k] · table[index[n, k]] of table rows: [N, C].

    The table is [T, C], index (int32) and weight are [N, K]. Differentiable, any number of times,
    in the table and the weights.

    >>> table = torch.tensor([[0.0], [10.0]])
    >>> gather(table, torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([[0.75, 0.25]]))
    tensor([[2.5000]])
    """
    return _Gather.apply(table, index, weight)


def axis_position(u: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The grid point at or below positions u [N], and how far beyond it they lie, [N] both.

    The axis has n points, 0 … n − 1; positions are clamped to it.

    >>> axis_position(torch.tensor([0.25, 1.0, 5.0]), 3)
    (tensor([0, 1, 1], dtype=torch.int32), tensor([0.2500, 0.0000, 1.0000]))
    """
    u = u.clamp(0, n - 1)
    low = u.detach().floor().clamp_max_(max(n - 2, 0))
    return low.int(), u - low


def line_corners(low: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and weights [N, 2] of linear interpolation on an axis."""
    return columns(low, low + 1), columns(1 - beyond, beyond)


def plane_corners(
    low: tuple[Tensor, Tensor], beyond: tuple[Tensor, Tensor], width: int
) -> tuple[Tensor, Tensor]:
    """Rows and weights [N, 4] of bilinear interpolation on a plane of ``width`` points a row.

    ``low`` and ``beyond`` are :func:`axis_position` along the plane's (rows, columns).
    """
    first = low[0] * width + low[1]
    down, right = beyond
    both = down * right
    weight = columns(1 - down - right + both, right - both, down - both, both)
    return columns(first, first + 1, first + width, first + width + 1), weight


def columns(*parts: Tensor) -> Tensor:
    """``torch.stack(parts, -1)`` of vectors, at twice its speed."""
    out = parts[0].new_empty(len(parts[0]), len(parts))
    for k, part in enumerate(parts):
        out[:, k] = part
    return out


class Mask(nn.Module):
    """Which of n × n × n cells of a box may hold something.

    A field need not be evaluated at points in other cells, nor outside the box. ``cells``
    [n + 2, n + 2, n + 2] has a border of empty cells, into which points outside the box fall.
    """

    box: Tensor
    cells: Tensor

    def __init__(self, box: Tensor) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.register_buffer("cells", torch.zeros(0, dtype=torch.bool))
        self.set(torch.ones(1, 1, 1, dtype=torch.bool), box)

    def set(self, cells: Tensor, box: Tensor) -> None:
        """Take over other cells: bool [n, n, n], which tile a box [2, 3]."""
        self.box = box.detach().clone().float()
        self.cells = nn.functional.pad(cells, (1, 1, 1, 1, 1, 1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Whether points x [..., 3] lie in an occupied cell: bool [...]."""
        n = len(self.cells) - 2
        # a hair less, so that the far faces belong to the box
        scale = n * (1 - 1e-6) / (self.box[1] - self.box[0])
        cell = torch.addcmul(1 - self.box[0] * scale, x.reshape(-1, 3), scale)
        cell = cell.clamp_(0, n + 1).floor_()
        strides = cell.new_tensor(self.cells.stride())  # exact in fp32 below 2^24 cells
        return self.cells.view(-1).index_select(0, (cell @ strides).long()).view(x.shape[:-1])


def grid_points(box: Tensor, voxels: float) -> tuple[int, int, int]:
    """Grid points along x, y, z of about ``voxels`` cubic voxels in a box [2, 3].

    >>> grid_points(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]), 8000)
    (10, 20, 40)
    """
    size = (box[1] - box[0]).double()
    side = float(size.prod() / voxels) ** (1 / 3)
    x, y, z = (max(2, round(float(s) / side)) for s in size)
    return x, y, z


def upsampling_schedule(
    start_voxels: float, end_voxels: float, upsample: Sequence[float]
) -> list[tuple[float, float]]:
    """At which shares of the training a grid gets how many voxels, log-linearly.

    >>> upsampling_schedule(8, 512, (0.5, 0.1, 0.3))[::2]
    [(0.1, 32.0), (0.5, 512.0)]
    """
    ends = math.log(start_voxels), math.log(end_voxels)
    counts = torch.linspace(*ends, len(upsample) + 1).exp().tolist()
    return list(zip(sorted(upsample), counts[1:], strict=True))
