"""Baking: a generated field evaluated once into voxels, which the Joseph projector then turns into
any number of views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.types import SUPPORT
from ..fields.hyper import MlpWeights
from ..gan.generator import SceneGenerator
from ..imaging.geometry import Geometry
from ..imaging.projector import project

# of the cube that holds a volume, in field units: the support cylinder fits into it
HALF_EXTENT = SUPPORT


@torch.no_grad()
def bake(
    generator: SceneGenerator, code: MlpWeights, *, size: int = 96, half_height: float = 1.2
) -> Tensor:
    """Image value per field unit on the cube ±HALF_EXTENT: [B, size, size, size] (z, y, x).

    Only the support cylinder up to ``half_height`` is evaluated; a cone beam sees nothing beyond.
    """
    device = code.layers[0][0].device
    line = ((torch.arange(size, device=device) + 0.5) / size * 2 - 1) * HALF_EXTENT
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    inside = (x**2 + y**2 < generator.field.support**2) & (z.abs() < half_height)
    points = torch.stack([x[inside], y[inside], z[inside]], -1)[None]
    values = torch.zeros(code.batch, *inside.shape, device=device)
    for i in range(code.batch):
        values[i, inside] = generator.field.density(points, code.one(i))[0]
    return values


def project_field(values: Tensor, geometry: Geometry, distance: float | None = None) -> Tensor:
    """Orbit pictures [..., V, rows, cols] of baked volumes [..., D, H, W] at
    ``geometry.angles_deg``.

    ``distance`` (field units) replaces the geometry's own source distance, where it was fitted.
    """
    unit_mm = geometry.half_width_mm
    if distance is not None:
        geometry = at_distance(geometry, distance)
    spacing_mm = (2 * HALF_EXTENT * unit_mm / values.shape[-1],) * 3
    return project(values, spacing_mm, geometry) / unit_mm


def at_distance(geometry: Geometry, distance: float) -> Geometry:
    """The geometry with its source at ``distance`` half-widths."""
    return geometry.with_fov(2 * torch.rad2deg(torch.atan(torch.tensor(1.0 / distance))).item())
