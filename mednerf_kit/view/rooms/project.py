"""The room of projections: an X-ray is given, looked at as it will be read, and made into a job."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from ...core.errors import UserError
from ..catalogue import identity
from ..jobs import Job
from ..projection import Reading, look, named, project_options
from ..site import ROOMS, Routes, Site, answer

MOST_BYTES = 256 * 2**20  # of an X-ray: 10000×13000 pixels of 16 bits
MOST_BYTES_ASKED = 10_000  # of the options of a job
# by which readers tell files that do not begin as their kind does
SUFFIX = re.compile(r"\.(bmp|dib|dcm|dicom|ima|jpe?g|jfif|npy|pfm|p[bgn]m|png|tiff?)")


@ROOMS.register("project")
def project(site: Site) -> Routes:
    """X-rays in, looks at them, and the queue."""
    return [
        Route("/xray", upload, methods=["POST"]),
        Route("/look/{id}", looked_at),
        Route("/jobs", listed),
        Route("/picture/{id}", picture),
        Route("/start/{id}", start, methods=["POST"]),
        Route("/again/{id}", again, methods=["POST"]),
        Route("/stop/{id}", stop, methods=["POST"]),
        Route("/remove/{id}", remove, methods=["POST"]),
    ]


async def upload(request: Request) -> Response:
    """Keep the X-ray in the request's body; its id.

    Of the file's own name, which may be a patient's, only a known suffix is kept. A body that is
    too long is refused before it is read, or where its length was not told, when it gets there.
    """
    site: Site = request.app.state.site
    declared = request.headers.get("content-length", "")
    if declared.isdigit():
        _check_length(int(declared))
    suffix = request.query_params.get("suffix", "").lower()
    with site.jobs.draft(suffix if SUFFIX.fullmatch(suffix) else "") as (id, path):
        length = 0
        with open(path, "wb") as file:
            async for part in request.stream():
                length += len(part)
                _check_length(length)
                file.write(part)
        if not length:
            raise UserError("got an empty file", "wanted an X-ray", "choose another")
    return answer({"id": id})


def _check_length(length: int) -> None:
    if length > MOST_BYTES:
        raise HTTPException(
            413,
            f"got a file of {math.ceil(length / 2**20)} MB; wanted at most "
            f"{MOST_BYTES / 2**20:.0f} MB: cut the picture, or save it with 16 bits a pixel",
        )


def looked_at(request: Request) -> Response:
    """How an X-ray looks as the options of the query have it read (see :func:`..projection.look`).

    ``prior`` is the id of one.
    """
    site: Site = request.app.state.site
    id, asked = request.path_params["id"], request.query_params
    path = site.jobs.folder(id) / site.jobs[id].xray
    entry = site.catalogue[asked.get("prior", "")]
    try:
        return answer(look(path, Reading.of(asked), entry))
    except UserError as error:
        return answer({"error": named(str(error), path)}, 400)


def listed(request: Request) -> Response:
    """Every job that was started, the newest first, and how far it is."""
    site: Site = request.app.state.site
    jobs = [_told(site, job) for job in site.jobs.all()]
    return answer({"jobs": jobs, "most_bytes": MOST_BYTES})


def _told(site: Site, job: Job) -> dict[str, Any]:
    """What the page shows of a job."""
    told = {name: getattr(job, name) for name in ("id", "name", "prior", "state", "created")}
    options = {name: value for name, value in job.options.items() if name != "run"}
    folder = site.jobs.folder(job.id)
    return told | {
        "options": options,
        "problem": named(job.problem, folder / job.xray),
        "position": site.jobs.position(job.id),
        "progress": site.jobs.progress(job.id),
        # the id by which the result is in the catalogue
        "entry": identity(site.outdir / job.result) if job.result else None,
    }


def picture(request: Request) -> Response:
    """What a job shows on the way: X-ray, projection and signed error beside each other."""
    site: Site = request.app.state.site
    path = site.jobs.folder(request.path_params["id"]) / "progress.png"
    if not path.is_file():
        return answer({"error": "there is no picture yet."}, 404)
    return FileResponse(path, headers={"Cache-Control": "no-store"})


async def start(request: Request) -> Response:
    """Put an X-ray in the queue; the body has the options of :func:`..projection.project_options`,
    the ``prior``'s id and the ``name`` of the result.
    """
    site: Site = request.app.state.site
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES_ASKED:
            raise HTTPException(413, "got more than a job's options")
    try:
        asked = json.loads(body)
        entry = site.catalogue[str(asked.get("prior", ""))]
    except (ValueError, AttributeError):
        raise UserError(
            "got no options of a job", "wanted a JSON object", "reload the page"
        ) from None
    options = project_options(entry, asked)
    name = str(asked.get("name") or "").strip()
    job = site.jobs.start(request.path_params["id"], name=name, prior=entry.name, options=options)
    return answer(_told(site, job))


def again(request: Request) -> Response:
    """Start a job that has ended once more."""
    site: Site = request.app.state.site
    return answer(_told(site, site.jobs.again(request.path_params["id"])))


def stop(request: Request) -> Response:
    """Stop a job in good order."""
    site: Site = request.app.state.site
    site.jobs.stop(request.path_params["id"])
    return answer(_told(site, site.jobs[request.path_params["id"]]))


def remove(request: Request) -> Response:
    """Forget a job that has ended, and its X-ray; its result stays."""
    site: Site = request.app.state.site
    site.jobs.remove(request.path_params["id"])
    return answer({})
