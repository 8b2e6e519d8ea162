"""The sampling lab, in a browser: what it shows is what the package computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mednerf_kit.study.sampling.ray import Options, View, sampled, strategies
from mednerf_kit.study.sampling.subject import of_phantom


def shown(row: Any, cell: int) -> list[float]:
    """The numbers in a cell of the sheet, as precise as the page knows them."""
    return [float(v) for v in row.locator("td").nth(cell).get_attribute("data-value").split()]


def test_a_click_is_the_renderers_pixel(workbench: Callable[..., str], page: Any) -> None:
    page.goto(workbench() + "#sampling?what=chest&coarse=16&fine=32")
    page.wait_for_selector("[data-strategy=local]", timeout=60_000)
    picture = page.get_by_role("application", name="X-ray of chest phantom, seed 0")
    box = picture.bounding_box()
    picture.click(position={"x": 40.5 / 128 * box["width"], "y": 70.5 / 128 * box["height"]})
    page.get_by_text("Pixel row 70, column 40").wait_for()
    picture.press("ArrowDown")
    page.get_by_text("Pixel row 71, column 40").wait_for()
    page.wait_for_selector(".room[aria-busy=false]")
    view = View(of_phantom("chest", 0), "line_integral")
    rays = view.subject.pixel(view.subject.first_view, 71, 40)
    reference = view.reference(rays)
    options = Options(coarse=16, fine=32)
    ours = strategies(view, options, view.occupancy_grid())
    for name in ("stratified", "importance", "local", "occupancy"):
        wanted = sampled(view, rays, ours[name], options, reference)
        row = page.locator(f"[data-strategy={name}]")
        assert shown(row, 1) == pytest.approx(wanted.image.tolist(), abs=1e-5)
        assert shown(row, 2)[0] == pytest.approx(wanted.error, abs=1e-6)
        assert row.locator("td").nth(3).inner_text() == str(wanted.evaluations)
    assert "row=71" in page.url and "col=40" in page.url
