"""``mednerf-kit evaluate``: some views of a patient in, every other view scored, beside what anyone
could do without a model.
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
from ..imaging.geometry import angle_difference_deg, nearest_view
from ..metrics import image as image_metrics
from ..metrics import perceptual, uncertainty
from ..metrics.volume import volume_errors
from ..prior import load as prior_load
from ..prior.load import Search
from ..prior.sets import read_set
from ..recon.field_volume import FieldVolume
from ..viz import figures
from .posterior import Inversion, inversion_of
from .predict import PredictedViews, predict


@dataclass(frozen=True)
class Scored:
    """One patient's result."""

    name: str
    scores: dict[str, Tensor]  # metric -> [V], NaN at the input views
    baselines: dict[str, dict[str, Tensor]]
    orbit: PredictedViews
    volume: dict[str, float] | None
    coverage: dict[str, float]
    seconds: float


def input_views(angles_deg: Sequence[float], wanted_deg: Sequence[float]) -> list[int]:
    """Indices of the views at these angles (to within 0.5°)."""
    found = []
    for wanted in wanted_deg:
        k = nearest_view(angles_deg, wanted)
        if abs(angle_difference_deg(angles_deg[k], wanted)) > 0.5:
            raise UserError(
                f"got input angle {wanted:g}°",
                f"wanted an angle of the set (the nearest is {angles_deg[k]:g}°)",
                "correct --input-angles",
            )
        found.append(k)
    return found


def baseline_orbits(training: Tensor, truth: Tensor, inputs: Sequence[int]) -> dict[str, Tensor]:
    """Predictions without a model, each [V, H, W]: mean training orbit, nearest patient by the
    input views, neighbouring view.
    """
    nearest = (
        (training[:, list(inputs)].float() - truth[list(inputs)]).square().mean((1, 2, 3)).argmin()
    )
    return {
        "mean_orbit": training.float().mean(0),
        "nearest_patient": training[nearest].float(),
        "neighbour_view": truth.roll(1, 0),
    }


def score_patient(
    prior: prior_load.Prior,
    name: str,
    truth: Tensor,
    training: Tensor,
    inputs: Sequence[int],
    inversion: Search,
    rng: Generator,
    ct: str | None = None,
) -> Scored:
    """Invert the input views of one patient [V, H, W] and score every other view."""
    started = time.perf_counter()
    geometry = prior.geometry
    angles = torch.tensor([geometry.angles_deg[k] for k in inputs])
    posterior = inversion(prior, truth[list(inputs)], angles, rng)
    orbit = predict(prior, posterior, geometry)
    rest = torch.ones(len(truth), dtype=torch.bool)
    rest[list(inputs)] = False

    def scored(image: Tensor) -> dict[str, Tensor]:
        found = image_metrics.scores(image.clamp(0, 1), truth)
        return {k: torch.where(rest, v, torch.nan) for k, v in found.items()}

    band = 1.645 * orbit.spread[rest]
    seen, mask = orbit.views[rest], image_metrics.body_mask(truth[rest])
    covered = {
        "coverage_90": uncertainty.coverage(seen - band, seen + band, truth[rest], mask),
        **{
            f"spread_error_{k}": v
            for k, v in uncertainty.spread_error_correlation(
                orbit.spread[rest], (seen - truth[rest]).abs(), mask
            ).items()
        },
        "mean_spread": float(orbit.spread[rest][mask].mean()),
    }
    volume = None
    if ct is not None and prior.scale is not None:
        found = orbit.volume.values
        known = FieldVolume.from_ct(ct, geometry, size=found.shape[-1]).values
        volume = volume_errors(found, known, float(known.amax()), with_ssim=True)
    shared = {k: scored(v) for k, v in baseline_orbits(training, truth, inputs).items()}
    return Scored(
        name, scored(orbit.views), shared, orbit, volume, covered, time.perf_counter() - started
    )


def mean(values: Tensor) -> float | None:
    """Mean over what was scored; None for nothing."""
    value = float(values.nanmean()) if values.numel() else float("nan")
    return None if value != value else value


