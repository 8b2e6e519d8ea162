"""``mednerf-kit evaluate``: some views of a patient are given, every other view is scored.

The scores stand beside those of predictions that need no model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from .. import DISCLAIMER
from ..core import files
from ..core.errors import UserError
from ..data.films.stored import GreyKind
from ..data.orbits import OrbitSet
from ..engine.device import select_device
from ..fields.hyper import Precision
from ..gan.generator import HyperGenerator
from ..imaging.geometry import DEFAULTS, Geometry, angle_difference_deg, nearest_view
from ..imaging.orbit_of_frames import views_in
from ..metrics import image as image_metrics
from ..metrics import perceptual
from ..metrics.patients import bootstrap_interval
from ..metrics.spectrum import BANDS, band_name
from ..prior.load import Prior, load_prior
from ..prior.sets import read_set
from ..recon.field_volume import FieldVolume, bake
from ..viz import figures, plots
from .kept_patients import write_patient
from .posterior import Inversion, inversion_of
from .predict import grid_size
from .scoring import SAME_ANGLE_DEG, Scored, input_views, score_patient

BASELINE_METRICS = ("psnr_db", "ssim")
ANGLE_METRICS = ("psnr_db", "ssim", "mae")
#: What gets a bootstrap interval, by its key in a patient's row.
HEADLINES = (
    "psnr_db",
    "ssim",
    "given_view_psnr_db",
    "volume.psnr_window_db",
    "volume.ssim_window",
    "uncertainty.coverage_90",
)
GAINS_OVER = ("mean_orbit", "ridge")
STRIP_PATIENTS, STRIP_VIEWS = 4, 8  # that the strips show


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
    found["baselines"]["mirrored_film"] |= _at_mirrored_views(results)
    found["given_view"] = {"psnr_db": mean(torch.tensor([r.given_psnr_db for r in results]))}
    found["power_kept"] = {"bands_cycles_per_picture": [band_name(band) for band in BANDS]} | {
        of: [mean(column) for column in torch.stack([r.power_kept[of] for r in results]).T]
        for of in results[0].power_kept
    }
    if any(r.volume for r in results):
        found["volume"] = _averaged([r.volume for r in results if r.volume])
    if uncertainty:
        found["uncertainty"] = _averaged([r.uncertainty for r in results])
    found["per_patient"] = [patient_row(r, uncertainty) for r in results]
    found["intervals_95"] = _intervals(found["per_patient"])
    return found | {"conventions": image_metrics.CONVENTIONS, "note": DISCLAIMER}


def _at_mirrored_views(results: Sequence[Scored]) -> dict[str, float | None]:
    """The prior's own scores at the views that a mirrored film is compared at."""
    found: dict[str, float | None] = {}
    for k in BASELINE_METRICS:
        own = torch.stack([r.scores[k] for r in results])
        there = torch.stack([r.baselines["mirrored_film"][k] for r in results]).isfinite()
        found[f"prior_{k}"] = mean(own.where(there, torch.nan).nanmean(1))
    return found


def patient_row(result: Scored, uncertainty: bool) -> dict[str, Any]:
    """One patient's means over the views."""
    row: dict[str, Any] = {"patient": result.name, **{k: mean(v) for k, v in result.scores.items()}}
    row["seconds"] = round(result.seconds, 1)
    row["given_view_psnr_db"] = mean(torch.tensor(result.given_psnr_db))
    if result.volume:
        row["volume"] = {k: mean(torch.tensor(v)) for k, v in result.volume.items()}
    if uncertainty:
        row["uncertainty"] = {k: mean(torch.tensor(v)) for k, v in result.uncertainty.items()}
    row["power_kept"] = {
        of: {band_name(band): mean(v) for band, v in zip(BANDS, kept, strict=True)}
        for of, kept in result.power_kept.items()
    }
    row["baselines"] = {
        name: {k: mean(scores[k]) for k in BASELINE_METRICS}
        for name, scores in result.baselines.items()
    }
    return row


def _intervals(rows: Sequence[dict[str, Any]]) -> dict[str, list[float] | None]:
    """Bootstrap intervals over patients of what is compared: scores, and gains over baselines."""
    flat = [flattened(row) for row in rows]
    values = {k: _column(flat, k) for k in HEADLINES if any(k in row for row in flat)}
    for name in GAINS_OVER:
        over = _column(flat, f"baselines.{name}.psnr_db")
        values[f"gain_over_{name}_db"] = values["psnr_db"] - over
    rng = Generator().manual_seed(0)  # so that a table repeats
    found = {k: bootstrap_interval(v, rng) for k, v in values.items()}
    return {k: None if v is None else [round(x, 4) for x in v] for k, v in found.items()}


