"""A grid of voxels, trilinear between them: a CT is a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, interpolate, softplus

from ..core.errors import UserError
from ..core.types import FieldOutput
from .base import FIELDS, Penalties, SceneField
from .grids import Mask, grid_points, upsampling_schedule
from .heads import PerPoint, query_present


@FIELDS.register("voxels")
class Voxels(SceneField):
    """Density and colours at the centres of cubic voxels that fill the box.

    A colour is the same from everywhere. density = softplus(sharpness · v) / sharpness / longest
    side of the box, of the trilinear value v. It is nearly linear above 0, so that line integrals
    are a convex problem. The penalty ``tv_density`` is the mean length of the density's gradient
    over the box.

    Options:
        start_voxels: number of voxels at first.
        end_voxels: number of voxels after the last of ``upsample``; log-linear between.
        upsample: shares of the training at which the grid becomes finer.
        sharpness: of the softplus.
        haze: value of v at first, about; the density is then a haze over the box.
    """

    box: Tensor
    done: Tensor

    def __init__(
        self,
        *,
        start_voxels: int = 32**3,
        end_voxels: int = 96**3,
        upsample: tuple = (0.1, 0.3),
        sharpness: float = 20.0,
        haze: float = 0.5,
        box: Tensor,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if min(start_voxels, end_voxels) < 8 or min(sharpness, haze) <= 0:
            raise UserError(
                f"got {start_voxels} to {end_voxels} voxels, sharpness {sharpness:g}, "
                f"haze {haze:g}",
                "wanted at least 8 voxels and positive numbers",
                "correct the recipe or --set",
            )
        self.sharpness = sharpness
        self.channels = channels
        self.finer = upsampling_schedule(start_voxels, end_voxels, upsample)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))
        self.register_buffer("box", box.clone().float())
        self.inside = Mask(box)
        self.scale = 1 / float((box[1] - box[0]).max())
        shape = grid_points(box, start_voxels)[::-1]
        # [1, 1 + C, Z, Y, X]
        self.grid = nn.Parameter(haze + 0.05 * haze * torch.randn(1, 1 + channels, *shape))

    def activated(self, raw: Tensor) -> Tensor:
        """Density per unit length of trilinear values."""
        return softplus(raw * self.sharpness) * (self.scale / self.sharpness)

    def at(self, points: Tensor) -> tuple[Tensor, PerPoint]:
        """Density [N] at points [N, 3] of the box, and the colours' raw values there."""
        middle = (self.box[0] + self.box[1]) / 2
        half = (self.box[1] - self.box[0]) / 2
        place = ((points - middle) / half).view(1, 1, 1, -1, 3)
        raw = grid_sample(self.grid, place, padding_mode="border", align_corners=False)[0, :, 0, 0]
        return self.activated(raw[0]), (raw[1:].T,)

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        points = x.reshape(-1, 3)
        return (self.at(points)[0] * self.inside(points)).view(x.shape[:-1])

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        def color(rows: PerPoint, directions: Tensor | None) -> Tensor:
            return torch.sigmoid(rows[0])

        there = (dt > 0) & self.inside(x)
        return query_present(x, d, dt, there, self.at, color if self.channels else None)

    def regularisers(self) -> Penalties:
        return Penalties({"tv_density": self.tv})

    def tv(self) -> Tensor:
        """Mean over the box of |∇ density|: isotropic total variation per volume."""
        density = self.activated(self.grid[0, 0])
        sides = ((self.box[1] - self.box[0]).flip(0) / density.new_tensor(density.shape)).tolist()
        inner = density[:-1, :-1, :-1]
        steps = [
            density[1:, :-1, :-1] - inner,
            density[:-1, 1:, :-1] - inner,
            density[:-1, :-1, 1:] - inner,
        ]
        squares = sum((step / side).square() for step, side in zip(steps, sides, strict=True))
        return (squares + (1e-3 * self.scale) ** 2).sqrt().mean()

    def advance(self, progress: float) -> bool:
        replaced = False
        while int(self.done) < len(self.finer) and progress >= self.finer[int(self.done)][0]:
            self.resize(grid_points(self.box, self.finer[int(self.done)][1]))
            self.done += 1
            replaced = True
        return replaced

    def resize(self, resolution: Sequence[int]) -> None:
        """Give the grid these numbers of voxels along x, y, z; values are interpolated."""
        size = tuple(resolution)[::-1]
        self.grid = nn.Parameter(
            interpolate(self.grid.detach(), size=size, mode="trilinear", align_corners=False)
        )
