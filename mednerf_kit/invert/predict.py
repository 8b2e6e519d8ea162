"""What a posterior predicts: the mean and the spread of every view, and of the volume."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from torch import Generator, Tensor

from ..imaging.geometry import Geometry
from ..prior.load import Prior
from ..prior.rendering import grey_views
from ..recon.field_volume import FieldVolume, bake
from .intervals import calibration_of, outside, view_factors, volume_factors
from .members import Posterior
from .spread import view_variance, voxel_variance
from .update import Films, Told, Update, updated_by

EXPOSED_VIEWS = 24  # that the densest ray of a relative orbit is looked for in
SPREAD_FLOOR = 0.01  # image values: what all members agree on is not known better than this
# the same of voxels, image values per field unit: some 30 to 50 HU at the usual scales
VOLUME_FLOOR = 0.015


def grid_size(cols: int) -> int:
    """Voxels along a side of the baked cube for pictures of ``cols`` columns.

    For an answer to an X-ray: half as coarse again as the pixels at the isocentre, 48 at least and
    128 at most. What is finer one X-ray does not tell.

    >>> grid_size(32), grid_size(128), grid_size(512)
    (48, 115, 128)
    """
    return min(128, max(48, round(0.9 * cols)))


def fine_grid_size(cols: int) -> int:
    """The same for a random patient's own pictures: finer than the pixels, up to 160 voxels.

    The cube is 1.4 times as wide as the field of view. Voxels of :func:`grid_size` blur away
    details that a generator has.

    >>> fine_grid_size(32), fine_grid_size(64), fine_grid_size(128)
    (64, 128, 160)
    """
    return min(160, max(48, 2 * cols))


@dataclass(frozen=True)
class PredictedViews:
    """Views of a patient, and the volume they came from."""

    views: Tensor  # [V, rows, cols] the mean over members
    # [V, rows, cols] standard deviation (:mod:`.spread`), floored, times the prior's calibration
    spread: Tensor
    members: Tensor  # [M, V, rows, cols]
    volume: FieldVolume  # [D, H, W] the mean over members
    volume_spread: FieldVolume  # [D, H, W] the same of the volume
    volume_members: FieldVolume  # [M, D, H, W]
    volume_variance: Tensor  # [D, H, W] as :mod:`.spread` has it, without floor and calibration
    gains: Tensor  # [n] of the input views beside those of their angles, the mean over members
    # what the films told beyond the members, where these were updated by them
    told: Told | None = None
    exposure: float = 1.0  # by which all of these were divided, so that no relative view is cut
    # a sentence for every way in which the X-rays are outside of what the spread was calibrated on
    outside: tuple[str, ...] = ()


def predict(
    prior: Prior,
    posterior: Posterior,
    geometry: Geometry,
    *,
    size: int | None = None,
    films: Films | None = None,
    update: Update | None = None,
    rng: Generator | None = None,
    detailed: bool = False,
) -> PredictedViews:
    """Bake every member once and project it at ``geometry.angles_deg``.

    ``size`` is the number of voxels along a side of the baked cube (default: :func:`grid_size`).
    With ``films``, the X-rays at their own resolution, every member is updated by them first
    (:func:`.update.updated_by`, with the options ``update`` and draws by ``rng``, of seed 0 by
    default); a prior of emission and absorption is left as it is, since its pictures are no line
    integrals.

    Line integrals are linear, so the mean of the views is the view of the mean volume; where
    absorption hides what lies behind, the members' views are rendered ray by ray instead.
    ``detailed`` members are random patients, who get the detail that the prior lacks
    (:meth:`~mednerf_kit.prior.load.Prior.volumes`), and what interpolation takes of it; the answer
    to an X-ray was fitted to it without. In a set that was scaled view by view a view gets the
    gain of :meth:`~mednerf_kit.prior.load.Prior.gains`. Where no X-ray had a scale all of it is
    relative, and divided by the densest ray of the orbit if that exceeds white.
    """
    size = size or grid_size(geometry.cols)
    make = prior.volumes if detailed else partial(bake, prior.generator)
    volumes = make(posterior.code, geometry, size=size)
    told = None
    if films is not None and prior.is_line_integral:
        rng = rng or Generator().manual_seed(0)
        volumes, told = updated_by(prior, posterior, volumes, films, update or Update(), rng)
    exposure = 1.0
    if not posterior.has_scale:
        mean = volumes.with_values(volumes.values.mean(0))
        around = mean.project(geometry.orbit(EXPOSED_VIEWS), posterior.distance)
        exposure = max(1.0, float(around.amax()))
        volumes = replace(volumes.with_values(volumes.values / exposure), scale=None)
    else:
        volumes = replace(volumes, scale=prior.scale)
    if prior.is_line_integral:
        shown = volumes.unblurred() if detailed else volumes
        members = shown.project(geometry, posterior.distance).cpu()
    else:
        members = grey_views(prior, posterior.code, geometry).cpu() / exposure
    volumes = volumes.cpu()
    members = members * prior.gains(members.mean(0), geometry.angles_deg)[:, None, None]
    known = calibration_of(prior, len(posterior.angles_deg))
    widening, why = outside(prior, posterior)
    mean = volumes.with_values(volumes.values.mean(0))
    inputs_deg = posterior.angles_deg.tolist()
    variance = view_variance(members, geometry, inputs_deg, known.place_mm)
    volume_variance = voxel_variance(volumes, inputs_deg, known.place_mm)
    by_view = view_factors(known, geometry.angles_deg, inputs_deg)
    by_voxel = volume_factors(known, mean)
    return PredictedViews(
        members.mean(0),
        widening * by_view[:, None, None] * (variance.sqrt() + SPREAD_FLOOR),
        members,
        mean,
        volumes.with_values(widening * by_voxel * (volume_variance.sqrt() + VOLUME_FLOOR)),
        volumes,
        volume_variance,
        (told or posterior).gains.mean(0).cpu(),
        told,
        exposure,
        tuple(why),
    )


def reprojections(
    prior: Prior, posterior: Posterior, predicted: PredictedViews, stated_deg: Tensor
) -> Tensor:
    """The members' mean view at the fitted angles, before any fitted gain: [n, rows, cols].

    ``stated_deg`` [n] are the angles at which the X-rays were given.
    """
    geometry = posterior.views_in(prior.geometry)
    if prior.is_line_integral:
        seen = predicted.volume.project(geometry, posterior.distance) * predicted.exposure
    else:
        seen = grey_views(prior, posterior.code, geometry).mean(0)
    return (seen * prior.expected_gain(stated_deg).to(seen)[:, None, None]).cpu()
