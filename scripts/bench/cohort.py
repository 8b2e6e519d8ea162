#!/usr/bin/env python3
"""Leave-patients-out on a set of orbits: every fold is scored by a prior of the other patients.

python scripts/bench/cohort.py SET --folds 5 --preset quick --views-in 1 2 4 8

SET is a set of DRRs, of CTs (`mednerf-kit data make ct`) or published. A finished fold is kept in
--out and not trained again; folds may run one by one (--only 3). --conditional-minutes trains a
conditional generator beside each fold's prior; --run scores one prior that is there, whose training
patients are those of --also, in place of folds. The table holds everything that
is in --out: means over patients and 95 % bootstrap intervals; per_patient.csv has a row for each;
calibration.json is the calibration over folds (CV+) for a prior that is trained on all of them,
to be laid beside its snapshots, or, with --run, that of the prior by these patients; a calibration
that the prior has is left out of the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.orbits import OrbitSet
from mednerf_kit.engine.loop import Loop
from mednerf_kit.engine.session import resolve
from mednerf_kit.imaging.geometry import FRONTAL_DEG, nearest_view
from mednerf_kit.invert.calibrate import Record, fitted, record, uncalibrated
from mednerf_kit.invert.evaluate import flattened, patient_row
from mednerf_kit.invert.intervals import LEAST_PATIENTS, Calibration
from mednerf_kit.invert.posterior import Inversion, inversion_of
from mednerf_kit.invert.predict import grid_size, predict
from mednerf_kit.invert.scoring import Scored, score_patient, score_volume
from mednerf_kit.metrics.image import psnr_db
from mednerf_kit.metrics.patients import bootstrap_interval
from mednerf_kit.prior import conditional_setup
from mednerf_kit.prior.catalogue import CALIBRATION, CONDITIONAL
from mednerf_kit.prior.load import Prior, load_prior
from mednerf_kit.prior.posed_setup import build_task, describe
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import make_training_volumes, scaled_by_view
from mednerf_kit.recon.sart import sart

SHOWN = (
    "psnr_db",
    "gain_over_mean_orbit_db",
    "gain_over_ridge_db",
    "baselines.mean_orbit.psnr_db",
    "baselines.nearest_patient.psnr_db",
    "baselines.ridge.psnr_db",
    "baselines.mirrored_film.psnr_db",
    "ssim",
    "given_view_psnr_db",
    *(f"power_kept.other_views.{b}" for b in ("1-4", "4-8", "8-16", "16-32", "32-64")),
    *(f"power_kept.other_views_members.{b}" for b in ("8-16", "16-32")),
    *(f"power_kept.given_view.{b}" for b in ("8-16", "16-32")),
    "sart_tv.psnr_db",
    "prior_alone.psnr_db",
    "volume.psnr_window_db",
    "sart_tv.psnr_window_db",
    "prior_alone.psnr_window_db",
    "volume.ssim_window",
    "volume.lung_dice",
    "volume.bone_dice",
    "uncertainty.coverage_90",
    "calibrated_coverage_90",
    "uncertainty.spread_error_pearson",
    "uncertainty.spread_error_pearson_ceiling",
    "uncertainty.spread_error_spearman",
)

# as `tomography` has it
SART_TV = partial(sart, epochs=16, subset_views=1, relax=1.0, decay=1.0, smooth=0.003)


def checked_folds(folds: int, patients: int) -> None:
    """Refuse folds that would leave somebody out twice, or nobody to learn from."""
    if not 2 <= folds <= patients:
        raise UserError(
            f"got {folds} folds of {patients} patients",
            "wanted at least 2 and no more than patients",
            "correct --folds",
        )


def joined(orbits: OrbitSet, others: Sequence[OrbitSet], every: OrbitSet) -> OrbitSet:
    """A set with the patients of others, brought to its size and its scale.

    Nobody who is in the whole set ``every`` comes back by another name.

    Where its views were stretched one by one, theirs are stretched likewise and lose their scale.
    """
    for other in others:
        known = other.seen_before(every.all_fingerprints())
        other = other.subset(name for name in other.patients if name not in known)
        other = other.resized(orbits.geometry.cols)
        if scaled_by_view(orbits):
            whites = other.images.float().amax((-1, -2), keepdim=True).clamp_min(1e-3)
            geometry = replace(other.geometry, line_integral_scale=None)
            images = (other.images.float() / whites).half()
            other = replace(other, images=images, geometry=geometry, volumes={})
        else:
            other = other.at_scale(orbits.geometry.line_integral_scale)
        if other.images.shape[1:] != orbits.images.shape[1:]:
            raise UserError(
                f"got further patients of {other.geometry.views} views from {other.root}",
                f"wanted the {orbits.geometry.views} views of {orbits.root}",
                "make them with the same --views",
            )
        orbits = replace(
            orbits,
            patients=(*orbits.patients, *other.patients),
            images=torch.cat([orbits.images, other.images]),
            volumes=orbits.volumes | other.volumes,
            fingerprints=orbits.fingerprints | other.fingerprints,
        )
    return orbits


def trained(
    args: argparse.Namespace, recipe: dict[str, Any], orbits: OrbitSet, folder: Path
) -> tuple[Prior, float]:
    """A prior of these patients in a folder, and the seconds it took; one that is there is read."""
    if list(folder.glob("snapshot-*")):
        return load_prior(folder), 0.0
    volumes = make_training_volumes(orbits, size=recipe["dataset"]["volume_size"])
    folder.mkdir(parents=True, exist_ok=True)
    task = build_task(recipe, orbits, volumes, seed=args.seed, device="cpu")
    meta = describe(orbits, volumes, recipe, args.set, args.seed, "all")
    loop = Loop(
        task,
        folder,
        steps=recipe["steps"],
        snapshot_steps=10**9,
        max_minutes=args.minutes,
        meta=meta,
    )
    loop.run()
    if args.conditional_minutes:
        train_conditional(args, orbits, folder)
    return load_prior(folder), loop.seconds


def train_conditional(args: argparse.Namespace, orbits: OrbitSet, folder: Path) -> None:
    """Train a conditional generator of these patients, and lay it beside a fold's prior."""
    recipe = resolve(args.set, "chest_conditional", "default", args.conditional_settings)
    task = conditional_setup.build_task(recipe, orbits, seed=args.seed, device="cpu")
    home = folder / "conditional"
    home.mkdir(exist_ok=True)
    Loop(
        task,
        home,
        steps=10**6,
        snapshot_steps=10**9,
        max_minutes=args.conditional_minutes,
        meta=conditional_setup.describe(orbits, recipe, args.set, args.seed, "all"),
    ).run()
    conditional_setup.export(home, folder / CONDITIONAL)


