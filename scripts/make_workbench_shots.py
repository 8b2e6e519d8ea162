"""Pictures of the workbench's rooms for docs/workbench.md, light and dark.

``python scripts/make_workbench_shots.py PLACE … --xray FILM [--room NAME …]``

A workbench is started on the PLACES (as ``mednerf-kit view`` finds them: a folder of runs, a folder
of results), looked at in Chromium, and every room is written as
``docs/figures/workbench_ROOM_THEME.png`` of at most :data:`MOST_BYTES`. ``FILM`` is the X-ray that
the room of projections is given; a job is started with it, and stopped once it shows something.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import uvicorn
from PIL import Image

from mednerf_kit.core.files import atomic
from mednerf_kit.view.catalogue import Catalogue
from mednerf_kit.view.server import address, build_app, listening_socket, new_token
from mednerf_kit.view.site import Site

ROOMS = ("runs", "sampling", "models", "result", "project", "job", "patients", "training")
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
MOST_BYTES = 150_000
COLOURS = (256, 192, 128, 96, 64, 48, 32)  # of a palette, until a picture is small enough
SETTLED_MS = 2500  # pictures and curves that come after a room says that it is there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="+")
    parser.add_argument("--xray", type=Path)
    parser.add_argument("--room", action="append", choices=ROOMS)
    parser.add_argument("--outdir", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as home,
        served([*options.places, "bundled"], Path(home)) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--enable-unsafe-swiftshader"],
        )
        for theme in THEMES:
            page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=theme)
            page.set_default_timeout(300_000)
            for room in options.room or ROOMS:
                show(page, url, room, options.xray)
                picture = Image.open(io.BytesIO(page.screenshot()))
                path = options.outdir / f"workbench_{room}_{theme}.png"
                print(path, write(path, picture), "bytes")
                for stop in page.get_by_role("button", name="Stop ").all():
                    stop.click()
            page.close()
        browser.close()


@contextmanager
def served(places: list[str], outdir: Path) -> Iterator[str]:
    """The address of a workbench on these places."""
    listener, token = listening_socket("127.0.0.1", 0), new_token()
    app = build_app(Site(Catalogue(places), outdir), token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield address(listener, token)
    finally:
        server.should_exit = True
        thread.join()


def show(page: Any, url: str, room: str, xray: Path | None) -> None:
    """Open a room in the state in which it has most to show."""
    page.goto("about:blank")
    page.goto(f"{url}#{'project' if room == 'job' else room}?{state_of(page, url, room)}")
    page.wait_for_selector("body[data-ready]")
    if room in ("project", "job") and xray is not None:
        page.get_by_label("X-ray file").set_input_files(xray)
        page.wait_for_selector("button.main:enabled")
    if room == "job" and xray is not None:
        page.get_by_label("Name of the result").fill("film")
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_text("step 40 of").wait_for()
    else:
        page.wait_for_load_state("networkidle")
    page.wait_for_timeout(SETTLED_MS)


def state_of(page: Any, url: str, room: str) -> str:
    """What stands in the address: a result with a truth, the bundled chests, two runs."""
    entries = page.request.get(f"{url}runs/list").json()["entries"]
    whole = [entry for entry in entries if not entry["problem"]]
    bundled = [entry for entry in whole if entry["name"] == "bundled:chest"]
    runs = [
        entry
        for entry in whole
        if entry["kind"] in ("prior", "scene") and not entry["name"].startswith("bundled:")
    ]
    results = [entry for entry in whole if entry["kind"] == "result"]
    results.sort(key=lambda entry: "/patients/" not in entry["name"])  # scored ones have a truth
    named = {"patients": bundled, "sampling": [], "training": runs[::-1], "result": results}
    chosen = named.get(room, [])[:2]
    return "&".join(
        f"{name}={entry['id']}" for name, entry in zip(("entry", "other"), chosen, strict=False)
    )


def write(path: Path, picture: Image.Image) -> int:
    """Write a picture with as many colours as fit; its size in bytes."""
    for colours in COLOURS:
        memory = io.BytesIO()
        small = picture.convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE)
        small.save(memory, "PNG", optimize=True)
        if memory.tell() <= MOST_BYTES:
            break
    with atomic(path) as temporary:
        temporary.write_bytes(memory.getvalue())
    return memory.tell()


if __name__ == "__main__":
    main()
