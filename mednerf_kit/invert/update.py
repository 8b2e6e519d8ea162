"""The measurement update of a posterior's volumes by the X-rays that led to it.

A prior's members explain an X-ray as far as the prior knows such patients. What is left is data,
too: :mod:`..recon.measurement_update` lays it along its rays, where the members are least sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..prior.load import Prior
from ..recon.field_volume import FieldProjector, FieldVolume
from ..recon.measurement_update import Covariance, FilmEquations, updated
from .film_response import FilmResponse, linearised
from .posterior import Posterior

#: Of a film's median slope: where its tone curve is flatter, a grey value tells no line integral.
LEAST_SLOPE = 0.3


@dataclass(frozen=True, kw_only=True)
class Update:
    """How far films are followed.

    Options:
        sigma: noise of a pixel of the prior's own size, in image values.
        film_sigma: the same of a film whose tone curve was fitted, in its grey values.
        floor: least standard deviation of a voxel, as a share of the mean there.
        length_voxels: over which what the members do not span is correlated.
        low_rank: factor on the members' own deviations, of which there are too few to be trusted.
        steps: of conjugate gradients for the members' mean.
        member_steps: the same for what each member deviates from it.
    """

    sigma: float = 0.004
    film_sigma: float = 0.015
    floor: float = 0.2
    length_voxels: float = 1.0
    low_rank: float = 0.1
    steps: int = 10
    member_steps: int = 4


@dataclass(frozen=True)
class Films:
    """X-rays of one patient at one size of their own, at least the prior's."""

    images: Tensor  # [n, rows, cols] as the prior takes them
    masks: Tensor  # [n, rows, cols] in [0, 1]: what a pixel counts
    has_scale: tuple[bool, ...]  # whether an image value stands for a known line integral
    is_film: tuple[bool, ...]  # whether its tone curve was fitted

    @classmethod
    def of(
        cls,
        images: Tensor,
        masks: Tensor | None = None,
        has_scale: Sequence[bool] | None = None,
        is_film: Sequence[bool] | None = None,
    ) -> Films:
        """Of images [n, rows, cols]: by default all of them counts, on the prior's scale."""
        n = len(images)
        return cls(
            images.float(),
            torch.ones_like(images).float() if masks is None else masks,
            (True,) * n if has_scale is None else tuple(has_scale),
            (False,) * n if is_film is None else tuple(is_film),
        )


@dataclass(frozen=True)
class Innovation:
    """What members left unexplained of films, in line integrals, and how well that is known."""

    values: Tensor  # [M, n, rows, cols] y − A x_k
    root_precision: Tensor  # [n, rows, cols] 1/σ; 0 where a pixel says nothing
    gains: Tensor  # [M, n] that were taken for true, beside those of the angles


def innovation(
    prior: Prior, posterior: Posterior, films: Films, seen: Tensor, options: Update
) -> Innovation:
    """What films tell beyond members whose views at the films' angles are ``seen`` [M, n, ...].

    An image is a view times its gain: the fitted one, or that of its angle where the image has the
    prior's scale. A film y = f(u) whose tone curve was fitted is linearised about each member's
    picture u: the innovation is (y − f(u)) / f'(u), and σ grows by 1/f'(u).
    """
    expected = prior.expected_gain(posterior.angles_deg.cpu()).to(seen)
    gains = posterior.gains.to(seen).clone()
    one_scale = "log_gain_profile" not in prior.meta
    for k, known in enumerate(films.has_scale):
        if known and one_scale:
            gains[:, k] = 1.0
    images, masks = films.images.to(seen), films.masks.to(seen)
    # noise is stated for the prior's pixels; smaller ones have less light each
    finer = films.images.shape[-1] / prior.geometry.cols
    factor = (gains * expected)[..., None, None]
    values = images / factor - seen
    root = masks * (factor.mean(0) / (options.sigma * finer))
    if posterior.tone is None:
        return Innovation(values, root, gains)
    response = FilmResponse.of(prior.geometry, seen.device)
    for k in range(len(images)):
        if not films.is_film[k]:
            continue
        u = expected[k] * seen[:, k]
        grey, slope = linearised(response, posterior.tone[:, k].to(seen), u)
        slope = slope * expected[k]
        steep = slope.mean(0)
        flat = steep < LEAST_SLOPE * steep[masks[k] >= 0.5].median()
        values[:, k] = torch.where(flat, 0.0, (images[k] - grey) / slope.clamp_min(1e-3))
        root[k] = masks[k] * torch.where(flat, 0.0, steep / (options.film_sigma * finer))
    return Innovation(values, root, gains)


@torch.no_grad()
def updated_by(
    prior: Prior,
    posterior: Posterior,
    volumes: FieldVolume,
    films: Films,
    options: Update,
    rng: Generator,
) -> tuple[FieldVolume, Innovation]:
    """Members [M, D, H, W] of a posterior after its films, and what they had left unexplained."""
    rows, cols = films.images.shape[-2:]
    geometry = replace(prior.geometry.resized(cols), rows=rows)
    geometry = geometry.at(posterior.angles_deg.tolist())
    projector = FieldProjector(volumes, geometry, posterior.distance)
    found = innovation(prior, posterior, films, projector.forward(volumes.values), options)
    covariance = Covariance.of(
        volumes.values,
        floor=options.floor,
        length_voxels=options.length_voxels,
        low_rank=options.low_rank,
    )
    values = updated(
        volumes.values,
        found.values,
        FilmEquations(covariance, projector, found.root_precision),
        rng,
        steps=options.steps,
        member_steps=options.member_steps,
    )
    return volumes.with_values(values), found
