"""``mednerf-kit data import`` and ``mednerf-kit data geometry``: other people's projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .base import FILE, FOLDER, Work

ANY_PATH = click.Path(path_type=Path)


@click.command(name="import", cls=Work)
@click.argument("source", type=ANY_PATH)
@click.option(
    "--out", type=FOLDER, required=True, help="The set these patients join; made when absent."
)
@click.option(
    "--format",
    metavar="NAME",
    show_default="recognised",
    help="The source's format (`mednerf-kit list`).",
)
@click.option(
    "--geometry",
    type=FILE,
    show_default="the source's",
    help="A geometry file of any known format, for sources without one.",
)
@click.option(
    "--input-kind",
    type=click.Choice(["line-integral", "transmission"]),
    show_default="what the source says",
    help="What the values are.",
)
@click.option("--invert", is_flag=True, help="Turn grey values over first: bone is dark in them.")
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    show_default="the set's, else the densest ray",
    help="Line integral that becomes white.",
)
@click.option(
    "--patient",
    "patient_name",
    metavar="NAME",
    show_default="from the source",
    help="The patient's folder in the set.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of the format, for example rows=256.",
)
def bring(
    *, source: Path, geometry: Path | None, settings: tuple[str, ...], **options: Any
) -> None:
    """Bring SOURCE, projections of another program, into a set: line integrals and geometry.json.

    plastimatch, R²-Gaussian, NAF, RTK, nanodrr and others (docs/formats.md) are recognised; no code
    of a file is ever executed. The set is checked afterwards. The last line on stdout is its
    folder.
    """
    from ..core.files import existing

    existing(source, "projections")

    from ..core.config import with_settings
    from ..data.imports.base import import_set
    from ..data.orbits import load_orbits
    from ..imaging.geometry_files.base import read_geometry
    from ..recon.set_checks import set_warnings

    node = with_settings({"import": {}}, [f"import.{setting}" for setting in settings])["import"]
    made = import_set(
        source,
        geometry=None if geometry is None else read_geometry(geometry),
        options=node,
        **options,
    )
    found = load_orbits(made.root, patients=made.patients)
    for note in (*made.notes, *set_warnings(found)):
        click.echo(f"Note: {note}.", err=True)
    click.echo(made.root)


@click.command()
@click.argument("source", metavar="FROM", type=ANY_PATH)
@click.argument("target", metavar="TO", type=ANY_PATH)
@click.option(
    "--from", "source_format", metavar="NAME", show_default="recognised", help="Format of FROM."
)
@click.option("--to", "format", metavar="NAME", show_default="by its name", help="Format of TO.")
@click.option("--rows", type=click.IntRange(min=1), help="Rows of the detector, if FROM has none.")
@click.option("--cols", type=click.IntRange(min=1), help="Columns, likewise.")
@click.option("--pixel-mm", type=float, help="Pixel pitch at the detector, likewise.")
@click.option(
    "--picture",
    type=FILE,
    show_default="TO with .png for its ending",
    help="Where the drawing of the set-up goes.",
)
def geometry(
    *,
    source: Path,
    target: Path,
    source_format: str | None,
    format: str | None,
    rows: int | None,
    cols: int | None,
    pixel_mm: float | None,
    picture: Path | None,
) -> None:
    """Turn the X-ray set-up FROM (a file, or a set's folder) into TO, and draw it.

    Formats are those of `mednerf-kit list`: own (geometry.json), rtk (.xml), astra (cone_vec,
    .astra.json), tigre (.tigre.json), plastimatch (.txt). Without --to the name of TO decides. The
    last line on stdout is TO.
    """
    from ..core.errors import UserError
    from ..core.files import existing

    existing(source, "a geometry")

    from ..imaging.geometry_files.base import (
        GEOMETRY_FILES,
        Detector,
        format_by_name,
        read_geometry,
    )
    from ..viz.setup_drawing import draw_setup

    given = (rows, cols, pixel_mm)
    if any(given) and not all(given):
        raise UserError(
            "got a part of --rows, --cols and --pixel-mm", "wanted all three", "add the others"
        )
    detector = Detector(rows, cols, pixel_mm) if rows and cols and pixel_mm else None
    found = read_geometry(source, format=source_format, detector=detector)
    for note in GEOMETRY_FILES.build(format or format_by_name(target)).write(found, target):
        click.echo(f"Note: {note}.", err=True)
    drawn = picture or target.with_suffix(".png")
    draw_setup(drawn, found)
    click.echo(f"Drawn in {drawn}.", err=True)
    click.echo(target)
