"""One patient's scores: some views are given, every other view is compared, and the volume where a
CT is at hand, beside predictions that need no model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from ..core.errors import UserError
from ..imaging.geometry import Geometry, angle_difference_deg, nearest_view
from ..metrics import image as image_metrics
from ..metrics.anatomy import region_scores
from ..metrics.image import body_mask, psnr_db
from ..metrics.spectrum import power_kept
from ..metrics.uncertainty import coverage, spread_error_correlation
from ..metrics.volume import volume_errors, window_errors
from ..prior.load import Prior, Search
from ..recon.field_volume import FieldVolume
from ..recon.ridge import ridge_orbit
from .intervals import Z_90
from .members import Posterior
from .predict import PredictedViews, predict, reprojections
from .update import Films
from .xray_views import frame_options

SAME_ANGLE_DEG = 0.5  # two views that are closer were taken from the same angle
UPRIGHT = 0.999  # cosine between the rows of two views that mirror each other


@dataclass(frozen=True)
class Scored:
    """One patient's result."""

    name: str
    scores: dict[str, Tensor]  # metric -> [V], NaN at the input views
    baselines: dict[str, dict[str, Tensor]]  # baseline -> metric -> [V]
    predicted: PredictedViews
    volume: dict[str, float] | None  # metric -> value, where the CT is at hand
    uncertainty: dict[str, float]  # what the spread is worth
    seconds: float
    given_psnr_db: float = float("nan")  # of the input views as they were fitted
    power_kept: dict[str, Tensor] = field(default_factory=dict)  # of what -> [bands]
    posterior: Posterior | None = None


def input_views(angles_deg: Sequence[float], wanted_deg: Sequence[float]) -> list[int]:
    """Indices of the views at the wanted angles, to within 0.5°; a UserError if there is none."""
    found = []
    for wanted in wanted_deg:
        k = nearest_view(angles_deg, wanted)
        if abs(angle_difference_deg(angles_deg[k], wanted)) > SAME_ANGLE_DEG:
            raise UserError(
                f"got input angle {wanted:g}°",
                f"wanted an angle of the set (the nearest is {angles_deg[k]:g}°)",
                "correct --input-angles",
            )
        found.append(k)
    return found


def apart_deg(views: Geometry) -> Tensor:
    """Angles between the directions of views, in degrees: [V, V]; on an orbit, the turns.

    >>> from ..imaging.geometry import DEFAULTS
    >>> apart_deg(DEFAULTS["chest"].at([350, 10, 190])).tolist()
    [[0.0, 20.0, 160.0], [20.0, 0.0, 180.0], [160.0, 180.0, 0.0]]
    """
    if not views.view_frames:
        angles = torch.tensor(views.angles_deg)
        return angle_difference_deg(angles[:, None], angles).abs()
    towards = views.frames_of_views().towards
    return torch.rad2deg((towards @ towards.T).clamp(-1, 1).acos()).float()


def neighbours(apart: Tensor) -> Tensor:
    """The nearest other view of each, [V], from angles between views [V, V].

    Of equally near ones it is the view before.
    """
    own = torch.arange(len(apart))
    before = own.roll(1)
    others = apart.clone().fill_diagonal_(torch.inf)
    is_nearest = others[own, before] <= others.amin(1) + SAME_ANGLE_DEG
    return torch.where(is_nearest, before, others.argmin(1))


def baseline_orbits(
    training: Tensor, truth: Tensor, inputs: Sequence[int], views: Geometry
) -> dict[str, Tensor]:
    """Predictions without a model from training patients' views [P, V, H, W], each [V, H, W].

    The mean training patient; the training patient that is nearest by the input views; ridge
    regression from them (:mod:`~mednerf_kit.recon.ridge`); the neighbouring one of the true views
    [V, H, W]; and the input views mirrored left-right as the views from behind, NaN elsewhere.
    """
    given, apart = list(inputs), apart_deg(views)
    level = torch.nn.functional.normalize(views.frames_of_views().row, dim=-1)
    nearest = (training[:, given].float() - truth[given]).square().mean((1, 2, 3)).argmin()
    mirrored = torch.full_like(truth, torch.nan)
    for k in given:
        opposite = int(apart[k].argmax())
        upright = float(level[k] @ level[opposite]) > UPRIGHT or not views.view_frames
        if upright and float(apart[k, opposite]) > 180 - SAME_ANGLE_DEG:
            mirrored[opposite] = truth[k].flip(-1)
    return {
        "mean_orbit": training.mean(0, dtype=torch.float32),
        "nearest_patient": training[nearest].float(),
        "ridge": ridge_orbit(training, truth[given], given),
        "neighbour_view": truth[neighbours(apart)],
        "mirrored_film": mirrored,
    }


