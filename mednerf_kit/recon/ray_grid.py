"""A grid along the rays of one view: planes of equal depth, a column of cells behind every pixel.

What a view says lies along its own rays. In this grid a pixel and all that is behind it share a row
and a column, so that a network of pictures can predict a volume, and a line integral is a sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..core.types import SUPPORT
from ..imaging.geometry import Geometry
from .field_volume import HALF_EXTENT, cell_axis, voxel_centres


@dataclass(frozen=True)
class RayGrid:
    """S planes × R rows × R columns about the isocentre, in the frame of one view.

    Depth grows towards the source. At the isocentre the grid is ``half_width`` wide to either side,
    which may be more than the detector sees; it widens away from the source as the rays do.
    """

    towards: Tensor  # [3] unit vector from the isocentre to the source
    right: Tensor  # [3] of the image
    up: Tensor  # [3] of the image
    offset: tuple[float, float]  # of the detector to image right and up, field units
    distance: float  # source to isocentre, field units
    rays: int  # R
    planes: int  # S
    half_width: float  # field units

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        angle_deg: float,
        distance: float,
        *,
        rays: int,
        planes: int,
        half_width: float,
    ) -> RayGrid:
        """The grid of a view of this geometry, with its source at ``distance``."""
        source, _, right, up = geometry.frames(torch.tensor(angle_deg))
        unit = 2 / (geometry.cols * geometry.pixel_mm)
        offset = (geometry.offset_mm[0] * unit, geometry.offset_mm[1] * unit)
        towards = source / source.norm()
        return cls(towards, right, up, offset, distance, rays, planes, half_width)

    @property
    def depths(self) -> Tensor:
        """Of the planes, from the far side to the near one: [S]."""
        return (2 * cell_axis(self.planes) - 1) * SUPPORT

    @property
    def detector(self) -> tuple[Tensor, Tensor]:
        """Image right and up of every ray where it crosses the isocentre's plane: [R, R] each."""
        across = (2 * cell_axis(self.rays) - 1) * self.half_width
        v, u = torch.meshgrid(-across, across, indexing="ij")
        return u, v

    def points(self) -> Tensor:
        """Centres of the cells in the room, field units: [S, R, R, 3]."""
        u, v = self.detector
        widening = 1 - self.depths[:, None, None, None] / self.distance
        across = (u + self.offset[0])[..., None] * self.right + (v + self.offset[1])[
            ..., None
        ] * self.up
        return across * widening + self.depths[:, None, None, None] * self.towards

    def lengths(self) -> Tensor:
        """How long each ray is inside a cell, field units: [R, R]."""
        u, v = self.detector
        slant = 1 + ((u + self.offset[0]) ** 2 + (v + self.offset[1]) ** 2) / self.distance**2
        return 2 * SUPPORT / self.planes * slant.sqrt()

    def line_integrals(self, values: Tensor) -> Tensor:
        """Of densities [..., S, R, R] along every ray: [..., R, R]."""
        return values.sum(-3) * self.lengths()

    def places(self, x: Tensor) -> Tensor:
        """Points [..., 3] of the room in the grid, ±1 at its faces: column, row, plane."""
        depth = x @ self.towards
        widening = 1 - depth / self.distance
        u = (x @ self.right) / widening - self.offset[0]
        v = (x @ self.up) / widening - self.offset[1]
        return torch.stack([u / self.half_width, -v / self.half_width, depth / SUPPORT], -1)

    def sampled(self, volumes: Tensor) -> Tensor:
        """Cubes [B, D, H, W] of the room, as in a FieldVolume, at the cells: [B, S, R, R]."""
        at = (self.points() / HALF_EXTENT).to(volumes).expand(len(volumes), -1, -1, -1, -1)
        return grid_sample(volumes[:, None], at, align_corners=False)[:, 0]

    def cubes(self, values: Tensor, size: int) -> Tensor:
        """Densities [B, S, R, R] of the grid as cubes of the room: [B, size, size, size]."""
        x = voxel_centres(size)
        inside = x[..., :2].square().sum(-1) < SUPPORT**2
        at = self.places(x).to(values).expand(len(values), -1, -1, -1, -1)
        found = grid_sample(values[:, None], at, align_corners=False)[:, 0]
        return found * inside.to(values)