def _column(rows: Sequence[dict[str, Any]], key: str) -> Tensor:
    values = [row.get(key) for row in rows]
    return torch.tensor([torch.nan if v is None else v for v in values])


def flattened(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested row with its keys joined by dots, for a table.

    >>> flattened({"patient": "a", "volume": {"mae": 2.0}})
    {'patient': 'a', 'volume.mae': 2.0}
    """
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _averaged(rows: Sequence[dict[str, float]]) -> dict[str, float | None]:
    return {k: mean(torch.tensor([row[k] for row in rows])) for k in rows[0]}


REMEMBERED = (
    "the pictures that the prior learned from are not here: baselines learn from the prior's own "
    "views of its training patients"
)
PROJECTED = (
    "the set has other views than the prior's: baselines learn from the training patients' CTs, "
    "projected to these"
)


def load_sets(
    prior: Prior,
    dataset: str | None,
    split: str,
    limit: int | None,
    seen: bool,
    *,
    input_kind: GreyKind = "line-integral",
    invert: bool = False,
) -> tuple[OrbitSet, Geometry, Tensor]:
    """Patients to score, at the prior's size and scale, where their views were taken, in its field
    units, and the training patients' pictures of these views [P, V, H, W].
    """
    node = prior.meta["recipe"]["dataset"]
    trained_on = str(prior.meta["dataset"])
    wanted = None if dataset is None else prior.geometry
    given = dataset is not None or invert or input_kind != "line-integral"
    said = {"input_kind": input_kind, "invert": invert} if given else {}
    scored = read_set(
        dataset or trained_on,
        {**node, **said},
        split=split,
        limit=limit,
        geometry=wanted,
        checked=True,
    )
    for remark in scored.notes:
        print(f"Note: {remark}.", file=sys.stderr, flush=True)
    known = scored.seen_before(prior.meta["identities"])
    if known and not seen:
        raise UserError(
            "got patients the prior was trained on "
            f"({', '.join(known[:4])}{', …' if len(known) > 4 else ''})",
            "wanted unseen patients",
            "choose --split test, or score them as seen with --seen",
        )
    scored = scored.resized(prior.geometry.cols)
    views = views_in(prior.geometry, scored.geometry)
    if views.view_frames and not prior.is_line_integral:
        raise UserError(
            "got a set whose views stand on no orbit of the prior's",
            "wanted a prior of line integrals for it",
            "make it with the prior's geometry, or choose another --run",
        )
    training = None
    learned_codes = isinstance(prior.generator, HyperGenerator) and len(prior.codes)
    if trained_on in DEFAULTS or Path(trained_on).exists() or not learned_codes:
        training = read_set(
            trained_on, node, split=str(prior.meta["split"]), patients=prior.meta["patients"]
        )
    pictures, notes = training_views(prior, views, training)
    return replace(scored, notes=(*scored.notes, *notes)), views, pictures


def training_views(
    prior: Prior, views: Geometry, training: OrbitSet | None
) -> tuple[Tensor, list[str]]:
    """The training patients' pictures [P, V, H, W] of these views, and where they are from.

    They are the set's own where it has views at these angles, or else projections of its CTs; the
    prior's own where neither is at hand.
    """
    if training is not None:
        if views_in(prior.geometry, training.geometry) == views:
            return training.images, []
        known = training.geometry.angles_deg
        picked = [nearest_view(known, angle) for angle in views.angles_deg]
        turns = (
            angle_difference_deg(known[k], a) for k, a in zip(picked, views.angles_deg, strict=True)
        )
        if not views.view_frames and all(abs(turn) <= SAME_ANGLE_DEG for turn in turns):
            return training.images[:, picked], []
        paths = [training.volumes.get(name) for name in training.patients]
        if prior.scale is not None and all(paths):
            size = grid_size(views.cols)
            cts = (FieldVolume.from_ct(str(path), views, size=size) for path in paths)
            return torch.stack([ct.project(views).clamp(0, 1).half() for ct in cts]), [PROJECTED]
    if not (isinstance(prior.generator, HyperGenerator) and len(prior.codes)):
        raise UserError(
            f"got a set of {views.views} views",
            f"wanted some of the {prior.geometry.views} angles of the prior's set, whose training "
            "patients have no CTs at hand",
            "make it with the same --views",
        )
    return remembered_orbits(prior, views), [REMEMBERED]


@torch.no_grad()
def remembered_orbits(prior: Prior, views: Geometry | None = None) -> Tensor:
    """Views [P, V, H, W] of the training patients as the prior itself shows them; its own views by
    default.

    They are for baselines, where the pictures that it learned from are not at hand. Varied copies
    of patients are left out.
    """
    assert isinstance(prior.generator, HyperGenerator)
    g, orbits = prior.generator, []
    size = grid_size(prior.geometry.cols)
    codes = prior.codes[: len(prior.meta["patients"])].to(prior.device)
    for eps in g.whiten(codes).split(1):
        volume = bake(g, g.weights(g.latent(eps)), prior.geometry, size=size)
        orbits.append(
            volume.project(views or prior.geometry, prior.distance)[0].clamp(0, 1).half().cpu()
        )
    return torch.stack(orbits)


def evaluate(
    *,
    run: str,
    dataset: str | None = None,
    split: str = "test",
    input_angles: Sequence[float] = (270.0,),
    limit: int | None = None,
    seen: bool = False,
    uncertainty: bool = False,
    keep_views: int = 1,
    out: Path | None = None,
    input_kind: GreyKind = "line-integral",
    invert: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: Precision | None = None,
) -> dict[str, Any]:
    """Score a prior on a set of patients; writes tables and pictures, and returns the metrics.

    Options:
        run: the prior: a run folder, a snapshot, or ``bundled:chest`` or ``bundled:knee``.
        dataset: set of orbits, or of other views of the kind the prior shows, which are scored
            where the set has them; by default the one the prior was trained on.
        split: of the set.
        input_angles: of the views that are given, in degrees.
        limit: patients at most.
        seen: score patients that the prior was trained on, and say so.
        uncertainty: also say what the spread is worth.
        keep_views: how many patients, from the first, are kept whole beside the tables: their
            predicted and true views, spread and volumes, in ``patients/NAME``.
        out: folder of the results; by default ``evaluate`` in the run folder.
        input_kind: what the pictures of ``dataset`` hold: line-integral, transmission or display.
        invert: turn the pictures of ``dataset`` over first: bone is dark in them.
        seed: of the first patient's search; the next patient's is one more.
        device: where the work is done; ``auto`` chooses.
        precision: what the prior's networks are computed in (fp32, bf16, auto); the recipe's by
            default. What ``auto`` came to is in ``metrics.json``.
    """
    prior = load_prior(run, precision=precision)
    prior.check_xray()
    prior.generator.to(select_device(device))
    kind: dict[str, Any] = {"input_kind": input_kind, "invert": invert}
    orbits, views, training = load_sets(prior, dataset, split, limit, seen, **kind)
    inputs = input_views(views.angles_deg, input_angles)
    if len(inputs) >= views.views:
        raise UserError(
            "got every view as input",
            "wanted at least one view left to score",
            "give fewer --input-angles",
        )
    home = Path("out") if "bundled" in str(run) else prior.path.parent
    folder = Path(out) if out else home / "evaluate"
    results, search = [], inversion_of(prior, Inversion)
    for i, name in enumerate(tqdm(orbits.patients, desc="patients")):
        ct = str(orbits.volumes[name]) if name in orbits.volumes else None
        rng = Generator().manual_seed(seed + i)
        truth = orbits.images[i].float()
        scored = score_patient(prior, name, truth, training, inputs, search, rng, ct, views)
        results.append(scored)
        if i < keep_views:
            place = folder / "patients" / name
            write_patient(place, prior, scored, truth, views, input_angles, ct)
    distances, reason = perceptual.lpips_distance(
        torch.cat([r.predicted.views for r in results]), orbits.images.float().flatten(0, 1)
    )
    found = summary(
        results,
        views.angles_deg,
        input_angles,
        seen=bool(seen),
        uncertainty=uncertainty,
        lpips=(None if distances is None else float(distances.mean()), reason),
    )
    found["n_training_patients"] = len(training)
    found["precision"] = prior.generator.precision
    found["set_notes"] = list(orbits.notes)
    write_tables(folder, found, results, orbits)
    return found


def write_tables(
    folder: Path, found: dict[str, Any], results: Sequence[Scored], orbits: OrbitSet
) -> None:
    """Write metrics.json, per_patient.csv, error_by_angle.csv and .png, and strips.png.

    The strips show truth above prediction for the first patients.
    """
    files.write_json(folder / "metrics.json", found)
    rows = [flattened(row) for row in found["per_patient"]]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = files.csv_text(rows, columns, line_end="\r\n")
    files.write_text(folder / "per_patient.csv", table)
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
