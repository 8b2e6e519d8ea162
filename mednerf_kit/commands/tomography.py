"""``mednerf-kit tomography``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .base import FOLDER, Work, dicom_option, set_kind_options


@click.command(cls=Work)
@click.option(
    "--dataset",
    required=True,
    metavar="chest|knee|PATH",
    help="Phantoms by name, or a folder of DRRs.",
)
@click.option("--patient", metavar="NAME", show_default="the first", help="Whose views.")
@click.option(
    "--views",
    type=click.IntRange(min=1),
    default=18,
    help="Views to reconstruct from; all others are held out.",
)
@click.option("--out", type=FOLDER, required=True, help="Where table, volumes and figures go.")
@click.option(
    "--run",
    metavar="RUN",
    show_default="no row",
    help="A scene fitted to the same views: the row `field`.",
)
@click.option(
    "--prior",
    metavar="RUN|bundled:chest",
    show_default="no row",
    help="A prior that SART starts from: the row `prior`.",
)
@click.option(
    "--method",
    "methods",
    metavar="NAME",
    multiple=True,
    show_default="all at hand",
    help="A row (repeatable): fdk, sart, sart_tv, rtk_fdk, rtk_sart, field, prior.",
)
@click.option(
    "--size", type=click.IntRange(min=1), default=96, help="Voxels along a side of the volumes."
)
@click.option(
    "--fov",
    "fov_deg",
    type=float,
    metavar="DEG",
    show_default="the set's",
    help="Opening angle of the views.",
)
@click.option(
    "--fit-fov", is_flag=True, help="Find the opening angle from the views given (unsure below 36)."
)
@set_kind_options
@click.option(
    "--set",
    "settings",
    metavar="METHOD.OPTION=VALUE",
    multiple=True,
    help="An option of a method: sart.epochs=8.",
)
@dicom_option
def tomography(*, out: Path, **options: Any) -> None:
    """Reconstruct one patient from few views: FDK, SART, a fitted scene, a prior.

    All are scored on the views left out. Writes table.json, table.csv, table.md, a NIfTI volume and
    three slices a method, and views.png. The last line on stdout is the folder.
    """
    from ..data.set_folder import check_dataset

    check_dataset(options["dataset"])

    from ..study.sparse_view.compare import compare

    compare(out=out, **options)
    click.echo((out / "table.md").read_text(encoding="utf-8"))
    click.echo(out)
