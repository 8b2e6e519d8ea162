"""Training on a tiny set: what a run leaves, that it repeats, that it survives interruption,
damage, NaN and a full disk.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny import SETTINGS, SIZE, SPLIT, VIEWS, make_set

from mednerf_kit.core import files
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.engine import session, snapshots
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.posed import PriorTask, cylinder_points

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVES = ["posed", "gan", "hybrid"]


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "tiny")


def trained(tiny_set: Path, outdir: Path, *settings: str, **options) -> Path:
    folder = session.train(
        dataset=str(tiny_set),
        config="chest",
        settings=[*SETTINGS, *settings],
        outdir=outdir,
        device="cpu",
        **options,
    )
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def run(tiny_set, tmp_path_factory) -> Path:
    """A run of ten steps, left to end."""
    return trained(tiny_set, tmp_path_factory.mktemp("runs"), desc="whole")


def stats(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return files.load_tensors(snapshots.snapshot_files(folder)[-1])[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert different == []


def at_step(monkeypatch, index: int, act) -> None:
    """Do something after the task's step of this index; what it returns is logged in place of the
    step's numbers.
    """
    step = PriorTask.step

    def patched(self, progress, i):
        numbers = step(self, progress, i)
        return (act(self) or numbers) if i == index else numbers

    monkeypatch.setattr(PriorTask, "step", patched)


def interrupted(
    tiny_set,
    outdir,
    monkeypatch,
    *settings: str,
    at: int,
    act=lambda task: signal.raise_signal(signal.SIGINT),
) -> Path:
    """A run that Ctrl-C stopped in the step of index ``at``."""
    with monkeypatch.context() as patch:
        at_step(patch, at, act)
        with pytest.raises(KeyboardInterrupt):
            trained(tiny_set, outdir, *settings)
    (folder,) = outdir.iterdir()
    return folder


# What a run leaves behind


def test_a_run_folder_holds_everything(run, tiny_set):
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert {"config.yaml", "stats.jsonl", "log.txt", "metrics.json", "previews/samples.png"} < names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [p.name for p in snapshots.snapshot_files(run)] == [
        "snapshot-000004.safetensors",
        "snapshot-000008.safetensors",
        "snapshot-000010.safetensors",
    ]
    assert run.name == "00000-tiny-whole" and not [
        name for name in names if "pkl" in name or name.endswith(".pt")
    ]


def test_the_config_is_resolved_and_readable(run, tiny_set):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["dataset"] == str(tiny_set) and config["seed"] == 0 and config["split"] == "train"
    assert (
        config["recipe"]["steps"] == 10
        and config["recipe"]["augment"] == {"name": "xray"}
        and "presets" not in config["recipe"]
    )
    assert "not for diagnosis" in (run / "config.yaml").read_text()


def test_a_snapshot_says_what_it_is(run):
    tensors, meta = files.load_tensors(snapshots.snapshot_files(run)[-1])
    assert (
        meta["step"] == 10
        and meta["patients"] == SPLIT["train"]
        and meta["per_view_scale"] is False
    )
    assert {f"tiny:{i}" for i in range(4)} < set(meta["identities"]) and "tiny:4" not in meta[
        "identities"
    ]
    assert meta["geometry"]["cols"] == SIZE and len(meta["geometry"]["angles_deg"]) == VIEWS
    assert (
        meta["recipe"]["generator"]["width"] == 16
        and "diagnosis" in meta["note"]
        and meta["version"]
    )
    assert tensors["codes"].shape[0] == 4 and all(
        t.isfinite().all() for t in tensors.values() if t.is_floating_point()
    )


def test_statistics_have_a_line_per_step_and_the_summary_the_last(run):
    assert [line["step"] for line in stats(run)] == list(range(1, 11))
    summary = json.loads((run / "metrics.json").read_text())
    assert (
        summary["steps"] == 10
        and summary["train_seconds"] > 0
        and summary["last"]["ray_mse"] == stats(run)[-1]["ray_mse"]
    )
    log = (run / "log.txt").read_text()
    assert (
        "4 patients, 8 views of 32²" in log and "step 8: wrote snapshot-000008.safetensors" in log
    )


def test_a_trained_prior_loads_by_folder_snapshot_and_prefix(run):
    for name in (run, snapshots.snapshot_files(run)[0], str(run)[: -len("-tiny-whole")]):
        prior = prior_load.load_prior(name)
        assert prior.geometry.cols == SIZE and prior.codes.shape == (4, prior.generator.latent_dim)
        assert not any(p.requires_grad for p in prior.generator.parameters())
    assert prior.distance == pytest.approx(prior.geometry.distance, rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_steps_and_logs_what_it_learns_from(objective, tiny_set, tmp_path):
    folder = trained(
        tiny_set, tmp_path, f"task.objective={objective}", "steps=6", "snapshot_steps=6"
    )
    logged = stats(folder)
    posed, adversarial = {"volume_mse", "ray_mse"}, {"d_loss", "g_loss", "r_t", "p", "r1", "kimg"}
    seen = {name for line in logged for name in line} - {"step", "seconds", "rate"}
    assert seen == {"posed": posed, "gan": adversarial, "hybrid": posed | adversarial}[objective]
    if objective == "gan":
        assert all({"d_loss", "g_loss"} <= set(line) for line in logged)
    else:
        assert ["ray_mse" in line for line in logged] == [False] * 5 + [True], (
            "the last steps learn from rays"
        )


def test_coloured_pictures_train_too(tiny_set, tmp_path):
    folder = trained(
        tiny_set,
        tmp_path,
        "generator.outputs=4",
        "task.image_model=emission_absorption",
        "steps=6",
        "snapshot_steps=6",
    )
    assert (
        "ray_mse" in stats(folder)[-1]
        and prior_load.load_prior(folder).generator.shared[-1].shape[0] == 4
    )


def test_the_loss_falls(tiny_set, tmp_path):
    folder = trained(
        tiny_set,
        tmp_path,
        "task.objective=posed",
        "task.learning_rate=1e-2",
        "steps=80",
        "snapshot_steps=80",
    )
    lines = stats(folder)
    assert lines[50]["volume_mse"] < 0.4 * lines[0]["volume_mse"]
    first = next(line["ray_mse"] for line in lines if "ray_mse" in line)
    assert sum(line["ray_mse"] for line in lines[-5:]) / 5 < max(first, 0.05)


# The same run again


def test_the_same_seed_gives_the_same_run_and_another_does_not(run, tiny_set, tmp_path):
    assert_same(last_tensors(run), last_tensors(trained(tiny_set, tmp_path / "a")))
    other = last_tensors(trained(tiny_set, tmp_path / "b", seed=1))
    assert (other["codes"] - last_tensors(run)["codes"]).abs().max() > 1e-3


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
    run, tiny_set, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        at_step(patch, 6, killed)
        with pytest.raises(SystemError):
            trained(tiny_set, tmp_path)
    folder = trained(tiny_set, tmp_path, resume="latest")
    assert_same(last_tensors(run), last_tensors(folder))
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


# When something goes wrong


def test_sigterm_saves_and_exits_130(tiny_set, tmp_path):
    settings = [
        part for s in [*SETTINGS, "steps=1000000", "snapshot_steps=5"] for part in ("--set", s)
    ]
    command = [
        sys.executable,
        "-m",
        "mednerf_kit",
        "train",
        "--dataset",
        str(tiny_set),
        "--config",
        "chest",
        "--outdir",
        str(tmp_path),
        "--device",
        "cpu",
        *settings,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*/snapshot-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in said and "Traceback" not in said
    (folder,) = tmp_path.iterdir()
    path, _, meta, remarks = snapshots.newest_readable(folder)
    assert (
        remarks == []
        and meta["step"] == stats(folder)[-1]["step"]
        and path == snapshots.snapshot_files(folder)[-1]
    )


@pytest.mark.parametrize("size", [0, 300, -200])
def test_a_damaged_newest_snapshot_is_passed_over_with_a_sentence(
    run, size, tiny_set, tmp_path, monkeypatch
):
    folder = interrupted(tiny_set, tmp_path, monkeypatch, at=6)
    newest = snapshots.snapshot_files(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:size])
    assert trained(tiny_set, tmp_path, resume="latest") == folder
    assert_same(last_tensors(run), last_tensors(folder))
    log = (folder / "log.txt").read_text()
    assert f"{newest.name}', which is damaged" in log and "from snapshot-000004.safetensors" in log


def test_a_run_of_damaged_snapshots_says_so(tiny_set, tmp_path):
    folder = trained(tiny_set, tmp_path, "steps=2")
    for path in snapshots.snapshot_files(folder):
        path.write_bytes(b"")
    for call in (
        lambda: trained(tiny_set, tmp_path, "steps=2", resume="latest"),
        lambda: prior_load.load_prior(folder),
    ):
        with pytest.raises(UserError, match="without a readable snapshot.*snapshot-000002"):
            call()


def test_nan_stops_with_the_last_good_snapshot(tiny_set, tmp_path, monkeypatch):
    at_step(monkeypatch, 6, lambda task: {"volume_mse": float("nan")})
    with pytest.raises(RunError, match="volume_mse = NaN.*step 7.*snapshot-000004") as caught:
        trained(tiny_set, tmp_path)
    assert caught.value.exit_code == 1
    assert [p.name for p in snapshots.snapshot_files(tmp_path / "00000-tiny")] == [
        "snapshot-000004.safetensors"
    ]


def test_weights_that_turned_nan_are_never_a_good_snapshot(tiny_set, tmp_path, monkeypatch):
    """A finite loss may still send the weights to infinity, in the very step after which a snapshot
    is due.
    """

    def poison(task):
        with torch.no_grad():
            task.parts.generator.shared[0].fill_(float("nan"))

    at_step(monkeypatch, 7, poison)
    with pytest.raises(RunError, match="NaN"):
        trained(tiny_set, tmp_path)
    tensors = last_tensors(tmp_path / "00000-tiny")
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


def test_a_full_disk_keeps_the_snapshot_before(run, tiny_set, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda task: patch.setattr(os, "fsync", full))
        with pytest.raises(RunError, match="snapshot-000008.*No space left"):
            trained(tiny_set, tmp_path)
    folder = tmp_path / "00000-tiny"
    assert [p.name for p in snapshots.snapshot_files(folder)] == ["snapshot-000004.safetensors"]
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    assert trained(tiny_set, tmp_path, resume="latest") == folder
    assert_same(last_tensors(run), last_tensors(folder))


def setting(text: str) -> dict:
    return {"settings": [text]}


@pytest.mark.parametrize(
    "options, said",
    [
        (setting("stps=3"), "recipe key 'stps'.*did you mean 'steps'"),
        (setting("task.objctive=gan"), "did you mean 'objective'"),
        (setting("task.objective=gann"), "'gann'.*gan"),
        (setting("task.batch=two"), "'two'.*int"),
        (setting("generator.name=hypr"), "did you mean 'hyper'"),
        (setting("levels=[{name: stratifed}]"), "did you mean 'stratified'"),
        (setting("augment.name=xry"), "did you mean 'xray'"),
        (setting("dataset.siz=3"), "did you mean 'size'"),
        (setting("task.image_model=line"), "line_integral"),
        (setting("steps=0"), "steps"),
        (setting("steps=many"), "steps"),
        (setting("snapshot_steps=0"), "snapshot_steps"),
        (setting("task.batch=0"), "batch"),
        (setting("levels=[]"), "level"),
        (setting("levels=3"), "level"),
        (setting("dataset=3"), "dataset"),
        (setting("levels=[{name: importance}]"), "'importance' on the first level"),
        (setting("task.image_model=emission_absorption"), "colour|outputs"),
        (setting("discriminator.size=64"), "32×32"),
        (setting("generator={name: graf, width: 16, depth: 3, skip: 2}"), "wanted 'hyper'"),
        ({"preset": "quik"}, "did you mean 'quick'"),
        ({"config": "chst"}, "did you mean 'chest'"),
        ({"dataset": "/nowhere"}, "/nowhere"),
        ({"split": "val"}, "val split is empty"),
        ({"resume": "00007"}, "run '00007'"),
        ({"device": "cuda"}, "cuda"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_no_run(
    options, said, tiny_set, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {
        "dataset": str(tiny_set),
        "config": "chest",
        "outdir": tmp_path / "runs",
        "device": "cpu",
        **options,
    }
    options["settings"] = [*SETTINGS, *options.get("settings", [])]
    with pytest.raises(UserError, match=said) as caught:
        session.train(**options)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_dry_run_shows_the_plan_and_writes_nothing(tiny_set, tmp_path, capsys):
    assert (
        session.train(
            dataset=str(tiny_set),
            config="chest",
            settings=SETTINGS,
            outdir=tmp_path / "runs",
            dry_run=True,
        )
        is None
    )
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (
        shown["recipe"]["steps"] == 10
        and shown["plan"]["generator_parameters"] > 1000
        and not (tmp_path / "runs").exists()
    )


def test_presets_overlay_the_recipe():
    default, quick = (session.resolve("chest", None, preset, []) for preset in ("default", "quick"))
    assert (
        quick["dataset"]["size"] == 64
        and default["dataset"]["size"] == 128
        and quick["levels"] == [{"name": "stratified", "n": 32}]
    )
    assert quick["task"]["objective"] == default["task"]["objective"]


def test_without_a_recipe_the_datasets_name_decides():
    knee, chest = (session.resolve(None, name, "default", []) for name in ("knee", "chest"))
    assert (
        session.resolve("my/KNEE_set", None, "default", []) == knee
        and session.resolve("my/set", None, "default", []) == chest
    )


# What is no prior


def test_what_is_no_prior_is_named(tmp_path):
    with pytest.raises(UserError, match="snapshot-000001.*does not exist"):
        prior_load.load_prior(tmp_path / "snapshot-000001.safetensors")
    files.save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)}, {"step": 1})
    with pytest.raises(UserError, match="other.safetensors.*no prior"):
        prior_load.load_prior(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="bundled prior"):
        prior_load.load_prior("bundled:elbow")


def test_a_recipe_changed_behind_a_snapshot_is_named(run, tmp_path):
    tensors, meta = files.load_tensors(snapshots.snapshot_files(run)[-1])
    meta["recipe"]["generator"]["width"] = 32
    files.save_tensors(tmp_path / "bent.safetensors", tensors, meta)
    with pytest.raises(UserError, match="bent.safetensors.*no prior") as caught:
        prior_load.load_prior(tmp_path / "bent.safetensors")
    assert "\n" not in str(caught.value)


# What the terms are asked about


def test_a_set_scaled_view_by_view_learns_gains(tmp_path):
    folder = trained(
        make_set(tmp_path / "views", volumes=False, per_view=True), tmp_path / "runs", limit=1
    )
    tensors, meta = files.load_tensors(snapshots.snapshot_files(folder)[-1])
    assert (
        meta["per_view_scale"] is True
        and tensors["log_gains"].shape == (1, VIEWS)
        and tensors["log_gains"].std() > 0.01
    )
    assert meta["geometry"]["line_integral_scale"] is None


def test_points_fill_the_cylinder_evenly():
    x = cylinder_points(1, 40_000, 1.4, torch.Generator().manual_seed(0))[0]
    radius = x[:, :2].norm(dim=-1)
    assert radius.max() <= 1.4 + 1e-5 and x[:, 2].abs().max() <= 1.15
    assert (radius < 0.7).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (x[:, 2] > 0.575).float().mean().item() == pytest.approx(0.25, abs=0.01) and x.mean(
        0
    ).abs().max() < 0.02
