"""No room has a serious fault of accessibility, in light and in dark (axe-core's rules)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_prior
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.view.catalogue import identity
from mednerf_kit.view.export import page as saved_page
from mednerf_kit.view.shown import Shown

SERIOUS = ("serious", "critical")


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A run with a prior, and a result."""
    run, result = tmp_path / "runs" / "00000-chest", tmp_path / "out" / "film"
    tiny_prior.snapshot(run)
    (run / "config.yaml").write_text("dataset: chest\nrecipe: {task: {name: prior}}\n")
    rows = [{"step": step, "seconds": step / 10, "loss": 1 / step} for step in range(1, 5)]
    (run / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for folder in ("orbit", "truth", "orbit_spread"):
        (result / folder).mkdir(parents=True)
        for k in range(4):
            levels = np.full((8, 8), 9999 * k, np.uint16)
            Image.fromarray(levels).save(result / folder / f"view_{k:03d}.png")
    write_volume(Volume.centred(torch.rand(8, 8, 8), 4.0, "relative"), result / "volume.nii.gz")
    write_volume(Volume.centred(torch.rand(8, 8, 8), 4.0, "relative"), result / "measured.nii.gz")
    scores = [{"angle_deg": 90.0 * k, "psnr_db": 20.0 + k, "ssim": 0.5} for k in range(4)]
    values = {
        "per_angle": scores,
        "warnings": ["it is small"],
        "measures": {"heart_width_mm": {"mean": 1.0, "unit": "mm"}},
        "volume": {"quantity": "relative"},
    }
    (result / "metrics.json").write_text(json.dumps(values))
    return run, result


def faults(page: Any) -> list[str]:
    """What axe-core calls serious, a line each."""
    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {node['html'][:150]}"
        for fault in found
        if fault["impact"] in SERIOUS
        for node in fault["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_rooms(
    workbench: Callable[..., str], plain_page: Any, places: tuple[Path, Path], scheme: str
) -> None:
    page, (run, result) = plain_page, places
    page.emulate_media(color_scheme=scheme)
    url = workbench(run.parent, result)
    for room, entry in {
        "runs": "",
        "sampling": "",
        "models": "",
        "result": identity(result),
        "project": identity(run),
        "patients": identity(run),
        "training": identity(run),
    }.items():
        page.goto(f"{url}#{room}?entry={entry}")
        page.wait_for_selector(f"body[data-ready={room}]")
        assert (room, faults(page)) == (room, [])


def test_saved_page(plain_page: Any, places: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(saved_page(Shown.at(places[1]), "film"), encoding="utf-8")
    plain_page.goto(file.as_uri())
    plain_page.wait_for_selector("body[data-ready=result]")
    assert faults(plain_page) == []
    plain_page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert len(faults(plain_page)) == 1  # it has no label
