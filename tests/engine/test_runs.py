"""Run folders at a glance: what each holds, whatever is damaged in it."""

from __future__ import annotations

import json

import torch

from mednerf_kit.core import files
from mednerf_kit.engine import run_folder, runs, snapshots
from mednerf_kit.engine.run_folder import RunConfig

RECIPE = {"steps": 9, "task": {"name": "posed"}, "image_model": "line_integral"}


def make_run(folder, recipe=RECIPE, *, rows=4, step=3):
    folder.mkdir()
    run_folder.write_run_config(folder, RunConfig("chest", recipe, seed=1))
    run_folder.write_stats(folder, [{"step": i + 1, "loss": 1 / (i + 1)} for i in range(rows)])
    snapshots.save_snapshot(folder, step, {"x": torch.ones(1)}, {"recipe": recipe})
    return folder


def test_runs_are_listed_newest_first_with_how_far_they_came(tmp_path):
    make_run(tmp_path / "00000-chest")
    scene = make_run(tmp_path / "00001-lego", {"steps": 9, "task": {"name": "fit"}})
    files.write_json(scene / "metrics.json", {"steps": 4, "psnr_db": 30.0})
    (tmp_path / "notes").mkdir()
    newest, oldest = runs.list_runs(tmp_path)
    assert (newest.folder.name, newest.is_scene, newest.has_ended) == ("00001-lego", True, True)
    assert newest.metrics["psnr_db"] == 30.0
    assert (oldest.task, oldest.is_scene, oldest.has_ended) == ("posed", False, False)
    assert (oldest.step, oldest.steps, oldest.last_row["loss"]) == (4, 9, 0.25)
    assert oldest.meta["step"] == 3 and len(oldest.snapshots) == 1 and oldest.remarks == ()


def test_what_is_damaged_is_a_remark_and_the_rest_is_there(tmp_path):
    folder = make_run(tmp_path / "00000-chest")
    (folder / "config.yaml").write_text("recipe: [")
    (folder / "metrics.json").write_text("{")
    with open(folder / "stats.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    torn = folder / "snapshot-000008.safetensors"
    torn.write_bytes(snapshots.snapshot_files(folder)[0].read_bytes()[:-1])
    (found,) = runs.list_runs(tmp_path)
    assert len(found.remarks) == 3 and "snapshot-000008" in found.remarks[1]
    assert (found.config, found.metrics, found.step, found.meta["step"]) == (None, {}, 4, 3)
    (tmp_path / "00001-empty").mkdir()
    assert runs.list_runs(tmp_path)[0].step == 0


def test_the_last_row_is_found_from_the_end_of_a_long_file(tmp_path):
    rows = [{"step": i, "text": "x" * 80} for i in range(2000)]
    (tmp_path / "stats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (tmp_path / "stats.jsonl").stat().st_size > runs.TAIL_BYTES
    assert runs.last_row(tmp_path) == rows[-1]


def test_metadata_are_those_that_reading_the_tensors_gives(tmp_path):
    folder = make_run(tmp_path / "00000-chest")
    path, _, meta = snapshots.read_snapshot(folder)
    assert run_folder.read_meta(folder) == (path, meta)
    assert run_folder.read_meta(path) == (path, meta)
    assert not run_folder.is_scene_run(folder)
