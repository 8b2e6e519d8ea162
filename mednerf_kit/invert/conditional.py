"""Answers of a prior's conditional generator to an X-ray, beside those that codes give."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ..core.resampling import area_resized
from ..imaging.geometry import angle_difference_deg
from ..prior.load import Prior
from ..recon.ray_grid import RayGrid

#: Degrees from the angle that a conditional generator learned, up to which it is asked.
MOST_TURN_DEG = 10.0


def answered_view(prior: Prior, angles_deg: Tensor) -> int | None:
    """Which of the views at ``angles_deg`` [n] the prior's conditional generator answers, if any.

    It is the one nearest to the angle that it learned, within :data:`MOST_TURN_DEG`.
    """
    if prior.conditional is None:
        return None
    turns = [
        abs(angle_difference_deg(float(angle), prior.conditional.angle_deg))
        for angle in angles_deg
    ]
    nearest = min(range(len(turns)), key=turns.__getitem__)
    return nearest if turns[nearest] <= MOST_TURN_DEG else None


@torch.no_grad()
def conditional_volumes(
    prior: Prior,
    xray: Tensor,
    mask: Tensor,
    angle_deg: float,
    distance: float,
    rng: Generator,
    *,
    samples: int,
    size: int,
) -> Tensor:
    """Cubes [samples, size, size, size] that explain an X-ray, in image values per field unit.

    ``xray`` [rows, cols] are line integrals as the prior's own pictures have them, and ``mask`` of
    the same shape is below one half where a pixel says nothing.
    """
    assert prior.conditional is not None
    generator = prior.conditional.generator.to(prior.device)
    grid = RayGrid.of(
        prior.geometry,
        angle_deg,
        distance,
        rays=generator.rays,
        planes=generator.planes,
        half_width=generator.half_width,
    )
    picture = area_resized(xray, generator.pixels, generator.pixels)
    seen = (area_resized(mask.float(), generator.pixels, generator.pixels) >= 0.5).float()
    picture, seen = picture.to(prior.device)[None], seen.to(prior.device)[None]
    densities = generator(picture, seen, rng, samples=samples, antithetic=True)
    return grid.cubes(densities, size)
