"""The sampling lab, in a browser: what it shows is what the package's renderer computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_prior
from torch import Generator, Tensor

from mednerf_kit.core.types import FieldOutput
from mednerf_kit.prior.load import load_prior
from mednerf_kit.rays.render import Level, line_integral, render
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.study.sampling.subject import of_phantom, of_prior
from mednerf_kit.view.catalogue import identity

READY = ".room[aria-busy=false]"


class Counted:
    """A field that counts the samples that it evaluates."""

    def __init__(self, field: Any, code: Any = None) -> None:
        self.field, self.code, self.count = field, code, 0

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        self.count += int((dt > 0).sum())
        return self.field(x, d, dt, self.code)


def shown(page: Any, strategy: str) -> tuple[list[float], float, int]:
    """Value, error and evaluations of a row, as precise as the page knows them."""
    cells = page.locator(f"[data-strategy={strategy}] td")
    value, error = (cells.nth(k).get_attribute("data-value") for k in (1, 2))
    return [float(v) for v in value.split()], float(error or "nan"), int(cells.nth(3).inner_text())


def rendered(subject: Any, view: int, row: int, col: int, rng: Any, *nodes: dict) -> Any:
    """A pixel by the package's renderer itself: its value and what the field counted."""
    field = Counted(subject.fine, subject.code)
    levels = [Level(SAMPLERS.build(node), field) for node in nodes]
    rays = subject.pixel(view, row, col)
    found = render(rays, None, levels, image_model=line_integral, rng=rng)
    return found[-1].rendering.image[0, 0].tolist(), field.count


def test_a_click_is_the_renderers_pixel(workbench: Callable[..., str], page: Any) -> None:
    page.goto(workbench() + "#sampling?what=chest&coarse=16&fine=32&threshold=0.01&kappa=0.5")
    page.wait_for_selector(READY, timeout=60_000)
    picture = page.get_by_role("application", name="X-ray of chest phantom, seed 0")
    box = picture.bounding_box()
    picture.click(position={"x": 40.5 / 128 * box["width"], "y": 70.5 / 128 * box["height"]})
    page.get_by_text("Pixel row 70, column 40").wait_for()
    picture.press("ArrowDown")
    page.get_by_text("Pixel row 71, column 40").wait_for()
    page.wait_for_selector(READY)
    assert "row=71" in page.url and "col=40" in page.url
    subject = of_phantom("chest", 0)
    stratified = {"name": "stratified", "n": 16}
    recipes: dict[str, list[dict[str, Any]]] = {
        "stratified": [{"name": "stratified", "n": 48}],
        "importance": [stratified, {"name": "importance", "n": 32}],
        "local": [stratified, {"name": "local", "n": 32, "threshold": 0.01, "kappa": 0.5}],
    }
    dense, _ = rendered(subject, subject.first_view, 71, 40, None, {**stratified, "n": 4096})
    for name, nodes in recipes.items():
        wanted, count = rendered(subject, subject.first_view, 71, 40, None, *nodes)
        value, error, evaluations = shown(page, name)
        assert value == pytest.approx(wanted, abs=1e-5), name
        assert error == pytest.approx(abs(wanted[0] - dense[0]), abs=1e-5)
        assert evaluations == count, name
    # few cells of a grid are occupied, and what they hold is in the pixel
    value, _, evaluations = shown(page, "occupancy")
    assert value == pytest.approx(dense, abs=0.02) and evaluations < 48


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "00000-chest"
    recipe = {"generator": tiny_prior.NODE, "levels": [{"name": "stratified", "n": 24}]}
    tiny_prior.snapshot(folder, recipe=recipe)
    (folder / "config.yaml").write_text("dataset: chest\nrecipe: {task: {name: prior}}\n")
    return folder


def test_a_priors_patient_with_jitter_both_ways_and_step_by_step(
    workbench: Callable[..., str], page: Any, run: Path
) -> None:
    page.goto(workbench(run.parent) + f"#sampling?entry={identity(run)}&patient=3&coarse=8&fine=8")
    page.wait_for_selector(READY, timeout=60_000)
    page.get_by_role("button", name="Jitter").click()
    page.get_by_role("slider", name="Seed of the jitter").fill("7")
    page.get_by_role("combobox", name="Seen as").select_option("Both, side by side")
    page.wait_for_selector("section[aria-label='Error: Emission and absorption']")
    page.wait_for_selector(READY)
    subject = of_prior(load_prior(run, precision="fp32"), 3)
    row, col = subject.rows // 2, subject.cols // 2
    wanted, _ = rendered(
        subject,
        subject.first_view,
        row,
        col,
        Generator().manual_seed(7),
        {"name": "stratified", "n": 8},
        {"name": "importance", "n": 8},
    )
    cells = page.locator("[data-strategy=importance] td")  # of the X-ray, then of the other
    assert float(cells.nth(1).get_attribute("data-value")) == pytest.approx(wanted[0], abs=1e-5)
    assert page.get_by_role("region", name="Along the ray").count() == 2

    steps = page.get_by_role("region", name="Step by step")
    seen = []
    for _ in range(6):
        seen.append(steps.locator("[aria-current=step]").inner_text())
        steps.get_by_role("button", name="Step").click()
    assert seen == ["bins", "jitter", "density", "weights", "resampling", "pixel"]
    for _ in range(5):
        steps.get_by_role("button", name="Step").click()
    assert f"It is {wanted[0]:.4f} after 24 evaluations" in steps.inner_text()

    page.get_by_role("button", name="Positional encoding").click()
    page.wait_for_selector(READY)
    page.wait_for_function(
        "(before) => document.querySelector('[data-strategy=importance] [data-value]')"
        ".dataset.value !== before",
        arg=str(wanted[0]),
    )
    assert "octaves=0" in page.url


def test_keys_turn_the_ray_and_a_wrong_address_is_a_sentence(
    workbench: Callable[..., str], page: Any
) -> None:
    page.goto(workbench() + "#sampling?what=knee&near=0.4&strategy=local")
    page.wait_for_selector(READY, timeout=60_000)
    space = page.get_by_role("application", name="The ray and its samples in space")
    picture = "(canvas) => canvas.toDataURL()"
    before = space.evaluate(picture)
    space.press("ArrowLeft")
    assert space.evaluate(picture) != before
    value, error, _ = shown(page, "stratified")
    reference = page.locator("[data-strategy=reference] [data-value]").get_attribute("data-value")
    assert error == pytest.approx(abs(value[0] - float(reference)), abs=1e-6)
    assert error > 0.02  # what lies before near is missing, and the error says so
    page.goto(page.url.split("#")[0] + "#sampling?what=0123456789ab")
    page.get_by_role("alert").filter(has_text="go back to Runs and choose again").wait_for()
