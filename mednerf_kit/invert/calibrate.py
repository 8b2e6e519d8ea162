"""Calibration of the spread over patients whom the prior was not trained on.

Pixels of one patient are wrong together, so that patients are what is counted: each gives one
:class:`Record` (:func:`record`), from a validation split or, for a set on which all patients were
trained, from the folds of a cross-validation (each patient from the fold that left it out, as in
CV+, Barber et al. 2021). :func:`fitted` makes of them

- factors with which the share of pixels (by angle) and voxels (by region) that ±1.645 spreads
  cover is nine tenths on average over patients, each counting the same, with 1.645 standard errors
  to spare (:func:`~mednerf_kit.metrics.patients.factor_for_coverage`);
- the factor of a patient: the conformal quantile (:func:`~mednerf_kit.metrics.patients.
  conformal_quantile`) of the factors that cover 90 % of each, which holds for nine new patients
  out of ten;
- the same quantile for what is measured on a chest (:mod:`.measures`);
- by how much the share that films determined is overstated (:class:`.measured.Claim`).

With fewer than nine patients there is no factor: no order statistic promises nine tenths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional
from tqdm import tqdm

from ..core import files
from ..core.errors import UserError
from ..data.orbits import OrbitSet
from ..engine.loop import Loop
from ..imaging.geometry import FRONTAL_DEG, LATERAL_DEG, nearest_view
from ..metrics.anatomy import REGIONS, region_labels
from ..metrics.image import body_mask
from ..metrics.patients import conformal_quantile, factor_for_coverage
from ..prior.catalogue import CALIBRATION
from ..prior.load import Prior, load_prior
from ..prior.sets import read_set
from ..recon.field_volume import FieldVolume
from .disagreement import Misfit
from .intervals import ANGLE_CLASSES_DEG, LEAST_PATIENTS, Z_90, angle_classes, code_distance
from .measured import Claim, claimed_and_true
from .measures import distance_in_spreads
from .members import Posterior
from .posterior import Inversion
from .predict import PredictedViews, predict
from .spread import PLACE_MM
from .update import Films
from .xray_views import frame_options

# one frontal view, and a frontal with a lateral
INPUTS_DEG = {"1": (FRONTAL_DEG,), "2": (FRONTAL_DEG, LATERAL_DEG)}
SKIN_MM = 20.0  # about the estimated body, in which its intervals count as air's
QUANTILES = 100  # by which a patient's ratios are kept


@dataclass(frozen=True)
class Record:
    """What one unseen patient tells of the uncalibrated spread.

    Ratios are |error| over 1.645 spreads, as :data:`QUANTILES` equally spaced quantiles.
    """

    patient: str
    views: Sequence[float]  # ratios of the pixels of the body, all scored views
    by_angle: Sequence[Sequence[float]]  # for each of ANGLE_CLASSES_DEG; empty without such views
    views_by_angle: Sequence[int]  # how many there are of each class
    volume: Mapping[str, Sequence[float]]  # of voxels by region of the estimate, and of ``all``
    measures: Mapping[str, float]  # |estimate − truth| in members' spreads
    code_distance: float | None
    misfit: float  # RMS error of held-out input pixels
    # what the films told beyond the members, see :func:`.disagreement.levels`
    disagreement: Sequence[Sequence[float]] = field(default_factory=list)
    share: Sequence[float] = ()  # claimed and true, see :func:`.measured.claimed_and_true`


def record(
    prior: Prior,
    posterior: Posterior,
    predicted: PredictedViews,
    truth: Tensor,
    inputs: Sequence[int],
    *,
    patient: str,
    ct: str | None = None,
) -> Record:
    """Compare an uncalibrated prediction with the true views [V, H, W] and the CT in a file."""
    geometry = prior.geometry
    rest = [k for k in range(len(truth)) if k not in inputs]
    mask = body_mask(truth[rest])
    ratio = (predicted.views - truth)[rest].abs() / (Z_90 * predicted.spread[rest])
    angles_deg = [geometry.angles_deg[k] for k in rest]
    classes = angle_classes(angles_deg, [geometry.angles_deg[k] for k in inputs])
    by_angle = [
        ratio_quantiles(ratio[classes == c][mask[classes == c]])
        for c in range(len(ANGLE_CLASSES_DEG))
    ]
    volume: dict[str, list[float]] = {}
    measures: dict[str, float] = {}
    share: tuple[float, ...] = ()
    if ct is not None and prior.scale is not None:
        known = FieldVolume.from_ct(ct, geometry, size=predicted.volume.values.shape[-1])
        off = (predicted.volume.values - known.values).abs()
        off = off / (Z_90 * predicted.volume_spread.values)
        labels = region_labels(predicted.volume.to_volume().values)
        # air far from the body says nothing of the interval and would outnumber everything
        inside = within(labels > 0, round(SKIN_MM / predicted.volume.spacing_mm[0]))
        volume = {"all": ratio_quantiles(off[inside])} | {
            name: ratio_quantiles(off[inside & (labels == k)]) for k, name in enumerate(REGIONS)
        }
        measures = distance_in_spreads(predicted.volume_members, known)
        share = claimed_and_true(prior, predicted, known, Generator().manual_seed(0))
    return Record(
        patient=patient,
        views=ratio_quantiles(ratio[mask]),
        by_angle=by_angle,
        views_by_angle=[int((classes == c).sum()) for c in range(len(ANGLE_CLASSES_DEG))],
        volume=volume,
        measures=measures,
        code_distance=code_distance(prior, posterior),
        misfit=posterior.held_out_mse**0.5,
        disagreement=[list(pair) for pair in predicted.told.levels] if predicted.told else [],
        share=[round(part, 4) for part in share],
    )


def within(mask: Tensor, voxels: int) -> Tensor:
    """A mask [D, H, W] grown by so many voxels each way.

    >>> within(torch.tensor([[[0, 0, 0, 1, 0]]]) > 0, 1).long().tolist()
    [[[0, 0, 1, 1, 1]]]
    """
    grown = mask.float()[None, None]
    return functional.max_pool3d(grown, 2 * voxels + 1, 1, voxels)[0, 0] > 0


def ratio_quantiles(ratios: Tensor) -> list[float]:
    """:data:`QUANTILES` equally spaced quantiles, of the middle of each share; none of nothing.

    >>> ratio_quantiles(torch.tensor([3.0, 1.0]))[48:52]
    [1.0, 1.0, 3.0, 3.0]
    """
    if not len(ratios):
        return []
    ordered = ratios.flatten().sort().values
    place = (torch.arange(QUANTILES) + 0.5) / QUANTILES * len(ordered)
    return [round(v, 4) for v in ordered[place.long()].tolist()]


def fitted(records: Sequence[Record], level: float = 0.9) -> dict[str, Any]:
    """The metadata of a calibration (:class:`.intervals.Calibration`) from patients' records."""
    if len(records) < LEAST_PATIENTS:
        return {"factor": None, "patients": len(records), "place_mm": PLACE_MM}

    def factor(ratios: Sequence[Sequence[float]]) -> float | None:
        known = [r for r in ratios if r]
        if len(known) < LEAST_PATIENTS:
            return None
        return round(factor_for_coverage(torch.tensor(known), level), 4)

    views = torch.tensor([r.views for r in records])
    own = views[:, round(level * QUANTILES) - 1 : round(level * QUANTILES) + 1].mean(1)
    by_angle = [factor([r.by_angle[c] for r in records]) for c in range(len(ANGLE_CLASSES_DEG))]
    regions = {
        name: factor([r.volume.get(name, ()) for r in records]) for name in ("all", *REGIONS)
    }
    measured = {name: [r.measures.get(name) for r in records] for name in records[0].measures}
    bounds = {
        name: conformal_quantile(torch.tensor([v for v in values if v is not None]), level)
        for name, values in measured.items()
    }
    told = [r.disagreement for r in records if r.disagreement]
    claim = Claim.fit([r.share for r in records if r.share])
    distances = [r.code_distance for r in records if r.code_distance is not None]
    return {
        "factor": factor(views.tolist()),
        "patients": len(records),
        "patient_factor": conformal_quantile(own, level),
        "by_angle": by_angle if None not in by_angle else [],
        "volume": {name: f for name, f in regions.items() if f is not None},
        "measures": {name: round(q, 4) for name, q in bounds.items() if q is not None},
        "code_distances": sorted(round(d, 4) for d in distances),
        "disagreement": Misfit.fit(told).to_json() if told else None,
        "misfits": sorted(round(r.misfit, 5) for r in records),
        "place_mm": PLACE_MM,
        "share": asdict(claim) if claim else None,
    }


