"""From rays to pictures: a level is (sampler, field), a recipe is a list of levels.

Each level's samples and weights guide the next level's sampler. The physics is one of the pure functions of ``core.raymath``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator

from ..core.config import Registry
from ..core.raymath import emission_absorption, line_integral, transmission
from ..core.types import Answer, Field, Picture, Rays, Sampler, Samples

PICTURES: Registry[Picture] = Registry("picture")


@PICTURES.register("line_integral")
def xray(answer: Answer) -> Picture:
    """p = Σ tau: a DRR, bone bright, no background."""
    return line_integral(answer.tau)


@PICTURES.register("transmission")
def film(answer: Answer) -> Picture:
    """exp(−Σ tau): detector counts relative to no patient."""
    return transmission(answer.tau)


@PICTURES.register("emission_absorption")
def photo(answer: Answer) -> Picture:
    """Emission–absorption of coloured density over black."""
    if answer.color is None:
        raise ValueError("emission_absorption needs a field with colour")
    return emission_absorption(answer.tau, answer.color)


@dataclass(frozen=True)
class Level:
    """One pass along the rays; ``field=None`` asks the field given to :func:`render`."""

    sampler: Sampler
    field: Field | None = None


@dataclass(frozen=True)
class Rendered:
    """What one level saw."""

    picture: Picture
    samples: Samples
    answer: Answer


def ask(field: Field, rays: Rays, samples: Samples, code: Any = None) -> Answer:
    """The field's answer at samples [B, R, S]: points are handed over as [B, R·S, 3]."""
    x = rays.origin[..., None, :] + samples.t[..., None] * rays.direction[..., None, :]
    lead, n = samples.t.shape[:-1], samples.t.shape[-1]
    flat = x.reshape(*lead[:-1], lead[-1] * n, 3)
    answer = field(flat, None, samples.dt.reshape(*flat.shape[:-1]), code)
    color = None if answer.color is None else answer.color.reshape(*lead, n, -1)
    return Answer(answer.tau.reshape(*lead, n), color, answer.extras)


def render(
    rays: Rays,
    field: Field,
    levels: Sequence[Level],
    *,
    picture: Callable[[Answer], Picture] = xray,
    code: Any = None,
    generator: Generator | None = None,
) -> list[Rendered]:
    """Render rays [B, R] (a batch of scenes, one code each) level by level; the last entry is the finest."""
    results: list[Rendered] = []
    previous = None
    for level in levels:
        samples = level.sampler(rays, previous, generator)
        answer = ask(level.field or field, rays, samples, code)
        seen = picture(answer)
        previous = (samples, seen.w.detach())
        results.append(Rendered(seen, samples, answer))
    return results
