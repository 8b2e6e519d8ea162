"""Making the spread mean something: a factor fitted on validation patients, so that ±1.645 spreads
hold 90 % of the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from ..core import files
from ..core.errors import UserError
from ..engine.loop import Loop
from ..metrics.image import body_mask
from ..metrics.uncertainty import calibrate_scale
from ..prior.load import CALIBRATION, Prior, load_prior
from ..prior.sets import read_set
from .evaluate import input_views
from .posterior import Inversion
from .predict import predict

INPUTS_DEG = {"1": (270.0,), "2": (270.0, 0.0)}  # one frontal view, and a frontal with a lateral


def calibrate(
    prior: Prior, *, limit: int = 4, views: Sequence[str] = ("1",), seed: int = 1
) -> dict[str, float]:
    """Factors by number of input views, from the first ``limit`` validation patients of the prior's
    own set.

    For each patient the inputs are inverted and all other views compared: f is the least factor
    with |error| ≤ 1.645·f·spread at 90 % of the pixels of the body. An empty validation split
    answers with no factors.
    """
    node = prior.meta["recipe"]["dataset"]
    if limit < 1:
        return {}
    try:
        orbits = read_set(str(prior.meta["dataset"]), node, split="val", limit=limit)
    except UserError:
        return {}
    unseen = [n for n in orbits.patients if n not in orbits.seen_before(prior.meta["identities"])]
    bare = Prior(
        prior.generator, prior.geometry, prior.codes, {**prior.meta, "calibration": {}}, prior.path
    )
    factors = {}
    for key in views:
        angles_deg = INPUTS_DEG[key]
        inputs = input_views(orbits.geometry.angles_deg, angles_deg)
        rest = [k for k in range(orbits.geometry.views) if k not in inputs]
        spreads, errors = [], []
        for i, name in enumerate(
            tqdm(unseen, desc=f"calibrating on {key} view{'s' * (key != '1')}")
        ):
            truth = orbits.images[orbits.patients.index(name)].float()
            posterior = Inversion()(
                bare, truth[inputs], torch.tensor(angles_deg), Generator().manual_seed(seed + i)
            )
            orbit = predict(bare, posterior, orbits.geometry)
            mask = body_mask(truth[rest])
            spreads.append(1.645 * orbit.spread[rest][mask])
            errors.append((orbit.views[rest] - truth[rest])[mask])
        if spreads:
            factors[key] = calibrate_scale(torch.cat(spreads), torch.cat(errors))
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
