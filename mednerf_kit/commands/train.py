"""``mednerf-kit train``."""

from __future__ import annotations

from typing import Any

import click

from ..core.errors import UserError
from .base import (
    FOLDER,
    PRESETS,
    SPLITS,
    Work,
    device_option,
    minutes_option,
    seed_option,
    set_kind_options,
)


@click.command(cls=Work)
@click.option(
    "--dataset",
    metavar="chest|knee|blocks|PATH",
    help="Phantoms or the embedded scene by name (made when absent), a folder of DRRs or a scene.",
)
@click.option(
    "--config",
    metavar="NAME|FILE",
    show_default="the dataset decides",
    help="A recipe of `mednerf-kit list`, or a YAML file.",
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    default="default",
    help="Size of the training; quick takes minutes.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY.PATH=VALUE",
    multiple=True,
    help="Change one value of the recipe (repeatable).",
)
@click.option(
    "--outdir", type=FOLDER, default="runs", help="Where the numbered run folder is made."
)
@click.option("--desc", metavar="TEXT", help="A word added to the run folder's name.")
@click.option(
    "--resume",
    metavar="[latest|RUN]",
    is_flag=False,
    flag_value="latest",
    help="Go on with a run: the newest of the same recipe, or RUN.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="train",
    help="Which patients or views to learn from.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    show_default="all",
    help="Learn from only this many patients (the first) or views (evenly spread).",
)
@set_kind_options
@seed_option
@device_option
@minutes_option
@click.option("-n", "--dry-run", is_flag=True, help="Show the resolved recipe and stop.")
def train(**options: Any) -> None:
    """Train a generative prior on a set of X-rays, or fit one field to a posed scene.

    The dataset decides which. chest and knee are cohorts of procedural phantoms, blocks is an
    embedded scene. The last line on stdout is the run folder.

    Several devices, or cores: torchrun --nproc-per-node N -m mednerf_kit train ... deals every
    batch out to N processes; a prior stays the same, and a run goes on (--resume) with any number
    of them.
    """
    if options["dataset"] is None and options["resume"] in (None, "latest"):
        raise UserError(
            "got no --dataset",
            "wanted chest, knee, blocks or a folder of DRRs or of a scene",
            "write for example --dataset chest",
        )
    from ..data.set_folder import check_dataset
    from ..engine.run_folder import find_folder

    if options["resume"] not in (None, "latest"):
        find_folder(options["resume"], options["outdir"])
    elif options["config"] is None:
        check_dataset(options["dataset"])

    from ..engine.session import train

    folder = train(**options)
    if folder is not None:
        click.echo(folder)
