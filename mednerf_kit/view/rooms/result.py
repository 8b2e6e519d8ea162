"""Result: the views, the volume and the words of one result, evaluation or volume."""

from __future__ import annotations

import math

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...core.errors import UserError
from ..shown import VIEWS, Shown, pixels
from ..site import ROOMS, Routes, Site, answer, number


@ROOMS.register("result")
def result(site: Site) -> Routes:
    """What a result holds, its pixels, its voxels, and single slices."""
    return [
        Route("/about/{id}", about),
        Route("/frames/{id}/{kind}", frames),
        Route("/volume/{id}", volume),
        Route("/voxels/{id}/{name}.nii", voxels),
        Route("/value/{id}/{x:int}/{y:int}/{z:int}", value),
        Route("/slice/{id}/{plane}/{index:int}.png", slice_),
    ]


def shown_of(request: Request) -> Shown:
    """What a request's entry holds."""
    site: Site = request.app.state.site
    return Shown.at(site.catalogue[request.path_params["id"]].path)


def about(request: Request) -> Response:
    """The words and numbers."""
    from ..slices import COLOURS

    site: Site = request.app.state.site
    entry = site.catalogue[request.path_params["id"]]
    shown = shown_of(request)
    # where its pictures lie below the entry: a run shows its evaluation
    inside = "" if shown.home == entry.path else f"{shown.home.relative_to(entry.path)}/"
    return answer({**entry.to_json(), **shown.about(), "colours": COLOURS, "inside": inside})


def frames(request: Request) -> Response:
    """All views of one kind as 16-bit little-endian levels [V, rows, cols]."""
    kind = request.path_params["kind"]
    views = shown_of(request).views
    if kind not in views:
        raise UserError(
            f"got views of '{kind}'",
            f"wanted {', '.join(views) or 'a result with views'}",
            "open another result" if kind in VIEWS else "reload the page",
        )
    return Response(pixels(views[kind]).tobytes(), media_type="application/octet-stream")


def volume(request: Request) -> Response:
    """What a viewer of the volume has to know."""
    from .. import slices

    return answer(slices.about(shown_of(request)))


def voxels(request: Request) -> Response:
    """A volume or an overlay as NIfTI on straight axes."""
    from .. import slices

    found = slices.voxels(shown_of(request), request.path_params["name"])
    return Response(slices.nifti(found), media_type="application/octet-stream")


def slice_(request: Request) -> Response:
    """One slice as PNG, for browsers that cannot compute it."""
    from .. import slices

    low = number(request, "low", 0.0)
    image = slices.picture(
        shown_of(request),
        request.path_params["plane"],
        request.path_params["index"],
        (low, max(number(request, "high", 1.0), math.nextafter(low, math.inf))),
        request.query_params.get("overlay") or None,
        number(request, "strength", 0.5, 0, 1),
    )
    return Response(slices.png(image), media_type="image/png")


def value(request: Request) -> Response:
    """A voxel's value, and that of what is laid over it or null."""
    from .. import slices

    place = tuple(request.path_params[axis] for axis in "xyz")
    return answer(slices.values_at(shown_of(request), place, request.query_params.get("overlay")))