def uncalibrated(prior: Prior) -> Prior:
    """The same prior, whose spread is what its members differ by."""
    return replace(prior, meta={**prior.meta, "calibration": {}})


def records_of(
    prior: Prior, orbits: OrbitSet, patients: Sequence[str], key: str, seed: int
) -> list[Record]:
    """Invert the views :data:`INPUTS_DEG` [key] of these patients and compare all others."""
    plain, inputs_deg = uncalibrated(prior), INPUTS_DEG[key]
    # of a set without such views, the nearest ones
    inputs = list(dict.fromkeys(nearest_view(orbits.geometry.angles_deg, a) for a in inputs_deg))
    stated = orbits.geometry.subset(inputs)
    angles_deg, framed = torch.tensor(stated.angles_deg), frame_options(stated)
    found = []
    label = f"calibrating on {key} view{'s' * (key != '1')}"
    for i, name in enumerate(tqdm(patients, desc=label)):
        truth = orbits.images[orbits.patients.index(name)].float()
        rng = Generator().manual_seed(seed + i)
        posterior = Inversion()(plain, truth[inputs], angles_deg, rng, **framed)
        films = Films.of(truth[inputs])
        predicted = predict(plain, posterior, orbits.geometry, films=films)
        ct = str(orbits.volumes[name]) if name in orbits.volumes else None
        found.append(record(plain, posterior, predicted, truth, inputs, patient=name, ct=ct))
    return found


def calibrate(
    prior: Prior, *, limit: int = 12, views: Sequence[str] = ("1",), seed: int = 1
) -> dict[str, Any]:
    """Calibrations by number of input views, from validation patients of the prior's set.

    There is none where the validation split is empty.

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
    if not unseen:
        return {}
    return {key: fitted(records_of(prior, orbits, unseen, key, seed)) for key in views}


def calibrate_run(loop: Loop, recipe: Mapping[str, Any], device: torch.device) -> None:
    """Fit the factors of a prior that has just been trained, and keep them beside its snapshots."""
    prior = load_prior(loop.folder)
    prior.generator.to(device)
    found = calibrate(prior, limit=recipe["calibration_patients"])
    files.write_json(loop.folder / CALIBRATION, found)
    one = found.get("1")
    if one is None:
        loop.log("note: no validation patients, so the uncertainty is not calibrated")
    elif one["factor"] is None:
        loop.log(
            f"note: {one['patients']} validation patients, of at least {LEAST_PATIENTS} that a "
            "calibration takes, so the uncertainty is not calibrated"
        )
    else:
        loop.log(
            f"uncertainty calibrated on {one['patients']} validation patients: factor "
            f"{one['factor']:.2f}"
        )
