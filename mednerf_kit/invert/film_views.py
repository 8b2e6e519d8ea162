"""Views of a prior's random patients, and the spaces that a film is compared with."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as nnf

from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG
from ..prior.load import Prior
from ..recon.field_volume import bake
from .film_looks import SIDE_PX, ViewSpace

VIEW_DEG = {"frontal": FRONTAL_DEG, "lateral": LATERAL_DEG}
TURN_DEG = 10.0  # a patient never stands exactly in profile
FIELD = (0.72, 1.1)  # of the prior's field of view that a film shows
SHIFT, TILT_DEG = 0.1, 3.0  # of the film, in shares of its width


@torch.no_grad()
def prior_views(
    prior: Prior, angle_deg: float, *, patients: int, grid: int, rng: Generator
) -> Tensor:
    """Views [3 · patients, S, S] of random patients, at the angle and to either side of it.

    ``grid`` voxels along a side of each patient are enough: a film is compared at
    :data:`~mednerf_kit.invert.film_looks.SIDE_PX` pixels. A prior of emission and absorption has
    its density integrated, which differs from its pictures by a tone curve.
    """
    geometry = prior.geometry.resized(3 * SIDE_PX // 2)
    geometry = geometry.at([angle_deg + turn for turn in (-TURN_DEG, 0.0, TURN_DEG)])
    code = prior.generator.weights(prior.generator.draw(patients, rng))
    volume = bake(prior.generator, code, prior.geometry, size=grid)
    return volume.project(geometry, prior.distance).flatten(0, 1).clamp_min(0).cpu()


def varied(views: Tensor, count: int, rng: Generator) -> Tensor:
    """Random ones of views [N, rows, cols], each framed as a film might be: [count, rows, cols]."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng)

    tilt = math.radians(TILT_DEG) * torch.randn(count, generator=rng)
    size, shift = uniform(*FIELD), uniform(-SHIFT, SHIFT, 2)
    rows = [
        torch.stack([size * tilt.cos(), -size * tilt.sin(), shift[:, 0]], 1),
        torch.stack([size * tilt.sin(), size * tilt.cos(), shift[:, 1]], 1),
    ]
    chosen = views[torch.randint(len(views), (count,), generator=rng)][:, None]
    places = nnf.affine_grid(torch.stack(rows, 1), list(chosen.shape), align_corners=False)
    return nnf.grid_sample(chosen, places, align_corners=False)[:, 0]


def prior_space(
    prior: Prior, angle_deg: float, *, patients: int = 24, grid: int = 24, films: int = 400
) -> ViewSpace:
    """What a prior can explain at an angle, whatever its generator; about half a second."""
    rng = Generator().manual_seed(0)
    views = prior_views(prior, angle_deg, patients=patients, grid=grid, rng=rng)
    return ViewSpace.of(varied(views, films, rng))
