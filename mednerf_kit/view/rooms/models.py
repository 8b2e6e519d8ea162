"""Models: the same patient, or the same seed, by several models at one angle."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..models import DRAWN_VIEWS, cells, drawn, library
from ..site import ROOMS, Routes, Site, answer, number


@ROOMS.register("models")
def models(site: Site) -> Routes:
    """The models of an ablation or of the list, and random patients of one."""
    return [
        Route("/list", listed),
        Route("/list/{id}", listed),
        Route("/drawn/{id}", random_patient),
    ]


def listed(request: Request) -> Response:
    """Every model with its patients; the views of a patient are asked of the room of results."""
    site: Site = request.app.state.site
    id = request.path_params.get("id")
    found = (
        library(site.catalogue) if id is None else cells(site.catalogue, site.catalogue[id].path)
    )
    return answer({"models": [asdict(model) for model in found]})


def random_patient(request: Request) -> Response:
    """Views of the random patient of a seed, as 16-bit levels; their size in the headers."""
    site: Site = request.app.state.site
    entry = site.catalogue[request.path_params["id"]]
    run = entry.name if entry.name.startswith("bundled:") else str(entry.path)
    views = drawn(run, int(number(request, "seed", 0, 0, 2**31)))
    size = {"X-Rows": str(views.shape[1]), "X-Cols": str(views.shape[2])}
    assert len(views) == DRAWN_VIEWS
    return Response(views.tobytes(), media_type="application/octet-stream", headers=size)
