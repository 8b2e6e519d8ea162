"""TensoRF (Chen et al., ECCV 2022): density and appearance as factorised grids, a small MLP for
colour, coarse to fine.

What lies in empty space is not asked: an alpha mask, read from the grid itself, grows sharper with
it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, relu, softplus

from ..core.errors import UserError
from ..core.types import FieldOutput
from .base import FIELDS, Penalties, SceneField
from .factors import Corners, LineProducts, VectorMatrix
from .grids import Mask
from .heads import Color, Views, query_present

LARGEST_MASK = 250  # cells a side: their number stays below 2^24


@FIELDS.register("tensorf")
class TensoRF(SceneField):
    """VM or CP factorised radiance field; defaults are VM-192 of the paper, fractions are of its
    30,000 steps.

    density = softplus(Σ products + ``shift``) · ``density_scale`` per length of the public scenes'
    unit, of which the box is taken to be three wide: a scene in other units trains alike. The
    appearance products meet a linear basis of ``features`` and then an MLP with ``view_degree`` and
    ``feature_octaves`` octaves; colour is asked where a sample's weight exceeds ``faint``.

    The grid has ``start_voxels`` at first and ``end_voxels`` after the last of ``upsample``,
    log-linearly between; at ``masks`` the alpha mask is read anew (opacity of half a voxel above
    ``mask_threshold``, widened by a voxel), and where that leaves out a tenth of the box, box and
    grids shrink to it. A mask without any cell is not used: ``note`` says so.

    ``shift`` −10 is right for surfaces among air. For attenuation alone (no colours) it starts at
    −5: a haze that light gets through but that still has a slope to follow.
    """

    box: Tensor
    done: Tensor

    def __init__(
        self,
        *,
        factorisation: Literal["vm", "cp"] = "vm",
        density_ranks: int | tuple = 16,
        appearance_ranks: int | tuple = 48,
        features: int = 27,
        head_width: int = 128,
        views: Views = "frequency",
        view_degree: int = 2,
        feature_octaves: int = 2,
        activation: Literal["softplus", "relu"] = "softplus",
        shift: float | None = None,
        density_scale: float = 25.0,
        faint: float = 1e-4,
        start_voxels: int = 128**3,
        end_voxels: int = 300**3,
        upsample: tuple = (0.067, 0.1, 0.133, 0.183, 0.233),
        masks: tuple = (0.067, 0.133),
        mask_threshold: float = 1e-4,
        shrink: bool = True,
        network_rate: float = 0.05,
        box: Tensor,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.activation, self.faint, self.mask_threshold, self.shrinks = (
            activation,
            faint,
            mask_threshold,
            shrink,
        )
        self.shift = (-10.0 if channels else -5.0) if shift is None else shift
        self.density_scale = density_scale * 3 / float((box[1] - box[0]).max())
        self.network_rate = network_rate
        counts = (
            torch.linspace(math.log(start_voxels), math.log(end_voxels), len(upsample) + 1)
            .exp()
            .tolist()
        )
        finer = [
            (fraction, "upsample", n)
            for fraction, n in zip(sorted(upsample), counts[1:], strict=True)
        ]
        # a mask before an up-sampling
        self.events = sorted([(fraction, "mask", 0.0) for fraction in masks] + finer)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("box", box.clone().float())
        self.mask = Mask(box)
        self.channels = channels
        resolution = grid_points(self.box, start_voxels)
        self.density_grid = factors(factorisation, density_ranks, resolution)
        if channels:
            self.appearance_grid = factors(factorisation, appearance_ranks, resolution)
            self.basis = nn.Linear(self.appearance_grid.width, features, bias=False)
            hidden = (head_width, head_width)
            self.head = Color(
                features,
                channels,
                hidden=hidden,
                views=views,
                degree=view_degree,
                octaves=feature_octaves,
            )

    def activated(self, raw: Tensor) -> Tensor:
        """Density per unit length of Σ products."""
        return (
            relu(raw) if self.activation == "relu" else softplus(raw + self.shift)
        ) * self.density_scale

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        points = x.reshape(-1, 3)
        return (self.at(points)[0] * self.mask(points)).view(x.shape[:-1])

    def at(self, points: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Density [N] at points [N, 3] of the box, and where they lie on the grids."""
        corners = Corners.find(points, self.box, self.density_grid.resolution)
        return self.activated(self.density_grid.sum(corners)), corners.rows

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        there = (dt > 0) & self.mask(x)
        if not self.channels:
            return query_present(x, d, dt, there, self.at, None)

        def color(rows: tuple[Tensor, ...], directions: Tensor | None) -> Tensor:
            return self.head(self.basis(self.appearance_grid(Corners(rows))), directions)

        return query_present(x, d, dt, there, self.at, color, faint=self.faint)

    def groups(self) -> list[dict[str, Any]]:
        grids = self.density_grid.tables() + (
            self.appearance_grid.tables() if self.channels else []
        )
        known = {id(p) for p in grids}
        networks = [p for p in self.parameters() if id(p) not in known]
        return [{"params": grids, "rate": 1.0}] + (
            [{"params": networks, "rate": self.network_rate}] if networks else []
        )

    def regularisers(self) -> Penalties:
        calculators = {"density_l1": self.density_grid.l1, "tv_density": self.density_grid.tv}
        return Penalties(
            calculators | ({"tv_appearance": self.appearance_grid.tv} if self.channels else {})
        )

    def advance(self, progress: float) -> bool:
        replaced = False
        while int(self.done) < len(self.events) and progress >= self.events[int(self.done)][0]:
            _, what, voxels = self.events[int(self.done)]
            if what == "upsample":
                self.resize(grid_points(self.box, voxels))
                replaced = True
            elif self.read_mask(progress) and self.shrinks and self.shrink_to_mask():
                self.read_mask(progress)
                replaced = True
            self.done += 1
        return replaced

    def grids(self) -> list[VectorMatrix | LineProducts]:
        """The factorised grids."""
        return [self.density_grid, self.appearance_grid] if self.channels else [self.density_grid]

    def resize(self, resolution: Sequence[int]) -> None:
        """Another resolution of every grid."""
        for grid in self.grids():
            grid.resize(resolution)

    @torch.no_grad()
    def read_mask(self, progress: float) -> bool:
        """Read the alpha mask from the density grid; an empty one is not used, and ``note`` says
        so.
        """
        n = min(max(self.density_grid.resolution) - 1, LARGEST_MASK)
        half_voxel = 0.5 * float((self.box[1] - self.box[0]).mean()) / n
        alpha = -torch.expm1(-self.activated(self.density_grid.lattice((n + 1,) * 3)) * half_voxel)
        # A cell's corners and those of its neighbours.
        cells = max_pool3d(alpha[None, None], 4, stride=1, padding=1)[0, 0] > self.mask_threshold
        if not bool(cells.any()):
            largest = (
                f"largest opacity {float(alpha.max()):.1e}, threshold {self.mask_threshold:.1e}"
            )
            self.note = f"the alpha mask is empty after {progress:.0%} of the training ({largest}) and is not used"
            return False
        self.mask.set(cells, self.box)
        return True

    @torch.no_grad()
    def shrink_to_mask(self) -> bool:
        """Crop box and grids to the grid points around the mask's cells, if a tenth is left out;
        the inside stays the same.
        """
        cells = self.mask.cells[1:-1, 1:-1, 1:-1]
        points = self.density_grid.resolution
        first, last = [], []
        for axis in range(3):
            others = [a for a in range(3) if a != axis]
            taken = cells.any(others[1]).any(others[0]).nonzero()[:, 0]
            share = (points[axis] - 1) / len(cells)
            first.append(math.floor(int(taken[0]) * share))
            last.append(math.ceil((int(taken[-1]) + 1) * share))
        size = self.box[1] - self.box[0]
        ends = size.new_tensor([first, last]) / (size.new_tensor(points) - 1)
        if float((ends[1] - ends[0]).prod()) > 0.9:
            return False
        self.box = self.box[0] + ends * size
        for grid in self.grids():
            grid.crop(first, last)
        return True


def grid_points(box: Tensor, voxels: float) -> tuple[int, int, int]:
    """Grid points along x, y, z of about ``voxels`` cubic voxels in a box [2, 3].

    >>> grid_points(torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]), 8000)
    (10, 20, 40)
    """
    size = (box[1] - box[0]).double()
    side = float(size.prod() / voxels) ** (1 / 3)
    x, y, z = (max(2, round(float(s) / side)) for s in size)
    return x, y, z


def factors(
    kind: str, ranks: int | tuple, resolution: Sequence[int]
) -> VectorMatrix | LineProducts:
    """A grid of the kind, with one rank for CP and one for each of three modes for VM."""
    if kind == "cp":
        if not isinstance(ranks, int):
            raise UserError(
                f"got ranks {ranks} for CP", "wanted one whole number", "give one rank, such as 96"
            )
        return LineProducts(ranks, resolution)
    listed = (ranks,) * 3 if isinstance(ranks, int) else tuple(ranks)
    if len(listed) != 3:
        raise UserError(
            f"got ranks {ranks}",
            "wanted one for each of three modes",
            "write for example [16, 4, 4]",
        )
    return VectorMatrix(listed, resolution)
