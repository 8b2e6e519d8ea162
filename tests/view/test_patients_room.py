"""The room of patients, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_prior
import torch

from mednerf_kit.prior.load import load_prior
from mednerf_kit.study.generation.gallery import VIEWS, Gallery
from mednerf_kit.view.catalogue import identity

SHADES = """(canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);
}"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "00000-chest"
    tiny_prior.snapshot(folder)
    (folder / "config.yaml").write_text("dataset: chest\nrecipe: {task: {name: prior}}\n")
    return folder


def shades(page: Any, name: str, place: int = 0) -> torch.Tensor:
    """The grey values of a picture, [rows, cols] of 0 to 255."""
    canvas = page.get_by_role("img", name=name, exact=True).nth(place)
    return torch.tensor(canvas.evaluate(SHADES)).view(32, 32).float()


def test_patients_turn_walk_and_mix(workbench: Callable[..., str], page: Any, run: Path) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.goto(
        f"{workbench(run.parent)}#patients?entry={identity(run)}&seed=4&share=0.25&layer=1&k=0"
    )
    page.wait_for_selector(".room[aria-busy=false]", timeout=60_000)
    page.wait_for_selector(".trio .tile strong >> nth=1", timeout=60_000)
    page.wait_for_selector(".room[aria-busy=false]", timeout=60_000)
    gallery = Gallery.of(load_prior(run))
    fourth = gallery.turning(gallery.random(4))
    assert torch.equal(shades(page, "Random patient of seed 4"), (255 * fourth[0]).round())

    page.get_by_role("slider", name="Angle").focus()
    page.keyboard.press("ArrowRight")
    assert torch.equal(shades(page, "Random patient of seed 4"), (255 * fourth[1]).round())
    assert f"{360 / VIEWS:g}°" in page.get_by_role("group", name="Angle").inner_text()

    between = gallery.turning(gallery.between(0, 1, 0.25))
    shown = shades(page, "The patient between A and B")
    assert float((shown - 255 * between[1]).abs().max()) <= 1
    mixed = gallery.turning(gallery.mixed(0, 1, 1))
    shown = shades(page, "The patient mixed of A and B")
    assert float((shown - 255 * mixed[1]).abs().max()) <= 1

    nearest = gallery.nearest(fourth)
    assert nearest is not None
    caption = page.locator(".tiles figcaption").first.inner_text()
    found = re.search(r"Nearest: (\w+), RMSE ([\d.e-]+)", caption)
    assert found and found[1] == nearest["patient"]
    assert float(found[2]) == pytest.approx(nearest["rmse"], rel=0.05)

    page.get_by_role("button", name="Take seed 5 as B").click()
    page.get_by_text("B: seed 5").first.wait_for()
    assert "b=5" in page.url
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save picture").click()
    assert saved.value.suggested_filename == "patients.png"


def test_patients_are_there_before_the_nearest_are_known(
    workbench: Callable[..., str], page: Any, run: Path
) -> None:
    told = iter([{"rendered": 2, "patients": tiny_prior.PATIENTS}])

    def slow(route: Any) -> None:
        route.fulfill(json=first) if (first := next(told, None)) else held.append(route)

    held: list[Any] = []
    page.emulate_media(reduced_motion="reduce")
    page.route("**/patients/training/*", slow)
    page.goto(f"{workbench(run.parent)}#patients?entry={identity(run)}")
    page.get_by_text(f"training patients are rendered: 2 of {tiny_prior.PATIENTS}.").wait_for()
    assert page.get_by_role("progressbar", name="Training patients rendered").is_visible()
    page.locator(".trio figcaption strong >> nth=1").wait_for()
    assert shades(page, "Random patient of seed 7").max() > 0
    assert page.get_by_text("Nearest: ").count() == 0
    # what is asked for meanwhile is shown at once
    page.get_by_role("button", name="More").click()
    page.get_by_text("Seed 15").wait_for()
    held.pop().continue_()
    page.locator(".tiles").get_by_text("Nearest: ").nth(7).wait_for()
    page.wait_for_selector(".room[aria-busy=false]")
    assert page.get_by_role("progressbar").count() == 0
