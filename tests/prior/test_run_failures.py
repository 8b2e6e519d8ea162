"""Runs that are stopped, damaged, diverge or fill the disk."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS
from tiny_training import assert_same, at_step, interrupted, last_tensors, stats, trained

from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.engine import snapshots
from mednerf_kit.prior import load as prior_load

ROOT = Path(__file__).resolve().parents[2]


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
    tiny_run, size, tiny_set, tmp_path, monkeypatch
):
    folder = interrupted(tiny_set, tmp_path, monkeypatch, at=6)
    newest = snapshots.snapshot_files(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:size])
    assert trained(tiny_set, tmp_path, resume="latest") == folder
    assert_same(last_tensors(tiny_run), last_tensors(folder))
    log = (folder / "log.txt").read_text()
    assert f"{newest.name}', which is damaged" in log and "from snapshot-000004.safetensors" in log


def test_a_run_of_damaged_snapshots_says_so_and_keeps_nobody_from_training(
    tiny_set, tmp_path, capsys
):
    folder = trained(tiny_set, tmp_path, "steps=2")
    for path in snapshots.snapshot_files(folder):
        path.write_bytes(b"")
    for call in (
        lambda: trained(tiny_set, tmp_path, "steps=2", resume=str(folder)),
        lambda: prior_load.load_prior(folder),
    ):
        with pytest.raises(UserError, match="without a readable snapshot.*snapshot-000002"):
            call()
    capsys.readouterr()
    again = trained(tiny_set, tmp_path, "steps=2", resume="latest")
    assert again.name == "00001-tiny"
    assert f"passed over '{folder}'" in capsys.readouterr().err


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


def test_a_full_disk_keeps_the_snapshot_before(tiny_run, tiny_set, tmp_path, monkeypatch):
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
    assert_same(last_tensors(tiny_run), last_tensors(folder))
