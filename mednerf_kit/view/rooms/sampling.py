"""Sampling lab: one pixel of a subject by every strategy, and the curves along its ray."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...core.errors import UserError
from ..shelf import Shelf
from ..site import ROOMS, Routes, Site, answer, number

if TYPE_CHECKING:
    from ...study.sampling.ray import Options, View
    from ...study.sampling.subject import ImageModel, Subject

PHANTOMS = {"chest": "Chest phantom", "knee": "Knee phantom"}
PIECES = 512  # of the curves along a ray
SWITCHES = ("octaves", "directions")
KEPT = 24  # subjects, views, grids and pictures
CAMERAS = 72
MOST_SAMPLES = 512


@ROOMS.register("sampling")
def sampling(site: Site) -> Routes:
    """What can be looked at, its pictures, and its rays."""
    lab = Lab(site)
    return [
        Route("/subject", lab.subject),
        Route("/picture", lab.picture),
        Route("/ray", lab.ray),
        Route("/curves", lab.curves),
        Route("/cameras", cameras),
    ]


def cameras(request: Request) -> Response:
    """Where cameras stand on a sphere and on one axis, in source distances."""
    from ...imaging.geometry import DEFAULTS
    from ...study.sampling.cameras import standing_places

    places = standing_places(DEFAULTS["chest"].orbit(CAMERAS), spherical=CAMERAS)
    return answer({name: place.tolist() for name, place in places.items()})


class Lab:
    """The subjects that were opened, and what is asked of them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.shelf = Shelf(KEPT)

    def subject(self, request: Request) -> Response:
        """What a subject is, how it is seen, and what can be switched off."""
        from ...study.sampling.switched_off import without_directions, without_octaves

        with self.shelf.lock:
            subject = self._subject(request)
        return answer(
            {
                "name": subject.name,
                "views": subject.views,
                "first_view": subject.first_view,
                "rows": subject.rows,
                "cols": subject.cols,
                "image_model": subject.image_model,
                "unit": subject.unit,
                "quantity": subject.quantity,
                "box": subject.box.tolist(),
                "has_octaves": without_octaves(subject) is not None,
                "has_directions": without_directions(subject) is not None,
            }
        )

    def picture(self, request: Request) -> Response:
        """A view as PNG, every pixel by the levels of the subject's recipe."""
        import torch
        from PIL import Image

        def made() -> bytes:
            from ...study.sampling.ray import whole_picture

            image = whole_picture(self._view(request), self._view_number(request))
            if image.shape[-1] == 1:
                image = image.expand(*image.shape[:-1], 3)
            # line integrals of a scene have no white of their own
            image = image / image.max().clamp_min(1.0)
            pixels = (255 * image.clamp(0, 1)).round().to(torch.uint8).numpy()
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            return buffer.getvalue()

        key = ("picture", *self._key(request), self._view_number(request))
        return Response(self.shelf.get(key, made), media_type="image/png")

    def ray(self, request: Request) -> Response:
        """One pixel by every strategy, and the curves along its ray."""
        from ...study.sampling import ray as rays_of

        with self.shelf.lock:
            view, options = self._view(request), _options(request)
            seen = self._rays(request, view)
            reference = view.reference(seen)
            rays = rays_of.with_depth(seen, reference)
            assert rays.depth is not None
            found = {
                name: rays_of.sampled(view, rays, levels, options, reference)
                for name, levels in rays_of.strategies(view, options, self._grid(request)).items()
            }
        curves = rays_of.along(reference, view.depth_of_tau, PIECES)
        return answer(
            {
                "origin": rays.origin[0, 0].tolist(),
                "direction": rays.direction[0, 0].tolist(),
                "near": float(rays.near),
                "far": float(rays.far),
                "depth": float(rays.depth),
                "is_depth_exact": seen.depth is not None,
                "reference": reference.rendering.image[0, 0].tolist(),
                "reference_evaluations": rays_of.DENSE,
                "curves": {name: values.tolist() for name, values in curves.items()},
                "strategies": {
                    name: {
                        "value": one.image.tolist(),
                        "error": one.error,
                        "evaluations": one.evaluations,
                        "bins": {"t": _row(one.bins.t), "dt": _row(one.bins.dt)},
                        "levels": [_level(level) for level in one.levels],
                    }
                    for name, one in found.items()
                },
            }
        )

    def curves(self, request: Request) -> Response:
        """Error against evaluations of every strategy at one pixel."""
        from ...study.sampling import ray as rays_of

        with self.shelf.lock:
            view, options = self._view(request), _options(request)
            rays = self._rays(request, view)
            reference = view.reference(rays)
            rays = rays_of.with_depth(rays, reference)
            found = rays_of.error_curves(view, rays, options, self._grid(request), reference)
        return answer(
            {
                name: {"evaluations": [n for n, _ in points], "error": [e for _, e in points]}
                for name, points in found.items()
            }
        )

    def _key(self, request: Request) -> tuple[str, ...]:
        return (*self._subject_key(request), _model(request))

    def _subject_key(self, request: Request) -> tuple[str, ...]:
        asked = request.query_params
        off = [name for name in SWITCHES if asked.get(name) == "0"]
        return (asked.get("what", "chest"), str(_seed(request)), *off)

    def _subject(self, request: Request) -> Subject:
        from ...study.sampling import switched_off

        what, seed, *off = key = self._subject_key(request)

        def made() -> Subject:
            found = self.shelf.get(("subject", what, seed), lambda: self._opened(what, int(seed)))
            for name in off:
                found = getattr(switched_off, f"without_{name}")(found) or found
            return found

        return self.shelf.get(("subject", *key), made) if off else made()

    def _opened(self, what: str, seed: int) -> Subject:
        from ...study.sampling import subject as subjects

        if what in PHANTOMS:
            return subjects.of_phantom(what, seed)
        if what == "blocks":
            return subjects.of_blocks()
        entry = self.site.catalogue[what]
        if entry.kind == "prior":
            from ...prior.load import load_prior

            prior = self.shelf.get(
                ("prior", what), lambda: load_prior(entry.path, precision="fp32")
            )
            found = subjects.of_prior(prior, seed)
            return replace(found, name=f"{entry.name}, {found.name}")
        if entry.kind == "scene":
            from ...scene.load import load_fit

            return subjects.of_fit(load_fit(entry.path, device="cpu"), entry.name)
        raise UserError(
            f"got '{entry.name}', which holds no field",
            "wanted a prior, a scene or a phantom",
            "choose another",
        )

    def _view(self, request: Request) -> View:
        from ...study.sampling.ray import View

        key = self._key(request)
        return self.shelf.get(("view", *key), lambda: View(self._subject(request), _model(request)))

    def _grid(self, request: Request) -> Any:
        made: Callable[[], Any] = self._view(request).occupancy_grid
        return self.shelf.get(("grid", *self._key(request)), made)

    def _view_number(self, request: Request) -> int:
        last = len(self._subject(request).views) - 1
        return int(number(request, "view", 0, 0, last))

    def _rays(self, request: Request, view: View) -> Any:
        subject = view.subject
        row = round(number(request, "row", subject.rows // 2, 0, subject.rows - 1))
        col = round(number(request, "col", subject.cols // 2, 0, subject.cols - 1))
        return subject.pixel(self._view_number(request), row, col)


def _model(request: Request) -> ImageModel:
    from ...study.sampling.subject import IMAGE_MODELS

    asked = request.query_params.get("model", "line_integral")
    for name in IMAGE_MODELS:
        if name == asked:
            return name
    raise UserError(
        f"got image model '{asked}'",
        "wanted line_integral or emission_absorption",
        "choose one of them",
    )


def _seed(request: Request) -> int:
    return int(number(request, "patient", 0, 0, 2**31 - 1))


def _options(request: Request) -> Options:
    from ...study.sampling.ray import Options

    return Options(
        coarse=int(number(request, "coarse", 64, 1, MOST_SAMPLES)),
        fine=int(number(request, "fine", 128, 1, MOST_SAMPLES)),
        seed=int(number(request, "seed", 0, 0, 2**31 - 1)),
        jitter=request.query_params.get("jitter") == "1",
        near=number(request, "near", 0.0, 0.0, 1.0),
        far=number(request, "far", 1.0, 0.0, 1.0),
        threshold=number(request, "threshold", 5e-4, 0.0, 1.0),
        kappa=number(request, "kappa", 0.4, 0.01, 4.0),
    )


def _level(level: Any) -> dict[str, list[float]]:
    """A level's samples, and what the field and the image model made of them."""
    return {
        "t": _row(level.samples.t),
        "dt": _row(level.samples.dt),
        "tau": _row(level.output.tau),
        "w": _row(level.rendering.w),
    }


def _row(values: Any) -> list[float]:
    """Values [1, 1, S] of the only ray."""
    return values[0, 0].tolist()
