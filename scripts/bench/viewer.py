"""How quick the workbench is, measured in a real browser, and how large it is in the wheel.

    python scripts/bench/viewer.py [--browser /usr/bin/chromium] [--repeats 3] [--scene RUN]

A result of 72 views of 128² and a volume of 128³ is made in a temporary folder; `mednerf-kit view`
is started there as a user starts it, and Chromium opens it without a window and without a graphics
card, so that WebGL is computed by the processor. What is measured:

- from the start of the command to its address, and from there to the first paint and to the list of
  runs (nothing of torch is imported on the way),
- one step of the angle: all pictures, numbers and the mark on the curves,
- slices of the volume per second while a wheel turns, by WebGL and as pictures from the server,
- a click in the sampling lab, until its numbers stand there,
- the bytes of the page's files.

Prints a table in Markdown, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.prior.catalogue import BUNDLED
from mednerf_kit.view.catalogue import identity
from mednerf_kit.view.server import STATIC
from mednerf_kit.viz.figures import write_views

VIEWS, PX, VOXELS = 72, 128, 128
# what the sampling lab shows when it is clicked
CLICKED = {
    "phantom": "what=chest",
    "prior": f"what={identity(BUNDLED / 'phantom-chest.safetensors')}",
    "blocks": "what=blocks",
}
FLAGS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)
SOFTWARE, NONE = ("--enable-unsafe-swiftshader",), ("--disable-gpu", "--disable-3d-apis")
STEP = """(input) => {
  const times = [];
  for (let k = 0; k < 72; k++) {
    input.value = k;
    const started = performance.now();
    input.dispatchEvent(new Event("input"));
    times.push(performance.now() - started);
  }
  return times;
}"""
WHEEL = """async (canvas) => {
  const box = canvas.getBoundingClientRect(), reading = document.querySelector(".reading");
  const x = box.left + box.width / 6, y = box.top + box.height / 2, seen = new Set();
  const frame = () => new Promise(requestAnimationFrame);
  const turn = (i) => canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: i < 30 ? 10 : -10,
    clientX: x, clientY: y, bubbles: true, cancelable: true }));
  turn(0); await frame(); await frame();
  const started = performance.now();
  for (let i = 0; i < 60; i++) { turn(i); await frame(); seen.add(reading.textContent); }
  return [60 / ((performance.now() - started) / 1000), seen.size];
}"""
PICTURES = """async (input) => {
  const image = input.closest("figure").querySelector("img");
  const started = performance.now();
  for (let k = 30; k < 90; k++) {
    input.value = k;
    const loaded = new Promise((done) => image.addEventListener("load", done, { once: true }));
    input.dispatchEvent(new Event("input"));
    await loaded;
  }
  return 60 / ((performance.now() - started) / 1000);
}"""
CLICK = """async (address) => {
  const times = [];
  for (let k = 0; k < 12; k++) {
    const started = performance.now();
    const reply = await fetch(address + `&row=${40 + k}&col=${50 + k}`);
    if (!reply.ok) throw new Error(await reply.text());
    await reply.json();
    times.push(performance.now() - started);
  }
  return times.slice(2);
}"""
PAINT = """() => new Promise((done) => new PerformanceObserver((list) =>
  done(list.getEntriesByName("first-contentful-paint")[0].startTime))
  .observe({ type: "paint", buffered: true }))"""


def make_result(folder: Path) -> Path:
    """A result whose pixels and voxels are smooth noise, as large as one of the bundled chest."""
    rng = torch.Generator().manual_seed(0)
    views = torch.rand(VIEWS, PX // 8, PX // 8, generator=rng)
    views = torch.nn.functional.interpolate(views[None], (PX, PX), mode="bilinear")[0]
    for name, scale in (("orbit", 1.0), ("truth", 0.9), ("orbit_spread", 0.05)):
        write_views(folder / name, scale * views)
    angles = [360 / VIEWS * k for k in range(VIEWS)]
    (folder / "orbit" / "geometry.json").write_text(json.dumps({"angles_deg": angles}))
    coarse = torch.rand(1, 1, *(VOXELS // 8,) * 3, generator=rng)
    voxels = torch.nn.functional.interpolate(coarse, (VOXELS,) * 3, mode="trilinear")[0, 0]
    write_volume(Volume.centred(1500 * voxels - 1000, 3.0, "hu"), folder / "volume.nii.gz")
    scores = [{"angle_deg": a, "psnr_db": 20.0, "ssim": 0.5} for a in angles]
    values = {"per_angle": scores, "psnr_db": 20.0, "ssim": 0.5, "volume": {"quantity": "hu"}}
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder


@contextmanager
def served(place: Path) -> Iterator[tuple[str, float]]:
    """`mednerf-kit view` in a folder: its address, and the seconds until it was printed."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "mednerf_kit", "view", "--no-open"]
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        seconds = time.perf_counter() - started
        try:
            yield url, seconds
        finally:
            process.terminate()


