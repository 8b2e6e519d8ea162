"""Inversions of a small prior's own scenes, in seconds."""

from __future__ import annotations

import torch
from tiny import SIZE

from mednerf_kit.fields.hyper import MlpWeights
from mednerf_kit.invert.members import Posterior
from mednerf_kit.invert.posterior import Inversion
from mednerf_kit.prior.load import Prior
from mednerf_kit.rays.render import Level, render
from mednerf_kit.rays.samplers.stratified import Stratified

QUICK = Inversion(samples=2, candidates=24, code_steps=40, pivot_steps=10, rays=128, nodes=16)
FASTEST = Inversion(samples=2, candidates=8, code_steps=10, pivot_steps=5, rays=64, nodes=8)
FRONTAL = 6  # of eight views: 270°


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inverted(
    prior: Prior, orbit: torch.Tensor, views=(FRONTAL,), options: Inversion = QUICK, seed: int = 0
) -> Posterior:
    angles = torch.tensor([prior.geometry.angles_deg[k] for k in views])
    return options(prior, orbit[list(views)], angles, seeded(seed))


def db(a: torch.Tensor, b: torch.Tensor) -> float:
    """PSNR per view at range 1, averaged over the views that were no input."""
    rest = [k for k in range(len(a)) if k != FRONTAL]
    return float((-10 * (a - b)[rest].square().mean((1, 2)).log10()).mean())


def marched(
    prior: Prior, code: MlpWeights, angle_deg: float, distance: float, nodes: int = 64
) -> torch.Tensor:
    """One view [rows, cols] by the ordinary renderer."""
    yx = prior.geometry.pixel_grid().reshape(1, -1, 2)
    rays = prior.geometry.field_rays(
        torch.full(yx.shape[:-1], angle_deg), yx, distance, prior.generator.field.support
    )
    return render(rays, prior.generator.field, [Level(Stratified(n=nodes))], code=code)[
        -1
    ].rendering.image.reshape(SIZE, SIZE)
