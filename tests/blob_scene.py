"""Coloured bells of density: a scene on which poses are found again."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from ball_scene import BOX, BallFit, cameras
from torch import Tensor, nn

from mednerf_kit.core.types import FieldOutput
from mednerf_kit.data.posed.types import Scene
from mednerf_kit.fields.base import SceneField
from mednerf_kit.imaging.cameras import Cameras
from mednerf_kit.imaging.motion import about, exp_se3, square
from mednerf_kit.rays.render import IMAGE_MODELS, Level
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.scene.model import Model
from mednerf_kit.scene.views import render_cameras

SIZE = 40


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Blobs(SceneField):
    """Coloured bells of density at fixed places: smooth everywhere, and alike from no two sides."""

    def __init__(self) -> None:
        super().__init__()
        self.middles = 1.3 * torch.rand(8, 3, generator=seeded(3)) - 0.65
        self.colours = torch.rand(8, 3, generator=seeded(4))

    def bells(self, x: Tensor) -> Tensor:
        return torch.exp(-(x[..., None, :] - self.middles).square().sum(-1) / (2 * 0.18**2))

    def density(self, x: Tensor, code=None) -> Tensor:
        return 25 * self.bells(x).sum(-1)

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code=None) -> FieldOutput:
        bells = self.bells(x)
        return FieldOutput(
            25 * bells.sum(-1) * dt,
            bells @ self.colours / bells.sum(-1, keepdim=True).clamp_min(1e-12),
        )


def model_of(field: SceneField, n: int) -> Model:
    return Model(
        nn.ModuleDict({"fine": field}),
        nn.ModuleDict(),
        [Level(Stratified(n=n), field)],
        lambda answer: IMAGE_MODELS["emission_absorption"](answer, background=1.0),
    )


def blob_model() -> Model:
    return model_of(Blobs(), 16)


def blob_scene(like: Cameras) -> Scene:
    images = render_cameras(blob_model(), like, progress=False).image.half()
    return Scene(
        name="blobs",
        format="blender",
        split="test",
        stems=tuple(f"r_{k}" for k in range(like.count)),
        images=images,
        alpha=None,
        depth=None,
        confidence=None,
        cameras=like,
        box=BOX,
        background=1.0,
    )


def away(c2w: Tensor, degrees: float, *, seed: int = 0, pivot: Tensor | None = None) -> Tensor:
    """Poses [P, 3, 4] turned by so much about random axes through a point, or through
    themselves.
    """
    axis = nn.functional.normalize(torch.randn(len(c2w), 3, generator=seeded(seed)), dim=-1)
    motion = exp_se3(torch.cat([axis * math.radians(degrees), torch.zeros(len(c2w), 3)], -1))
    return (
        about(motion, c2w[:, :, 3] if pivot is None else pivot.expand(len(c2w), 3)) @ square(c2w)
    )[:, :3]


def small_scene() -> Scene:
    return blob_scene(replace(cameras(3, SIZE), box=BOX))


def blob_fit(scene: Scene) -> BallFit:
    """A fit that knows the scene."""
    meta = {
        "quantity": "colour",
        "box": BOX.tolist(),
        "recipe": {"scene": {"downscale": 2}, "levels": []},
    }
    return BallFit(blob_model(), scene, meta)


def random_twists(n: int, angle: float) -> Tensor:
    twist = torch.randn(n, 6, generator=seeded(), dtype=torch.float64)
    return torch.cat([angle * nn.functional.normalize(twist[:, :3], dim=-1), twist[:, 3:]], -1)
