"""Pictures of a prior in training: real views beside random patients, and one random patient that
turns.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..gan.generator import PatientGenerator
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG, Geometry, nearest_view
from ..recon.field_volume import bake
from .rendering import Renderer

SCENES, FRAMES, GRID = 8, 24, 48  # patients of the sheet; views of the clip; voxels along a side


@torch.no_grad()
def radiographs(
    generator: PatientGenerator, images: Tensor, geometry: Geometry, distance: float
) -> dict[str, Tensor]:
    """Frontal and lateral views of patients [P, V, rows, cols] and of random scenes, and one
    scene's orbit: line integrals.

    The same scenes every time, so that one can watch them grow.
    """
    code = generator.weights(generator.draw(SCENES, Generator().manual_seed(0)))
    volumes = bake(generator, code, geometry, size=GRID)
    shown = [nearest_view(geometry.angles_deg, wanted) for wanted in (FRONTAL_DEG, LATERAL_DEG)]
    reals = images[:SCENES, shown].float().flatten(0, 1)
    shown_geometry = geometry.at(geometry.angles_deg[k] for k in shown)
    fakes = volumes.project(shown_geometry, distance).flatten(0, 1)
    first = volumes.with_values(volumes.values[0])
    orbit = first.project(geometry.orbit(FRAMES), distance)
    return {"grid/reals": reals.cpu(), "grid/fakes": fakes.cpu(), "clip/orbit": orbit.cpu()}


@torch.no_grad()
def marched(
    generator: PatientGenerator, renderer: Renderer, images: Tensor, geometry: Geometry
) -> dict[str, Tensor]:
    """The same where views are no sums of voxels, ray by ray at 32 px; reals are pictures [N, rows,
    cols, C] without patients.
    """
    small = geometry.resized(min(32, geometry.cols))
    code = generator.weights(generator.draw(SCENES, Generator().manual_seed(0)))
    fakes = renderer.views(generator.field, code, small.at((FRONTAL_DEG, LATERAL_DEG))).flatten(
        0, 1
    )
    orbit = renderer.views(generator.field, code.one(0), small.orbit(FRAMES))[0]
    reals = images[:: max(1, len(images) // (2 * SCENES))][: 2 * SCENES].float()
    found = {"grid/reals": reals.cpu(), "grid/fakes": fakes.cpu(), "clip/orbit": orbit.cpu()}
    return {name: views if views.shape[-1] == 3 else views[..., 0] for name, views in found.items()}
