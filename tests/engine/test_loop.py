"""The loop, with a task that counts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from mednerf_kit.engine import snapshots
from mednerf_kit.engine.loop import Loop, Task


class Counting(Task):
    """Adds up the progress it is told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def step(self, progress, index):
        self.told.append(progress)
        return {"loss": 1.0 / (index + 1)}

    def state(self):
        return {"n": torch.tensor(len(self.told))}, {"k": 1}

    def load(self, tensors, meta):
        self.told = [0.0] * int(tensors["n"])


def looped(folder: Path, **options) -> Loop:
    return Loop(
        Counting(),
        folder,
        **{
            "steps": 20,
            "snapshot_steps": 3,
            "max_minutes": None,
            "meta": {},
            "progress_bar": False,
            **options,
        },
    )


def test_the_loop_runs_to_the_end_and_keeps_three_snapshots(tmp_path):
    loop = looped(tmp_path)
    assert loop.run() == tmp_path / "snapshot-000020.safetensors"
    assert [p.name[9:15] for p in snapshots.snapshot_files(tmp_path)] == [
        "000015",
        "000018",
        "000020",
    ]
    assert loop.task.told == pytest.approx([i / 20 for i in range(20)]) and loop.progress() == 1.0


def test_the_loop_stops_by_the_clock(tmp_path):
    loop = looped(tmp_path, max_minutes=1e-12)
    assert loop.run() == tmp_path / "snapshot-000001.safetensors" and loop.index == 1


def test_the_clock_goes_on_where_the_run_was_left(tmp_path):
    loop = looped(tmp_path, max_minutes=1.0)
    loop.load({"n": torch.tensor(4)}, {"step": 4, "seconds": 45.0, "task_state": {}})
    assert loop.progress() == pytest.approx(0.75) and loop.index == 4


def test_the_loop_gives_the_signals_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    looped(tmp_path).run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