def spaced_deg(views: int) -> list[float]:
    """Angles of so many input views over half a turn, from the frontal one on."""
    return [(FRONTAL_DEG + 180 * k / views) % 360 for k in range(views)]


def fold(args: argparse.Namespace, k: int, recipe: dict[str, Any]) -> None:
    """Train without the patients of fold k, score them for each number of views, and keep that."""
    path = args.out / f"fold{k}" / "scores.json"
    if path.is_file():
        return
    every = read_set(args.set, recipe["dataset"], split="all")
    checked_folds(args.folds, len(every.patients))
    held = every.patients[k :: args.folds]
    orbits = every.subset(p for p in every.patients if p not in held)
    others = [read_set(s, recipe["dataset"], split="all") for s in args.also]
    orbits = joined(orbits, others, every)
    prior, seconds = trained(args, recipe, orbits, path.parent)
    if args.seen:
        every, held = orbits, orbits.patients[:4]
    known = {"fold": k, "train_seconds": round(seconds, 1)}
    files.write_json(path, scored(args, prior, every.subset(held), orbits, known))


def run(args: argparse.Namespace, recipe: dict[str, Any]) -> None:
    """Score a prior that is there on the patients of the set, as a fold of its own, and keep it."""
    path = args.out / "fold_run" / "scores.json"
    if path.is_file():
        return
    prior = uncalibrated(load_prior(args.run))
    first, *others = [read_set(s, recipe["dataset"], split="all") for s in args.also]
    unseen = read_set(args.set, recipe["dataset"], split="all")
    if known := unseen.seen_before(prior.meta["identities"]):
        raise UserError(
            f"got {len(known)} patients that the prior was trained on",
            "wanted others",
            "leave them out of the set",
        )
    files.write_json(
        path, scored(args, prior, unseen, joined(first, others, unseen), {"fold": "run"})
    )


