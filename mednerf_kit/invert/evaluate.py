"""``mednerf-kit evaluate``: some views of a patient are given, every other view is scored.

The scores stand beside those of predictions that need no model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from .. import DISCLAIMER
from ..core import files
from ..core.errors import UserError
from ..data.orbits import OrbitSet
from ..engine.device import select_device
from ..fields.hyper import Precision
from ..imaging.geometry import angle_difference_deg, nearest_view
from ..metrics import image as image_metrics
from ..metrics import perceptual
from ..metrics.image import body_mask
from ..metrics.uncertainty import coverage, spread_error_correlation
from ..metrics.volume import volume_errors
from ..prior.load import Prior, Search, load_prior
from ..prior.sets import read_set
from ..recon.field_volume import FieldVolume
from ..recon.ridge import ridge_orbit
from ..viz import figures, plots
from .posterior import Inversion, inversion_of
from .predict import Z_90, PredictedViews, predict

BASELINE_METRICS = ("psnr_db", "ssim")
ANGLE_METRICS = ("psnr_db", "ssim", "mae")
STRIP_PATIENTS, STRIP_VIEWS = 4, 8  # that the strips show
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
    geometry = prior.geometry
    angles = torch.tensor([geometry.angles_deg[k] for k in inputs])
    posterior = inversion(prior, truth[list(inputs)], angles, rng)
    predicted = predict(prior, posterior, geometry)
    rest = torch.ones(len(truth), dtype=torch.bool)
    rest[list(inputs)] = False

    def scored(image: Tensor) -> dict[str, Tensor]:
        found = image_metrics.scores(image.clamp(0, 1), truth)
        return {k: torch.where(rest, v, torch.nan) for k, v in found.items()}

    volume = None
    if ct is not None and prior.scale is not None:
        values = predicted.volume.values
        known = FieldVolume.from_ct(ct, geometry, size=values.shape[-1]).values
        volume = volume_errors(values, known, float(known.amax()), with_ssim=True)
    baselines = baseline_orbits(training, truth, inputs, geometry.angles_deg)
    return Scored(
        name=name,
        scores=scored(predicted.views),
        baselines={k: scored(v) for k, v in baselines.items()},
        predicted=predicted,
        volume=volume,
        uncertainty=score_spread(predicted, truth, rest),
        seconds=time.perf_counter() - started,
    )


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


def mean(values: Tensor) -> float | None:
    """Mean over what was scored; None for nothing."""
    value = float(values.nanmean()) if values.numel() else float("nan")
    return None if value != value else value


def summary(
    results: Sequence[Scored],
    angles_deg: Sequence[float],
    inputs_deg: Sequence[float],
    *,
    seen: bool,
    uncertainty: bool,
    lpips: tuple[float | None, str | None],
) -> dict[str, Any]:
    """The one JSON object: per view, then averaged over views, then over patients.

    Options:
        seen: the patients were trained on.
        uncertainty: also say what the spread is worth.
        lpips: the mean distance and why there is none.
    """
    stacked = {k: torch.stack([r.scores[k] for r in results]) for k in results[0].scores}
    found: dict[str, Any] = {k: mean(v.nanmean(1)) for k, v in stacked.items()}
    found |= {
        "lpips": lpips[0],
        "n_patients": len(results),
        "n_views": int((~stacked["psnr_db"][0].isnan()).sum()),
        "input_angles_deg": list(inputs_deg),
        "data_range": 1.0,
        "seen": seen,
    }
    if lpips[1]:
        found["lpips_note"] = lpips[1]
    found["per_patient"] = [_patient_row(r) for r in results]
    found["per_angle"] = [
        {"angle_deg": a, **{k: mean(stacked[k][:, i]) for k in ANGLE_METRICS}}
        for i, a in enumerate(angles_deg)
    ]
    found["baselines"] = {
        name: {
            k: mean(torch.stack([r.baselines[name][k] for r in results]).nanmean(1))
            for k in BASELINE_METRICS
        }
        for name in results[0].baselines
    }
    if volumes := [r.volume for r in results if r.volume]:
        found["volume"] = _averaged(volumes)
    if uncertainty:
        found["uncertainty"] = _averaged([r.uncertainty for r in results])
    return found | {"conventions": image_metrics.CONVENTIONS, "note": DISCLAIMER}


def _patient_row(result: Scored) -> dict[str, Any]:
    """One patient's means over the views."""
    row: dict[str, Any] = {"patient": result.name, **{k: mean(v) for k, v in result.scores.items()}}
    row["seconds"] = round(result.seconds, 1)
    if result.volume:
        row["volume"] = result.volume
    row["baselines"] = {
        name: {k: mean(scores[k]) for k in BASELINE_METRICS}
        for name, scores in result.baselines.items()
    }
    return row


