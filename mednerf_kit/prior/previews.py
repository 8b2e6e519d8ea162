"""Pictures of a prior in training, for TensorBoard: real views beside random patients.

The random patients are the same every time, so that one can watch them grow; one of them turns.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..gan.generator import PatientGenerator
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG, Geometry, nearest_view
from ..recon.field_volume import bake
from .rendering import Renderer

PATIENTS = 8  # of the sheet
FRAMES = 24  # views of the clip
GRID = 48  # voxels along a side
MARCHED_PX = 32  # pixels along a side where every view is rendered ray by ray


@torch.no_grad()
def radiographs(
    generator: PatientGenerator, images: Tensor, geometry: Geometry, distance: float
) -> dict[str, Tensor]:
    """Frontal and lateral line integrals of real and random patients, and an orbit of one.

    ``images`` are the real patients' views [P, V, rows, cols].
    """
    code = generator.weights(generator.draw(PATIENTS, Generator().manual_seed(0)))
    volumes = bake(generator, code, geometry, size=GRID)
    shown = [nearest_view(geometry.angles_deg, wanted) for wanted in (FRONTAL_DEG, LATERAL_DEG)]
    reals = images[:PATIENTS, shown].float().flatten(0, 1)
    fakes = volumes.project(geometry.subset(shown), distance).flatten(0, 1)
    first = volumes.with_values(volumes.values[0])
    orbit = first.project(geometry.orbit(FRAMES), distance)
    return {"grid/reals": reals.cpu(), "grid/fakes": fakes.cpu(), "clip/orbit": orbit.cpu()}


@torch.no_grad()
def ray_marched(
    generator: PatientGenerator, renderer: Renderer, images: Tensor, geometry: Geometry
) -> dict[str, Tensor]:
    """The same ray by ray, where views are no sums of voxels.

    The reals ``images`` are pictures [N, rows, cols, C] without patients.
    """
    small = geometry.resized(min(MARCHED_PX, geometry.cols))
    code = generator.weights(generator.draw(PATIENTS, Generator().manual_seed(0)))
    fakes = renderer.views(generator.field, code, small.at((FRONTAL_DEG, LATERAL_DEG)))
    orbit = renderer.views(generator.field, code.one(0), small.orbit(FRAMES))[0]
    count = 2 * PATIENTS
    reals = images[:: max(1, len(images) // count)][:count].float()
    sheets = {"grid/reals": reals, "grid/fakes": fakes.flatten(0, 1), "clip/orbit": orbit}
    return {
        name: (views if views.shape[-1] == 3 else views[..., 0]).cpu()
        for name, views in sheets.items()
    }