def scored(
    args: argparse.Namespace,
    prior: Prior,
    unseen: OrbitSet,
    training: OrbitSet,
    known: dict[str, Any],
) -> list[dict[str, Any]]:
    """Rows and records of each unseen patient, for each number of views."""
    search, found = inversion_of(prior, Inversion), []
    for views in args.views_in:
        inputs = [nearest_view(unseen.geometry.angles_deg, a) for a in spaced_deg(views)]
        for name, image in zip(unseen.patients, unseen.images, strict=True):
            started, truth = time.perf_counter(), image.float()
            ct = str(unseen.volumes[name]) if name in unseen.volumes else None
            rng = Generator().manual_seed(args.seed)
            result = score_patient(prior, name, truth, training.images, inputs, search, rng, ct)
            assert result.posterior is not None
            told = record(
                prior, result.posterior, result.predicted, truth, inputs, patient=name, ct=ct
            )
            row = {"views": views, **known, **patient_row(result, uncertainty=True)}
            if args.beside:
                row |= beside(prior, result, truth, inputs, ct)
            found.append({"row": row, "record": asdict(told)})
            print(
                f"fold {known['fold']}, {views} in, {name}: {row['psnr_db']:.2f} dB, ridge "
                f"{row['baselines']['ridge']['psnr_db']:.2f}, "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return found


def beside(
    prior: Prior, result: Scored, truth: Tensor, inputs: Sequence[int], ct: str | None
) -> dict[str, dict[str, float]]:
    """What the same views [V, H, W] give to SART-TV, and to the prior without the update."""
    assert result.posterior is not None
    geometry, rest = prior.geometry, torch.ones(len(truth), dtype=torch.bool)
    rest[inputs] = False
    size, found = grid_size(geometry.cols), {}
    given = geometry.at([geometry.angles_deg[k] for k in inputs])
    volumes = {
        "sart_tv": SART_TV(truth[inputs], given, size=size).volume,
        "prior_alone": predict(prior, result.posterior, geometry).volume,
    }
    for name, volume in volumes.items():
        views = volume.project(geometry).clamp(0, 1)
        found[name] = {"psnr_db": float(psnr_db(views, truth)[rest].mean())}
        if ct is not None and prior.scale is not None:
            found[name] |= score_volume(volume, ct, geometry)
    return found


def covered(one: Record, known: Calibration) -> float:
    """Share of one patient's pixels within the intervals of a calibration."""
    shares, counts = [], one.views_by_angle
    for ratios, factor in zip(one.by_angle, known.by_angle, strict=True):
        shares.append(float((torch.tensor(ratios) <= factor).float().mean()) if ratios else 0.0)
    return sum(s * n for s, n in zip(shares, counts, strict=True)) / sum(counts)


def left_out(records: Sequence[Record]) -> list[float | None]:
    """Coverage of each patient under the calibration by all others."""
    found: list[float | None] = []
    for i, one in enumerate(records):
        known = Calibration(**fitted([*records[:i], *records[i + 1 :]]))
        found.append(covered(one, known) if known.by_angle else None)
    return found


def column(rows: Sequence[dict[str, Any]], key: str) -> Tensor:
    """One column of a table, NaN where there is nothing: [P]."""
    values = [row.get(key) for row in rows]
    return torch.tensor([torch.nan if v is None else v for v in values])


def report(out: Path) -> None:
    """Print and write what all finished folds say."""
    finished = sorted(out.glob("fold*/scores.json"))
    kept = [one for path in finished for one in json.loads(path.read_text(encoding="utf-8"))]
    calibrations: dict[str, Any] = {}
    every_row = []
    for views in sorted({one["row"]["views"] for one in kept}):
        mine = [one for one in kept if one["row"]["views"] == views]
        records = [Record(**one["record"]) for one in mine]
        calibrations[str(views)] = fitted(records)
        rows = [flattened(one["row"]) for one in mine]
        for row, share in zip(rows, left_out(records), strict=True):
            row["calibrated_coverage_90"] = share
            for name in ("mean_orbit", "ridge"):
                row[f"gain_over_{name}_db"] = row["psnr_db"] - row[f"baselines.{name}.psnr_db"]
        print(f"{len(rows)} patients, {views} view{'s' * (views > 1)} in")
        for key in SHOWN:
            values = column(rows, key)
            interval = bootstrap_interval(values, Generator().manual_seed(0))
            if interval is not None:
                low, high = interval
                print(
                    f"  {key:36s} {float(values.nanmean()):8.3f}  [{low:.3f}, {high:.3f}]  "
                    f"worst {float(values[~values.isnan()].min()):.3f}"
                )
        if len(rows) <= LEAST_PATIENTS:
            print(f"  no calibrated coverage: it takes more than {LEAST_PATIENTS} patients")
        every_row += rows
    columns = list(dict.fromkeys(key for row in every_row for key in row))
    files.write_text(out / "per_patient.csv", files.csv_text(every_row, columns, line_end="\r\n"))
    files.write_json(out / CALIBRATION, calibrations)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set")
    parser.add_argument("--also", nargs="*", default=[], metavar="SET", help="to train on only")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, nargs="*", help="these folds, from 0")
    parser.add_argument("--views-in", type=int, nargs="*", default=[1])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--conditional-minutes", type=float, help="of each conditional generator")
    parser.add_argument(
        "--conditional-option",
        dest="conditional_settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
    )
    parser.add_argument("--run", help="a prior of the patients of --also: no folds")
    parser.add_argument(
        "--beside", action="store_true", help="also SART-TV, and the prior without the update"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", help="a recipe; by default that of the set's anatomy")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seen", action="store_true", help="score training patients instead")
    parser.add_argument(
        "--set-option", dest="settings", action="append", default=[], metavar="KEY=VALUE"
    )
    parser.add_argument("--out", type=Path, default=Path("out/cohort"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        recipe = resolve(args.set, args.config, args.preset, args.settings)
        if args.run:
            run(args, recipe)
        else:
            for k in args.only if args.only is not None else range(args.folds):
                fold(args, k, recipe)
        report(args.out)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
