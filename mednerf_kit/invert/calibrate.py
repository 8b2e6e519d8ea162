"""Calibration of the spread: a factor, so that ±1.645 spreads hold 90 % of the truth.

The factor is fitted on validation patients, whom the prior was not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from ..core import files
from ..core.errors import UserError
from ..engine.loop import Loop
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG
from ..metrics.image import body_mask
from ..metrics.uncertainty import calibrate_scale
from ..prior.load import CALIBRATION, Prior, load_prior
from ..prior.sets import read_set
from .posterior import Inversion
from .predict import Z_90, predict
from .scoring import input_views
from .update import Films

# one frontal view, and a frontal with a lateral
INPUTS_DEG = {"1": (FRONTAL_DEG,), "2": (FRONTAL_DEG, LATERAL_DEG)}


def calibrate(
    prior: Prior, *, limit: int = 4, views: Sequence[str] = ("1",), seed: int = 1
) -> dict[str, float]:
    """Factors on the spread, by number of input views, from validation patients of the prior's set.

    For each patient the inputs are inverted and all other views compared: f is the least factor
    with |error| ≤ 1.645·f·spread at 90 % of the pixels of the body. There are no factors where the
    validation split is empty.

    Options:
        limit: patients at most.
        views: keys of :data:`INPUTS_DEG`, the numbers of input views.
        seed: of the first patient's search; the next patient's is one more.
    """
    if limit < 1:
        return {}
    node = prior.meta["recipe"]["dataset"]
    try:
        orbits = read_set(str(prior.meta["dataset"]), node, split="val", limit=limit)
    except UserError:
        return {}
    known = orbits.seen_before(prior.meta["identities"])
    unseen = [name for name in orbits.patients if name not in known]
    uncalibrated = replace(prior, meta={**prior.meta, "calibration": {}})
    factors = {}
    for key in views:
        angles_deg = INPUTS_DEG[key]
        inputs = input_views(orbits.geometry.angles_deg, angles_deg)
        rest = [k for k in range(orbits.geometry.views) if k not in inputs]
        bands, errors = [], []
        label = f"calibrating on {key} view{'s' * (key != '1')}"
        for i, name in enumerate(tqdm(unseen, desc=label)):
            truth = orbits.images[orbits.patients.index(name)].float()
            rng = Generator().manual_seed(seed + i)
            given = torch.tensor(angles_deg)
            posterior = Inversion()(uncalibrated, truth[inputs], given, rng)
            films = Films.of(truth[inputs])
            predicted = predict(uncalibrated, posterior, orbits.geometry, films=films)
            mask = body_mask(truth[rest])
            bands.append(Z_90 * predicted.spread[rest][mask])
            errors.append((predicted.views[rest] - truth[rest])[mask])
        if bands:
            factors[key] = calibrate_scale(torch.cat(bands), torch.cat(errors))
    return factors


def calibrate_run(loop: Loop, recipe: Mapping[str, Any], device: torch.device) -> None:
    """Fit the factors of a prior that has just been trained, and keep them beside its snapshots."""
    prior = load_prior(loop.folder)
    prior.generator.to(device)
    factors = calibrate(prior, limit=recipe["calibration_patients"])
    files.write_json(loop.folder / CALIBRATION, factors)
    loop.log(
        f"uncertainty calibrated on validation patients: {factors}"
        if factors
        else "note: no validation patients, so the uncertainty is not calibrated"
    )
