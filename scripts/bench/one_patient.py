#!/usr/bin/env python3
"""Whether random draws of a prior show the one patient that it learned from.

    python scripts/bench/one_patient.py SET RUN [RUN ...] [--draws 64] [--picture FILE.png]

Each draw is a random code seen from a random azimuth, and is compared with all views of the first
training patient of SET. Prints a Markdown table with a row for each RUN: the PSNR (dB) of the best
matching view and Pearson's correlation of its pixels with the draw's (both are high for any
blurred body, as the row of the mean of all views says), averaged over draws; the share of the
views that are the best match of some draw; how many draws match a view of each quadrant; and how
well the camera turns the patient: the length of the mean of exp i(matched ∓ asked angle), 1 where
every draw shows the view that was asked for, up to one turn and sense for all, and about 0.1 where
64 draws match at random. For comparison: the mean of all views, views of another patient, and each
view against the others of the same patient. The picture has eight draws of each RUN, evenly spread
over the best matched angle, above the views they match.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from mednerf_kit.metrics.image import psnr_db
from mednerf_kit.prior.load import Prior, load_prior
from mednerf_kit.prior.sets import read_set
from mednerf_kit.study.generation.random_patients import (
    drawn_codes,
    enlarged,
    own_views,
)
from mednerf_kit.viz.figures import strip, write_png8

QUADRANTS = (0.0, 90.0, 180.0, 270.0)  # their middles: lateral, AP, lateral, PA
SHOWN = 8  # draws of each run in the picture
HEADER = (
    "| draws of | best match dB | correlation of pixels | views matched "
    "| at 0° | 90° | 180° | 270° | turns |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Match:
    """Pictures [N, H, W], and which view of the patient each is nearest to."""

    pictures: Tensor
    psnr_db: Tensor  # [N] with the nearest view
    correlation: Tensor  # [N] Pearson's, of the pixels of both
    view: Tensor  # [N]


def matched(pictures: Tensor, views: Tensor, allowed: Tensor | None = None) -> Match:
    """The nearest of views [V, H, W] to every picture; ``allowed`` [N, V] leaves some out."""
    scores = torch.stack([psnr_db(picture.expand_as(views), views) for picture in pictures])
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    best, view = scores.max(1)
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (pictures, views[view]))
    return Match(pictures, best, torch.cosine_similarity(a, b), view)


def resultant(matched_deg: Tensor, asked_deg: Tensor) -> float:
    """|mean exp i(matched − sense·asked)| for the better of both senses."""
    lengths = []
    for sense in (-1, 1):
        apart = torch.deg2rad(matched_deg - sense * asked_deg)
        lengths.append(float(torch.complex(apart.cos(), apart.sin()).mean().abs()))
    return max(lengths)


def row(name: str, match: Match, angles_deg: Tensor, asked_deg: Tensor | None = None) -> str:
    """A line of the table."""
    seen = angles_deg[match.view]
    off = (seen[:, None] - torch.tensor(QUADRANTS) + 180).remainder(360) - 180
    counts = torch.bincount(off.abs().argmin(1), minlength=4).tolist()
    turns = "" if asked_deg is None else f"{resultant(seen, asked_deg):.2f}"
    share = len(match.view.unique()) / len(angles_deg)
    scores = f"{match.psnr_db.mean():.2f} | {match.correlation.mean():.3f} | {share:.0%}"
    return f"| {name} | {scores} | {' | '.join(map(str, counts))} | {turns} |"


def drawn(prior: Prior, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures [count, rows, cols] of random draws as in training, and the angles asked for."""
    rng = Generator().manual_seed(seed)
    asked_deg = 360 * torch.rand(count, generator=rng)
    pictures = torch.stack(
        [
            own_views(prior, code, [float(angle)])[0].cpu()
            for code, angle in zip(drawn_codes(prior, count, rng), asked_deg, strict=True)
        ]
    )
    gains = prior.gains(pictures, asked_deg.tolist())
    return (pictures * gains[:, None, None]).clamp(0, 1), asked_deg


def sheet(match: Match, views: Tensor) -> Tensor:
    """Draws above the views they match, [2·SHOWN, H, W]."""
    chosen = match.view.argsort(stable=True)[:: max(1, len(match.view) // SHOWN)][:SHOWN]
    return torch.cat([match.pictures[chosen], views[match.view[chosen]]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="the set that the runs learned from")
    parser.add_argument("runs", nargs="+", help="run folders or snapshots of one size")
    parser.add_argument("--draws", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    priors = [load_prior(run) for run in args.runs]
    node = priors[0].meta["recipe"]["dataset"]
    views, others = (
        read_set(args.dataset, node, split=split).images[0].float() for split in ("train", "test")
    )
    angles_deg = torch.tensor(priors[0].geometry.angles_deg)
    print(HEADER)
    sheets = []
    for run, prior in zip(args.runs, priors, strict=True):
        pictures, asked_deg = drawn(prior, args.draws, args.seed)
        match = matched(pictures, views)
        sheets.append(sheet(match, views))
        print(
            row("/".join(Path(run).parts[-2:]), match, angles_deg, asked_deg),
            flush=True,
        )
    apart = ~torch.eye(len(views), dtype=torch.bool)
    for name, match in {
        "(the mean of the views)": matched(views.mean(0, keepdim=True), views),
        "(another patient's views)": matched(others, views),
        "(the patient's other views)": matched(views, views, apart),
    }.items():
        print(row(name, match, angles_deg))
    if args.picture:
        pages = torch.cat(sheets)
        labels = (["draw"] * SHOWN + ["view"] * SHOWN) * len(priors)
        write_png8(args.picture, strip(enlarged(pages), SHOWN, labels))


if __name__ == "__main__":
    main()
