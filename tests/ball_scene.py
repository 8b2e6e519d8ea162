"""A ball whose pictures are known in closed form, and a fit that knows it as well as its samples
allow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mednerf_kit.core.types import FieldOutput
from mednerf_kit.data.posed.types import Scene
from mednerf_kit.fields.base import SceneField
from mednerf_kit.imaging.cameras import Cameras, look_at
from mednerf_kit.rays.render import IMAGE_MODELS, Level
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.scene.model import Model

RADIUS, FROM, SAMPLES = 0.8, 3.0, 96
BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
META = {
    "box": BOX.tolist(),
    "channels": 3,
    "background": 1.0,
    "quantity": "colour",
    "seconds": 12.5,
    "recipe": {"levels": []},
}


class Ball(SceneField):
    """Density ``peak`` inside a ball, coloured by where it is."""

    def __init__(self, *, peak: float = 400.0, radius: float = RADIUS, channels: int = 3) -> None:
        super().__init__()
        self.peak, self.radius, self.channels = peak, radius, channels

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        return self.peak * (x.norm(dim=-1) < self.radius).float()

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        return FieldOutput(self.density(x) * dt, colour_of(x) if self.channels else None)


def colour_of(x: Tensor) -> Tensor:
    return (0.5 + 0.5 * x).clamp(0, 1)


def cameras(views: int = 3, size: int = 40) -> Cameras:
    angle = torch.arange(views) * 2.1
    position = FROM * torch.stack([angle.cos(), angle.sin(), torch.full_like(angle, 0.3)], -1)
    position = FROM * position / position.norm(dim=-1, keepdim=True)
    pose = look_at(position, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    middle = torch.full((views, 2), (size - 1) / 2)
    return Cameras(pose, torch.full((views, 2), 1.4 * size), middle, size, size, 1.5, 4.5)


def grid(like: Cameras) -> Tensor:
    return torch.stack(
        torch.meshgrid(torch.arange(like.rows), torch.arange(like.cols), indexing="ij"), -1
    ).float()


def exact_scene(like: Cameras) -> Scene:
    """Colour, alpha and distance of the ball, ray by ray."""
    view = torch.arange(like.count)[:, None, None].expand(-1, like.rows, like.cols)
    origin, direction = like.world_rays(view, grid(like).expand(like.count, -1, -1, -1))
    along = -(origin * direction).sum(-1)
    missed = origin.square().sum(-1) - along.square()
    hit = missed < RADIUS**2
    depth = torch.where(hit, along - (RADIUS**2 - missed).clamp_min(0).sqrt(), torch.nan)
    surface = colour_of(origin + depth.nan_to_num()[..., None] * direction)
    images = torch.where(hit[..., None], surface, 1.0).half()
    stems = tuple(f"test/r_{k}" for k in range(like.count))
    return Scene(
        name="ball",
        format="blender",
        split="test",
        stems=stems,
        images=images,
        alpha=hit.float(),
        depth=depth,
        confidence=None,
        cameras=like,
        box=BOX,
        background=1.0,
        quantity="colour",
        facts={},
        notes=(),
    )


@dataclass(frozen=True)
class BallFit:
    """What :func:`load_fit` gives, for a ball."""

    model: Model
    known: Scene
    meta: dict[str, Any]
    path: Path = Path("ball.safetensors")
    device: torch.device = torch.device("cpu")
    twist: Tensor | None = None

    def scene(self, split: str = "test") -> Scene:
        return self.known


def ball_fit(
    *, views: int = 3, size: int = 40, n: int = SAMPLES, field: SceneField | None = None
) -> BallFit:
    field = field or Ball()
    model = Model(
        nn.ModuleDict({"fine": field}),
        nn.ModuleDict(),
        [Level(Stratified(n=n), field)],
        lambda answer: IMAGE_MODELS["emission_absorption"](answer, background=1.0),
    )
    return BallFit(model, exact_scene(cameras(views, size)), dict(META))


def xray_fit(**options: Any) -> BallFit:
    """The same ball in X-rays: line integrals, no colour, no surface."""
    fit = ball_fit(field=Ball(peak=0.5, channels=0), **options)
    model = replace(fit.model, image_model=IMAGE_MODELS["line_integral"])
    scene = fit.known
    # the entry lies half a chord before the middle, for central rays
    half = (scene.depth - FROM).nan_to_num().abs()
    scene = replace(
        scene,
        images=half[..., None].clamp(0, 1),
        alpha=None,
        depth=None,
        quantity="line_integral",
        background=0.0,
    )
    return BallFit(model, scene, {**META, "channels": 0, "quantity": "line_integral"})
