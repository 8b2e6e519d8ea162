"""The measurement update of a posterior's volumes by the X-rays that led to it.

A prior's members explain an X-ray as far as the prior knows such patients. What is left is data,
too: :mod:`..recon.measurement_update` lays it along its rays, where the members are least sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from ..imaging.geometry import Geometry
from ..prior.load import Prior
from ..recon.field_volume import FieldProjector, FieldVolume, at_distance
from ..recon.measurement_update import Covariance, FilmEquations, updated
from ..recon.sart import sart
from .disagreement import Misfit, Region, filtered, levels, regions_beyond, standardised
from .film_response import FilmResponse, line_integrals
from .intervals import calibration_of
from .members import Posterior

#: Of a film's median slope: where its tone curve is flatter, a grey value tells no line integral.
LEAST_SLOPE = 0.3
#: Factor on a voxel's standard deviation, at most, where a film disagrees.
MOST_INFLATION = 5.0
#: Of the densest voxel of any member: nothing that a film adds becomes denser.
DENSEST = 1.5
#: Factor on what members' curves differ by, which agree more than they are right.
CURVE_ERRORS = 3.0


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
        passes: of SART over several X-rays afterwards, which together tell more than the members
            and their covariance; 0 leaves them out.
        smooth: weight of the total variation after each pass, in image value per field unit.
        sharp_passes: of SART without it from there, for the mean and for each member, which keeps
            what the X-rays leave open.
    """

    sigma: float = 0.004
    film_sigma: float = 0.015
    floor: float = 0.14
    length_voxels: float = 1.5
    low_rank: float = 0.1
    steps: int = 10
    member_steps: int = 4
    passes: int = 16
    smooth: float = 0.003
    sharp_passes: int = 4


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
    expected: Tensor  # [n] those of the angles


@dataclass(frozen=True)
class Told:
    """What films told beyond a posterior's members."""

    gains: Tensor  # [M, n] that were taken for true, beside those of the angles
    z: Tensor  # [n, rows, cols] prior against film before the update, standard deviations
    misfit: Misfit  # what z is measured by
    regions: tuple[Region, ...]  # of |z| beyond the limit, the strongest first
    levels: tuple[tuple[float, float], ...]  # RMS and peak of what each filter leaves


def innovation(
    prior: Prior, posterior: Posterior, films: Films, seen: Tensor, options: Update
) -> Innovation:
    """What films tell beyond members whose views at the films' angles are ``seen`` [M, n, ...].

    An image is a view times its gain: the fitted one, or that of its angle where the image has the
    prior's scale. A film y = f(u) whose tone curve was fitted is taken back to line integrals by
    each member's curve, f⁻¹(y), less the member's picture; σ² is (σ_film / f')² there, and
    CURVE_ERRORS² times the variance of f⁻¹(y) over members.
    """
    expected = prior.expected_gain(posterior.angles_deg.cpu()).to(seen)
    gains = posterior.gains.to(seen).clone()
    if "log_gain_profile" not in prior.meta:
        gains[:, torch.tensor(films.has_scale)] = 1.0
    images, masks = films.images.to(seen), films.masks.to(seen)
    # noise is stated for the prior's pixels; smaller ones have less light each
    finer = films.images.shape[-1] / prior.geometry.cols
    factor = (gains * expected)[..., None, None]
    values = images / factor - seen
    root = masks * (factor.mean(0) / (options.sigma * finer))
    if posterior.tone is None:
        return Innovation(values, root, gains, expected)
    response = FilmResponse.of(prior.geometry, seen.device)
    for k in torch.tensor(films.is_film).nonzero()[:, 0].tolist():
        tone = posterior.tone[:, k].to(seen)
        told, slope = line_integrals(response, tone, images[k], expected[k] * seen[:, k])
        steep = slope.mean(0)
        flat = steep < LEAST_SLOPE * steep[masks[k] >= 0.5].median()
        values[:, k] = torch.where(flat, 0.0, told / expected[k] - seen[:, k])
        noise = options.film_sigma * finer / steep.clamp_min(1e-3)
        by_curve = told.std(0) if len(told) > 1 else torch.zeros_like(noise)
        known = expected[k] / torch.hypot(noise, CURVE_ERRORS * by_curve)
        root[k] = masks[k] * torch.where(flat, 0.0, known)
    return Innovation(values, root, gains, expected)


