"""Balls of constant attenuation, whose pictures are known in closed form."""

from __future__ import annotations

import torch

from mednerf_kit.imaging.geometry import Geometry

# centre, radius, mu
BALLS = [
    ((0.0, 0.0, 0.0), 0.75, 0.3),
    ((0.3, 0.3, 0.2), 0.25, 0.6),
    ((-0.25, 0.25, -0.35), 0.2, 0.9),
]
GEOMETRY = Geometry(
    source_to_isocentre_mm=600, source_to_detector_mm=900, rows=40, cols=40, pixel_mm=9.0
).orbit(24)


def pictures(geometry: Geometry = GEOMETRY, *, reach: float = 1.0) -> torch.Tensor:
    """Exact line integrals of the balls in field units, [V, rows, cols]: Σ mu·2·sqrt(r² − b²)."""
    yx = geometry.pixel_grid().expand(geometry.views, -1, -1, -1)
    angles = torch.tensor(geometry.angles_deg)[:, None, None].expand(yx.shape[:-1])
    rays = geometry.field_rays(angles, yx, geometry.distance)
    total = torch.zeros(yx.shape[:-1])
    for centre, radius, mu in BALLS:
        offset = reach * torch.tensor(centre) - rays.origin
        across = offset - (offset * rays.direction).sum(-1, keepdim=True) * rays.direction
        total += mu * 2 * ((reach * radius) ** 2 - across.square().sum(-1)).clamp_min(0).sqrt()
    return total


def db(error: torch.Tensor) -> float:
    return float(-10 * error.square().mean().log10())
