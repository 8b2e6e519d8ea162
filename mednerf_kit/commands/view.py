"""``mednerf-kit view``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import UserError
from .base import FOLDER, Work

if TYPE_CHECKING:
    from ..view.catalogue import Catalogue

PLACES = ("runs", "out")  # of the folder where the command is given


@click.command(cls=Work)
@click.argument("what", required=False, metavar="[WHAT]")
@click.option("--host", default="127.0.0.1", help="Where to listen; others see what is shown.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="There."
)
@click.option("--open/--no-open", "open_", default=True, help="Open a browser.")
@click.option("--outdir", type=FOLDER, default=Path("out"), help="Where new results go.")
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PAGE.html",
    help="Write one result (WHAT, else the newest) as a page that needs no server, and stop.",
)
def view(
    *, what: str | None, host: str, port: int, open_: bool, outdir: Path, export: Path | None
) -> None:
    """See how rays are sampled, what was reconstructed and what was made up, in a browser.

    WHAT is a result, a run, a volume or bundled:NAME to open first; the runs under ./runs, the
    results under ./out and the bundled priors are there as well. The address is printed.
    """
    from ..view.catalogue import Catalogue, identity
    from ..view.server import address, listening_socket, new_token, serve
    from ..view.site import Site

    places = [*(PLACES if what is None else [what, *PLACES]), outdir, "bundled"]
    catalogue, first = Catalogue(places), None
    if what is not None:
        here = Catalogue([what]).entries()
        if not here:
            raise UserError(
                f"got '{what}', where there is no run, result, ablation or volume",
                "wanted one, or a folder with some",
                "leave it out to see what is there",
            )
        top = [entry for entry in here if entry.id == identity(Path(what))] or here
        first = top[0].id
    if export is not None:
        write_page(export, catalogue, first)
        return
    listener = listening_socket(host, port)
    token = new_token()
    url = address(listener, token)
    click.echo(url)
    if open_:
        import webbrowser

        webbrowser.open(url)
    serve(Site(catalogue, outdir, first), listener, token, host=host)


def write_page(path: Path, catalogue: Catalogue, first: str | None) -> None:
    """Write the entry that is asked for, else the newest result, as one page."""
    from ..core.files import write_text
    from ..view.export import page
    from ..view.shown import Shown

    entries = catalogue.entries()
    chosen = [e for e in entries if (e.id == first if first else e.kind == "result")]
    shown = Shown.at(chosen[0].path) if chosen else None
    if shown is None or not (shown.views or shown.volume_file("volume")):
        raise UserError(
            f"got --export of '{chosen[0].name if chosen else '.'}', which has no views and no "
            "volume",
            "wanted the result of a projection, a patient of an evaluation or a volume",
            "name one: `mednerf-kit view out/NAME --export page.html`",
        )
    write_text(path, page(shown, chosen[0].name))
    click.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
