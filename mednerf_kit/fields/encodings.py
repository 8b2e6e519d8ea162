"""Encodings of position by name: what an MLP knows of a point.

Any of them feeds any MLP. A grid fills the scene's box, which its constructor is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.config import Registry
from ..core.errors import UserError
from .factors import Corners, LineProducts, Triplane, VectorMatrix
from .frequency import encoded_width, frequency_encoding
from .grids import columns, gather

PRIMES = (1, 2_654_435_761, 805_459_861)
# int32 wraps modulo 2^32, of which the table's size is a divisor: the row is that of wider numbers
AS_INT32 = tuple(prime - 2**32 * (prime >= 2**31) for prime in PRIMES)
FACTORISATIONS: dict[
    str, Callable[[int, Sequence[int]], VectorMatrix | LineProducts | Triplane]
] = {
    "vm": VectorMatrix.of_rank,
    "cp": LineProducts,
    "triplane": Triplane,
}
ENCODINGS: Registry[Encoding] = Registry("encoding", home=__package__)


class Encoding(nn.Module):
    """The contract of encodings: ``width`` features of points, [N, 3] -> [N, width]."""

    width: int


def build_encoding(nodes: dict | list | str, *, box: Tensor) -> Encoding:
    """The encoding of a recipe's node; a list of nodes gives their features side by side.

    >>> box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    >>> build_encoding([{"name": "frequency", "octaves": 2}, "frequency"], box=box).width
    78
    """
    if not isinstance(nodes, list):
        return ENCODINGS.build(nodes, box=box)
    if not nodes:
        raise UserError(
            "got an empty list of encodings",
            "wanted at least one",
            f"name one of {', '.join(ENCODINGS.entries)}",
        )
    return SideBySide([ENCODINGS.build(node, box=box) for node in nodes])


class SideBySide(Encoding):
    """The features of several encodings, one after the other."""

    def __init__(self, parts: Sequence[Encoding]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.width = sum(part.width for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)


@ENCODINGS.register("frequency")
class Frequency(Encoding):
    """[x, sin 2ᵏx, cos 2ᵏx] in the scene's units (Mildenhall et al. 2020, eq. 4, without π).

    Options:
        octaves: number of k, from 0 on.
    """

    def __init__(self, *, octaves: int = 10) -> None:
        super().__init__()
        self.octaves = octaves
        self.width = encoded_width(octaves)

    def forward(self, x: Tensor) -> Tensor:
        return frequency_encoding(x, self.octaves)


@ENCODINGS.register("planes")
class Planes(Encoding):
    """Features of a factorised grid: the products of TensoRF, or the sums of a triplane.

    Options:
        factorisation: ``vm``, products of planes and lines; ``cp``, products of three lines;
            ``triplane``, sums of three planes.
        rank: number of products or sums; for vm in each of its three modes.
        resolution: grid points along the box's longest side.
    """

    box: Tensor

    def __init__(
        self,
        *,
        factorisation: Literal["vm", "cp", "triplane"] = "vm",
        rank: int = 8,
        resolution: int = 128,
        box: Tensor,
    ) -> None:
        super().__init__()
        if min(rank, resolution - 1) < 1:
            raise UserError(
                f"got rank {rank}, resolution {resolution}",
                "wanted at least 1 and 2",
                "correct the encoding",
            )
        self.register_buffer("box", box.clone().float())
        size = box[1] - box[0]
        longest = float(size.max())
        self.resolution = tuple(max(2, round(float(s) / longest * resolution)) for s in size)
        self.grid = FACTORISATIONS[factorisation](rank, self.resolution)
        self.width = self.grid.width

    def forward(self, x: Tensor) -> Tensor:
        return self.grid(Corners.find(x, self.box, self.resolution))


@ENCODINGS.register("hash")
class Hash(Encoding):
    """Multi-resolution hash grid (Müller et al., Instant-NGP, SIGGRAPH 2022, §3).

    Level l has N_l = ⌊base · b^l⌋ cells along the box's edges, b = (finest/base)^(1/(levels−1))
    (eq. 2, 3). A corner c's row is its place where (N_l + 1)³ rows fit into T = 2^log2_table, else
    ⊕ᵢ cᵢ πᵢ mod T with π = 1, 2654435761 and 805459861 (eq. 4). A point's features are trilinear
    between its cell's corners. Tables start at U(−1e-4, 1e-4).

    Options:
        levels: of cells, from ``base`` to ``finest``.
        features: of each level.
        log2_table: exponent of the largest number of rows of a level.
        base: cells along each edge at the coarsest level.
        finest: cells along each edge at the finest level.
    """

    box: Tensor

    def __init__(
        self,
        *,
        levels: int = 16,
        features: int = 2,
        log2_table: int = 19,
        base: int = 16,
        finest: int = 2048,
        box: Tensor,
    ) -> None:
        super().__init__()
        if min(levels, features, log2_table, base) < 1 or finest < base or log2_table > 24:
            raise UserError(
                f"got {levels} levels of {features} features, table 2^{log2_table}, "
                f"cells {base} to {finest}",
                "wanted positive numbers, the finest not below the base, a table up to 2^24",
                "correct the encoding's options",
            )
        self.register_buffer("box", box.clone().float())
        growth = (finest / base) ** (1 / max(levels - 1, 1))
        self.cells = [math.floor(base * growth**level + 1e-6) for level in range(levels)]
        self.size = 2**log2_table
        self.rows = [min((n + 1) ** 3, self.size) for n in self.cells]
        self.table = nn.Parameter(2e-4 * torch.rand(sum(self.rows), features) - 1e-4)
        self.width = levels * features

    def corners(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Table rows and weights of points x [N, 3], [levels · N, 8] each, level by level."""
        size = (self.box[1] - self.box[0])[:, None]
        u = ((x.T.contiguous() - self.box[0][:, None]) / size).clamp(0, 1)
        index = []
        weight = []
        first = 0
        for n, rows in zip(self.cells, self.rows, strict=True):
            place = u * n
            low = place.detach().floor().clamp_max_(n - 1)
            beyond = place - low
            corner = low.int()
            dense = (n + 1) ** 3 <= self.size
            keys = []
            for axis in range(3):
                factor = (n + 1) ** axis if dense else AS_INT32[axis]
                keys.append((corner[axis] * factor, (corner[axis] + 1) * factor))
            corner_rows = [
                x_key + y_key + z_key if dense else (x_key ^ y_key ^ z_key) & (self.size - 1)
                for z_key in keys[2]
                for y_key in keys[1]
                for x_key in keys[0]
            ]
            index.append(columns(*corner_rows).add_(first))
            fx, fy, fz = beyond
            gx, gy, gz = 1 - beyond
            shares = [a * b * c for a in (gz, fz) for b in (gy, fy) for c in (gx, fx)]
            weight.append(columns(*shares))
            first += rows
        return torch.cat(index), torch.cat(weight)

    def forward(self, x: Tensor) -> Tensor:
        by_level = gather(self.table, *self.corners(x)).view(
            len(self.cells), len(x), self.table.shape[1]
        )
        return by_level.transpose(0, 1).reshape(len(x), self.width)
