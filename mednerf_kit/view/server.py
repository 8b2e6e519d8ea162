"""The server of the workbench: guarded, on this machine alone unless told otherwise."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from ..core.errors import RunError, UserError
from .guard import Guard
from .site import ROOMS, Site, answer

STATIC = Path(__file__).resolve().parent / "static"
LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS = ("0.0.0.0", "::")


def build_app(site: Site, *, token: str, hosts: Sequence[str] = LOCAL_NAMES) -> Starlette:
    """The application: ``/TOKEN/`` is the page, ``/TOKEN/NAME/…`` what its room NAME asks for."""
    routes: list[BaseRoute] = [
        Mount(f"/{name}", routes=list(room(site))) for name, room in ROOMS.entries.items()
    ]
    routes.append(Mount("/", StaticFiles(directory=STATIC, html=True)))
    app = Starlette(
        routes=routes,
        lifespan=_jobs_closed_at_the_end,
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
        exception_handlers={
            UserError: _user_error,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
    )
    app.state.site = site
    return app


@asynccontextmanager
async def _jobs_closed_at_the_end(app: Starlette) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(app.state.site.jobs.close)


async def _user_error(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 500 if isinstance(error, RunError) else 400)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer({"error": f"{error.detail}."}, error.status_code)


async def _unexpected(request: Request, error: Exception) -> Response:
    text = f"something unexpected happened ({type(error).__name__}: {error}); the rest goes on"
    return answer({"error": text}, 500)


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise UserError(
            f"got --host {host} --port {port}, where nothing can listen "
            f"({error.strerror or error})",
            "wanted a free port of this machine",
            "leave --port out, and a free one is taken",
        ) from None


def new_token() -> str:
    """A secret for the address, of 128 bits."""
    return secrets.token_urlsafe(16)


def address(listener: socket.socket, token: str) -> str:
    """What a browser opens."""
    host, port = listener.getsockname()[:2]
    name = "127.0.0.1" if host in ANY_ADDRESS else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/{token}/"


def serve(site: Site, listener: socket.socket, token: str, *, host: str) -> None:
    """Answer until somebody interrupts, or the process is told to end; then stop the jobs.

    That is how a server ends in good order: the interruption goes no further.
    """
    import uvicorn

    # whoever listens on every address is known by names that nobody can list beforehand
    named = {host, socket.gethostname()} if host in ANY_ADDRESS else {host}
    app = build_app(site, token=token, hosts=(*LOCAL_NAMES, *named))
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=5
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises its signal once more when it has ended
        uvicorn.Server(config).run(sockets=[listener])