def score_patient(
    prior: Prior,
    name: str,
    truth: Tensor,
    training: Tensor,
    inputs: Sequence[int],
    inversion: Search,
    rng: Generator,
    ct: str | None = None,
    views: Geometry | None = None,
) -> Scored:
    """Invert the input views of one patient [V, H, W] and score every other view.

    ``views`` is where they were taken, in the prior's field units; its own views by default. The
    volume is scored too, where a file of the patient's CT is given and the prior has a scale.
    """
    started = time.perf_counter()
    geometry, given = views or prior.geometry, list(inputs)
    stated = geometry.subset(given)
    angles = torch.tensor(stated.angles_deg)
    posterior = inversion(prior, truth[given], angles, rng, **frame_options(stated))
    predicted = predict(prior, posterior, geometry, films=Films.of(truth[given]))
    rest = torch.ones(len(truth), dtype=torch.bool)
    rest[given] = False

    def scored(image: Tensor) -> dict[str, Tensor]:
        found = image_metrics.scores(image.clamp(0, 1), truth)
        return {k: torch.where(rest, v, torch.nan) for k, v in found.items()}

    volume = None
    if ct is not None and prior.scale is not None:
        volume = score_volume(predicted.volume, ct, geometry)
    baselines = baseline_orbits(training, truth, inputs, geometry)
    fitted = reprojections(prior, posterior, predicted, angles)
    fitted = fitted * predicted.gains[:, None, None]
    return Scored(
        name=name,
        scores=scored(predicted.views),
        baselines={k: scored(v) for k, v in baselines.items()},
        predicted=predicted,
        volume=volume,
        uncertainty=score_spread(predicted, truth, rest),
        seconds=time.perf_counter() - started,
        given_psnr_db=float(psnr_db(fitted.clamp(0, 1), truth[given]).mean()),
        power_kept={
            "other_views": power_kept(predicted.views[rest], truth[rest]),
            "other_views_members": members_power_kept(predicted.members[:, rest], truth[rest]),
            "given_view": power_kept(fitted, truth[given]),
            "given_view_members": members_power_kept(predicted.members[:, given], truth[given]),
        },
        posterior=posterior,
    )


def members_power_kept(members: Tensor, truth: Tensor) -> Tensor:
    """Power kept by the single members [M, V, H, W] of the truth's [V, H, W], their mean: [bands].

    Their mean picture loses power wherever they differ; a member does not have to.
    """
    return torch.stack([power_kept(member, truth) for member in members]).mean(0)


def score_volume(volume: FieldVolume, ct: str, geometry: Geometry) -> dict[str, float]:
    """Errors of a volume against the CT in a file, at the volume's grid.

    ``psnr_3d_db``, ``mae`` and ``ssim_3d`` are in the field's own values at the range of the CT's
    densest voxel; all others are in HU (:func:`~mednerf_kit.metrics.volume.window_errors`,
    :func:`~mednerf_kit.metrics.anatomy.region_scores`).
    """
    known = FieldVolume.from_ct(ct, geometry, size=volume.values.shape[-1])
    found = volume_errors(volume.values, known.values, float(known.values.amax()))
    hu, true_hu = (v.to_volume().values for v in (volume, known))
    return found | window_errors(hu, true_hu) | region_scores(hu, true_hu)


def score_spread(predicted: PredictedViews, truth: Tensor, rest: Tensor) -> dict[str, float]:
    """What the spread of the views is worth against the true ones [V, H, W], inside the body.

    ``rest`` [V] bool are the views that count. ``coverage_90`` is the share of pixels within ±1.645
    spreads, ``spread_error_*`` their correlations; ``mean_spread`` is in image values.
    """
    views, spread, truth = predicted.views[rest], predicted.spread[rest], truth[rest]
    mask, band = body_mask(truth), Z_90 * spread
    errors = spread_error_correlation(spread, (views - truth).abs(), mask)
    return {
        "coverage_90": coverage(views - band, views + band, truth, mask),
        **{f"spread_error_{k}": v for k, v in errors.items()},
        "mean_spread": float(spread[mask].mean()),
    }
