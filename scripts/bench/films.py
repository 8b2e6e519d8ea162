#!/usr/bin/env python3
"""What an unknown tone curve costs: films of unseen patients, inverted as `--no-update` does.

    python scripts/bench/films.py --patients 8 --jobs 2
    python scripts/bench/films.py --set "$MEDNERF_KIT_DATA/mednerf_drr/chest_xrays" \
        --folds out/cohort --jobs 2
    python scripts/bench/films.py --set UNSEEN --run bundled:chest

The PA view of each patient becomes a film of every kind in `imaging/film/bank.py`, is written as a
16-bit PNG, read as a display film and inverted. All other views are scored against the truth after
one gain, fitted over all of them; so is the interval of ±1.645 spreads. Beside it stands the
linear reading: the view itself, read as line integrals. Without --set the patients are the chest
phantoms that the bundled prior never saw; with it each patient of the set is inverted with the
prior of the fold (`cohort.py`) that was trained without him, or with that of --run, which may have
seen none of them. Finished cells are kept in --out, so that an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from mednerf_kit.core import files
from mednerf_kit.data.drr import render_orbit
from mednerf_kit.data.orbits import OrbitSet
from mednerf_kit.data.radiograph import InputKind
from mednerf_kit.imaging.body import bone_only
from mednerf_kit.imaging.film import FILMS, film_options, make_film
from mednerf_kit.imaging.geometry import DEFAULTS, FRONTAL_DEG, Geometry, nearest_view
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.invert.calibrate import ratio_quantiles
from mednerf_kit.invert.input_xray import read_xray
from mednerf_kit.invert.intervals import Z_90
from mednerf_kit.invert.posterior import Inversion, inversion_of
from mednerf_kit.invert.predict import PredictedViews, predict
from mednerf_kit.invert.reconstruct import inverted
from mednerf_kit.metrics.image import body_mask, psnr_db
from mednerf_kit.prior.load import Prior, load_prior
from mednerf_kit.prior.sets import read_set

READING = "linear reading"  # the view itself, read as line integrals
UPSCALE = 4  # pixels of the film along a pixel of the set, so that letters can be read


@dataclass(frozen=True)
class Cell:
    """One inversion."""

    run: str  # the prior
    dataset: str
    patient: str
    film: str  # of the bank, or the linear reading
    samples: int
    seed: int

    def path(self, out: Path) -> Path:
        name = self.film.replace(" ", "_")
        return out / (
            f"{Path(self.dataset).name}-{self.patient}-{name}-k{self.samples}-s{self.seed}.json"
        )


@functools.lru_cache(maxsize=4)
def opened(run: str) -> Prior:
    return load_prior(run)


@functools.lru_cache(maxsize=2)
def orbit(run: str, dataset: str, patient: str) -> OrbitSet:
    """The set with one patient, at the prior's size."""
    return read_set(
        dataset,
        opened(run).meta["recipe"]["dataset"],
        split="all",
        patients=[patient],
        progress=False,
    )


def film_pixels(name: str, truth: Tensor, found: OrbitSet, seed: int) -> Tensor:
    """The film of a view [H, W], at `UPSCALE` times its size."""
    view = nearest_view(found.geometry.angles_deg, FRONTAL_DEG)
    geometry = found.geometry.at([found.geometry.angles_deg[view]])
    # published sets have no scale: that of a chest is as good as any
    scale = geometry.line_integral_scale or DEFAULTS["chest"].line_integral_scale
    assert scale is not None
    bone = None
    if film_options(name).beam is not None and found.volumes:
        volume = bone_only(read_volume(found.volumes[found.patients[0]]))
        bone = enlarged(render_orbit(volume, geometry, isocentre_mm=[0.0] * 3)[0] / scale)
    return make_film(
        enlarged(truth[view]),
        scale=scale,
        pixel_mm=geometry.pixel_mm / UPSCALE,
        options=film_options(name),
        rng=Generator().manual_seed(seed),
        bone_unit=bone,
    ).pixels


def enlarged(picture: Tensor) -> Tensor:
    """Every pixel as `UPSCALE`² equal ones: the area filter gives the picture back."""
    return picture.repeat_interleave(UPSCALE, 0).repeat_interleave(UPSCALE, 1)


def invert(prior: Prior, path: Path, kind: InputKind, samples: int, seed: int) -> PredictedViews:
    """The views that `project` predicts from one PA film."""
    xray = read_xray(path, "PA", prior.geometry, input_kind=kind)
    search = inversion_of(prior, Inversion, samples=samples)
    posterior = inverted(prior, [xray], search, Generator().manual_seed(seed))
    return predict(prior, posterior, prior.geometry)


def scored(predicted: PredictedViews, truth: Tensor, geometry: Geometry) -> dict[str, Any]:
    """PSNR and coverage over the views that were not given, after one gain.

    ``ratios`` are quantiles of |error| over 1.645 spreads: 90 % of them at 1 or less are aimed at.
    """
    rest = torch.ones(len(truth), dtype=torch.bool)
    rest[nearest_view(geometry.angles_deg, FRONTAL_DEG)] = False
    views, known = predicted.views[rest], truth[rest]
    gain = (views * known).sum() / views.square().sum()
    off = (gain * views - known).abs() / (Z_90 * gain * predicted.spread[rest])
    off = off[body_mask(known)]
    return {
        "psnr_db": float(psnr_db((gain * views).clamp(0, 1), known).mean()),
        "psnr_raw_db": float(psnr_db(views.clamp(0, 1), known).mean()),
        "gain": float(gain),
        "coverage_90": float((off <= 1).double().mean()),
        "ratios": ratio_quantiles(off),
    }


