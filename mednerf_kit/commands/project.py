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
    dicom_option,
    minutes_option,
    precision_option,
    run_option,
    seed_option,
)

KINDS = ["auto", "line-integral", "transmission", "display"]


class Crop(click.ParamType):
    """A rectangle, or how it is found.

    >>> Crop().convert("10,20,300,400", None, None), Crop().convert("auto", None, None)
    ((10, 20, 300, 400), 'auto')
    """

    name = "crop"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | tuple[int, int, int, int]:
        if value in ("auto", "none"):
            return value
        try:
            x, y, width, height = map(int, str(value).split(","))
        except ValueError:
            self.fail(f"got {value!r}; wanted auto, none or x,y,w,h in pixels.", param, ctx)
        return x, y, width, height


@click.command(cls=Work)
@click.option(
    "--xray",
    type=FILE,
    multiple=True,
    required=True,
    help="An X-ray: DICOM, PNG, TIFF, JPEG, BMP, PGM, PFM or NPY (repeatable).",
)
@click.option(
    "--view",
    "--angle",
    "view",
    type=View(),
    multiple=True,
    metavar="PA|AP|lateral|DEG",
    show_default="what the file says, else PA",
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
@click.option(
    "--invert",
    is_flag=True,
    help="The X-ray shows bone dark: turn it over (once more where its file says so itself).",
)
@click.option(
    "--input-kind",
    type=click.Choice(KINDS),
    default="auto",
    help="What its grey values mean; display is a film with an unknown tone curve.",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad"]),
    default="pad",
    help="How an X-ray of another aspect ratio is fitted: cut or padded.",
)
@click.option(
    "--rotate",
    type=click.Choice(["0", "90", "180", "270"]),
    default="0",
    help="Turn the X-ray clockwise first, in degrees.",
)
@click.option("--flip", is_flag=True, help="Then mirror it left to right.")
@click.option(
    "--crop",
    type=Crop(),
    default="auto",
    metavar="auto|none|X,Y,W,H",
    help="Then cut this rectangle of pixels out; auto leaves collimator, borders and letters of a "
    "film out of the fit.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=4,
    help="Random codes kept beside the best one; their spread is the uncertainty.",
)
@click.option(
    "--update/--no-update",
    default=True,
    help="Bring the volume to what the X-ray shows beyond the prior.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    show_default="the prior's",
    help="Pixels along a side of the orbit's views.",
)
@dicom_option
@click.option(
    "--fast",
    is_flag=True,
    help="A third of the search's steps, a coarser volume: a first look, 0.5 to 1.5 dB worse.",
)
@seed_option
@device_option
@precision_option
@minutes_option
def project(
    *,
    xray: tuple[Path, ...],
    view: tuple[str | float, ...],
    outdir: Path | None,
    rotate: str,
    **options: Any,
) -> None:
    """Turn one X-ray, or several of one patient, into a volume, its orbit and a report.

    The volume comes with its uncertainty. A view is PA (270°, the patient's left on the image's
    right), AP, lateral (0°), left-lateral (180°) or an angle in degrees. The last line on stdout is
    the folder of the results.
    """
    if view and len(view) != len(xray):
        raise UserError(
            f"got {len(xray)} X-rays and {len(view)} views",
            "wanted one --view or --angle per --xray",
            "name the view of each X-ray, in the same order",
        )
    from ..data.films.formats import read_film
    from ..prior.catalogue import find_prior

    find_prior(options["run"])
    for path in xray:
        read_film(path)

    from ..invert.reconstruct import project

    home = outdir or Path("out") / xray[0].stem
    click.echo(project(xray=xray, view=view, outdir=home, rotate=int(rotate), **options))
