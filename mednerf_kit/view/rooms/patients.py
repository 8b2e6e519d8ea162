"""Patients: random patients of a prior, turning, and the training patients nearest to them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...core.errors import UserError
from ..shelf import Shelf
from ..site import ROOMS, Routes, Site, answer, number

if TYPE_CHECKING:
    from ...study.generation.gallery import Gallery

KEPT = 256  # galleries and turning patients
MOST_SEEDS = 2**31 - 1
RENDERED_S = 0.5  # of training patients for one question: others wait no longer


@ROOMS.register("patients")
def patients(site: Site) -> Routes:
    """What a prior can show, its patients as sprites, and who is nearest."""
    room = Patients(site)
    return [
        Route("/about/{id}", room.about),
        Route("/sprite/{id}.png", room.sprite),
        Route("/training/{id}", room.training),
        Route("/nearest/{id}", room.nearest),
    ]


class Patients:
    """The priors that were opened, and the patients that were rendered."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.shelf = Shelf(KEPT)

    def about(self, request: Request) -> Response:
        """Sizes and names."""
        from ...study.generation.gallery import VIEWS

        gallery = self._gallery(request)
        geometry = gallery.prior.geometry
        return answer(
            {
                "views": VIEWS,
                "rows": geometry.rows,
                "cols": geometry.cols,
                "layers": gallery.layers,
                "truncates": gallery.truncates,
                "training": gallery.names,
                "quantity": "line integral" if gallery.prior.is_line_integral else "grey",
            }
        )

    def sprite(self, request: Request) -> Response:
        """All views of a patient side by side, 0° first, as PNG."""
        from PIL import Image

        key = ("sprite", request.path_params["id"], *self._which(request))

        def made() -> bytes:
            views = self._turning(request)
            strip = views.permute(1, 0, 2).flatten(1)
            buffer = io.BytesIO()
            Image.fromarray((255 * strip).round().byte().numpy()).save(buffer, "PNG")
            return buffer.getvalue()

        return Response(self.shelf.get(key, made), media_type="image/png")

    def training(self, request: Request) -> Response:
        """How many training patients are rendered by now; a few more with every question."""
        with self.shelf.lock:
            gallery = self._gallery(request)
            gallery.render_training(max_seconds=RENDERED_S)
        return answer({"rendered": len(gallery.rendered), "patients": len(gallery.names)})

    def nearest(self, request: Request) -> Response:
        """The training patient most like a patient; null where none is known."""
        with self.shelf.lock:
            found = self._gallery(request).nearest(self._turning(request))
        return answer(found)

    def _gallery(self, request: Request) -> Gallery:
        id = request.path_params["id"]

        def made() -> Gallery:
            from ...prior.load import load_prior
            from ...study.generation.gallery import Gallery

            entry = self.site.catalogue[id]
            if entry.kind != "prior":
                raise UserError(
                    f"got '{entry.name}', which draws no patients",
                    "wanted a prior",
                    "choose another",
                )
            return Gallery.of(load_prior(entry.path))

        return self.shelf.get(("gallery", id), made)

    def _which(self, request: Request) -> tuple[Any, ...]:
        """Which patient is asked for, in a form that can be a key."""
        asked = request.query_params
        seeds = tuple(int(number(request, name, 0, 0, MOST_SEEDS)) for name in ("a", "b"))
        truncation = number(request, "truncation", 1.0, 0.0, 2.0)
        if "training" in asked:
            return ("training", int(number(request, "training", 0, 0)))
        if "share" in asked:
            return ("between", *seeds, number(request, "share", 0.0, 0.0, 1.0), truncation)
        if "layer" in asked:
            return ("mixed", *seeds, int(number(request, "layer", 0, 0)), truncation)
        return ("random", seeds[0], truncation)

    def _turning(self, request: Request) -> Any:
        kind, *values = which = self._which(request)
        gallery = self._gallery(request)

        def made() -> Any:
            makers: dict[str, Callable[..., Any]] = {
                "training": gallery.trained,
                "between": gallery.between,
                "mixed": gallery.mixed,
                "random": gallery.random,
            }
            return gallery.turning(makers[kind](*values))

        return self.shelf.get(("views", request.path_params["id"], *which), made)
