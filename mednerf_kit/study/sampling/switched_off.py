"""A subject without what a network knows beside coordinates: octaves, or the viewing direction.

Nothing is trained again: what the network gets of it is put to zero, or to one direction for all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.types import Field, Rays
from ...fields.coloured import ColouredField
from ...fields.encodings import Frequency
from ...fields.hyper import HyperField, MlpWeights
from ...fields.nerf import Nerf
from ...rays.render import Level, query
from ...rays.samplers.base import SAMPLERS
from .subject import Subject

PLAIN = 3  # features of an encoded point that are its coordinates


def without_octaves(subject: Subject) -> Subject | None:
    """The subject whose networks see the coordinates of a point alone; None without octaves."""
    field = subject.fine
    if isinstance(field, HyperField | ColouredField):
        mlp = field.mlp if isinstance(field, ColouredField) else field
        branch = 2 * isinstance(field, ColouredField) * getattr(field, "branch", False)
        return replace(subject, code=_code_without(subject.code, mlp.skip, branch))
    if isinstance(field, Nerf) and isinstance(field.encoding, Frequency):
        return _with_fields(subject, _nerf_without)
    return None


def without_directions(subject: Subject) -> Subject | None:
    """The subject with the colours seen along its first view's axis; None if all are alike."""
    middle = subject.pixel(subject.first_view, subject.rows // 2, subject.cols // 2)
    axis = middle.direction if middle.viewing is None else middle.viewing
    if not _depends_on_direction(subject, axis):
        return None

    def cast(view: int, yx: Tensor) -> Rays:
        rays = subject.cast(view, yx)
        return replace(rays, viewing=axis.expand_as(rays.direction))

    return replace(subject, cast=cast)


@torch.no_grad()
def _depends_on_direction(subject: Subject, axis: Tensor) -> bool:
    """Whether a few pixels change their colours when they are seen from the other side."""
    steps = torch.linspace(0.2, 0.8, 8)
    y, x = torch.meshgrid(steps * (subject.rows - 1), steps * (subject.cols - 1), indexing="ij")
    rays = subject.cast(subject.first_view, torch.stack([y, x], -1).flatten(0, 1))
    samples = SAMPLERS.build({"name": "stratified", "n": 64})(rays)
    one, other = (
        query(
            subject.fine,
            replace(rays, viewing=(sign * axis).expand_as(rays.direction)),
            samples,
            subject.code,
        )
        for sign in (1, -1)
    )
    return (
        one.color is not None
        and other.color is not None
        and bool((one.color - other.color).abs().max() > 0)
    )


def _with_fields(subject: Subject, change: Callable[[Any], Field]) -> Subject:
    """The subject with each of its fields changed once."""
    known: dict[int, Field] = {}

    def of(field: Field | None) -> Field:
        return known.setdefault(id(field), change(field))

    return replace(
        subject,
        coarse=of(subject.coarse),
        fine=of(subject.fine),
        levels=[Level(level.sampler, of(level.field), level.weight) for level in subject.levels],
    )


def _code_without(code: MlpWeights, skip: int, branch: int) -> MlpWeights:
    """Weights that meet the octaves are 0; the last ``branch`` layers see no points."""
    layers = list(code.layers)
    width = layers[0][0].shape[-1]  # of the encoded point, padding included
    for k in {0, skip} & set(range(len(layers) - branch)):
        weight, bias = layers[k]
        kept = torch.ones(weight.shape[-1])
        kept[weight.shape[-1] - width + PLAIN :] = 0
        layers[k] = (weight * kept, bias)
    return replace(code, layers=tuple(layers))


def _nerf_without(field: Nerf) -> Nerf:
    """A copy whose trunk gives the octaves no weight."""
    changed = copy.deepcopy(field)
    width, skip = field.encoding.width, field.options.skip
    for k in {0, skip}:
        weight = changed.trunk[k].weight
        assert isinstance(weight, Tensor)
        weight.data[:, weight.shape[1] - width + PLAIN :] = 0
    return changed
