"""What every room of the workbench shares: the catalogue, and how a room answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..core.config import Registry
from .catalogue import Catalogue
from .jobs import COMMAND, Jobs


@dataclass(frozen=True)
class Site:
    """What one server shows."""

    catalogue: Catalogue
    outdir: Path  # where results of jobs go
    first: str | None = None  # id of the entry that is opened first
    job_command: Sequence[str] = COMMAND  # starts the process of a job, its folder behind it

    @cached_property
    def jobs(self) -> Jobs:
        """The queue of projections."""
        return Jobs(self.outdir, self.job_command)


# what the server answers for one room of the page, below /NAME/; called with the site
Routes = Sequence[BaseRoute]
ROOMS: Registry[Routes] = Registry("room", home="mednerf_kit.view.rooms")


def answer(values: Any, status: int = 200) -> Response:
    """Values as JSON; a number that is none (NaN, an infinity) is null.

    >>> answer({"psnr_db": float("inf"), "views": (0, 5)}).body
    b'{"psnr_db":null,"views":[0,5]}'
    """
    text = json.dumps(_plain(values), separators=(",", ":"), allow_nan=False)
    return Response(text, status, media_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def number(
    request: Request, name: str, default: float, low: float = -math.inf, high: float = math.inf
) -> float:
    """A number of the query, kept within bounds; ``default`` where it is absent or none."""
    try:
        value = float(request.query_params.get(name, default))
    except ValueError:
        value = default
    return min(max(value, low), high) if math.isfinite(value) else default
