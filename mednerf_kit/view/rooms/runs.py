"""Runs: everything that was found, with its numbers and a thumbnail."""

from __future__ import annotations

import io

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ... import DISCLAIMER, __version__
from ..site import ROOMS, Routes, Site, answer

THUMBNAIL_PX = 192
# a page of a run folder is shown as if it came from elsewhere: it can read nothing of this one
FOREIGN_PAGE = {"Content-Security-Policy": "sandbox allow-scripts"}


@ROOMS.register("runs")
def runs(site: Site) -> Routes:
    """The list, its thumbnails, and the files of an entry."""
    return [
        Route("/list", listed),
        Route("/thumbnail/{id}", thumbnail),
        Route("/file/{id}/{name:path}", file),
    ]


def listed(request: Request) -> Response:
    """Every entry, and what the page opens first."""
    site: Site = request.app.state.site
    return answer(
        {
            "entries": [entry.to_json() for entry in site.catalogue.entries()],
            "first": site.first,
            "version": __version__,
            "note": DISCLAIMER,
        }
    )


def thumbnail(request: Request) -> Response:
    """A small picture of an entry; 404 where it has none that can be read."""
    from PIL import Image, UnidentifiedImageError

    site: Site = request.app.state.site
    path = site.catalogue[request.path_params["id"]].picture
    if path is None:
        return answer({"error": "there is no picture."}, 404)
    try:
        with Image.open(path) as opened:
            # 16 bits are brought to 8
            sixteen = opened.mode.startswith("I")
            image = opened.point(lambda v: v / 257).convert("L") if sixteen else opened.copy()
            image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return answer({"error": f"'{path.name}' is no picture that can be read."}, 404)
    return Response(buffer.getvalue(), media_type="image/jpeg")


def file(request: Request) -> Response:
    """One file of an entry, as it lies on the disk."""
    site: Site = request.app.state.site
    path = site.catalogue.file(request.path_params["id"], request.path_params["name"])
    return FileResponse(path, headers=FOREIGN_PAGE if path.suffix == ".html" else None)
