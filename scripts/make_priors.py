#!/usr/bin/env python3
"""Trains the priors of the package on procedural phantoms alone; fp16 safetensors.

    python scripts/make_priors.py --anatomy chest --minutes 12

Seeds: patients from 0 (train) and from 10000 (val, for the calibration of the uncertainty),
networks from 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mednerf_kit.core import files
from mednerf_kit.engine import snapshots
from mednerf_kit.engine.session import train
from mednerf_kit.invert.calibrate import calibrate
from mednerf_kit.prior import load as prior_load

PRIORS = Path(__file__).resolve().parent.parent / "mednerf_kit" / "bundled"
SETTINGS = [
    "dataset.train=400",
    "dataset.val=12",
    "dataset.test=8",
    "steps=1000000",
    "snapshot_steps=4000",
    "task.batch=24",
    "task.points=512",
    "generator.code_dim=96",
    "generator.octaves=7",
    "task.ray_share=0.2",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anatomy", default="chest", choices=["chest", "knee"])
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--outdir", type=Path, default=Path("runs"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=Path, help="export this run instead of training one")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = args.run or train(
        dataset=args.anatomy,
        preset="quick",
        settings=[*SETTINGS, *args.settings],
        outdir=args.outdir,
        desc="bundled",
        max_minutes=args.minutes,
    )
    assert folder is not None
    path, tensors, meta, _ = snapshots.newest_readable(folder)
    prior = prior_load.load_prior(folder)
    factors = calibrate(prior, limit=12, views=("1", "2"))
    kept = {k: v.half() for k, v in tensors.items() if k.startswith("ema.") or k == "codes"}
    kept |= {
        k: v.float() for k, v in tensors.items() if k in ("ema.prior_factor", "ema.prior_mean")
    }
    meta = {k: v for k, v in meta.items() if k != "task_state"} | {
        "calibration": factors,
        "made_by": "scripts/make_priors.py",
    }
    files.save_tensors(PRIORS / f"{args.anatomy}.safetensors", kept, meta)
    size_mib = (PRIORS / f"{args.anatomy}.safetensors").stat().st_size / 2**20
    print(
        f"{path} -> {PRIORS / args.anatomy}.safetensors, {size_mib:.1f} MiB, calibration {factors}"
    )


if __name__ == "__main__":
    main()
