"""Random patients by the thousand: each is baked into voxels once, and projected from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ...core.types import FieldOutput
from ...fields.hyper import MlpWeights
from ...imaging.geometry import Geometry
from ...invert.predict import fine_grid_size
from ...metrics.features import BATCH, Extractor, read
from ...prior.draws import DEFAULT_DRAW, Draw
from ...prior.load import Prior
from ...prior.rendering import Renderer, cameras_of
from ...recon.field_volume import at_distance, sample_trilinear, voxel_centres


@dataclass(frozen=True)
class RandomPatients:
    """What is kept of random patients."""

    features: dict[str, Tensor]  # extractor -> [N, F] of every picture, in the order drawn
    pictures: Tensor  # [M, rows, cols] the first of them
    orbits: Tensor  # [S, V, rows, cols] the first patients at the angles all share
    count: int  # N
    patients: int  # behind these pictures


class BakedField:
    """A patient in the voxels of a FieldVolume's cube, as a field that is trilinear in between.

    A colour that depends on the direction is that seen along ``direction``, whatever the ray: what
    voxels can hold.
    """

    def __init__(self, field: Any, code: MlpWeights, *, size: int, direction: Tensor) -> None:
        device = code.layers[0][0].device
        self.support = field.support
        points = voxel_centres(size, device=device).view(1, 1, -1, 3)
        planes = []
        for some in points.split(2**18, 2):
            output = field(
                some,
                direction.to(device).view(1, 1, 1, 3),
                torch.ones(some.shape[:-1], device=device),
                code,
            )
            channels = [output.tau[..., None]]
            if output.color is not None:
                channels.append(output.color)
            planes.append(torch.cat(channels, -1)[0, 0])
        self.grid = torch.cat(planes).T.view(1, -1, size, size, size)

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: MlpWeights) -> FieldOutput:
        """Samples x [1, R, S, 3] of lengths dt [1, R, S]."""
        values = sample_trilinear(self.grid, x.flatten(1, -2))[0].T.view(*dt.shape, -1)
        return FieldOutput(values[..., 0] * dt, values[..., 1:] if values.shape[-1] > 1 else None)


@torch.no_grad()
def baked_views(
    prior: Prior, code: MlpWeights, angles_deg: Sequence[float], *, size: int | None = None
) -> Tensor:
    """Views [V, rows, cols] of one patient at these angles, from voxels, without gains.

    The image model is that of the prior's recipe. Line integrals are projected; what absorbs, and
    what only part of the depth was trained on, is marched through the voxels.
    """
    geometry = prior.geometry.at(angles_deg)
    size = size or fine_grid_size(geometry.cols)
    if prior.is_line_integral and cameras_of(prior.meta["recipe"]).depth is None:
        baked = prior.volumes(code, geometry, size=size).unblurred()
        return baked.project(geometry, prior.distance)[0]
    towards = -geometry.frames(torch.tensor(angles_deg[:1]))[0][0]
    field = BakedField(prior.generator.field, code, size=size, direction=towards / towards.norm())
    return _marched(prior, field, code, geometry)


@torch.no_grad()
def own_views(prior: Prior, code: MlpWeights, angles_deg: Sequence[float]) -> Tensor:
    """The same views [V, rows, cols] as in training: rays are marched through the field itself."""
    return _marched(prior, prior.generator.field, code, prior.geometry.at(angles_deg))


def drawn_codes(
    prior: Prior,
    count: int,
    rng: Generator,
    *,
    truncation: float = 1.0,
    draw: Draw = DEFAULT_DRAW,
) -> Iterator[MlpWeights]:
    """Random patients one by one; the first n are the same however many are asked for."""
    for _ in range(count):
        eps = truncation * prior.numbers(1, rng, draw)
        with torch.no_grad():
            yield prior.generator.weights(prior.generator.latent(eps))


def spread_views(views: int, each: int, rng: Generator) -> Tensor:
    """``each`` of ``views`` equally spaced views, as evenly as possible from a random one on.

    >>> sorted(spread_views(8, 4, Generator().manual_seed(0)).diff().remainder(8).tolist())
    [2, 2, 2]
    """
    start = int(torch.randint(views, (1,), generator=rng))
    return (start + torch.arange(each) * views // each) % views


def draw(
    prior: Prior,
    extractors: Mapping[str, Extractor],
    *,
    count: int,
    views: int,
    keep: int,
    orbits: int,
    orbit_deg: Sequence[float],
    rng: Generator,
    truncation: float = 1.0,
    how: Draw = DEFAULT_DRAW,
) -> RandomPatients:
    """``count`` images in [0, 1] of random patients and their features.

    There are ``views`` images of each patient, at the prior's angles. ``keep`` pictures stay, and
    the first ``orbits`` patients at ``orbit_deg``. Views get the gain they have in the set.
    """
    patients = max(-(-count // views), orbits)
    features: dict[str, list[Tensor]] = {name: [] for name in extractors}
    angles = torch.tensor(prior.geometry.angles_deg)
    kept, shown, waiting, seen = [], [], torch.empty(0), 0
    for i, code in enumerate(
        tqdm(
            drawn_codes(prior, patients, rng, truncation=truncation, draw=how),
            total=patients,
            desc="patients",
        )
    ):
        chosen = angles[spread_views(len(angles), views, rng)].tolist()
        at_deg = [*chosen, *orbit_deg] if i < orbits else chosen
        pictures = baked_views(prior, code, at_deg).cpu()
        pictures = (pictures * prior.gains(pictures, at_deg)[:, None, None]).clamp(0, 1)
        if i < orbits:
            shown.append(pictures[views:])
        pictures = pictures[: min(views, count - seen)]
        kept += [pictures[: max(0, keep - seen)]]
        seen += len(pictures)
        waiting = torch.cat([waiting, pictures]) if len(waiting) else pictures
        if len(waiting) >= BATCH or i == patients - 1:
            for name, extractor in extractors.items():
                features[name].append(read(extractor, waiting, prior.device))
            waiting = torch.empty(0)
    return RandomPatients(
        {k: torch.cat(v) for k, v in features.items()},
        torch.cat(kept),
        torch.stack(shown),
        count,
        patients,
    )


def enlarged(images: Tensor, least_px: int = 128) -> Tensor:
    """Small pictures [N, H, W] magnified to at least ``least_px``, so that labels fit."""
    scale = -(-least_px // images.shape[-1])
    return (
        images if scale <= 1 else images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    )


def _marched(prior: Prior, field: Any, code: MlpWeights, geometry: Geometry) -> Tensor:
    renderer = Renderer.of(prior.meta["recipe"])
    return renderer.views(field, code, at_distance(geometry, prior.distance))[0].mean(-1)
