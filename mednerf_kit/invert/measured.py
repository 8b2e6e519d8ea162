"""What the films determined of a volume, and what the prior filled in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from ..imaging.volume import Volume
from ..prior.load import Prior
from ..recon.field_volume import FieldProjector, FieldVolume, bake
from ..recon.measurement_update import null_space, smoothed
from .members import Posterior
from .predict import PredictedViews
from .update import Update

PRIOR_PATIENTS = 16  # random ones, whose variance is what is believed before any film
PRIOR_GRID = 40  # voxels along a side of them: their variance is smooth
BODY_SHARE = 0.02  # of the densest voxel: what is less dense is air around the body
NULL_STEPS = 12  # of conjugate gradients


@dataclass(frozen=True)
class Measured:
    """Which part of a volume the films determined.

    ``share`` is, voxel by voxel inside the body and 0 outside,

        1 − Var_post / Var_prior,   at least 0,

    with Var_post the variance over members after the films, and Var_prior that over random patients
    of the prior and of the detail which none of them knows (the least standard deviation that the
    measurement update gives a voxel). Neither is calibrated: a factor would stand in both.
    ``total`` is 1 − Σ Var_post / Σ Var_prior over the body: voxels count by how much the prior lets
    them vary.

    ``null_space`` is x − A⁺ A x within the body, A being the films' projector: what could be
    changed without any film noticing. All of its line integrals along the films' rays vanish.
    """

    share: FieldVolume  # [D, H, W] in [0, 1]
    null_space: FieldVolume  # [D, H, W] in the units of the volume, with both signs
    total: float

    def share_volume(self) -> Volume:
        """The share as a scan; it has no unit."""
        return replace(self.share, scale=None).to_volume("Share.")

    @property
    def text(self) -> str:
        """The total in plain words."""
        return (
            f"{100 * self.total:.0f} % of what you see was determined by the film, by the prior's "
            "own account: by so much it narrowed down, voxel by voxel, how the patients of the "
            "prior differ. The rest was filled in by the prior. Of patients it has not seen the "
            "prior is too sure: measured against CTs the share is smaller (docs/results.md)"
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
    body = values > BODY_SHARE * values.amax()
    before = prior_variance(prior, values.shape[-1], rng) / predicted.exposure**2
    detail = Update().floor * smoothed(values).clamp_min(0)
    before = before + detail.square()
    members = predicted.volume_members.values
    after = smoothed(members.var(0)) if len(members) > 1 else before
    # where a film widened what was believed, it determined nothing
    after = torch.minimum(after, before)
    share = torch.where(body, 1 - after / before.clamp_min(1e-12), 0.0)
    geometry = posterior.views_in(prior.geometry)
    projector = FieldProjector(predicted.volume, geometry, posterior.distance)
    hidden = null_space(values, body.to(values), projector, masks.to(values), steps=NULL_STEPS)
    return Measured(
        predicted.volume.with_values(share),
        predicted.volume.with_values(hidden),
        float(1 - after[body].sum() / before[body].sum().clamp_min(1e-12)),
    )


def prior_variance(prior: Prior, size: int, rng: Generator) -> Tensor:
    """Variance over random patients of a prior, smoothed: [size, size, size]."""
    code = prior.generator.weights(prior.generator.draw(PRIOR_PATIENTS, rng))
    volumes = bake(prior.generator, code, prior.geometry, size=PRIOR_GRID).values.cpu()
    variance = smoothed(volumes.var(0))[None, None]
    return interpolate(variance, (size,) * 3, mode="trilinear", align_corners=False)[0, 0]
