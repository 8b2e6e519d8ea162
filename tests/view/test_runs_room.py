"""The room of runs, in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "runs"
    for name, steps in (("00000-chest", 10), ("00001-knee", 20)):
        (home / name / "previews").mkdir(parents=True)
        (home / name / "config.yaml").write_text("dataset: chest\nrecipe: {task: {name: prior}}\n")
        (home / name / "metrics.json").write_text(json.dumps({"steps": steps}))
    picture = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(picture).save(home / "00000-chest" / "previews" / "samples.png")
    (home / "00002-broken").mkdir()
    (home / "00002-broken" / "config.yaml").write_text("recipe: [")
    return home


def test_list_filter_compare(workbench: Callable[..., str], page: Any, folder: Path) -> None:
    page.goto(workbench(folder))
    page.wait_for_selector("body[data-ready=runs]")
    assert page.get_by_role("heading", level=2).count() == 3
    assert page.locator(".problem").inner_text().count("config.yaml") == 1
    shades = page.eval_on_selector(
        ".entry img",
        "async (img) => { await img.decode(); const c = document.createElement('canvas');"
        "c.width = c.height = 64; const g = c.getContext('2d'); g.drawImage(img, 0, 0, 64, 64);"
        "return [g.getImageData(32, 2, 1, 1).data[0], g.getImageData(32, 61, 1, 1).data[0]] }",
    )
    assert shades[0] < 20 and shades[1] > 235  # 16 bits are shown as 8
    page.get_by_role("searchbox", name="Filter").fill("knee")
    assert page.get_by_role("heading", level=2).all_inner_texts() == ["00001-knee"]
    page.get_by_role("searchbox", name="Filter").fill("")
    page.get_by_role("checkbox", name="Compare 00000-chest").check()
    page.get_by_role("checkbox", name="Compare 00001-knee").check()
    row = page.get_by_role("row", name=re.compile("^steps"))
    assert row.get_by_role("cell").all_inner_texts() == ["10", "20"]
    assert "chosen=" in page.url


def test_a_fifth_to_compare_is_refused_in_words(
    workbench: Callable[..., str], page: Any, folder: Path
) -> None:
    for k in range(3, 7):
        (folder / f"0000{k}-chest").mkdir()
        (folder / f"0000{k}-chest" / "config.yaml").write_text("dataset: chest\nrecipe: {}\n")
    page.goto(workbench(folder))
    page.wait_for_selector("body[data-ready=runs]")
    boxes = page.get_by_role("checkbox", name="Compare 0000")
    enabled = [box for box in boxes.all() if box.is_enabled()]
    for box in enabled[:4]:
        box.check()
    enabled[4].click()
    assert not enabled[4].is_checked()
    assert "At most 4" in page.get_by_role("status").inner_text()


def test_light_dark_and_keyboard(workbench: Callable[..., str], page: Any, folder: Path) -> None:
    page.goto(workbench(folder))
    page.wait_for_selector("body[data-ready=runs]")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches(':focus-visible')")


def test_an_address_of_what_is_gone_says_so(
    workbench: Callable[..., str], page: Any, folder: Path
) -> None:
    page.goto(f"{workbench(folder)}#training?entry=0123456789ab")
    page.wait_for_selector("body[data-ready=training]")
    gone = page.get_by_role("alert").filter(has_text="What this address names is not here")
    assert gone.is_visible()
    page.get_by_label("Run", exact=True).select_option("00001-knee")
    gone.wait_for(state="detached")
