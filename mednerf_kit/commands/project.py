"""``mednerf-kit project``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..core.errors import UserError
from .base import (
    FILE,
    FOLDER,
    View,
    Work,
    device_option,
    minutes_option,
    precision_option,
    run_option,
    seed_option,
)

KINDS = ["line-integral", "transmission", "display"]


@click.command(cls=Work)
@click.option(
    "--xray",
    type=FILE,
    multiple=True,
    required=True,
    help="An X-ray: PNG (8 or 16 bit), TIFF or NPY (repeatable).",
)
@click.option(
    "--view",
    "--angle",
    "view",
    type=View(),
    multiple=True,
    metavar="PA|AP|lateral|DEG",
    show_default="PA",
    help="How that X-ray was taken, one per --xray, in order.",
)
@run_option
@click.option(
    "--outdir",
    "--out",
    "outdir",
    type=FOLDER,
    show_default="out/NAME of the X-ray",
    help="Where the results go.",
)
@click.option("--invert", is_flag=True, help="The X-ray shows bone dark.")
@click.option(
    "--input-kind",
    type=click.Choice(KINDS),
    default="line-integral",
    help="What its grey values mean.",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad"]),
    default="pad",
    help="How an X-ray of another aspect ratio is fitted: cut or padded.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=4,
    help="Random codes kept beside the best one; their spread is the uncertainty.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    show_default="the prior's",
    help="Pixels along a side of the orbit's views.",
)
@seed_option
@device_option
@precision_option
@minutes_option
def project(
    *, xray: tuple[Path, ...], view: tuple[str | float, ...], outdir: Path | None, **options: Any
) -> None:
    """Turn one X-ray, or several of one patient, into a volume, its orbit and a report.

    The volume comes with its uncertainty. A view is PA (270°, the patient's left on the image's
    right), AP, lateral (0°), left-lateral (180°) or an angle in degrees. The last line on stdout is
    the folder of the results.
    """
    view = view or ("PA",) * len(xray)
    if len(view) != len(xray):
        raise UserError(
            f"got {len(xray)} X-rays and {len(view)} views",
            "wanted one --view or --angle per --xray",
            "name the view of each X-ray, in the same order",
        )
    from ..invert.reconstruct import project

    click.echo(
        project(xray=xray, view=view, outdir=outdir or Path("out") / xray[0].stem, **options)
    )