def work(cell: Cell, out: Path) -> dict[str, Any]:
    """Do one cell, unless it was done, and keep its row."""
    path = cell.path(out)
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    from PIL import Image

    started = time.perf_counter()
    prior, found = opened(cell.run), orbit(cell.run, cell.dataset, cell.patient)
    truth = found.images[0].float()
    linear = cell.film == READING
    pixels = film_pixels("linear" if linear else cell.film, truth, found, cell.seed)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.png"
        Image.fromarray((pixels * 65535).round().numpy().astype(np.uint16)).save(film)
        kind: InputKind = "line-integral" if linear else "display"
        predicted = invert(prior, film, kind, cell.samples, cell.seed)
    row = {
        "patient": cell.patient,
        "film": cell.film,
        **scored(predicted, truth, found.geometry),
        "seconds": time.perf_counter() - started,
    }
    files.write_json(path, row)
    return row


def cells(args: argparse.Namespace) -> list[Cell]:
    """Every inversion, patient by patient."""
    names = [READING, *(args.curves.split(",") if args.curves else FILMS)]
    for name in names[1:]:
        film_options(name)
    if args.set is None:
        node = opened("bundled:phantom-chest").meta["recipe"]["dataset"]
        test = read_set("chest", node, split="test", limit=args.patients)
        whom = [("bundled:phantom-chest", "chest", name) for name in test.patients]
    else:
        whom = []
        for run in [args.run] if args.run else sorted(map(str, args.folds.glob("fold*"))):
            prior = opened(run)
            every = read_set(args.set, prior.meta["recipe"]["dataset"], split="all")
            held = [name for name in every.patients if name not in prior.meta["patients"]]
            whom += [(run, args.set, name) for name in held[: args.patients]]
    found = [
        Cell(run, dataset, patient, name, args.samples, args.seed)
        for run, dataset, patient in whom
        for name in names
    ]
    return found[: args.limit]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means by film, and losses against the linear reading of the same patients."""
    reading = {row["patient"]: row for row in rows if row["film"] == READING}
    films = {}
    for name in dict.fromkeys(row["film"] for row in rows):
        some = [row for row in rows if row["film"] == name and row["patient"] in reading]
        if not some:
            continue
        losses = [reading[row["patient"]]["psnr_db"] - row["psnr_db"] for row in some]
        films[name] = {
            "patients": len(some),
            "psnr_db": statistics.mean(row["psnr_db"] for row in some),
            "loss_db": statistics.mean(losses),
            "worst_loss_db": max(losses),
            "coverage_90": statistics.mean(row["coverage_90"] for row in some),
            "coverage_change": statistics.mean(
                row["coverage_90"] - reading[row["patient"]]["coverage_90"] for row in some
            ),
        }
    bank = {name: one for name, one in films.items() if name != READING}
    if not bank:
        return {"films": films}
    worst = max(bank, key=lambda name: bank[name]["loss_db"])
    return {
        "films": films,
        "mean_loss_db": statistics.mean(one["loss_db"] for one in bank.values()),
        "worst_film": worst,
        "worst_film_loss_db": bank[worst]["loss_db"],
        "mean_coverage_change": statistics.mean(one["coverage_change"] for one in bank.values()),
    }


def table(found: dict[str, Any]) -> str:
    """The summary in Markdown."""
    lines = [
        "| film | patients | PSNR dB | loss dB | worst patient | coverage | change |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found["films"].items():
        lines.append(
            f"| {name} | {one['patients']} | {one['psnr_db']:.2f} | {one['loss_db']:+.2f} | "
            f"{one['worst_loss_db']:+.2f} | {one['coverage_90']:.1%} | "
            f"{100 * one['coverage_change']:+.1f} |"
        )
    if "worst_film" in found:
        lines.append(
            f"\nmean loss {found['mean_loss_db']:.2f} dB; worst film {found['worst_film']} "
            f"{found['worst_film_loss_db']:.2f} dB; coverage "
            f"{100 * found['mean_coverage_change']:+.1f} points"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", help="a set of chests: a published one, or one of CTs")
    parser.add_argument("--folds", type=Path, help="folder of the folds' priors: fold0, fold1, …")
    parser.add_argument("--run", help="a prior that has seen no patient of the set")
    parser.add_argument("--patients", type=int, default=8, help="at most, of a prior")
    parser.add_argument("--curves", help="films of the bank, a,b,c; all by default")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="cells at most")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/films"))
    args = parser.parse_args()
    if (args.set is None) != (args.folds is None and args.run is None) or (args.folds and args.run):
        parser.error("--set goes together with --folds or --run")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which start afresh
    todo = cells(args)
    rows: dict[int, dict[str, Any]] = {}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(work, cell, args.out): k for k, cell in enumerate(todo)}
        for done in as_completed(waiting):
            row = rows[waiting[done]] = done.result()
            print(
                f"{len(rows)}/{len(todo)} {row['patient']} {row['film']}: "
                f"{row['psnr_db']:.2f} dB, coverage {row['coverage_90']:.1%}, "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
    found = summary([rows[k] for k in sorted(rows)])
    files.write_json(args.out / "summary.json", found)
    print(table(found))


if __name__ == "__main__":
    main()
