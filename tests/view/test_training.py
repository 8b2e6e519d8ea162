"""The room of trainings: what is read of a run folder, and the page of a run that goes on."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mednerf_kit.core.files import load_meta
from mednerf_kit.engine.runs import read_run
from mednerf_kit.prior.catalogue import BUNDLED
from mednerf_kit.view import training
from mednerf_kit.view.catalogue import identity


def rows(first: int, last: int, seconds: float = 0.5) -> str:
    """Lines of a ``stats.jsonl`` whose loss falls as 1/step."""
    made = (
        {"step": k, "seconds": seconds * k, "loss": 1 / k} | ({"psnr_db": 20.0} if k > 4 else {})
        for k in range(first, last + 1)
    )
    return "".join(json.dumps(row) + "\n" for row in made)


def made_run(folder: Path, *, steps: int = 100, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    recipe = {"task": {"name": "prior", "batch": 4}, "generator": {"name": "hyper"}, "steps": steps}
    record = {"dataset": "chest", "recipe": recipe, "seed": seed, "split": "train", "limit": None}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    (folder / "stats.jsonl").write_text(rows(1, 40))
    (folder / "log.txt").write_text("opening\n10 % after 5 s, step 10\n40 % after 20 s, step 40\n")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return made_run(tmp_path / "runs" / "00000-chest")


def test_only_whole_new_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    stats = training.StatsFile(path)
    stats.refresh()
    assert stats.curves() == {} and stats.step_seconds is None
    text = rows(1, 6)
    path.write_text(text[:-10])  # the last line is being written
    stats.refresh()
    assert stats.curves()["loss"]["x"] == [1, 2, 3, 4, 5]
    path.write_text(text + "torn by a crash\n" + rows(7, 8))
    stats.refresh()
    assert stats.curves()["loss"] == {"x": [*range(1, 9)], "y": [1 / k for k in range(1, 9)]}
    assert stats.curves()["psnr_db"]["x"] == [5, 6, 7, 8] and stats.step_seconds == 0.5
    path.write_text(rows(1, 2))  # resumed from an earlier snapshot
    stats.refresh()
    assert stats.curves()["loss"]["x"] == [1, 2]


def test_a_long_curve_keeps_its_mean() -> None:
    steps, values = list(range(1, 100_001)), [float(k % 10) for k in range(100_000)]
    x, y = training.averaged(steps, values)
    assert len(x) == training.MOST_POINTS
    assert sum(y) / len(y) == pytest.approx(4.5) and sum(x) / len(x) == pytest.approx(50_000.5)


def test_a_run_goes_on_ends_or_has_stopped(run: Path) -> None:
    now = time.time()
    assert training.state_of(read_run(run), 0.5, now) == "running"
    assert training.state_of(read_run(run), 0.5, now + 1000) == "stopped"
    assert training.state_of(read_run(run), 100.0, now + 1000) == "running"  # its steps are slow
    (run / "metrics.json").write_text('{"steps": 40}')
    assert training.state_of(read_run(run), 0.5, now + 1000) == "ended"
    with open(run / "stats.jsonl", "a") as file:
        file.write(rows(41, 42))  # it was resumed
    assert training.state_of(read_run(run), 0.5, now) == "running"


def test_a_model_card_of_the_bundled_prior() -> None:
    meta = load_meta(BUNDLED / "phantom-chest.safetensors")
    card = dict(training.model_card(meta))
    assert card["Patients"] == f"{len(meta['patients'])} (train)"
    assert card["Pictures"] == "64×64 pixels of 8 mm" and card["Steps"] == str(meta["step"])
    assert card["Source to isocentre, to detector"] == "1120 mm, 1600 mm"
    assert training.model_card({}) == []


def test_sheets_are_in_the_order_of_their_steps(run: Path) -> None:
    (run / "previews").mkdir()
    for name in ("samples", "fakes-000200", "fakes-001000"):
        Image.new("L", (4, 4)).save(run / "previews" / f"{name}.png")
    told = [(sheet["name"], sheet["step"]) for sheet in training.sample_sheets(run)]
    assert told == [("fakes", 200), ("fakes", 1000), ("samples", None)]


def test_the_page_of_a_run_that_goes_on(
    workbench: Callable[..., str], page: Any, run: Path
) -> None:
    other = made_run(run.parent / "00001-chest", steps=200, seed=7)
    old = time.time() - 10_000
    for name in ("stats.jsonl", "log.txt"):
        os.utime(other / name, (old, old))
    (run / "previews").mkdir()
    for k in (1, 2):
        Image.new("L", (8, 8), 100 * k).save(run / "previews" / f"fakes-{20 * k:06d}.png")
    address = workbench(run.parent, "bundled:phantom-chest")
    page.goto(f"{address}#training?entry={identity(run)}")
    page.wait_for_selector("body[data-ready=training]")

    def fact(label: str) -> str:
        term = page.get_by_role("term").filter(has_text=re.compile(f"^{label}$"))
        return term.locator("xpath=following-sibling::dd").inner_text()

    assert (fact("State"), fact("Step"), fact("Time left")) == (
        "running",
        "40 of 100",
        "about 30 s",
    )
    assert page.get_by_role("progressbar", name="Steps done").get_attribute("value") == "40"
    assert page.get_by_role("img", name="loss over the steps").count() == 1
    sheet = page.get_by_role("region", name="Samples")
    assert sheet.get_by_text("fakes, step 40").count() == 1
    sheet.get_by_role("slider", name="Sheet number").fill("1")
    assert sheet.get_by_text("fakes, step 20").count() == 1
    with open(run / "stats.jsonl", "a") as file:
        file.write(rows(41, 60))
    with open(run / "log.txt", "a") as file:
        file.write("60 % after 30 s, step 60\n")
    page.get_by_text("60 of 100").wait_for()  # without a reload
    assert "60 % after 30 s" in page.get_by_label("The end of the log").inner_text()
    page.get_by_label("Compare with").select_option("00001-chest")
    page.get_by_text("What differs").wait_for()
    cells = page.get_by_role("row", name="seed").first.get_by_role("cell").all_inner_texts()
    assert cells == ["0", "7"]
    lines = page.locator("svg.plot polyline")
    lines.nth(3).wait_for(state="attached")
    assert lines.count() == 4  # two columns of two runs
    page.get_by_label("Run", exact=True).select_option("00001-chest")
    page.get_by_text("stopped before its end").wait_for()
    page.get_by_label("Run", exact=True).select_option("bundled:phantom-chest")
    page.get_by_role("heading", name="Model card").wait_for()
    assert page.get_by_role("row", name="Pictures").get_by_text("64×64 pixels of 8 mm").count() == 1


def test_curves_are_saved_as_they_stand(
    workbench: Callable[..., str], page: Any, run: Path
) -> None:
    page.goto(f"{workbench(run)}#training")
    page.wait_for_selector("body[data-ready=training]")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save picture").click()
    picture = Image.open(saved.value.path()).convert("RGB")
    curve = tuple(
        page.locator(".curves polyline").first.evaluate(
            "(line) => getComputedStyle(line).stroke.match(/\\d+/g).map(Number)"
        )
    )
    colours = {colour for _, colour in picture.getcolors(1 << 20) or []}
    assert picture.width == 2 * 630 and curve in colours


def test_a_broken_run_is_a_sentence(workbench: Callable[..., str], page: Any, run: Path) -> None:
    (run / "stats.jsonl").write_bytes(b"\xff\x00{\n")
    (run / "metrics.json").write_text("{")
    address = workbench(run.parent)
    page.goto(f"{address}#training?entry={identity(run)}")
    page.wait_for_selector("body[data-ready=training]")
    assert page.get_by_text("metrics.json' is no JSON").count() == 1
    assert page.get_by_text("No step was written down yet.").count() == 1
    reply = page.request.get(f"{address}training/run/{identity(run)}")
    assert "is no JSON" in reply.json()["remarks"][0] and reply.json()["step"] == 0
    assert page.request.get(f"{address}training/curves/{identity(run)}").json() == {}
    for what in ("run", "curves", "configuration", "card"):
        refused = page.request.get(f"{address}training/{what}/0123")
        assert refused.status == 400 and "go back to Runs" in refused.json()["error"]
