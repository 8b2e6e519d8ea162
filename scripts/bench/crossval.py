#!/usr/bin/env python3
"""Leave-patients-out on a published DRR set: every fold is scored by a prior of the others.

python scripts/bench/crossval.py "$MEDNERF_KIT_DATA/mednerf_drr/chest_xrays" --minutes 5
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Generator

from mednerf_kit.engine.loop import Loop
from mednerf_kit.engine.session import resolve
from mednerf_kit.invert.posterior import Inversion
from mednerf_kit.invert.scoring import input_views, score_patient
from mednerf_kit.metrics.image import psnr_db
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.posed_setup import build_task, describe
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import make_training_volumes


def fold(args: argparse.Namespace, k: int, recipe: dict) -> list[dict]:
    """Train without the patients of fold k and score them."""
    every = read_set(args.set, recipe["dataset"], split="all")
    held = every.patients[k :: args.folds]
    orbits = every.subset(p for p in every.patients if p not in held)
    start = time.perf_counter()
    volumes = make_training_volumes(orbits, size=recipe["dataset"]["volume_size"])
    ready = time.perf_counter() - start
    folder = args.out / f"fold{k}"
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
    prior = prior_load.load_prior(loop.run())
    inputs = input_views(every.geometry.angles_deg, [args.angle])
    rows = []
    for name in held if not args.seen else orbits.patients[:4]:
        truth = every.images[every.patients.index(name)].float()
        r = score_patient(
            prior, name, truth, orbits.images, inputs, Inversion(), Generator().manual_seed(0)
        )
        first = torch.where(
            r.scores["psnr_db"].isnan(),
            torch.nan,
            psnr_db(r.predicted.members[0], truth),
        )
        row = {
            "fold": k,
            "patient": name,
            "psnr_map_db": float(first.nanmean()),
            **{m: float(v.nanmean()) for m, v in r.scores.items()},
            **{b: float(s["psnr_db"].nanmean()) for b, s in r.baselines.items()},
            **r.uncertainty,
            "invert_seconds": r.seconds,
            "train_seconds": loop.seconds,
            "volumes_seconds": ready,
            "steps": loop.index,
        }
        print(
            json.dumps({key: round(v, 3) if isinstance(v, float) else v for key, v in row.items()}),
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--only", type=int, nargs="*")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--angle", type=float, default=270)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seen", action="store_true", help="score training patients instead")
    parser.add_argument(
        "--set-option", dest="settings", action="append", default=[], metavar="KEY=VALUE"
    )
    parser.add_argument("--out", type=Path, default=Path("out/crossval"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = resolve(args.set, None, args.preset, args.settings)
    rows = [
        row
        for k in (args.only if args.only is not None else range(args.folds))
        for row in fold(args, k, recipe)
    ]
    for key in (
        "psnr_db",
        "ssim",
        "psnr_mask_db",
        "mean_orbit",
        "nearest_patient",
        "neighbour_view",
        "coverage_90",
    ):
        print(f"{key:16s} {statistics.mean(row[key] for row in rows):8.3f}")
    print(
        f"{'gain over mean':16s} "
        f"{statistics.mean(r['psnr_db'] - r['mean_orbit'] for r in rows):8.3f} dB"
    )


if __name__ == "__main__":
    main()
