#!/usr/bin/env python3
"""Ways to draw random patients of one prior, scored as ``mednerf-kit score`` does: a row for each.

    python scripts/bench/draws.py RUN [--draws "{name: normal}" "{name: bootstrap, noise: 0.5}"]

Reals are the training patients. Rows tell of the same seeds, and ``reals`` is what training
patients score against unseen ones. Which patients a draw happens to make moves the sliced
Wasserstein distance by some units where a dozen are compared: it is the mean over all parts of the
fakes that are as large as the reals' evenly spread views.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
import yaml
from torch import Generator

from mednerf_kit.metrics.distances import sliced_wasserstein
from mednerf_kit.prior.draws import DRAWS
from mednerf_kit.prior.load import load_prior
from mednerf_kit.study.generation.memory import memorisation
from mednerf_kit.study.generation.random_patients import draw
from mednerf_kit.study.generation.score import (
    ORBIT_VIEWS,
    SWD_MOST,
    Side,
    compare,
    diversity,
    extractors,
    real_sets,
    side_of,
)

USUAL = ["{name: normal}", "{name: bootstrap}"]


def mean_swd(reals: Side, fakes: Side) -> dict:
    """The sliced Wasserstein distance by level, averaged over parts of the fakes."""
    n = min(reals.spread, fakes.spread)
    parts = [part for part in fakes.pictures.split(n) if len(part) == n]
    found = [
        sliced_wasserstein(reals.pictures[:n, None], part[:, None], Generator().manual_seed(0))
        for part in parts
    ]
    return {key: statistics.mean(f[key] for f in found) for key in found[0]}


def line(name: str, found: dict, varied: dict, near: dict | None) -> str:
    """A row of the table, as JSON."""
    features = found["features"]["pyramid"]
    row = {
        "draw": name,
        **found["swd_parts"],
        "kid": features["kernel"],
        "precision": features["precision"],
        "recall": features["recall"],
        "rmse": varied["rmse_fakes"] if near else varied["rmse_reals"],
    }
    if near:
        row |= {key: near[key] for key in ("ratio_median", "ratio_least", "unseen_ratio")}
    return json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})


def both(reals: Side, fakes: Side) -> dict:
    """Distances as ``score`` has them, and the sliced Wasserstein distance over all fakes."""
    return compare(reals, fakes, 0) | {"swd_parts": mean_swd(reals, fakes)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="run folder, snapshot or bundled prior")
    parser.add_argument("--dataset", help="a set to compare with, instead of the run's own")
    parser.add_argument("--split", help="which of its patients")
    parser.add_argument("--draws", nargs="+", default=USUAL, help="nodes of the registry 'draw'")
    parser.add_argument("--fakes", type=int, default=288, help="images")
    parser.add_argument("--samples", type=int, default=36, help="random patients looked up")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    prior = load_prior(args.run)
    chosen, _ = extractors({}, None)
    dataset = args.dataset or str(prior.meta["dataset"])
    compared, training, unseen = real_sets(
        prior, dataset, args.split or str(prior.meta["split"]), None
    )
    angles = prior.geometry.angles_deg
    columns = [k * len(angles) // ORBIT_VIEWS for k in range(ORBIT_VIEWS)]

    def side(images: torch.Tensor) -> Side:
        return side_of(images, chosen, 8, 10_000, Generator().manual_seed(0), prior.device)

    known = side(training.images)
    real = known if unseen is None else side(unseen.images)
    reference = training if unseen is None else unseen
    varied = diversity(training.images[:, columns].float(), training.images[:, columns])
    if unseen is not None:
        print(line("reals", both(known, real), varied, None), flush=True)
    for text in args.draws:
        drawn = draw(
            prior,
            chosen,
            count=args.fakes,
            views=8,
            keep=SWD_MOST,
            orbits=args.samples,
            orbit_deg=[angles[c] for c in columns],
            rng=Generator().manual_seed(0),
            how=DRAWS.build(yaml.safe_load(text)),
        )
        fakes = Side(drawn.features, drawn.pictures, drawn.count)
        near = memorisation(
            drawn.orbits,
            training.images,
            training.patients,
            columns,
            unseen=reference.images if unseen is not None else None,
        )
        varied = diversity(drawn.orbits, training.images[:, columns])
        print(line(text, both(known, fakes), varied, near), flush=True)


if __name__ == "__main__":
    main()
