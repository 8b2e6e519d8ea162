#!/usr/bin/env python3
"""How many pictures the discriminator judges per second of processor time in a prior's training.

    python scripts/bench/adversarial_step.py RUN [--set task.gan_batch=4]

The generator is that of RUN, a prior of ``chest --preset quick`` with its networks, and learns
nothing further, so that every step does the same work. Judged pictures are reals and fakes of the
discriminator's phase. Of two checkouts, run this file with PYTHONPATH set to each in turn.
"""

from __future__ import annotations

import argparse
import time

import torch

from mednerf_kit.engine.session import resolve
from mednerf_kit.engine.snapshots import load_snapshot, strip_prefix
from mednerf_kit.prior.load import load_prior
from mednerf_kit.prior.posed_setup import build_task
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import TrainingVolumes

PATIENTS, VOXELS = 8, 16  # of the set, which only the adversary looks at


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder of a prior")
    parser.add_argument("--steps", type=int, default=8, help="that are timed, after two")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    prior = load_prior(args.run)
    node = prior.meta["recipe"]["generator"]
    settings = ["task.objective=gan", *(f"generator.{k}={v}" for k, v in node.items())]
    recipe = resolve("chest", None, "quick", [*settings, *args.settings])
    orbits = read_set("chest", recipe["dataset"], split="train", limit=PATIENTS)
    volumes = TrainingVolumes(
        orbits.images,
        torch.zeros(PATIENTS, VOXELS, VOXELS, VOXELS),
        torch.zeros(PATIENTS, orbits.geometry.views),
        torch.full((PATIENTS,), orbits.geometry.distance),
        per_view_scale=False,
    )
    task = build_task(recipe, orbits, volumes, seed=0, device="cpu")
    tensors, _ = load_snapshot(prior.path)
    task.parts.generator.load_state_dict(strip_prefix("ema", tensors))
    for group in task.optimiser.param_groups:
        group["peak"] = 0.0
    for index in range(2):
        task.step(0.9, index)
    rates = []
    for _ in range(args.blocks):
        started = time.process_time()
        for index in range(args.steps):
            task.step(0.9, index)
        judged = 2 * task.options.gan_batch * args.steps
        rates.append(judged / (time.process_time() - started))
    shown = ", ".join(f"{rate:.1f}" for rate in rates)
    print(f"batch {task.options.gan_batch}: {shown} pictures judged per second of processor time")


if __name__ == "__main__":
    main()
