"""Cameras that nobody recorded: their directions, rays, and a gain by azimuth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from ..core.errors import UserError
from ..core.types import Rays
from ..imaging.geometry import Geometry, cylinder_span


@dataclass(frozen=True, kw_only=True)
class CameraDistribution:
    """Azimuths uniform in their range, elevations spread evenly over a band of the sphere.

    Options:
        azimuth_deg: range of the azimuth, in degrees.
        elevation_deg: bounds of the band, in degrees from −90 to 90.
        depth: samples lie this many field units before and behind the isocentre along every ray, as
            with cameras that know of no support; null: in the field's support cylinder.

    Raises UserError for bounds in the wrong order or out of range.

    >>> cameras = CameraDistribution(elevation_deg=(0.0, 90.0))
    >>> drawn = cameras.draw(1000, torch.Generator().manual_seed(0))
    >>> round(float(torch.deg2rad(drawn[:, 1]).sin().mean()), 1)
    0.5
    """

    azimuth_deg: tuple = (-180.0, 180.0)
    elevation_deg: tuple = (0.0, 0.0)
    depth: float | None = None

    def __post_init__(self) -> None:
        for name in ("azimuth_deg", "elevation_deg"):
            bounds = getattr(self, name)
            if (
                len(bounds) != 2
                or not all(isinstance(v, (int, float)) for v in bounds)
                or bounds[0] > bounds[1]
            ):
                raise UserError(
                    f"got {name} {list(bounds)}",
                    "wanted two angles in degrees, the smaller first",
                    "correct poses",
                )
        if max(map(abs, self.elevation_deg)) > 90 or (self.depth is not None and self.depth <= 0):
            raise UserError(
                f"got elevations {list(self.elevation_deg)} and depth {self.depth}",
                "wanted −90° to 90° and a positive depth (or null)",
                "correct poses",
            )

    @property
    def tilt_deg(self) -> float:
        """The elevation that stands for all: the middle of the range."""
        return sum(self.elevation_deg) / 2

    def draw(self, n: int, rng: Generator) -> Tensor:
        """n cameras as (azimuth, elevation), [n, 2] degrees."""
        u = torch.rand(n, 2, generator=rng, device=rng.device)
        low, high = self.azimuth_deg
        bottom, top = (math.sin(math.radians(v)) for v in self.elevation_deg)
        elevation = torch.rad2deg((bottom + (top - bottom) * u[:, 1]).clamp(-1, 1).asin())
        return torch.stack([low + (high - low) * u[:, 0], elevation], 1)

    def rays(self, geometry: Geometry, angles_deg: Tensor, yx: Tensor, support: float) -> Rays:
        """Rays of cameras at (azimuth, elevation) [..., 2] through pixels yx [..., R, 2]: [..., R].

        Pixels are those of the geometry's detector; lengths are in field units.

        At elevation e the source of azimuth a stands at D (cos e · h(a) + sin e · axis), h the
        horizontal direction of :class:`~mednerf_kit.imaging.geometry.Geometry`; the detector turns
        with it.
        """
        source, _, right, level_up = replace(geometry, tilt_deg=0.0).frames(angles_deg[..., 0])
        horizontal = source / geometry.source_to_isocentre_mm
        elevation = torch.deg2rad(angles_deg[..., 1])[..., None]
        towards = elevation.cos() * horizontal + elevation.sin() * level_up
        up = elevation.cos() * level_up - elevation.sin() * horizontal
        unit = 2 / (geometry.cols * geometry.pixel_mm)
        offset_u, offset_v = (offset_mm * unit for offset_mm in geometry.offset_mm)
        u = (yx[..., 1] - (geometry.cols - 1) / 2) * (2 / geometry.cols) + offset_u
        v = ((geometry.rows - 1) / 2 - yx[..., 0]) * (2 / geometry.cols) + offset_v
        target = u[..., None] * right[..., None, :] + v[..., None] * up[..., None, :]
        origin = (geometry.distance * towards)[..., None, :]
        direction = torch.nn.functional.normalize(target - origin, dim=-1)
        if self.depth is None:
            near, far = cylinder_span(origin, direction, support, "xyz".index(geometry.axis))
        else:
            near = torch.full_like(direction[..., 0], max(geometry.distance - self.depth, 0.0))
            far = torch.full_like(near, geometry.distance + self.depth)
        return Rays(origin.expand_as(direction), direction, near, far)


class ViewGain(nn.Module):
    """How much brighter pictures from an azimuth are than others, learned with the generator.

    The gain is exp Σ_k (a_k cos kθ + b_k sin kθ), k = 1 … ``orders``; 1 with no order. It is what
    views that were each stretched to their own maximum have in common.

    >>> ViewGain(2)(torch.tensor([0.0, 90.0])).tolist()
    [1.0, 1.0]
    """

    def __init__(self, orders: int = 0) -> None:
        super().__init__()
        if orders < 0:
            raise UserError(
                f"got view_gain {orders}",
                "wanted a number of orders from 0 (none)",
                "correct the task",
            )
        self.orders = orders
        self.waves = nn.Parameter(torch.zeros(2 * orders))

    def log(self, azimuth_deg: Tensor) -> Tensor:
        """Logarithm of the gain at azimuths [...] in degrees."""
        angle = torch.deg2rad(azimuth_deg)[..., None] * torch.arange(
            1, self.orders + 1, device=azimuth_deg.device
        )
        return (torch.cat([angle.cos(), angle.sin()], -1) * self.waves).sum(-1)

    def forward(self, azimuth_deg: Tensor) -> Tensor:
        """The gain at azimuths [...] in degrees."""
        return self.log(azimuth_deg).exp()
