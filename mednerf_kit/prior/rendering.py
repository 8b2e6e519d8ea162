"""Pictures of generated scenes ray by ray: what training compares, and views where physics forbids
projecting voxels.

Emission and absorption hide one part behind another, so a view is no sum over voxels as a line
integral is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from ..core import config
from ..core.types import FieldOutput, Rays, Rendering
from ..fields.hyper import MlpWeights
from ..imaging.geometry import Geometry
from ..rays.render import IMAGE_MODELS, Level, emission_absorption, render
from ..rays.samplers.base import SAMPLERS
from .cameras import Poses
from .load import Prior

CHUNK_POINTS = 2**19  # evaluated at once while whole views are rendered


@dataclass(frozen=True)
class Renderer:
    """How a generator's scenes are seen: the recipe's levels, physics and cameras."""

    levels: Sequence[Level]
    image_model: Callable[[FieldOutput], Rendering]
    poses: Poses = field(default_factory=Poses)

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> Renderer:
        """What a recipe says."""
        task = recipe.get("task", {})
        seen = physics(task.get("image_model", "line_integral"), task.get("background", 0.0))
        return cls(levels_of(recipe), seen, poses_of(recipe))

    @property
    def nodes(self) -> int:
        """Samples along a ray, as far as the levels say."""
        return sum(level.sampler.n for level in self.levels)

    def image(
        self, asked: Any, rays: Rays, code: MlpWeights, rng: Generator | None = None
    ) -> Tensor:
        """Colours of rays [B, R] of a batch of scenes, [B, R, C]; ``asked`` is the field."""
        return render(rays, asked, self.levels, image_model=self.image_model, code=code, rng=rng)[
            -1
        ].rendering.image

    @torch.no_grad()
    def views(self, asked: Any, code: MlpWeights, geometry: Geometry) -> Tensor:
        """Whole views of every scene at ``geometry.angles_deg``, seen at its tilt: [B, V, rows,
        cols, C].
        """
        device = code.layers[0][0].device
        y, x = torch.meshgrid(
            torch.arange(geometry.rows), torch.arange(geometry.cols), indexing="ij"
        )
        yx = torch.stack([y, x], -1).flatten(0, 1).float().to(device)
        chunk = max(1, CHUNK_POINTS // self.nodes)
        scenes = []
        for i in range(code.batch):
            one, images = code.one(i), []
            for angle in geometry.angles_deg:
                pose = torch.tensor([angle, geometry.tilt_deg], device=device)
                parts = [
                    self.image(
                        asked, as_batch(self.poses.rays(geometry, pose, some, asked.support)), one
                    )[0]
                    for some in yx.split(chunk)
                ]
                images.append(torch.cat(parts).unflatten(0, (geometry.rows, geometry.cols)))
            scenes.append(torch.stack(images))
        return torch.stack(scenes)


def physics(name: str, background: float) -> Callable[[FieldOutput], Rendering]:
    """The image model of this name; ``background`` shows where nothing absorbs."""
    return (
        partial(emission_absorption, background=float(background))
        if name == "emission_absorption"
        else IMAGE_MODELS[name]
    )


def levels_of(recipe: Mapping[str, Any]) -> list[Level]:
    """The recipe's passes along the rays."""
    return [Level(SAMPLERS.build(node)) for node in recipe["levels"]]


def poses_of(recipe: Mapping[str, Any]) -> Poses:
    """The recipe's cameras, with the depth and elevation that ``compat`` restores."""
    node = dict(recipe.get("poses", {}))
    compat = recipe.get("compat", {})
    changed = {"depth": compat.get("depth_range"), "elevation_deg": compat.get("elevation_deg")}
    return config.bind(
        Poses, node | {k: v for k, v in changed.items() if v is not None}, where="poses"
    )


def as_batch(rays: Rays, n: int = 1) -> Rays:
    """Rays [R] for each of n scenes: [n, R]."""
    return Rays(
        *(v.expand(n, *v.shape) for v in (rays.origin, rays.direction, rays.near, rays.far))
    )


def grey_views(prior: Prior, code: MlpWeights, geometry: Geometry) -> Tensor:
    """Views of a prior's scenes as a detector without colour sees them, ray by ray: [B, V, rows,
    cols].
    """
    return Renderer.of(prior.meta["recipe"]).views(prior.generator.field, code, geometry).mean(-1)
