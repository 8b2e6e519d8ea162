"""A workbench that answers on this machine, and a browser that looks at it."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from mednerf_kit.view.catalogue import Catalogue
from mednerf_kit.view.server import address, build_app, listening_socket
from mednerf_kit.view.site import Site

TOKEN = "a-secret-of-the-tests"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
# no look-ups of its own; WebGL is computed without a graphics card
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-unsafe-swiftshader",
]

Workbench = Callable[..., str]


@pytest.fixture
def workbench(tmp_path: Path) -> Iterator[Workbench]:
    """Start a server of these places; returns its address."""
    servers: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(*places: str | Path, first: str | None = None, **options: Any) -> str:
        site = Site(Catalogue(places), tmp_path / "out", first, **options)
        listener = listening_socket("127.0.0.1", 0)
        app = build_app(site, token=TOKEN)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        servers.append((server, thread))
        return address(listener, TOKEN)

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser; without one its tests are skipped, where continuous integration has one."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("continuous integration installs chromium, and there is none")
        pytest.skip("no chromium on this machine: `apt-get install chromium` brings one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def plain_chromium(chromium: Any) -> Iterator[Any]:
    """A browser that offers no WebGL."""
    flags = [flag for flag in FLAGS if "swiftshader" not in flag]
    browser = chromium.browser_type.launch(
        executable_path=CHROMIUM, args=[*flags, "--disable-gpu", "--disable-3d-apis"]
    )
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of 1280×720 on which no error may appear."""
    yield from _page(chromium)


@pytest.fixture
def plain_page(plain_chromium: Any) -> Iterator[Any]:
    """The same where there is no WebGL."""
    yield from _page(plain_chromium)


def _page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert not errors
