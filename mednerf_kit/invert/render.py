"""``mednerf-kit render`` and ``sample``: what a prior knows, baked once into voxels and
projected.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError
from ..engine.device import select_device
from ..imaging import geometry
from ..imaging.geometry import Geometry
from ..imaging.volume import write_volume
from ..prior import load as prior_load
from ..viz import figures
from . import outputs
from .predict import predict

SHOWN_DEG = (geometry.FRONTAL_DEG, geometry.LATERAL_DEG)
STEPS = 16  # frames of the clip from one seed to the next
CLIP_GRID = 56  # voxels along a side while the clip moves on


def render(
    *,
    run: str = "bundled:chest",
    seed: int = 0,
    latent: str | Path | None = None,
    views: int = 72,
    size: int | None = None,
    video: bool = True,
    volume: bool = False,
    out: str | Path = "out/render",
    device: str = "auto",
) -> Path:
    """Write the orbit of a seed's random patient, or of a projected X-ray's ``latent.safetensors``;
    returns ``out``.

    ``orbit/view_000.png`` … (16 bits) at ``views`` equally spaced angles from 0°, ``orbit.mp4`` and
    ``volume.nii.gz``.
    """
    prior = prior_load.load_prior(run)
    prior.generator.to(select_device(device))
    scene = (
        outputs.one_patient(prior, outputs.seeded_eps(prior, seed))
        if latent is None
        else outputs.load_latent(latent, prior)
    )
    folder = outputs.made_folder(out)
    geometry = prior.geometry.resized(size or prior.geometry.cols).orbit(views)
    orbit = predict(prior, scene, geometry, size=outputs.grid_size(geometry.cols))
    outputs.write_orbit(folder, orbit.views, geometry, scene.distance)
    if volume:
        write_volume(orbit.volume.to_volume(), folder / "volume.nii.gz")
    if video:
        figures.write_orbit_video(folder / "orbit.mp4", orbit.views)
    return folder


def sample(
    *,
    run: str = "bundled:chest",
    seeds: Sequence[int] = tuple(range(16)),
    truncation: float = 1.0,
    interpolate: bool = False,
    size: int | None = None,
    out: str | Path = "out/sample",
    device: str = "auto",
) -> Path:
    """Write ``grid.png``, a row per seed with its frontal and lateral view, and ``interpolate.mp4``
    on request; returns ``out``.

    ``truncation`` ψ in [0, 1] scales the standard normal numbers: 0 is the mean patient. The clip
    walks along arcs.
    """
    if not seeds or (interpolate and len(seeds) < 2):
        raise UserError(
            f"got {len(seeds)} seeds",
            f"wanted at least {2 if interpolate else 1}",
            "write for example --seeds 0-3",
        )
    prior = prior_load.load_prior(run)
    prior.generator.to(select_device(device))
    folder = outputs.made_folder(out)
    geometry = prior.geometry.resized(size or prior.geometry.cols).at(SHOWN_DEG)
    eps = [truncation * outputs.seeded_eps(prior, seed) for seed in seeds]
    grid = outputs.grid_size(geometry.cols)
    rows = torch.cat(
        [shown(prior, numbers, geometry, grid) for numbers in tqdm(eps, desc="patients")]
    )
    labels = [
        f"seed {seed}, {label}" for seed in seeds for label in outputs.angle_labels(SHOWN_DEG)
    ]
    figures.write_png8(folder / "grid.png", figures.strip(rows, len(SHOWN_DEG), labels))
    if interpolate:
        path = [
            walk(a, b, k / STEPS) for a, b in zip(eps, eps[1:], strict=False) for k in range(STEPS)
        ] + [eps[-1]]
        frames = [
            shown(prior, numbers, geometry, min(grid, CLIP_GRID))
            for numbers in tqdm(path, desc="frames")
        ]
        figures.write_orbit_video(
            folder / "interpolate.mp4", torch.stack([torch.cat(list(pair), -1) for pair in frames])
        )
    return folder


def shown(prior: prior_load.Prior, eps: Tensor, geometry: Geometry, grid: int) -> Tensor:
    """The views of one patient at the geometry's angles, [V, rows, cols]."""
    return predict(prior, outputs.one_patient(prior, eps), geometry, size=grid).views.cpu()


def walk(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point at t in [0, 1] on the arc from a to b [1, n]: what lies between two normal vectors
    stays as long as they are.

    Shoemake 1985, slerp; lengths are interpolated linearly, so that the ends are exact.

    >>> walk(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
    tensor([[0.7071, 0.7071]])
    """
    lengths = a.norm(), b.norm()
    if min(lengths) < 1e-9:
        return torch.lerp(a, b, t)
    u, v = a / lengths[0], b / lengths[1]
    angle = (u * v).sum().clamp(-1, 1).acos()
    if angle < 1e-4 or angle > torch.pi - 1e-4:
        return torch.lerp(a, b, t)
    arc = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / torch.sin(angle)
    return arc * torch.lerp(*lengths, t)
