"""What a run leaves behind, and how it is resumed."""

from __future__ import annotations

import json

import pytest
import yaml
from tiny import SIZE, SPLIT, VIEWS
from tiny_training import assert_same, at_step, interrupted, last_tensors, stats, trained

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import session, snapshots


def test_a_run_folder_holds_everything(tiny_run, tiny_set):
    names = {str(p.relative_to(tiny_run)) for p in tiny_run.rglob("*") if p.is_file()}
    assert {"config.yaml", "stats.jsonl", "log.txt", "metrics.json", "previews/samples.png"} < names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [p.name for p in snapshots.snapshot_files(tiny_run)] == [
        "snapshot-000004.safetensors",
        "snapshot-000008.safetensors",
        "snapshot-000010.safetensors",
    ]
    assert tiny_run.name == "00000-tiny-whole" and not [
        name for name in names if "pkl" in name or name.endswith(".pt")
    ]


def test_the_config_is_resolved_and_readable(tiny_run, tiny_set):
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["dataset"] == str(tiny_set) and config["seed"] == 0 and config["split"] == "train"
    assert (
        config["recipe"]["steps"] == 10
        and config["recipe"]["augment"] == {"name": "xray"}
        and "presets" not in config["recipe"]
    )
    assert "not for diagnosis" in (tiny_run / "config.yaml").read_text()


def test_a_snapshot_says_what_it_is(tiny_run):
    tensors, meta = files.load_tensors(snapshots.snapshot_files(tiny_run)[-1])
    assert (
        meta["step"] == 10
        and meta["patients"] == SPLIT["train"]
        and meta["per_view_scale"] is False
    )
    assert {f"tiny:{i}" for i in range(4)} < set(meta["identities"]) and "tiny:4" not in meta[
        "identities"
    ]
    assert meta["geometry"]["cols"] == SIZE and len(meta["geometry"]["angles_deg"]) == VIEWS
    assert len(meta["detail"]) == SIZE // 8 and max(meta["detail"]) > 1  # ten steps blur
    assert "view_peak" not in meta
    assert (
        meta["recipe"]["generator"]["width"] == 16
        and "diagnosis" in meta["note"]
        and meta["version"]
    )
    assert tensors["codes"].shape[0] == 4 and all(
        t.isfinite().all() for t in tensors.values() if t.is_floating_point()
    )


def test_statistics_have_a_line_per_step_and_the_summary_the_last(tiny_run):
    assert [line["step"] for line in stats(tiny_run)] == list(range(1, 11))
    summary = json.loads((tiny_run / "metrics.json").read_text())
    assert (
        summary["steps"] == 10
        and summary["train_seconds"] > 0
        and summary["last"]["ray_mse"] == stats(tiny_run)[-1]["ray_mse"]
    )
    log = (tiny_run / "log.txt").read_text()
    assert (
        "4 patients, 8 views of 32²" in log and "step 8: wrote snapshot-000008.safetensors" in log
    )


# Resumed


@pytest.mark.parametrize("objective, at", [("posed", 8), ("gan", 2), ("hybrid", 2), ("hybrid", 6)])
def test_resuming_equals_an_uninterrupted_run(objective, at, tiny_set, tmp_path, monkeypatch):
    """Before, between and after adversarial steps, in the volume and in the ray part: bit by bit
    the same.
    """
    setting = f"task.objective={objective}"
    whole = trained(tiny_set, tmp_path / "whole", setting)
    folder = interrupted(tiny_set, tmp_path / "broken", monkeypatch, setting, at=at)
    assert files.load_tensors(snapshots.snapshot_files(folder)[-1])[1]["step"] == at + 1
    assert trained(tiny_set, tmp_path / "broken", setting, resume="latest") == folder
    assert_same(last_tensors(whole), last_tensors(folder))
    ours, wanted = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in stats(f)]
        for f in (folder, whole)
    )
    assert ours == wanted


def killed(task) -> None:
    raise SystemError("the machine went away")


def test_resuming_after_a_crash_goes_on_from_the_last_snapshot(
    tiny_run, tiny_set, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        at_step(patch, 6, killed)
        with pytest.raises(SystemError):
            trained(tiny_set, tmp_path)
    folder = trained(tiny_set, tmp_path, resume="latest")
    assert_same(last_tensors(tiny_run), last_tensors(folder))
    assert [line["step"] for line in stats(folder)][-6:] == [5, 6, 7, 8, 9, 10]
    assert (
        "continuing 00000-tiny from snapshot-000004.safetensors" in (folder / "log.txt").read_text()
    )


def test_a_torn_line_of_statistics_does_not_stop_the_run(tiny_set, tmp_path, monkeypatch):
    """A machine that goes away leaves half a line; the resumed run ends well and its steps are
    listed once.
    """
    folder = interrupted(tiny_set, tmp_path, monkeypatch, at=5)
    with open(folder / "stats.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 7, "seconds": 0.')
    assert trained(tiny_set, tmp_path, resume="latest") == folder
    assert [line["step"] for line in stats(folder)] == list(range(1, 11))


def test_a_folder_that_is_no_run_cannot_be_resumed(tmp_path):
    (tmp_path / "00000-empty").mkdir()
    with pytest.raises(UserError, match="00000-empty"):
        session.train(
            dataset=None, resume=str(tmp_path / "00000-empty"), outdir=tmp_path, device="cpu"
        )


def test_resuming_by_name_takes_the_runs_own_recipe(tiny_set, tmp_path, monkeypatch):
    folder = interrupted(tiny_set, tmp_path, monkeypatch, at=5)
    assert session.train(dataset=None, resume="00000", outdir=tmp_path, device="cpu") == folder
    assert stats(folder)[-1]["step"] == 10


def test_latest_is_the_newest_of_the_same_recipe(tiny_set, tmp_path):
    first = trained(tiny_set, tmp_path, "steps=2")
    second = trained(tiny_set, tmp_path, "steps=2")
    other = trained(tiny_set, tmp_path, "steps=3")
    assert [f.name for f in (first, second, other)] == ["00000-tiny", "00001-tiny", "00002-tiny"]
    assert trained(tiny_set, tmp_path, "steps=2", resume="latest") == second
    assert len(stats(second)) == 2, "a finished run has nothing left to do"
    assert trained(tiny_set, tmp_path, "steps=2", resume="latest", seed=5).name == "00003-tiny", (
        "nothing to resume: a new run"
    )
