"""``mednerf-kit render`` and ``sample``: patients of a prior, each baked once and projected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..core import files
from ..core.errors import UserError
from ..engine.device import select_device
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG, Geometry
from ..imaging.volume import write_volumes
from ..prior.draws import DRAWS
from ..prior.load import Prior, load_prior
from ..viz import figures
from ..viz import video as videos
from . import outputs
from .members import Posterior
from .predict import fine_grid_size, predict

SHOWN_DEG = (FRONTAL_DEG, LATERAL_DEG)
STEPS = 16  # frames of the clip from one seed to the next
CLIP_GRID = 56  # voxels along a side while the clip moves on
ORBIT_VIEWS = 36  # of the clip in which patients turn
Part = Literal["volume", "spread", "share", "null_space"]


def render(
    *,
    run: str = "bundled:chest",
    seed: int = 0,
    latent: str | Path | None = None,
    show: Part = "volume",
    views: int = 72,
    size: int | None = None,
    video: bool = True,
    volume: bool = False,
    dicom: bool = False,
    out: str | Path = "out/render",
    device: str = "auto",
) -> Path:
    """Write the orbit of a random patient, or of what an X-ray became; returns ``out``.

    The files are ``orbit/view_000.png`` … (16 bits), ``orbit.mp4`` and ``volume.nii.gz``. A latent
    that holds its finished volume is shown as ``project`` showed it; an older one is made again
    from its codes.

    Options:
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        seed: of the random patient.
        latent: a ``latent.safetensors`` that ``project`` wrote, instead of a random patient.
        show: what of a latent: ``volume``; ``spread``, its standard deviation; ``share``, how much
            of it the X-rays determined; ``null_space``, what no X-ray can tell. See
            :func:`part_views` for the grey values of all but the volume.
        views: how many, equally spaced from 0°.
        size: columns of the views; the prior's own by default.
        video: write the video.
        volume: write the volume.
        dicom: write it, and as a DICOM file too.
        out: folder of the results.
        device: where the work is done; ``auto`` chooses.
    """
    prior = load_prior(run)
    prior.generator.to(select_device(device))
    kept = None if latent is None else outputs.load_kept(latent, prior)
    if show not in (kept.parts if kept else ("volume",)):
        raise UserError(
            f"got --show {show} of what holds none",
            f"wanted a latent.safetensors with one of {', '.join(outputs.PARTS)}",
            "give --latent, and if it is of an older version, project the X-ray again",
        )
    scene: Posterior | outputs.Kept
    if kept:
        scene = replace(kept, has_scale=kept.has_scale and show == "volume")
    elif latent is None:
        scene = outputs.one_patient(prior, outputs.seeded_eps(prior, seed))
    else:
        scene = outputs.load_latent(latent, prior)
    folder = files.made_folder(out)
    geometry = prior.geometry.resized(size or prior.geometry.cols).orbit(views)
    if isinstance(scene, outputs.Kept):
        seen, voxels = part_views(prior, scene, show, geometry), scene.parts["volume"]
    else:
        is_random = latent is None
        grid = fine_grid_size(geometry.cols) if is_random else None
        predicted = predict(prior, scene, geometry, size=grid, detailed=is_random)
        seen, voxels = predicted.views, predicted.volume
    outputs.write_orbit(folder, seen, geometry, scene)
    if volume or dicom:
        write_volumes({"volume": voxels.to_volume()}, folder, dicom=dicom)
    if video:
        videos.write_mp4(folder / "orbit.mp4", seen)
    return folder


def part_views(prior: Prior, kept: outputs.Kept, show: Part, geometry: Geometry) -> Tensor:
    """An orbit [V, rows, cols] of one part of a finished projection.

    The volume's views are those of ``project``: line integrals, times the gain that a view has in
    the set. Every other part is summed along the rays and divided by the orbit's
    largest magnitude, so that 1 is the most of it; of the null space, which has both signs, 0 lies
    at mid-grey. The sum of a standard deviation is no standard deviation of the view: it shows
    where a volume is unsure, not by how much.
    """
    part = kept.parts[show]
    on_device = part.with_values(part.values.to(prior.device))
    views = on_device.project(geometry, kept.distance).cpu()
    if show == "volume":
        return prior.gains(views, geometry.angles_deg)[:, None, None] * views
    views = views / views.abs().amax().clamp_min(1e-12)
    return (1 + views) / 2 if show == "null_space" else views


def sample(
    *,
    run: str = "bundled:chest",
    seeds: Sequence[int] = tuple(range(16)),
    truncation: float = 1.0,
    draw: str = "plane",
    interpolate: bool = False,
    orbit: bool = False,
    size: int | None = None,
    out: str | Path = "out/sample",
    device: str = "auto",
) -> Path:
    """Write ``grid.png``, a row per seed with its frontal and lateral view; returns ``out``.

    Options:
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        seeds: one random patient each.
        truncation: ψ in [0, 1], scales the standard normal numbers: 0 is the mean patient.
        draw: how patients are drawn, by its name; by ``plane`` no one is a training patient.
        interpolate: also write ``interpolate.mp4``, which walks from seed to seed along arcs.
        orbit: also write ``orbit.mp4``, in which all of them turn side by side.
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
    folder = files.made_folder(out)
    geometry = prior.geometry.resized(size or prior.geometry.cols).at(SHOWN_DEG)
    how = DRAWS.build(draw)
    eps = [truncation * outputs.seeded_eps(prior, seed, how) for seed in seeds]
    grid = fine_grid_size(geometry.cols)
    patients = tqdm(eps, desc="patients")
    rows = torch.cat([shown(prior, numbers, geometry, grid) for numbers in patients])
    views = outputs.angle_labels(SHOWN_DEG)
    labels = [f"seed {seed}, {view}" for seed in seeds for view in views]
    figures.write_png8(folder / "grid.png", figures.strip(rows, len(SHOWN_DEG), labels))
    if orbit:
        turning = geometry.orbit(ORBIT_VIEWS)
        orbits = [shown(prior, numbers, turning, grid) for numbers in tqdm(eps, desc="orbits")]
        videos.write_mp4(folder / "orbit.mp4", side_by_side(torch.stack(orbits)))
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
    patient = outputs.one_patient(prior, eps)
    return predict(prior, patient, geometry, size=grid, detailed=True).views.cpu()


def side_by_side(orbits: Tensor) -> Tensor:
    """Orbits [S, V, rows, cols] in a grid that is about as wide as it is high: [V, rows', cols'].

    >>> side_by_side(torch.ones(3, 36, 8, 10)).shape
    torch.Size([36, 16, 20])
    """
    count, views, rows, cols = orbits.shape
    wide = math.ceil(math.sqrt(count))
    high = math.ceil(count / wide)
    grid = orbits.new_zeros(high * wide, views, rows, cols)
    grid[:count] = orbits
    return (
        grid.view(high, wide, views, rows, cols)
        .permute(2, 0, 3, 1, 4)
        .reshape(views, high * rows, wide * cols)
    )


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
