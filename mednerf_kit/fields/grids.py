"""Grids of features in a box: where a point lies between grid points, and sums of table rows with
their way back.

Tables are [rows, C], features last: a point's row is one piece of memory. Reading is
``torch.embedding_bag``; adding gradients back is a sparse product (scipy) on the CPU, some ten
times faster there than any scatter of torch, and ``index_add_`` elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag


class _Gather(torch.autograd.Function):
    """out[n] = Σ_k weight[n, k] · table[index[n, k]]. Its derivatives are gathers and scatters
    again, so it has all orders.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weight)
        return embedding_bag(index, table, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weight = ctx.saved_tensors
        to_table = (
            _Scatter.apply(gradient, index, weight, len(table)) if ctx.needs_input_grad[0] else None
        )
        to_weight = (
            (table[index.long()] * gradient[:, None]).sum(-1) if ctx.needs_input_grad[2] else None
        )
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
        to_values = _Gather.apply(gradient, index, weight) if ctx.needs_input_grad[0] else None
        to_weight = (
            (gradient[index.long()] * values[:, None]).sum(-1) if ctx.needs_input_grad[2] else None
        )
        return to_values, None, to_weight, None


def gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Σ_k weight[n, k] · table[index[n, k]]: table [T, C], index int32 [N, K], weight [N, K] -> [N,
    C].

    Differentiable, any number of times, in the table and the weights.

    >>> table = torch.tensor([[0.0], [10.0]])
    >>> gather(table, torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([[0.75, 0.25]]))
    tensor([[2.5000]])
    """
    return _Gather.apply(table, index, weight)


def axis_position(u: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The grid point at or below positions u [N] on an axis of n points, and how far beyond it they
    lie; clamped to the axis.

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
    """Rows and weights [N, 4] of bilinear interpolation on a plane stored row by row, ``width``
    points a row; (row, column).
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
    """Which of n × n × n cells of a box may hold something: points elsewhere, and all outside the
    box, need not be asked.

    ``cells`` [n + 2, n + 2, n + 2] has a border of empty cells, where points outside the box fall.
    """

    box: Tensor
    cells: Tensor

    def __init__(self, box: Tensor) -> None:
        super().__init__()
        self.register_buffer("box", box.clone().float())
        self.register_buffer("cells", torch.zeros(0, dtype=torch.bool))
        self.set(torch.ones(1, 1, 1, dtype=torch.bool), box)

    def set(self, cells: Tensor, box: Tensor) -> None:
        """Take over bool cells [n, n, n] that tile a box."""
        self.box = box.detach().clone().float()
        self.cells = nn.functional.pad(cells, (1, 1, 1, 1, 1, 1))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Whether points x [..., 3] lie in an occupied cell: bool [...]."""
        n = len(self.cells) - 2
        # a hair less, so that the far faces belong to the box
        scale = n * (1 - 1e-6) / (self.box[1] - self.box[0])
        cell = (
            torch.addcmul(1 - self.box[0] * scale, x.reshape(-1, 3), scale)
            .clamp_(0, n + 1)
            .floor_()
        )
        strides = cell.new_tensor(self.cells.stride())  # exact in fp32 below 2^24 cells
        return self.cells.view(-1).index_select(0, (cell @ strides).long()).view(x.shape[:-1])
