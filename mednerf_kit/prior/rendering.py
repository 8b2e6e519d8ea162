"""Views of generated patients ray by ray.

Training compares these, and whole views are made so where the image model forbids projecting
voxels.

Emission and absorption hide one part behind another, so such a view is no sum over voxels, as a
line integral is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from ..core import config
from ..core.errors import UserError
from ..core.types import FieldOutput, Rays, Rendering
from ..engine.recipe_checks import check_first_sampler
from ..fields.hyper import MlpWeights
from ..imaging.geometry import Geometry
from ..rays.render import IMAGE_MODELS, Level, emission_absorption, render
from ..rays.samplers.base import SAMPLERS
from .cameras import CameraDistribution
from .load import Prior
from .options import GanOptions, image_model_name

CHUNK_POINTS = 2**19  # evaluated at once while whole views are rendered


@dataclass(frozen=True)
class Renderer:
    """How a generator's patients are seen: the recipe's levels, image model and cameras."""

    levels: Sequence[Level]
    image_model: Callable[[FieldOutput], Rendering]
    cameras: CameraDistribution = field(default_factory=CameraDistribution)

    @classmethod
    def of(cls, recipe: Mapping[str, Any]) -> Renderer:
        """What a recipe says."""
        background = recipe.get("task", {}).get("background", GanOptions.background)
        image_model = image_model_of(image_model_name(recipe), background)
        return cls(levels_of(recipe), image_model, cameras_of(recipe))

    @property
    def nodes(self) -> int:
        """Samples along a ray."""
        return sum(level.sampler.n for level in self.levels)

    def image(
        self, query: Any, rays: Rays, code: MlpWeights, rng: Generator | None = None
    ) -> Tensor:
        """Colours of rays [B, R] of a batch of patients, [B, R, C]; ``query`` is the field."""
        passes = render(rays, query, self.levels, image_model=self.image_model, code=code, rng=rng)
        return passes[-1].rendering.image

    @torch.no_grad()
    def views(self, query: Any, code: MlpWeights, geometry: Geometry) -> Tensor:
        """Whole views of every patient at ``geometry.angles_deg``: [B, V, rows, cols, C].

        The cameras' elevation is the geometry's tilt.
        """
        device = code.layers[0][0].device
        y, x = torch.meshgrid(
            torch.arange(geometry.rows), torch.arange(geometry.cols), indexing="ij"
        )
        yx = torch.stack([y, x], -1).flatten(0, 1).float().to(device)
        chunk = max(1, CHUNK_POINTS // self.nodes)
        patients = []
        for i in range(code.batch):
            one, images = code.one(i), []
            for azimuth_deg in geometry.angles_deg:
                camera = torch.tensor([azimuth_deg, geometry.tilt_deg], device=device)
                colours = []
                for some in yx.split(chunk):
                    rays = self.cameras.rays(geometry, camera, some, query.support)
                    colours.append(self.image(query, as_batch(rays), one)[0])
                images.append(torch.cat(colours).unflatten(0, (geometry.rows, geometry.cols)))
            patients.append(torch.stack(images))
        return torch.stack(patients)


def image_model_of(name: str, background: float) -> Callable[[FieldOutput], Rendering]:
    """The image model of this name; ``background`` shows where nothing absorbs."""
    if name == "emission_absorption":
        return partial(emission_absorption, background=float(background))
    return IMAGE_MODELS[name]


def levels_of(recipe: Mapping[str, Any]) -> list[Level]:
    """The recipe's passes along the rays."""
    return [Level(SAMPLERS.build(node)) for node in recipe["levels"]]


def checked_levels(recipe: Mapping[str, Any]) -> list[Level]:
    """The recipe's passes along the rays; refuses a list that nothing can be rendered with."""
    if not config.checked(recipe["levels"], list, where="recipe key 'levels'"):
        raise UserError(
            "got no level",
            "wanted at least one sampler under levels",
            "write levels: [{name: stratified}]",
        )
    levels = levels_of(recipe)
    check_first_sampler(levels[0].sampler)
    return levels


def cameras_of(recipe: Mapping[str, Any]) -> CameraDistribution:
    """The recipe's cameras (``poses``), with the depth and elevation that ``compat`` restores."""
    compat = recipe.get("compat", {})
    restored = {"depth": compat.get("depth_range"), "elevation_deg": compat.get("elevation_deg")}
    node = dict(recipe.get("poses", {})) | {k: v for k, v in restored.items() if v is not None}
    return config.bind(CameraDistribution, node, where="poses")


def as_batch(rays: Rays, n: int = 1) -> Rays:
    """Rays [R] for each of n patients: [n, R]."""
    return Rays(
        *(v.expand(n, *v.shape) for v in (rays.origin, rays.direction, rays.near, rays.far))
    )


def grey_views(prior: Prior, code: MlpWeights, geometry: Geometry) -> Tensor:
    """Views of a prior's patients ray by ray, without colour: [B, V, rows, cols]."""
    return Renderer.of(prior.meta["recipe"]).views(prior.generator.field, code, geometry).mean(-1)
