#!/usr/bin/env python3
"""What the adversarial term of a prior changes: `posed` against `hybrid` at equal steps.

    python scripts/bench/objectives.py --dataset chest --steps 6000 --seeds 0 1 2

Scored are the realism of random patients and the PSNR of inverted held-out ones.

Realism is the sliced Wasserstein distance, and a kernel distance of hand-made features. Fakes are
random patients of the prior, baked and projected at random angles of the set; reals are views of
held-out patients at the same angles. Both are scored with one seed of patches and directions. The
step count is fixed, so that both objectives see the same posed data.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Generator

from mednerf_kit.engine.session import resolve, train
from mednerf_kit.invert.posterior import Inversion
from mednerf_kit.invert.scoring import input_views, score_patient
from mednerf_kit.metrics.distances import kernel_distance, sliced_wasserstein
from mednerf_kit.metrics.features import EXTRACTORS, read
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.sets import read_set
from mednerf_kit.study.generation.random_patients import baked_views


def fakes_like(
    prior: prior_load.Prior, count: int, per_patient: int, views: torch.Tensor
) -> torch.Tensor:
    """``count`` pictures of random patients at these view indices, [count, 1, rows, cols]."""
    rng, found = Generator().manual_seed(123), []
    for start in range(0, count, per_patient):
        code = prior.generator.weights(prior.generator.latent(prior.numbers(1, rng)))
        some = views[start : start + per_patient].tolist()
        angles_deg = [prior.geometry.angles_deg[v] for v in some]
        seen = baked_views(prior, code, angles_deg)
        found.append((seen * prior.gains(seen, angles_deg)[:, None, None]).clamp(0, 1))
    return torch.cat(found)[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="chest")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--objectives", nargs="+", default=["posed", "hybrid"])
    parser.add_argument("--patients", type=int, default=4, help="test patients whose PSNR is taken")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("out/objectives"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for seed in args.seeds:
        for objective in args.objectives:
            settings = [
                f"steps={args.steps}",
                f"snapshot_steps={args.steps}",
                f"task.objective={objective}",
                *args.settings,
            ]
            folder = train(
                dataset=args.dataset,
                preset="quick",
                settings=settings,
                outdir=args.out,
                desc=f"{objective}-{seed}",
                seed=seed,
            )
            assert folder is not None
            prior = prior_load.load_prior(folder)
            node = resolve(args.dataset, None, "quick", settings)["dataset"]
            test = read_set(args.dataset, node, split="test")
            training = read_set(args.dataset, node, split="train")
            pick = Generator().manual_seed(7)
            views = torch.randint(test.geometry.views, (128,), generator=pick)
            reals = test.images[
                torch.randint(len(test.patients), (128,), generator=pick), views
            ].float()[:, None]
            fakes = fakes_like(prior, 128, 4, views)
            swd = sliced_wasserstein(reals, fakes, Generator().manual_seed(0))
            features = EXTRACTORS.build("pyramid")
            looks = (read(features, pictures[:, 0], "cpu") for pictures in (reals, fakes))
            kid, _ = kernel_distance(*looks, Generator().manual_seed(0))
            inputs = input_views(test.geometry.angles_deg, [270.0])
            chosen = zip(test.patients[: args.patients], test.images[: args.patients], strict=True)
            found = [
                score_patient(
                    prior,
                    name,
                    truth.float(),
                    training.images,
                    inputs,
                    Inversion(),
                    Generator().manual_seed(i),
                )
                for i, (name, truth) in enumerate(chosen)
            ]
            row = {
                "objective": objective,
                "seed": seed,
                **swd,
                "kid": kid,
                "psnr_db": statistics.mean(float(r.scores["psnr_db"].nanmean()) for r in found),
            }
            print(
                json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}),
                flush=True,
            )
            rows.append(row)
    for objective in args.objectives:
        for key in ("swd", "kid", "psnr_db"):
            values = [r[key] for r in rows if r["objective"] == objective]
            mean, spread = statistics.mean(values), statistics.pstdev(values)
            print(f"{objective:8s} {key:8s} {mean:8.4f} ± {spread:.4f} over {len(values)} seeds")


if __name__ == "__main__":
    main()
