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

SAME_ANGLE_DEG = 0.5  # two views that are closer were taken from the same angle


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


def baseline_orbits(
    training: Tensor, truth: Tensor, inputs: Sequence[int], angles_deg: Sequence[float]
) -> dict[str, Tensor]:
    """Predictions without a model from training orbits [P, V, H, W], each [V, H, W].

    The mean training orbit; the training patient that is nearest by the input views; ridge
    regression from them (:mod:`~mednerf_kit.recon.ridge`); the neighbouring view of the true orbit
    [V, H, W]; and the input views mirrored left-right as the views from behind, NaN elsewhere.
    """
    given = list(inputs)
    nearest = (training[:, given].float() - truth[given]).square().mean((1, 2, 3)).argmin()
    mirrored = torch.full_like(truth, torch.nan)
    for k in given:
        opposite = nearest_view(angles_deg, angles_deg[k] + 180)
        if abs(angle_difference_deg(angles_deg[opposite], angles_deg[k] + 180)) < SAME_ANGLE_DEG:
            mirrored[opposite] = truth[k].flip(-1)
    return {
        "mean_orbit": training.mean(0, dtype=torch.float32),
        "nearest_patient": training[nearest].float(),
        "ridge": ridge_orbit(training, truth[given], given),
        "neighbour_view": truth.roll(1, 0),
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
) -> Scored:
    """Invert the input views of one patient [V, H, W] and score every other view.

    The volume is scored too, where a file of the patient's CT is given and the prior has a scale.
    """
    started = time.perf_counter()
    geometry, given = prior.geometry, list(inputs)
    angles = torch.tensor([geometry.angles_deg[k] for k in given])
    posterior = inversion(prior, truth[given], angles, rng)
    predicted = predict(prior, posterior, geometry, films=Films.of(truth[given]))
    rest = torch.ones(len(truth), dtype=torch.bool)
    rest[given] = False

    def scored(image: Tensor) -> dict[str, Tensor]:
        found = image_metrics.scores(image.clamp(0, 1), truth)
        return {k: torch.where(rest, v, torch.nan) for k, v in found.items()}

    volume = None
    if ct is not None and prior.scale is not None:
        volume = score_volume(predicted.volume, ct, geometry)
    baselines = baseline_orbits(training, truth, inputs, geometry.angles_deg)
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
    spreads, ``spread_error_*`` the correlation of spread and error; ``mean_spread`` is in image
    values.
    """
    views, spread, truth = predicted.views[rest], predicted.spread[rest], truth[rest]
    mask, band = body_mask(truth), Z_90 * spread
    errors = spread_error_correlation(spread, (views - truth).abs(), mask)
    return {
        "coverage_90": coverage(views - band, views + band, truth, mask),
        **{f"spread_error_{k}": v for k, v in errors.items()},
        "mean_spread": float(spread[mask].mean()),
    }
