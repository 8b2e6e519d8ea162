"""Rays, coarse levels and the options that the tests of samplers go through."""

from __future__ import annotations

import torch

from mednerf_kit.core.types import Rays, Samples
from mednerf_kit.rays.samplers.base import (
    SAMPLERS,
)
from mednerf_kit.rays.samplers.stratified import Stratified

COARSE = 12
BOX = torch.tensor([[-9.0] * 3, [9.0] * 3])
KINDS = ["even", "spike", "nothing", "one_nothing", "random", "tiny"]
NAMES = sorted(SAMPLERS.entries)
REFINING = [name for name in NAMES if SAMPLERS[name].refines]
COVERING = [(name, {}) for name in NAMES] + [  # the whole of [near, far], whatever the weights
    ("stratified", {"disparity": True}),
    ("local", {"relative": True, "threshold": 0.5}),
    ("local", {"explore": 0.3, "kappa": 1.0}),
    ("local", {"warmup": 0.5}),
    ("local", {"skip_masked": True, "explore": 0.3, "threshold": 0.5}),
    ("local", {"compat": "released"}),
    ("local", {"compat": "released", "threshold": 0.5}),
    ("guided", {"share": 0.0}),
    ("guided", {"share": 0.95}),
    ("occupancy", {"keep": 5}),
    ("occupancy", {"refine": 7}),
    ("occupancy", {"refine": 7, "keep": 5}),
]
LEAVING_OUT = [
    ("importance", {"merge": False}),
    ("local", {"merge": False, "threshold": 0.3}),
    ("local", {"skip_masked": True, "threshold": 0.5}),
    ("local", {"skip_masked": True, "threshold": 0.5, "merge": False}),
    ("guided", {"share": 1.0}),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str, **options):
    return SAMPLERS.build({"name": name, **options}, box=BOX)


def some_rays(batch: int = 2, count: int = 6) -> Rays:
    """Rays of many lengths, the last of which misses the support; every other one knows its
    depth.
    """
    near = 1 + torch.rand(batch, count, generator=seeded(1))
    far = near + 0.1 + 3 * torch.rand(batch, count, generator=seeded(2))
    far[:, -1] = near[:, -1]
    direction = torch.nn.functional.normalize(
        torch.randn(batch, count, 3, generator=seeded(3)), dim=-1
    )
    depth = near + 0.6 * (far - near)
    depth[:, ::2] = torch.nan
    return Rays(torch.zeros(batch, count, 3), direction, near, far, depth=depth)


def one_ray(near: float, far: float, depth: float | None = None, count: int = 1) -> Rays:
    """The same ray along x, ``count`` times."""
    along = torch.eye(3)[0].expand(count, 3)
    full = [torch.full((count,), v) for v in (near, far)]
    return Rays(
        torch.zeros(count, 3),
        along,
        *full,
        depth=None if depth is None else torch.full((count,), depth),
    )


def some_of(rays: Rays, *where) -> Rays:
    return Rays(
        *(v[where] for v in (rays.origin, rays.direction, rays.near, rays.far)),
        depth=rays.depth[where],
    )


def weights(kind: str, rays: Rays) -> torch.Tensor:
    w = torch.rand(*rays.near.shape, COARSE, generator=seeded(4))
    if kind == "even":
        w = torch.ones_like(w) / COARSE
    elif kind == "spike":
        w = torch.zeros_like(w)
        w[..., 7] = 1.0
    elif kind == "nothing":
        w = torch.zeros_like(w)
    elif kind == "one_nothing":
        w[:, 1] = 0
    elif kind == "tiny":
        w = w * 1e-9
    return w


def coarse_level(
    kind: str, rays: Rays, rng: torch.Generator | None = None
) -> tuple[Samples, torch.Tensor]:
    return Stratified(n=COARSE)(rays, None, rng), weights(kind, rays)


def edges_of(samples: Samples, rays: Rays) -> torch.Tensor:
    """Edges [..., S+1] of the strata of a rule whose lengths follow each other from near to far."""
    return torch.cat([rays.near[..., None], rays.near[..., None] + samples.dt.cumsum(-1)], -1)


def inside(t: torch.Tensor, marked: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
    """Whether each node lies in a cell that ``marked`` marks."""
    t = t[..., None]
    return (
        (t >= edges[..., None, :-1] - 1e-5)
        & (t <= edges[..., None, 1:] + 1e-5)
        & marked[..., None, :]
    ).any(-1)
