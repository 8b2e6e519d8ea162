"""From rays to pixels: a level is (sampler, field), and a recipe is a list of levels.

Each level's samples and weights guide the next level's sampler. An image model turns a field's
output along a ray into the value of a pixel; the sums are those of ``core.raymath``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from ..core import raymath
from ..core.config import Registry
from ..core.types import Field, FieldOutput, Rays, Rendering, Samples
from .samplers.base import Previous, Sampler

IMAGE_MODELS: Registry[Rendering] = Registry("image model")


@IMAGE_MODELS.register("line_integral")
def line_integral(output: FieldOutput) -> Rendering:
    """p = Σ tau: the value of a DRR, in which bone is bright; there is no background."""
    return raymath.line_integral(output.tau)


@IMAGE_MODELS.register("transmission")
def transmission(output: FieldOutput) -> Rendering:
    """T = exp(−Σ tau), Beer–Lambert: what a detector counts, relative to no patient."""
    return raymath.transmission(output.tau)


@IMAGE_MODELS.register("emission_absorption")
def emission_absorption(output: FieldOutput, *, background: Tensor | float = 0.0) -> Rendering:
    """Σ w · colour of a glowing medium, over black or over another background.

    ``background``, a number or colours [..., C], comes from the scene or the task.
    """
    if output.color is None:
        raise ValueError("emission_absorption needs a field with colour")
    return raymath.emission_absorption(output.tau, output.color, background)


@dataclass(frozen=True)
class Level:
    """One pass along the rays."""

    sampler: Sampler
    field: Field | None = None  # None: the field that is given to :func:`render`
    weight: float = 1.0  # of this level in the loss


@dataclass(frozen=True)
class LevelRendering:
    """What one level gave: pixels, where the field was evaluated, and its output there."""

    rendering: Rendering
    samples: Samples
    output: FieldOutput


def query(field: Field, rays: Rays, samples: Samples, code: Any = None) -> FieldOutput:
    """A field's output at samples [..., R, S] along rays [..., R]."""
    x = rays.origin[..., None, :] + samples.t[..., None] * rays.direction[..., None, :]
    d = rays.direction if rays.viewing is None else rays.viewing
    return field(x, d[..., None, :], samples.dt, code)


def render(
    rays: Rays,
    field: Field | None,
    levels: Sequence[Level],
    *,
    image_model: Callable[[FieldOutput], Rendering] = line_integral,
    code: Any = None,
    rng: Generator | None = None,
) -> list[LevelRendering]:
    """Render rays [..., R] level by level; the last entry is the finest.

    Rays [B, R] see a batch of generated patients, of which ``code`` holds one each. Without ``rng``
    every sampler takes its middles, so that the result is deterministic.
    """
    results: list[LevelRendering] = []
    previous: Previous = None
    for level in levels:
        samples = level.sampler(rays, previous, rng)
        chosen = level.field or field
        if chosen is None:
            raise ValueError("a level without a field needs one to be given")
        output = query(chosen, rays, samples, code)
        rendering = image_model(output)
        previous = (samples, rendering.w.detach())
        results.append(LevelRendering(rendering, samples, output))
    return results
