"""NeuS fields small enough to try, and one whose network is replaced by the distance to a ball."""

from __future__ import annotations

import torch
from ball_scene import BOX
from torch.nn.functional import normalize

from mednerf_kit.core.types import Rays
from mednerf_kit.fields.neus import Neus, NeusOptions

ROOM = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.0, 2.0]])
SMALL_HASH = {"name": "hash", "levels": 3, "log2_table": 8, "base": 2, "finest": 8}
SMALLEST = {"width": 32, "depth": 1, "skip": 0, "head_depth": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, box: torch.Tensor = ROOM, seed: int = 1) -> torch.Tensor:
    return box[0] + torch.rand(n, 3, generator=seeded(seed)) * (box[1] - box[0])


def build(box: torch.Tensor = ROOM, seed: int = 0, **options) -> Neus:
    torch.manual_seed(seed)
    options = {"width": 32, "depth": 3, "skip": 0, "head_depth": 1, **options}
    return Neus(NeusOptions(**options), box=box)


class ExactField(Neus):
    """NeuS whose network is replaced by the distance to a ball about the origin."""

    ball = 0.6

    def sdf(self, x):
        return x.norm(dim=-1) - self.ball

    def at(self, points):
        return self.sdf(points), normalize(points, dim=-1), torch.zeros(len(points), 32)


def exact(sharpness: float = 200.0, **options) -> ExactField:
    torch.manual_seed(0)
    return ExactField(NeusOptions(**SMALLEST, sharpness=sharpness, **options), box=BOX)


def parallel_rays(n: int = 41, reach: float = 0.9) -> Rays:
    """Rays along −x in the plane z = 0, through the box of the ball."""
    y = torch.linspace(-reach, reach, n)
    origin = torch.stack([torch.full_like(y, 3.0), y, torch.zeros_like(y)], -1)
    return Rays(
        origin,
        torch.tensor([-1.0, 0.0, 0.0]).expand(n, 3),
        torch.full((n,), 2.0),
        torch.full((n,), 4.0),
    )
