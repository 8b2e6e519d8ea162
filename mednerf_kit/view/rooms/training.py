"""The room of trainings: curves, sheets of samples, log, configuration and model card of a run."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ...core.errors import UserError
from ...engine.runs import Run, read_run
from ...prior.catalogue import find_prior
from ..catalogue import Entry
from ..projection import run_of
from ..site import ROOMS, Routes, Site, answer
from ..training import (
    configuration,
    differences,
    log_tail,
    model_card,
    sample_sheets,
    seconds_left,
    state_of,
    stats_file,
)


@ROOMS.register("training")
def training(site: Site) -> Routes:
    """Runs as their folders tell them."""
    return [
        Route("/run/{id}", told),
        Route("/curves/{id}", curves),
        Route("/configuration/{id}", configured),
        Route("/card/{id}", card),
    ]


def told(request: Request) -> Response:
    """How far a run is, its log's end and its sheets of samples."""
    run = _run(request, request.path_params["id"])
    stats = stats_file(run.folder / "stats.jsonl")
    stats.refresh()
    log, state = log_tail(run.folder), state_of(run, stats.step_seconds)
    seconds = float(run.last_row.get("seconds", 0.0))
    left = seconds_left(run.step, run.steps, seconds, stats.step_seconds, log)
    return answer(
        {
            "state": state,
            "step": run.step,
            "steps": run.steps,
            "seconds": seconds,
            "step_seconds": stats.step_seconds,
            "left_seconds": left if state == "running" else None,
            "snapshots": len(run.snapshots),
            "sheets": sample_sheets(run.folder),
            "log": log,
            "remarks": run.remarks,
        }
    )


def curves(request: Request) -> Response:
    """The columns of a run's ``stats.jsonl`` over its steps."""
    stats = stats_file(_run(request, request.path_params["id"]).folder / "stats.jsonl")
    stats.refresh()
    return answer(stats.curves())


def configured(request: Request) -> Response:
    """What a run was started with, and with ``other`` what another run was started with instead."""
    mine = configuration(_run(request, request.path_params["id"]))
    other = request.query_params.get("other")
    differs: list[Any] | None = None
    if other is not None:
        differs = differences(mine, configuration(_run(request, other)))
    return answer({"configuration": list(mine.items()), "differences": differs})


def card(request: Request) -> Response:
    """The model card of a prior; none of a scene."""
    entry = _entry(request, request.path_params["id"])
    if entry.kind != "prior":
        return answer({"card": []})
    try:
        return answer({"card": model_card(find_prior(run_of(entry)).meta)})
    except UserError as error:
        return answer({"card": [], "problem": str(error)})


def _entry(request: Request, id: str) -> Entry:
    site: Site = request.app.state.site
    return site.catalogue[id]


def _run(request: Request, id: str) -> Run:
    entry = _entry(request, id)
    if entry.kind not in ("prior", "scene") or not entry.path.is_dir():
        raise UserError(
            f"got '{entry.name}', which has no run folder",
            "wanted a run of `mednerf-kit train`",
            "choose another",
        )
    return read_run(entry.path)
