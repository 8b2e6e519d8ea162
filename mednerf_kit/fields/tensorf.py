"""TensoRF (Chen et al., ECCV 2022): density and appearance as factorised grids, coarse to fine.

Nothing is evaluated in empty space: an alpha mask, read from the density grid itself, grows sharper
with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d, relu, softplus

from ..core.errors import UserError
from ..core.types import FieldOutput
from .base import FIELDS, Penalties, SceneField, other_parameters, parameter_groups
from .factors import Corners, LineProducts, VectorMatrix
from .grids import Mask, grid_points, upsampling_schedule
from .heads import ColorHead, PerPoint, ViewEncoding, query_present

LARGEST_MASK = 250  # cells a side: their number stays below 2^24
SURFACE = 0.5  # opacity of half a voxel that a field reaches once it has surfaces
PUBLIC_WIDTH = 3.0  # of the public scenes' boxes, in their units


@dataclass(frozen=True, kw_only=True)
class TensorfOptions:
    """Options of :class:`TensoRF`; the defaults are VM-192 of the paper.

    Fractions are shares of the training (of the paper's 30,000 steps).

    Options:
        factorisation: ``vm``, products of planes and lines, or ``cp``, products of three lines.
        density_ranks: products of the density grid; for vm in each of three modes, or a list of
            three numbers.
        appearance_ranks: products of the appearance grid, as above.
        features: that a linear basis makes of the appearance products.
        head_width: of the colour MLP's two layers.
        view_encoding: how the colour MLP sees the viewing direction.
        view_degree: octaves (``frequency``) or bands (``spherical``) of the viewing direction.
        feature_octaves: octaves in which the colour MLP sees the features.
        activation: of the density.
        shift: added to the sum of products before a softplus; −10 unless given, which is right for
            surfaces among air. For attenuation alone (no colours) it is −5 unless given: a haze
            that light gets through but that still has a slope to follow.
        density_scale: factor on the density, per length of the public scenes' unit.
        faint: colour is evaluated where a sample's weight exceeds this.
        start_voxels: of the grids at first.
        end_voxels: of the grids after the last of ``upsample``; log-linear between.
        upsample: fractions at which the grids become finer.
        masks: fractions at which the alpha mask is read anew.
        mask_threshold: opacity of half a voxel above which a cell of the mask is occupied. While
            colours have no surface yet it is as much lower as their densest place is thinner.
        shrink: let box and grids shrink to a mask that leaves out a tenth of the box.
        network_rate: learning rate of the networks, as a share of the grids'.
    """

    factorisation: Literal["vm", "cp"] = "vm"
    density_ranks: int | tuple = 16
    appearance_ranks: int | tuple = 48
    features: int = 27
    head_width: int = 128
    view_encoding: ViewEncoding = "frequency"
    view_degree: int = 2
    feature_octaves: int = 2
    activation: Literal["softplus", "relu"] = "softplus"
    shift: float | None = None
    density_scale: float = 25.0
    faint: float = 1e-4
    start_voxels: int = 128**3
    end_voxels: int = 300**3
    upsample: tuple = (0.067, 0.1, 0.133, 0.183, 0.233)
    masks: tuple = (0.067, 0.133)
    mask_threshold: float = 1e-4
    shrink: bool = True
    network_rate: float = 0.05


@FIELDS.register("tensorf")
class TensoRF(SceneField):
    """A radiance field of factorised grids, VM or CP, with a small MLP for colour.

    density = softplus(Σ products + ``shift``) · ``density_scale`` per length of the public scenes'
    unit, of which the box is taken to be three wide: a scene in other units trains alike. The
    appearance products meet a linear basis, whose features go into an MLP with the viewing
    direction.

    The grids become finer during the training. The alpha mask is read from the density grid and
    widened by a voxel. A mask without any cell is not used: ``note`` says so.
    """

    box: Tensor
    done: Tensor

    def __init__(self, options: TensorfOptions, *, box: Tensor, channels: int = 3) -> None:
        super().__init__()
        self.options = options
        self.channels = channels
        usual_shift = -10.0 if channels else -5.0
        self.shift = usual_shift if options.shift is None else options.shift
        self.density_scale = options.density_scale * PUBLIC_WIDTH / float((box[1] - box[0]).max())
        finer = upsampling_schedule(options.start_voxels, options.end_voxels, options.upsample)
        events = [(fraction, "mask", 0.0) for fraction in options.masks]
        events += [(fraction, "upsample", voxels) for fraction, voxels in finer]
        self.events = sorted(events)  # a mask before an up-sampling
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("box", box.clone().float())
        self.mask = Mask(box)
        resolution = grid_points(self.box, options.start_voxels)
        kind = options.factorisation
        self.density_grid = factors(kind, options.density_ranks, resolution)
        if channels:
            self.appearance_grid = factors(kind, options.appearance_ranks, resolution)
            self.basis = nn.Linear(self.appearance_grid.width, options.features, bias=False)
            self.head = ColorHead(
                options.features,
                channels,
                hidden=(options.head_width, options.head_width),
                view_encoding=options.view_encoding,
                degree=options.view_degree,
                octaves=options.feature_octaves,
            )

    def activated(self, raw: Tensor) -> Tensor:
        """Density per unit length of Σ products."""
        if self.options.activation == "relu":
            return relu(raw) * self.density_scale
        return softplus(raw + self.shift) * self.density_scale

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        points = x.reshape(-1, 3)
        return (self.at(points)[0] * self.mask(points)).view(x.shape[:-1])

    def at(self, points: Tensor) -> tuple[Tensor, PerPoint]:
        """Density [N] at points [N, 3] of the box, and where they lie on the grids."""
        corners = Corners.find(points, self.box, self.density_grid.resolution)
        return self.activated(self.density_grid.sum(corners)), corners.rows

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        there = (dt > 0) & self.mask(x)
        if not self.channels:
            return query_present(x, d, dt, there, self.at, None)

        def color(rows: PerPoint, directions: Tensor | None) -> Tensor:
            return self.head(self.basis(self.appearance_grid(Corners(rows))), directions)

        return query_present(
            x,
            d,
            dt,
            there,
            self.at,
            color,
            encode=self.head.encoded,
            faint=self.options.faint,
            faint_color=self.faint_color,
        )

    def groups(self) -> list[dict[str, Any]]:
        tables = [table for grid in self.grids() for table in grid.tables()]
        networks = other_parameters(self, tables)
        return parameter_groups((tables, 1.0), (networks, self.options.network_rate))

    def regularisers(self) -> Penalties:
        calculators = {"density_l1": self.density_grid.l1, "tv_density": self.density_grid.tv}
        if self.channels:
            calculators["tv_appearance"] = self.appearance_grid.tv
        return Penalties(calculators)

    def advance(self, progress: float) -> bool:
        replaced = False
        while int(self.done) < len(self.events) and progress >= self.events[int(self.done)][0]:
            _, what, voxels = self.events[int(self.done)]
            if what == "upsample":
                self.resize(grid_points(self.box, voxels))
                replaced = True
            elif self.read_mask(progress) and self.options.shrink and self.shrink_to_mask():
                self.read_mask(progress)
                replaced = True
            self.done += 1
        return replaced

    def grids(self) -> list[VectorMatrix | LineProducts]:
        """The factorised grids: density, and appearance where there are colours."""
        return [self.density_grid, self.appearance_grid] if self.channels else [self.density_grid]

    def resize(self, resolution: Sequence[int]) -> None:
        """Give every grid this resolution, grid points along x, y, z."""
        for grid in self.grids():
            grid.resize(resolution)

    @torch.no_grad()
    def read_mask(self, progress: float) -> bool:
        """Read the alpha mask from the density grid; False where it is empty and not used."""
        n = min(max(self.density_grid.resolution) - 1, LARGEST_MASK)
        half_voxel = 0.5 * float((self.box[1] - self.box[0]).mean()) / n
        alpha = -torch.expm1(-self.activated(self.density_grid.lattice((n + 1,) * 3)) * half_voxel)
        # the window holds a cell's corners and those of its neighbours
        opacity = max_pool3d(alpha[None, None], 4, stride=1, padding=1)[0, 0]
        threshold, largest = self.options.mask_threshold, float(alpha.max())
        if self.channels and largest > threshold:
            # what has only begun to take shape differs little from what will stay empty
            threshold *= min(1.0, largest / SURFACE)
        cells = opacity > threshold
        if not bool(cells.any()):
            self.note = (
                f"the alpha mask is empty after {progress:.0%} of the training (largest opacity "
                f"{largest:.1e}, threshold {self.options.mask_threshold:.1e}) "
                "and is not used"
            )
            return False
        self.mask.set(cells, self.box)
        return True

    @torch.no_grad()
    def shrink_to_mask(self) -> bool:
        """Crop box and grids to the mask's cells if that leaves out a tenth; whether it does.

        They are cropped at grid points, so that the field stays the same inside.
        """
        cells = self.mask.cells[1:-1, 1:-1, 1:-1]
        points = self.density_grid.resolution
        first = []
        last = []
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


def factors(
    kind: str, ranks: int | tuple, resolution: Sequence[int]
) -> VectorMatrix | LineProducts:
    """A grid of the kind ``vm`` or ``cp``: one rank for CP, one for each of three modes for VM."""
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
