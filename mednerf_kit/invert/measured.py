"""What the films determined of a volume, and what the prior filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ..imaging.volume import Volume
from ..prior.load import Prior
from ..recon.field_volume import FieldProjector, FieldVolume, bake
from ..recon.measurement_update import null_space, smoothed
from .intervals import LEAST_PATIENTS, calibration_of
from .members import Posterior
from .predict import PredictedViews
from .spread import variance_over
from .update import Update

PRIOR_PATIENTS = 16  # random ones, whose variance is what is believed before any film
PRIOR_GRID = 40  # voxels along a side of them: their variance is smooth
BODY_SHARE = 0.02  # of the densest voxel: what is less dense is air around the body
NULL_STEPS = 12  # of conjugate gradients


@dataclass(frozen=True)
class Claim:
    """What a prior's own account of the share is worth, by patients with CTs.

    Of such a patient the true share is 1 − Σ (x − CT)² / Σ (x̄ − CT)² over the body, x the answer
    and x̄ the prior's mean (whose own variance, of PRIOR_PATIENTS random ones, is taken off).
    """

    factor: float = 1.0  # mean true share over mean claimed share
    patients: int = 0
    lowest: float = 0.0  # true share of a patient
    highest: float = 0.0

    @classmethod
    def of(cls, known: Mapping[str, Any] | None) -> Claim:
        """That of a prior's calibration; by default the claim stands as it is."""
        return cls() if not known else cls(**known)

    @classmethod
    def fit(cls, patients: Sequence[Sequence[float]]) -> Claim | None:
        """From pairs (claimed, true); None of fewer than LEAST_PATIENTS.

        >>> Claim.fit([(0.8, 0.2), (0.8, 0.4), (0.8, 0.6)] * 3)
        Claim(factor=0.5, patients=9, lowest=0.2, highest=0.6)
        """
        if len(patients) < LEAST_PATIENTS:
            return None
        claimed, true = (sum(one[k] for one in patients) for k in (0, 1))
        own = [one[1] for one in patients]
        factor = min(max(true, 0.0) / max(claimed, 1e-6), 1.0)
        return cls(round(factor, 4), len(patients), round(min(own), 4), round(max(own), 4))


@dataclass(frozen=True)
class Measured:
    """Which part of a volume the films determined.

    ``share`` is, voxel by voxel inside the body and 0 outside,

        f · (1 − Var_post / Var_prior),   at least 0,

    with Var_post the variance after the films (:func:`.spread.voxel_variance`), and Var_prior that
    over random patients of the prior and of the detail which none of them knows (the least standard
    deviation that the measurement update gives a voxel). Neither is calibrated; the factor f is
    (:class:`Claim`). ``total`` is f · (1 − Σ Var_post / Σ Var_prior) over the body: voxels count by
    how much the prior lets them vary.

    ``null_space`` is x − A⁺ A x within the body, A being the films' projector: what could be
    changed without any film noticing. All of its line integrals along the films' rays vanish.
    """

    share: FieldVolume  # [D, H, W] in [0, 1]
    null_space: FieldVolume  # [D, H, W] in the units of the volume, with both signs
    total: float
    claim: Claim = Claim()

    def share_volume(self) -> Volume:
        """The share as a scan; it has no unit."""
        return replace(self.share, scale=None).to_volume("Share.")

    @property
    def text(self) -> str:
        """The total in plain words."""
        text = f"{100 * self.total:.0f} % of what you see was determined by the film"
        if not self.claim.patients:
            return (
                f"{text}, by the prior's own account: by so much it narrowed down, voxel by voxel, "
                "how the patients of the prior differ. The rest was filled in by the prior. Of "
                "patients it has not seen the prior is too sure: measured against CTs the share is "
                "smaller (docs/results.md)"
            )
        return (
            f"{text}: by so much it narrowed down, voxel by voxel, how patients differ, as the CTs "
            f"of {self.claim.patients} patients whom the prior had not seen tell. For single ones "
            f"it was {100 * max(self.claim.lowest, 0):.0f} to {100 * self.claim.highest:.0f} %. "
            "The rest was filled in by the prior"
        )


@torch.no_grad()
def measured(
    prior: Prior,
    posterior: Posterior,
    predicted: PredictedViews,
    masks: Tensor,
    rng: Generator,
) -> Measured:
    """Of a prediction whose films had ``masks`` [n, rows, cols] at the prior's size."""
    values = predicted.volume.values
    claim = Claim.of(calibration_of(prior, len(posterior.angles_deg)).share)
    body, before, after, _ = narrowed(prior, predicted, rng)
    share = torch.where(body, claim.factor * (1 - after / before), 0.0)
    geometry = posterior.views_in(prior.geometry)
    projector = FieldProjector(predicted.volume, geometry, posterior.distance)
    hidden = null_space(values, body.to(values), projector, masks.to(values), steps=NULL_STEPS)
    return Measured(
        predicted.volume.with_values(share),
        predicted.volume.with_values(hidden),
        claim.factor * _total(body, before, after),
        claim,
    )


def claimed_and_true(
    prior: Prior, predicted: PredictedViews, ct: FieldVolume, rng: Generator
) -> tuple[float, float]:
    """The share by the prior's own account, and that by the patient's CT (:class:`Claim`)."""
    body, before, after, prior_mean = narrowed(prior, predicted, rng)
    error = (predicted.volume.values - ct.values).square()[body].sum()
    beside = (prior_mean - ct.values).square() - before / PRIOR_PATIENTS
    true = 1 - float(error / beside[body].sum().clamp_min(1e-12))
    return _total(body, before, after), true


def narrowed(
    prior: Prior, predicted: PredictedViews, rng: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The body, Var_prior and Var_post, which exceeds it nowhere, and the prior's mean.

    All are [D, H, W], in the units of the prediction.
    """
    values = predicted.volume.values
    body = values > BODY_SHARE * values.amax()
    mean, variance = prior_moments(prior, values.shape[-1], rng)
    detail = Update().floor * smoothed(values).clamp_min(0)
    before = variance / predicted.exposure**2 + detail.square()
    before = before.clamp_min(1e-12)
    alone = len(predicted.members) == 1
    # where a film widened what was believed, it determined nothing; one member narrows nothing
    after = before if alone else torch.minimum(predicted.volume_variance, before)
    return body, before, after, mean / predicted.exposure


def _total(body: Tensor, before: Tensor, after: Tensor) -> float:
    return float(1 - after[body].sum() / before[body].sum().clamp_min(1e-12))


def prior_moments(prior: Prior, size: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Mean and smoothed variance over random patients of a prior: [size, size, size] each."""
    code = prior.generator.weights(prior.generator.draw(PRIOR_PATIENTS, rng))
    volumes = bake(prior.generator, code, prior.geometry, size=PRIOR_GRID).values.cpu()
    moments = torch.stack([volumes.mean(0), smoothed(variance_over(volumes))])[None]
    shape = (size,) * 3
    mean, variance = interpolate(moments, shape, mode="trilinear", align_corners=False)[0]
    return mean, variance
