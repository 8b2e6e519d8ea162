"""The room of models: the same patient by several, and what is said where there are no views."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_prior
from PIL import Image

from mednerf_kit.invert.outputs import seeded_eps
from mednerf_kit.invert.predict import grid_size
from mednerf_kit.invert.render import shown
from mednerf_kit.prior.load import load_prior
from mednerf_kit.view.catalogue import Catalogue, identity
from mednerf_kit.view.models import DRAWN_PX, DRAWN_VIEWS, cells, drawn, library

VIEWS, PX = 4, 16


def keep(folder: Path, level: int, *, run: str, patient: str = "q0") -> Path:
    """A patient of an evaluation whose k-th view has one level everywhere."""
    for kind, offset in (("orbit", 0), ("truth", 40)):
        (folder / kind).mkdir(parents=True)
        for k in range(VIEWS):
            grey = np.full((PX, PX), 257 * (level + offset + k), np.uint16)
            Image.fromarray(grey).save(folder / kind / f"view_{k:03d}.png")
    angles = [90.0 * k for k in range(VIEWS)]
    (folder / "orbit" / "geometry.json").write_text(json.dumps({"angles_deg": angles}))
    rows = [{"angle_deg": a, "psnr_db": level + a / 90, "ssim": 0.5} for a in angles]
    values = {
        "patient": patient,
        "input_angles_deg": [270.0],
        "per_angle": rows,
        "provenance": {"prior": "snapshot.safetensors", "run": run, "trained_on": "chest"},
    }
    (folder / "metrics.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two priors of which one was asked about a patient."""
    home = tmp_path / "runs"
    for seed, name in enumerate(("00000-chest", "00001-chest")):
        tiny_prior.snapshot(home / name, seed=seed)
        (home / name / "config.yaml").write_text("dataset: chest\nrecipe: {task: {name: prior}}\n")
    keep(home / "00000-chest" / "evaluate" / "patients" / "q0", 20, run="00000-chest")
    return home


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    """An ablation of which one cell was run."""
    home = tmp_path / "runs" / "ablate-presets"
    place = home / "chest" / "chest_graf" / "seed0"
    keep(place / "00000-chest" / "evaluate" / "patients" / "q0", 30, run="00000-chest")
    (place / "cell.json").write_text(
        json.dumps({"status": "done", "error": "", "run": "00000-chest"})
    )
    (home / "results.csv").write_text(
        "scene,cell,seed,status,run,error\n"
        "chest,chest_graf,0,done,chest/chest_graf/seed0/00000-chest,\n"
        "chest,chest_mednerf,0,failed,,it ran out of memory\n"
    )
    (home / "table.md").write_text("# presets\n")
    return home


def test_results_stand_by_the_prior_that_made_them(runs: Path) -> None:
    found = {model.name: model for model in library(Catalogue([runs, "bundled:knee"]))}
    asked, other = found["00000-chest"], found["00001-chest"]
    assert list(asked.patients) == ["q0"] and not other.patients and asked.body == "chest"
    assert other.command.startswith("mednerf-kit evaluate --run ") and other.run


def test_cells_that_were_not_run_are_there_with_their_command(ablation: Path) -> None:
    found = {model.name: model for model in cells(Catalogue([ablation]), ablation)}
    assert list(found["chest_graf"].patients) == ["q0"]
    assert found["chest_mednerf"].status == "failed" and "memory" in found["chest_mednerf"].why
    planned = found["chest_hypernerfgan"]  # of the ablation's file
    assert planned.status == "not run"
    assert planned.command.startswith("mednerf-kit ablate presets --outdir ")
    assert planned.command.endswith(" --cells chest_hypernerfgan")


def test_a_cell_of_a_persons_own_file_stands_once(ablation: Path, tmp_path: Path) -> None:
    file = tmp_path / "my set.yaml"
    file.write_text("base: chest\ndataset: chest\ncells: {chest_graf: {}, other: {}}\n")
    command = f"mednerf-kit ablate '{file}' --preset quick --outdir runs/ablate-presets"
    (ablation / "command.txt").write_text(f"{command}\n")
    table = ablation / "results.csv"
    table.write_text(table.read_text().replace("chest_graf,0,", "chest_graf,0.0,"))
    found = {model.name: model for model in cells(Catalogue([ablation]), ablation)}
    assert set(found) == {"chest_graf", "chest_mednerf", "other"}
    assert found["other"].command == f"{command} --cells other"


def test_a_random_patient_is_that_of_render(runs: Path) -> None:
    run = runs / "00000-chest"
    prior = load_prior(str(run))
    geometry = prior.geometry.resized(DRAWN_PX).orbit(DRAWN_VIEWS)
    wanted = shown(prior, seeded_eps(prior, 3), geometry, grid_size(DRAWN_PX))
    assert np.abs(drawn(str(run), 3) / 65535 - wanted.clamp(0, 1).numpy()).max() < 1e-4


def middle(figure: Any) -> int:
    return figure.locator("canvas").evaluate(
        "(c) => c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[0]"
    )


def test_the_angle_stays_when_the_models_change(
    workbench: Callable[..., str], plain_page: Any, ablation: Path
) -> None:
    page = plain_page
    page.goto(f"{workbench(ablation)}#models?entry={identity(ablation)}&angle=90")
    page.wait_for_selector("body[data-ready=models]")
    page.wait_for_selector(".stage:not([aria-busy])")
    ours, truth = (page.get_by_role("figure", name=name) for name in ("chest_graf", "Truth"))
    assert middle(ours) == 31 and middle(truth) == 71 and "31 dB" in ours.inner_text()
    page.keyboard.press("ArrowRight")
    assert middle(ours) == 32
    page.wait_for_url("**angle=180**")
    missing = page.get_by_role("figure", name="chest_hypernerfgan")
    assert "not run" in missing.inner_text() and "ablate presets" in missing.inner_text()
    failed = page.get_by_role("figure", name="chest_mednerf")
    assert "ran out of memory" in failed.inner_text()
    page.get_by_role("checkbox", name="chest_mednerf").uncheck()
    failed.wait_for(state="detached")
    page.wait_for_selector(".stage:not([aria-busy])")
    assert middle(page.get_by_role("figure", name="chest_graf")) == 32
    page.keyboard.press("ArrowRight")
    assert "given view" in page.get_by_role("figure", name="chest_graf").inner_text()


def test_priors_show_the_patient_of_a_seed(
    workbench: Callable[..., str], plain_page: Any, runs: Path
) -> None:
    page = plain_page
    page.goto(f"{workbench(runs)}#models?angle=270")
    page.wait_for_selector("body[data-ready=models]")
    page.wait_for_selector(".stage:not([aria-busy])")
    missing = page.get_by_role("figure", name="00001-chest")
    assert "not run" in missing.inner_text() and "mednerf-kit evaluate" in missing.inner_text()
    page.get_by_role("combobox", name="Patient").select_option("random patient")
    page.wait_for_selector(".stage:not([aria-busy])")
    page.get_by_role("spinbutton", name="Seed").fill("3")
    page.get_by_role("spinbutton", name="Seed").press("Enter")
    page.wait_for_selector(".stage[aria-busy]", state="detached")
    k = DRAWN_VIEWS * 3 // 4
    for name in ("00000-chest", "00001-chest"):
        level = int(drawn(str(runs / name), 3)[k, DRAWN_PX // 2, DRAWN_PX // 2])
        assert abs(middle(page.get_by_role("figure", name=name)) - level / 257) <= 1
