"""Making the spread mean something: a factor fitted on validation patients, so that ±1.645 spreads hold 90 % of the truth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator
from tqdm import tqdm

from ..core.errors import UserError
from ..metrics import image
from .evaluate import input_views
from .posterior import Inversion
from .predict import predict
from ..engine.run_folder import Prior
from ..prior.sets import read_set

INPUTS_DEG = {"1": (270.0,), "2": (270.0, 0.0)}  # one frontal view, and a frontal with a lateral


def calibrate(prior: Prior, *, limit: int = 4, views: Sequence[str] = ("1",), seed: int = 1) -> dict[str, float]:
    """Factors by number of input views, from the first ``limit`` validation patients of the prior's own set.

    For each patient the inputs are inverted and all other views compared: f is the least factor with |error| ≤ 1.645·f·spread at
    90 % of the pixels of the body. An empty validation split answers with no factors.
    """
    node = prior.meta["recipe"]["dataset"]
    if limit < 1:
        return {}
    try:
        orbits = read_set(str(prior.meta["dataset"]), node, split="val", limit=limit)
    except UserError:
        return {}
    unseen = [n for n in orbits.patients if n not in orbits.known(prior.meta["identities"])]
    bare = Prior(prior.generator, prior.geometry, prior.codes, {**prior.meta, "calibration": {}}, prior.path)
    factors = {}
    for key in views:
        angles_deg = INPUTS_DEG[key]
        inputs = input_views(orbits.geometry.angles_deg, angles_deg)
        rest = [k for k in range(orbits.geometry.views) if k not in inputs]
        spreads, errors = [], []
        for i, name in enumerate(tqdm(unseen, desc=f"calibrating on {key} view{'s' * (key != '1')}")):
            truth = orbits.images[orbits.patients.index(name)].float()
            posterior = Inversion()(bare, truth[inputs], torch.tensor(angles_deg), Generator().manual_seed(seed + i))
            orbit = predict(bare, posterior, orbits.geometry)
            mask = image.body_mask(truth[rest])
            spreads.append(1.645 * orbit.spread[rest][mask])
            errors.append((orbit.views[rest] - truth[rest])[mask])
        if spreads:
            factors[key] = image.calibrate_scale(torch.cat(spreads), torch.cat(errors))
    return factors
