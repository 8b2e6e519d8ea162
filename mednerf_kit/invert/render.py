"""``mednerf-kit render`` and ``sample``: patients of a prior, each baked once and projected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError
from ..engine.device import select_device
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG, Geometry
from ..imaging.volume import write_volume
from ..prior.load import Prior, load_prior
from ..viz import figures
from ..viz import video as videos
from . import outputs
from .predict import grid_size, predict

SHOWN_DEG = (FRONTAL_DEG, LATERAL_DEG)
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
    """Write the orbit of a random patient, or of what an X-ray became; returns ``out``.

    The files are ``orbit/view_000.png`` … (16 bits), ``orbit.mp4`` and ``volume.nii.gz``.

    Options:
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        seed: of the random patient.
        latent: a ``latent.safetensors`` that ``project`` wrote, instead of a random patient.
        views: how many, equally spaced from 0°.
        size: columns of the views; the prior's own by default.
        video: write the video.
        volume: write the volume.
        out: folder of the results.
        device: where the work is done; ``auto`` chooses.
    """
    prior = load_prior(run)
    prior.generator.to(select_device(device))
    if latent is None:
        scene = outputs.one_patient(prior, outputs.seeded_eps(prior, seed))
    else:
        scene = outputs.load_latent(latent, prior)
    folder = outputs.made_folder(out)
    geometry = prior.geometry.resized(size or prior.geometry.cols).orbit(views)
    predicted = predict(prior, scene, geometry)
    outputs.write_orbit(folder, predicted.views, geometry, scene)
    if volume:
        write_volume(predicted.volume.to_volume(), folder / "volume.nii.gz")
    if video:
        videos.write_mp4(folder / "orbit.mp4", predicted.views)
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
    """Write ``grid.png``, a row per seed with its frontal and lateral view; returns ``out``.

    Options:
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        seeds: one random patient each.
        truncation: ψ in [0, 1], scales the standard normal numbers: 0 is the mean patient.
        interpolate: also write ``interpolate.mp4``, which walks from seed to seed along arcs.
        size: columns of the views; the prior's own by default.
        out: folder of the results.
        device: where the work is done; ``auto`` chooses.
    """
    if not seeds or (interpolate and len(seeds) < 2):
        raise UserError(
            f"got {len(seeds)} seeds",
            f"wanted at least {2 if interpolate else 1}",
            "write for example --seeds 0-3",
        )
    prior = load_prior(run)
    prior.generator.to(select_device(device))
    folder = outputs.made_folder(out)
    geometry = prior.geometry.resized(size or prior.geometry.cols).at(SHOWN_DEG)
    eps = [truncation * outputs.seeded_eps(prior, seed) for seed in seeds]
    grid = grid_size(geometry.cols)
    patients = tqdm(eps, desc="patients")
    rows = torch.cat([shown(prior, numbers, geometry, grid) for numbers in patients])
    views = outputs.angle_labels(SHOWN_DEG)
    labels = [f"seed {seed}, {view}" for seed in seeds for view in views]
    figures.write_png8(folder / "grid.png", figures.strip(rows, len(SHOWN_DEG), labels))
    if interpolate:
        pairs = zip(eps, eps[1:], strict=False)
        path = [walk(a, b, k / STEPS) for a, b in pairs for k in range(STEPS)] + [eps[-1]]
        grid = min(grid, CLIP_GRID)
        frames = [
            torch.cat(list(shown(prior, numbers, geometry, grid)), -1)
            for numbers in tqdm(path, desc="frames")
        ]
        videos.write_mp4(folder / "interpolate.mp4", torch.stack(frames))
    return folder


def shown(prior: Prior, eps: Tensor, geometry: Geometry, grid: int) -> Tensor:
    """The views of one patient at the geometry's angles, [V, rows, cols]."""
    return predict(prior, outputs.one_patient(prior, eps), geometry, size=grid).views.cpu()


def walk(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The point at t in [0, 1] on the arc from a to b [1, n] (slerp, Shoemake 1985).

    What lies between two normal vectors stays as long as they are; lengths are interpolated
    linearly, so that the ends are exact.

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