@torch.no_grad()
def updated_by(
    prior: Prior,
    posterior: Posterior,
    volumes: FieldVolume,
    films: Films,
    options: Update,
    rng: Generator,
) -> tuple[FieldVolume, Told]:
    """Members [M, D, H, W] of a posterior after its films, and what these told beyond them.

    Where a film disagrees by more than the rest of it, the voxels along its rays are held for as
    much less certain, at most MOST_INFLATION times: what the prior does not know may lie anywhere
    along them. No voxel becomes denser than DENSEST times the densest one before. Several X-rays
    of a known scale are then brought together by :func:`reconciled`.
    """
    rows, cols = films.images.shape[-2:]
    small = posterior.views_in(prior.geometry)
    geometry = replace(small.resized(cols), rows=rows)
    projector = FieldProjector(volumes, geometry, posterior.distance)
    seen = projector.forward(volumes.values)
    found = innovation(prior, posterior, films, seen, options)
    misfit = Misfit.of(calibration_of(prior, len(films.images)).disagreement)
    mean, variance, body = filtered(found.values, found.root_precision, seen.mean(0), geometry)
    z = standardised(mean, variance, misfit)
    covariance = Covariance.of(
        volumes.values,
        floor=options.floor,
        length_voxels=options.length_voxels,
        low_rank=options.low_rank,
    ).inflated(inflation(z, body, projector))
    equations = FilmEquations(covariance, projector, found.root_precision)
    # what members differ by is no finer than the prior's own pictures
    coarse = FieldProjector(volumes, small, posterior.distance)
    values = updated(
        volumes.values,
        found.values,
        equations,
        rng,
        steps=options.steps,
        member_steps=options.member_steps,
        coarse=equations.resized(coarse, small.rows, small.cols) if cols > small.cols else None,
    )
    # where patients of the prior end and the film goes on, little of a ray can hold what it shows
    values = values.clamp_max(DENSEST * float(volumes.values.amax()))
    if options.passes and len(films.images) > 1 and all(films.has_scale):
        factor = (found.gains.mean(0) * found.expected)[:, None, None]
        exact = at_distance(geometry, posterior.distance)
        volumes = volumes.with_values(values)
        values = reconciled(volumes, films.images / factor.cpu(), films.masks, exact, options)
    regions = regions_beyond(z, misfit.limit, geometry)
    told = Told(found.gains, z.cpu(), misfit, tuple(regions), levels(mean, body))
    return volumes.with_values(values), told


def reconciled(
    volumes: FieldVolume, integrals: Tensor, masks: Tensor, geometry: Geometry, options: Update
) -> Tensor:
    """Members [M, D, H, W] that agree with several X-rays at once.

    What bodies of the prior do not have, such as arms beside the chest, their covariance cannot
    hold; from several sides the X-rays tell where it is. SART with a little total variation goes on
    from the members' mean, and without it to the X-rays' detail. Each member goes the same last
    steps from what it deviates from the mean, and keeps of it what no X-ray sees. Pixels that
    ``masks`` [n, rows, cols] leaves out agree. The members stay where that leads away from the
    X-rays: of a body larger than the prior's field.
    """
    members, masks = volumes.cpu(), masks.cpu()
    mean = members.values.mean(0)

    def passed(start: Tensor, passes: int, smooth: float = 0.0) -> Tensor:
        begun = members.with_values(start)
        return sart(
            torch.where(masks < 0.5, begun.project(geometry), integrals.cpu()),
            geometry,
            size=start.shape[-1],
            epochs=passes,
            subset_views=1,
            relax=1.0,
            decay=1.0,
            smooth=smooth,
            start=begun,
        ).volume.values

    def error(values: Tensor) -> float:
        seen = members.with_values(values).project(geometry)
        return float((masks * (seen - integrals.cpu())).square().mean())

    even = passed(mean, options.passes, options.smooth)
    sharp = passed(even, options.sharp_passes)
    if error(sharp) >= error(mean):
        return volumes.values
    starts = (members.values - mean + even).clamp_min(0)
    found = torch.stack([passed(start, options.sharp_passes) for start in starts])
    # cut at 0, members are denser on average than what they were laid about
    return (found + sharp - found.mean(0)).clamp_min(0).to(volumes.values)


def inflation(z: Tensor, body: Tensor, projector: FieldProjector) -> Tensor:
    """Factors on the standard deviation of voxels [D, H, W] from disagreements [n, rows, cols].

    A pixel's is |z| over its root mean square in the body, where both exceed 1; a voxel's is the
    mean over the pixels that see it.
    """
    rms = z[body].square().mean().sqrt() if bool(body.any()) else z.new_tensor(1.0)
    factor = (z.abs() / rms.clamp_min(1.0)).clamp(1.0, MOST_INFLATION)
    reached = projector.adjoint(torch.ones_like(z))
    along = projector.adjoint(factor) / reached.clamp_min(1e-6)
    return torch.where(reached > 1e-6, along, 1.0)
