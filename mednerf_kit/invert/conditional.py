"""Answers of a prior's conditional generator to an X-ray, beside those that codes give."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from ..core.resampling import area_resized
from ..imaging.geometry import angle_difference_deg
from ..prior.load import Conditional, Prior
from ..recon.field_volume import FieldProjector, FieldVolume
from ..recon.ray_grid import RayGrid
from .posterior import Posterior
from .update import Films, Update, innovation

#: Degrees from the angle that a conditional generator learned, up to which it is asked.
MOST_TURN_DEG = 10.0
ANSWERS = 12  # members that the conditional generator gives; even, so that they come in pairs


def with_answers(
    prior: Prior, posterior: Posterior, volumes: FieldVolume, films: Films, rng: Generator
) -> tuple[Posterior, FieldVolume]:
    """Members [M, D, H, W] of a posterior's codes joined by the conditional generator's.

    It is asked where the prior has one and an X-ray was taken near the angle that it learned. The
    X-ray is brought to line integrals first, with the gain or the tone curve that the codes led to:
    the mean of what they see and leave unexplained. Each answer takes gain and curve from one of
    the codes in turn.
    """
    view = answered_view(prior, posterior.angles_deg)
    if prior.conditional is None or view is None:
        return posterior, volumes
    pixels = prior.conditional.generator.pixels
    small = replace(
        films,
        images=area_resized(films.images, pixels, pixels),
        masks=area_resized(films.masks.float(), pixels, pixels),
    )
    geometry = prior.geometry.resized(pixels).at(posterior.angles_deg.tolist())
    seen = FieldProjector(volumes, geometry, posterior.distance).forward(volumes.values)
    left = innovation(prior, posterior, small, seen, Update())
    xray = (seen + left.values)[:, view].mean(0)
    values = conditional_volumes(
        prior.conditional,
        RayGrid.of(
            prior.geometry,
            float(posterior.angles_deg[view]),
            posterior.distance,
            rays=prior.conditional.generator.rays,
            planes=prior.conditional.generator.planes,
            half_width=prior.conditional.generator.half_width,
        ),
        xray,
        small.masks[view],
        rng,
        size=volumes.values.shape[-1],
    )
    count = len(volumes.values)
    source = torch.arange(count + ANSWERS) % count
    joined = replace(
        posterior,
        gains=posterior.gains[source],
        tone=None if posterior.tone is None else posterior.tone[source],
    )
    return joined, volumes.with_values(torch.cat([volumes.values, values.to(volumes.values)]))


def answered_view(prior: Prior, angles_deg: Tensor) -> int | None:
    """Which of the views at ``angles_deg`` [n] the prior's conditional generator answers, if any.

    It is the one nearest to the angle that it learned, within :data:`MOST_TURN_DEG`.
    """
    if prior.conditional is None:
        return None
    learned_deg = prior.conditional.angle_deg
    turns = [abs(angle_difference_deg(angle, learned_deg)) for angle in angles_deg.tolist()]
    nearest = min(range(len(turns)), key=turns.__getitem__)
    return nearest if turns[nearest] <= MOST_TURN_DEG else None


@torch.no_grad()
def conditional_volumes(
    conditional: Conditional,
    grid: RayGrid,
    xray: Tensor,
    mask: Tensor,
    rng: Generator,
    *,
    size: int,
) -> Tensor:
    """Cubes [ANSWERS, size, size, size] that explain an X-ray, in image values per field unit.

    ``xray`` [pixels, pixels] are line integrals as the prior's own pictures have them, and ``mask``
    of the same shape is below one half where a pixel says nothing.
    """
    generator = conditional.generator.to(xray.device)
    seen = (mask >= 0.5).to(xray)[None]
    densities = generator(xray[None], seen, rng, samples=ANSWERS, antithetic=True)
    return grid.cubes(densities, size)
