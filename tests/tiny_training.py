"""Training on a tiny set, run by run: what tests of the loop and of the tasks share."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS

from mednerf_kit.core import files
from mednerf_kit.engine import session, snapshots
from mednerf_kit.prior.posed import PriorTask


def trained(dataset: Path, outdir: Path, *settings: str, **options) -> Path:
    """A run of the chest recipe on the CPU, small enough for a test."""
    folder = session.train(
        dataset=str(dataset),
        config="chest",
        settings=[*SETTINGS, *settings],
        outdir=outdir,
        device="cpu",
        **options,
    )
    assert folder is not None
    return folder


def stats(folder: Path) -> list[dict]:
    """The logged numbers, a dict per step."""
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The newest snapshot's tensors."""
    return files.load_tensors(snapshots.snapshot_files(folder)[-1])[0]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Bit by bit."""
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
    dataset: Path,
    outdir: Path,
    monkeypatch,
    *settings: str,
    at: int,
    act=lambda task: signal.raise_signal(signal.SIGINT),
) -> Path:
    """A run that Ctrl-C stopped in the step of index ``at``."""
    with monkeypatch.context() as patch:
        at_step(patch, at, act)
        with pytest.raises(KeyboardInterrupt):
            trained(dataset, outdir, *settings)
    (folder,) = outdir.iterdir()
    return folder
