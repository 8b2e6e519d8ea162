"""``mednerf-kit view``."""

from __future__ import annotations

from pathlib import Path

import click

from ..core.errors import UserError
from .base import FOLDER, Work

PLACES = ("runs", "out")  # of the folder where the command is given


@click.command(cls=Work)
@click.argument("what", required=False, metavar="[WHAT]")
@click.option("--host", default="127.0.0.1", help="Where to listen; others see what is shown.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, show_default="a free one", help="There."
)
@click.option("--open/--no-open", "open_", default=True, help="Open a browser.")
@click.option("--outdir", type=FOLDER, default=Path("out"), help="Where new results go.")
def view(*, what: str | None, host: str, port: int, open_: bool, outdir: Path) -> None:
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
    listener = listening_socket(host, port)
    token = new_token()
    url = address(listener, token)
    click.echo(url)
    if open_:
        import webbrowser

        webbrowser.open(url)
    serve(Site(catalogue, outdir, first), listener, token, host=host)
