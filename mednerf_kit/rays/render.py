"""From rays to pictures: a level is (sampler, field), a recipe is a list of levels.

Each level's samples and weights guide the next level's sampler. The physics is one of the pure
functions of ``core.raymath``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from ..core.config import Registry
from ..core.raymath import emission_absorption, line_integral, transmission
from ..core.types import Field, FieldOutput, Rays, Rendering, Samples
from .samplers.base import Previous, Sampler

IMAGE_MODELS: Registry[Rendering] = Registry("picture")


@IMAGE_MODELS.register("line_integral")
def xray(answer: FieldOutput) -> Rendering:
    """p = Σ tau: a DRR, bone bright, no background."""
    return line_integral(answer.tau)


@IMAGE_MODELS.register("transmission")
def film(answer: FieldOutput) -> Rendering:
    """exp(−Σ tau): detector counts relative to no patient."""
    return transmission(answer.tau)


@IMAGE_MODELS.register("emission_absorption")
def photo(answer: FieldOutput, *, background: Tensor | float = 0.0) -> Rendering:
    """Emission–absorption of coloured density over black, or over another ``background``."""
    if answer.color is None:
        raise ValueError("emission_absorption needs a field with colour")
    return emission_absorption(answer.tau, answer.color, background)


@dataclass(frozen=True)
class Level:
    """One pass along the rays; ``field=None`` asks the field given to :func:`render`, ``weight`` is
    its share in the loss.
    """

    sampler: Sampler
    field: Field | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class LevelRendering:
    """What one level saw."""

    picture: Rendering
    samples: Samples
    answer: FieldOutput


def ask(field: Field, rays: Rays, samples: Samples, code: Any = None) -> FieldOutput:
    """The field's answer at samples [..., R, S]."""
    x = rays.origin[..., None, :] + samples.t[..., None] * rays.direction[..., None, :]
    d = rays.direction if rays.viewing is None else rays.viewing
    return field(x, d[..., None, :], samples.dt, code)


def render(
    rays: Rays,
    field: Field | None,
    levels: Sequence[Level],
    *,
    picture: Callable[[FieldOutput], Rendering] = xray,
    code: Any = None,
    rng: Generator | None = None,
) -> list[LevelRendering]:
    """Render rays [..., R] level by level; the last entry is the finest. Rays [B, R] see a batch of
    scenes, one code each.
    """
    results: list[LevelRendering] = []
    previous: Previous = None
    for level in levels:
        samples = level.sampler(rays, previous, rng)
        chosen = level.field or field
        if chosen is None:
            raise ValueError("a level without a field needs one to be given")
        answer = ask(chosen, rays, samples, code)
        seen = picture(answer)
        previous = (samples, seen.w.detach())
        results.append(LevelRendering(seen, samples, answer))
    return results
