"""Who may ask: a secret in the address, names that this machine is known by, and no other page.

A page of another site that is open in the same browser can send requests to this machine. It does
not know the secret; it cannot forge ``Host`` after a rebinding of names, nor leave ``Origin`` out
of what changes anything.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# of every answer: nothing from elsewhere is loaded, no other page may show or read this one
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Guard:
    """ASGI middleware that answers 403 or 421 to strangers and takes the secret off the path.

    ``hosts``: names by which a browser may call this server, without port. ``token``: the first
    part of every path.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name(host) not in self.hosts:
            await _refuse(421, "This server is not known by that name.", scope, receive, send)
            return
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            await _refuse(403, "Another site's page may not ask here.", scope, receive, send)
            return
        first, slash, rest = scope["path"].lstrip("/").partition("/")
        if not slash or not hmac.compare_digest(first.encode(), self.token.encode()):
            text = "Open the whole address that `mednerf-kit view` printed."
            await _refuse(403, text, scope, receive, send)
            return
        # starlette takes root_path off the path
        inside = {**scope, "root_path": f"/{first}", "path": f"/{first}/{rest}"}
        await self.app(inside, receive, _with_headers(send))


def _name(host: str) -> str:
    """The name in a ``Host`` header.

    >>> _name("127.0.0.1:8000"), _name("[::1]:8000"), _name("LocalHost")
    ('127.0.0.1', '::1', 'localhost')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(text, status)(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    """``send`` that adds :data:`HEADERS` to an answer that does not set them itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (name.lower().encode(), value.encode())
                    for name, value in HEADERS.items()
                    if name.lower().encode() not in there
                ),
            ]
        await send(message)

    return sending