@contextmanager
def browser_of(playwright: Any, path: str, flags: tuple[str, ...]) -> Iterator[Any]:
    """A browser with or without WebGL."""
    browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
    try:
        yield browser
    finally:
        browser.close()


def opened(browser: Any, url: str, room: str) -> Any:
    """A page of 1280×720 at a room that is ready."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(120_000)
    page.goto(f"{url}#{room}")
    page.wait_for_selector("body[data-ready]")
    return page


def start(playwright: Any, browser: str, place: Path) -> dict[str, float]:
    """Seconds from the command to the first painted page, cold."""
    with browser_of(playwright, browser, SOFTWARE) as opened_, served(place) as (url, seconds):
        page = opened_.new_page(viewport={"width": 1280, "height": 720})
        begun = time.perf_counter()
        page.goto(url)
        page.wait_for_selector("body[data-ready=runs]")
        ready = time.perf_counter() - begun
        painted = page.evaluate(PAINT) / 1000
    return {"address_s": seconds, "first_paint_s": seconds + painted, "list_s": seconds + ready}


def rooms(
    playwright: Any, browser: str, place: Path, result: Path, clicked: Mapping[str, str]
) -> dict[str, float]:
    """Angle steps, slices, and clicks on what is named."""
    room = f"result?entry={identity(result)}"
    found: dict[str, float] = {}
    with served(place) as (url, _):
        with browser_of(playwright, browser, SOFTWARE) as opened_:
            page = opened(opened_, url, f"{room}&planes=planes")
            times = page.get_by_role("slider", name="Angle").evaluate(STEP)[2:]
            found["angle_step_ms"] = statistics.median(times)
            found["angle_step_worst_ms"] = max(times)
            viewer = page.get_by_role("application")
            viewer.scroll_into_view_if_needed()
            found["webgl_slices_per_s"], different = viewer.evaluate(WHEEL)
            assert different > 20, "the wheel did not turn the slices"
            page.close()
            for what, query in clicked.items():
                page = opened(opened_, url, f"sampling?{query}")
                page.wait_for_selector(".room[aria-busy=false]")
                asked = page.evaluate(
                    "() => performance.getEntriesByType('resource').map((one) => one.name)"
                )
                ray = [name for name in asked if "sampling/ray" in name]
                if ray:
                    kept = [w for w in ray[-1].split("&") if w[:4] not in ("row=", "col=")]
                    times = page.evaluate(CLICK, "&".join(kept))
                    found[f"click_{what}_ms"] = statistics.median(times)
                page.close()
        with browser_of(playwright, browser, NONE) as opened_:
            page = opened(opened_, url, room)
            axial = page.get_by_role("slider", name="Axial slice")
            found["picture_slices_per_s"] = axial.evaluate(PICTURES)
    return found


def size_mb() -> float:
    """The page's files as they travel in the wheel, unpacked."""
    return sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file()) / 1e6


LABELS = {
    "address_s": ("command to address", "s"),
    "first_paint_s": ("command to first painted page", "s"),
    "list_s": ("command to list of runs", "s"),
    "angle_step_ms": ("angle step, median", "ms"),
    "angle_step_worst_ms": ("angle step, slowest of 70", "ms"),
    "webgl_slices_per_s": (f"slices at {VOXELS}³, three planes, software WebGL", "per s"),
    "picture_slices_per_s": (f"slices at {VOXELS}³ as pictures from the server", "per s"),
    "click_phantom_ms": ("click in the sampling lab, a phantom", "ms"),
    "click_prior_ms": ("click in the sampling lab, bundled:phantom-chest", "ms"),
    "click_blocks_ms": ("click in the sampling lab, blocks", "ms"),
    "click_scene_ms": ("click in the sampling lab, the fitted scene", "ms"),
    "static_mb": ("files of the page", "MB"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ("chromium", "chromium-browser", "google-chrome")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, names)), None))
    parser.add_argument("--repeats", type=int, default=3, help="of the start")
    parser.add_argument("--scene", type=Path, help="a run of `mednerf-kit train` on a scene")
    options = parser.parse_args()
    if options.browser is None:
        parser.error("no chromium on this machine: say --browser")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        place = Path(name)
        result = make_result(place / "out" / "film")
        starts = [start(playwright, options.browser, place) for _ in range(options.repeats)]
        found = {k: float(np.median([one[k] for one in starts])) for k in starts[0]}
        clicked = dict(CLICKED)
        if options.scene is not None:
            scene = shutil.copytree(options.scene, place / "runs" / "00000-scene")
            clicked["scene"] = f"what={identity(scene)}"
        found |= rooms(playwright, options.browser, place, result, clicked)
    found["static_mb"] = size_mb()
    found["load"] = os.getloadavg()[0]
    print("| what | measured |\n|---|---|")
    for key, (label, unit) in LABELS.items():
        if key in found:
            print(f"| {label} | {found[key]:.3g} {unit} |")
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