def _averaged(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {k: sum(row[k] for row in rows) / len(rows) for k in rows[0]}


def load_sets(
    prior: Prior, dataset: str | None, split: str, limit: int | None, seen: bool
) -> tuple[OrbitSet, Tensor]:
    """Patients to score, at the prior's size, and training orbits [P, V, H, W] for baselines."""
    node = prior.meta["recipe"]["dataset"]
    trained_on = str(prior.meta["dataset"])
    scored = read_set(dataset or trained_on, node, split=split, limit=limit)
    known = scored.seen_before(prior.meta["identities"])
    if known and not seen:
        raise UserError(
            "got patients the prior was trained on "
            f"({', '.join(known[:4])}{', …' if len(known) > 4 else ''})",
            "wanted unseen patients",
            "choose --split test, or score them as seen with --seen",
        )
    if scored.geometry.angles_deg != prior.geometry.angles_deg:
        raise UserError(
            f"got a set of {scored.geometry.views} views",
            f"wanted the {prior.geometry.views} angles of the prior's set",
            "make it with the same --views",
        )
    training = read_set(
        trained_on, node, split=str(prior.meta["split"]), patients=prior.meta["patients"]
    )
    return scored, training.images


def evaluate(
    *,
    run: str,
    dataset: str | None = None,
    split: str = "test",
    input_angles: Sequence[float] = (270.0,),
    limit: int | None = None,
    seen: bool = False,
    uncertainty: bool = False,
    out: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Precision | None = None,
) -> dict[str, Any]:
    """Score a prior on a set of patients; writes tables and pictures, and returns the metrics.

    Options:
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        dataset: set of orbits; by default the one the prior was trained on.
        split: of the set.
        input_angles: of the views that are given, in degrees.
        limit: patients at most.
        seen: score patients that the prior was trained on, and say so.
        uncertainty: also say what the spread is worth.
        out: folder of the results; by default ``evaluate`` in the run folder.
        seed: of the first patient's search; the next patient's is one more.
        device: where the work is done; ``auto`` chooses.
        precision: what the prior's networks are computed in (fp32, bf16, auto); the recipe's by
            default. What ``auto`` came to is in ``metrics.json``.
    """
    prior = load_prior(run, precision=precision)
    prior.check_xray()
    prior.generator.to(select_device(device))
    orbits, training = load_sets(prior, dataset, split, limit, seen)
    inputs = input_views(orbits.geometry.angles_deg, input_angles)
    if len(inputs) >= orbits.geometry.views:
        raise UserError(
            "got every view as input",
            "wanted at least one view left to score",
            "give fewer --input-angles",
        )
    results, search = [], inversion_of(prior, Inversion)
    for i, name in enumerate(tqdm(orbits.patients, desc="patients")):
        ct = str(orbits.volumes[name]) if name in orbits.volumes else None
        rng = Generator().manual_seed(seed + i)
        truth = orbits.images[i].float()
        results.append(score_patient(prior, name, truth, training, inputs, search, rng, ct))
    distances, reason = perceptual.lpips_distance(
        torch.cat([r.predicted.views for r in results]), orbits.images.float().flatten(0, 1)
    )
    found = summary(
        results,
        orbits.geometry.angles_deg,
        input_angles,
        seen=bool(seen),
        uncertainty=uncertainty,
        lpips=(None if distances is None else float(distances.mean()), reason),
    )
    found["n_training_patients"] = len(training)
    found["precision"] = prior.generator.precision
    home = Path("out") if "bundled" in str(run) else prior.path.parent
    write_tables(Path(out) if out else home / "evaluate", found, results, orbits)
    return found


def write_tables(
    folder: Path, found: dict[str, Any], results: Sequence[Scored], orbits: OrbitSet
) -> None:
    """Write metrics.json, error_by_angle.csv and .png, and strips.png.

    The strips show truth above prediction for the first patients.
    """
    files.write_json(folder / "metrics.json", found)
    table = files.csv_text(found["per_angle"], ["angle_deg", *ANGLE_METRICS], line_end="\r\n")
    files.write_text(folder / "error_by_angle.csv", table)
    rows = [r for r in found["per_angle"] if r["psnr_db"] is not None]
    plot = plots.error_by_angle_plot(rows, input_angles_deg=found["input_angles_deg"])
    with files.atomic(folder / "error_by_angle.png") as path:
        path.write_bytes(plot)
    step = max(1, orbits.geometry.views // STRIP_VIEWS)
    angles = [f"{a:g}" for a in orbits.geometry.angles_deg[::step]]
    shown, labels = [], []
    for i, result in enumerate(results[:STRIP_PATIENTS]):
        shown += [orbits.images[i, ::step].float(), result.predicted.views[::step]]
        labels += [f"{kind} {angle}" for kind in ("truth", "ours") for angle in angles]
    sheet = figures.strip(torch.cat(shown), len(angles), labels)
    figures.write_png8(folder / "strips.png", sheet)
