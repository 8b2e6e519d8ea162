"""Answers of a prior's conditional generator among the members that codes give."""

from __future__ import annotations

from dataclasses import replace

from torch import Generator, Tensor, arange, cat

from ..core.resampling import area_resized
from ..prior.load import Prior
from ..recon.field_volume import FieldProjector, FieldVolume
from .conditional import answered_view, conditional_volumes, grid_of
from .members import Posterior
from .update import Films, Update, innovation

ANSWERS = 4  # members that the conditional generator gives; even, so that they come in pairs


def with_answers(
    prior: Prior, posterior: Posterior, volumes: FieldVolume, films: Films, rng: Generator
) -> tuple[Posterior, FieldVolume]:
    """Members [M, D, H, W] of a posterior's codes joined by the conditional generator's.

    It is asked where the prior has one and an X-ray was taken near the angle that it learned. Each
    answer takes gain and tone curve from one of the codes in turn.
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
    values = conditional_volumes(
        prior.conditional,
        grid_of(prior.conditional, prior, float(posterior.angles_deg[view]), posterior.distance),
        line_integrals(prior, posterior, volumes, small)[view],
        small.masks[view].to(volumes.values),
        rng,
        samples=ANSWERS,
        size=volumes.values.shape[-1],
    )
    count = len(volumes.values)
    source = arange(count + ANSWERS) % count
    joined = replace(
        posterior,
        gains=posterior.gains[source],
        tone=None if posterior.tone is None else posterior.tone[source],
    )
    return joined, volumes.with_values(cat([volumes.values, values]))


def line_integrals(
    prior: Prior, posterior: Posterior, volumes: FieldVolume, films: Films
) -> Tensor:
    """Films [n, rows, cols] as line integrals, with the gain or tone curve that codes led to.

    It is the mean over members of what each shows and leaves unexplained, in which the member
    itself cancels where the film can be told from the curve.
    """
    geometry = prior.geometry.resized(films.images.shape[-1]).at(posterior.angles_deg.tolist())
    seen = FieldProjector(volumes, geometry, posterior.distance).forward(volumes.values)
    left = innovation(prior, posterior, films, seen, Update())
    return (seen + left.values).mean(0)
