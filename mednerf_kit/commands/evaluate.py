"""``mednerf-kit evaluate``."""

from __future__ import annotations

import json
from typing import Any

import click

from .base import FOLDER, SPLITS, Work, device_option, run_option, seed_option

HEADLINES = ("psnr_db", "psnr_gain_fitted_db", "ssim", "lpips", "psnr_mask_db", "ssim_mask", "n_patients", "n_views", "seen")


@click.command(cls=Work)
@run_option
@click.option("--dataset", metavar="chest|knee|PATH", show_default="the run's", help="Phantoms by name, or a folder of DRRs.")
@click.option("--split", type=click.Choice(SPLITS), default="test", help="Which patients to score.")
@click.option(
    "--input-angles",
    type=float,
    multiple=True,
    default=[270.0],
    metavar="DEG",
    help="View given to the prior, never scored (repeatable).",
)
@click.option("--limit", type=click.IntRange(min=1), show_default="all", help="Score the first so many patients only.")
@click.option("--seen", is_flag=True, help="Score patients the prior was trained on, and label them so.")
@click.option("--uncertainty", is_flag=True, help="Also the coverage of the 90 % interval and the spread–error correlation.")
@click.option("--out", type=FOLDER, show_default="evaluate/ in the run folder", help="Where the tables and plots go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@seed_option
@device_option
def evaluate(*, as_json: bool, **options: Any) -> None:
    """Score a prior on patients: some views in, all other views compared, beside trivial baselines."""
    from ..train.evaluate import evaluate

    scores = evaluate(**options)
    if as_json:
        click.echo(json.dumps(scores, indent=2, allow_nan=False))
        return
    rows = [(name, scores[name]) for name in HEADLINES if name in scores]
    for baseline, values in scores.get("baselines", {}).items():
        rows += [(f"{baseline} {name}", value) for name, value in values.items()]
    for name, value in rows:
        click.echo(f"{name:32s} {value:.3f}" if isinstance(value, float) else f"{name:32s} {value}")