def summary(
    results: Sequence[Scored],
    geometry_angles: Sequence[float],
    inputs_deg: Sequence[float],
    *,
    seen: bool,
    uncertainty: bool,
    lpips: tuple[float | None, str | None],
) -> dict[str, Any]:
    """The one JSON object: per view, then averaged over views, then over patients."""
    names = list(results[0].scores)
    stacked = {k: torch.stack([r.scores[k] for r in results]) for k in names}
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
    found["per_patient"] = [
        {
            "patient": r.name,
            **{k: mean(v) for k, v in r.scores.items()},
            "seconds": round(r.seconds, 1),
            **({"volume": r.volume} if r.volume else {}),
            "baselines": {
                b: {k: mean(s[k]) for k in ("psnr_db", "ssim")} for b, s in r.baselines.items()
            },
        }
        for r in results
    ]
    found["per_angle"] = [
        {"angle_deg": a, **{k: mean(stacked[k][:, i]) for k in ("psnr_db", "ssim", "mae")}}
        for i, a in enumerate(geometry_angles)
    ]
    found["baselines"] = {
        b: {
            k: mean(torch.stack([r.baselines[b][k] for r in results]).nanmean(1))
            for k in ("psnr_db", "ssim")
        }
        for b in results[0].baselines
    }
    if volumes := [r.volume for r in results if r.volume]:
        found["volume"] = {k: sum(v[k] for v in volumes) / len(volumes) for k in volumes[0]}
    if uncertainty:
        found["uncertainty"] = {
            k: sum(r.coverage[k] for r in results) / len(results) for k in results[0].coverage
        }
    return found | {"conventions": image_metrics.CONVENTIONS, "note": DISCLAIMER}


def load_sets(
    prior: prior_load.Prior, dataset: str | None, split: str, limit: int | None, seen: bool
) -> tuple[OrbitSet, Tensor]:
    """The patients to score at the prior's size, and the training orbits [P, V, H, W] for the
    baselines.
    """
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
) -> dict[str, Any]:
    """Score a prior on a set; writes image.json, error_by_angle.csv and a plot, and returns the
    metrics.
    """
    prior = prior_load.load_prior(run)
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
        results.append(
            score_patient(prior, name, orbits.images[i].float(), training, inputs, search, rng, ct)
        )
    distances, reason = perceptual.lpips_distance(
        torch.cat([r.orbit.views for r in results]), orbits.images.float().flatten(0, 1)
    )
    lpips = (None if distances is None else float(distances.mean()), reason)
    found = summary(
        results,
        orbits.geometry.angles_deg,
        input_angles,
        seen=bool(seen),
        uncertainty=uncertainty,
        lpips=lpips,
    )
    found["n_training_patients"] = len(training)
    folder = (
        Path(out)
        if out
        else (prior.path.parent if "bundled" not in str(run) else Path("out")) / "evaluate"
    )
    write_tables(folder, found, results, orbits, inputs)
    return found


def write_tables(
    folder: Path,
    found: dict[str, Any],
    results: Sequence[Scored],
    orbits: OrbitSet,
    inputs: Sequence[int],
) -> None:
    """metrics.json, error_by_angle.csv and .png, and a strip of truth above prediction for the
    first patients.
    """
    files.write_json(folder / "metrics.json", found)
    names = ["angle_deg", "psnr_db", "ssim", "mae"]
    table = files.csv_text(found["per_angle"], names, line_end="\r\n")
    files.write_text(folder / "error_by_angle.csv", table)
    rows = [r for r in found["per_angle"] if r["psnr_db"] is not None]
    with files.atomic(folder / "error_by_angle.png") as path:
        path.write_bytes(
            figures.error_by_angle_plot(rows, input_angles_deg=found["input_angles_deg"])
        )
    step = max(1, orbits.geometry.views // 8)
    shown = [
        t
        for i, r in enumerate(results[:4])
        for t in (orbits.images[i, ::step].float(), r.orbit.views[::step])
    ]
    columns = len(shown[0])
    angles = [f"{a:g}" for a in orbits.geometry.angles_deg[::step]]
    labels = [f"{kind} {a}" for r in results[:4] for kind in ("truth", "ours") for a in angles]
    figures.write_png8(folder / "strips.png", figures.strip(torch.cat(shown), columns, labels))
