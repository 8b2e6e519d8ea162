"""``mednerf-kit score``."""

from __future__ import annotations

import json
from typing import Any

import click

from .base import FOLDER, SPLITS, Work, device_option, run_option, seed_option

HEADLINES = (
    "fid",
    "kid",
    "kid_std",
    "swd",
    "swd_n",
    "n_fakes",
    "n_scenes",
    "n_reals",
    "n_patients",
)


@click.command(cls=Work)
@run_option
@click.option(
    "--dataset",
    metavar="chest|knee|PATH",
    show_default="the run's",
    help="Phantoms by name, or a folder of DRRs.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    show_default="the run's",
    help="Which patients to compare with.",
)
@click.option(
    "--fakes", type=click.IntRange(min=8), default=1000, help="Images of random patients."
)
@click.option(
    "--views", type=click.IntRange(min=1), default=8, help="Images of each random patient."
)
@click.option("--reals", type=click.IntRange(min=8), default=10_000, help="Real images, at most.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    show_default="all",
    help="Use only this many patients of each set, the first.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=32,
    help="Random patients to look up among the training patients.",
)
@click.option(
    "--truncation",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="Below 1: closer to the mean patient.",
)
@click.option(
    "--extractor",
    metavar="NAME",
    default="auto",
    help="auto: hand-made features, and Inception's where its weights are.",
)
@click.option(
    "--weights",
    type=click.Path(),
    metavar="PATH",
    help="InceptionV3's state dict.  [default: torch.hub's cache]",
)
@click.option(
    "--out",
    type=FOLDER,
    show_default="score/ in the run folder",
    help="Where the table and the figures go.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@seed_option
@device_option
def score(*, as_json: bool, **options: Any) -> None:
    """Compare a prior's random patients with real ones: FID, KID, SWD, copies.

    Also precision, recall, diversity, and whether voxels and rays agree.
    """
    from dataclasses import fields

    from ..data.set_folder import check_dataset
    from ..prior.catalogue import find_prior

    if find_prior(options["run"]).meta.get("quantity") != "colour":
        check_dataset(options["dataset"])

    from ..study.generation.score import Sizes, score

    options["sizes"] = Sizes(**{field.name: options.pop(field.name) for field in fields(Sizes)})
    found = score(**options)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    rows = [(name, found[name]) for name in HEADLINES if found[name] is not None]
    for side, values in (("", found), ("floor ", found["floor"] or {"features": {}})):
        for name, block in values["features"].items():
            rows += [
                (f"{side}{name} {key}", block[key])
                for key in ("frechet", "kernel", "kernel_std", "precision", "recall")
            ]
    rows += [
        (f"memorisation {key}", found["memorisation"][key])
        for key in ("ratio_median", "ratio_least", "unseen_ratio")
    ]
    rows.append(("consistency psnr_db", found["consistency"]["psnr_db"]))
    for name, value in rows:
        click.echo(
            f"{name:32s} {value:.5g}"
            if isinstance(value, float)
            else f"{name:32s} {'–' if value is None else value}"
        )
    if found["fid_note"]:
        click.echo(f"note: {found['fid_note']}")
