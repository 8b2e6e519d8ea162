"""The loop every task runs in: steps, statistics, previews, snapshots, and a clean stop on a
signal, a NaN or the clock.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.config import Registry
from ..core.errors import RunError
from . import run_folder, tensorboard
from .distributed import Ranks

TASKS: Registry[Task] = Registry("task")


class Task(Protocol):
    """What the loop trains. One with pictures for the board also has ``pictures(index)`` (see
    :mod:`.tensorboard`).

    One that can be trained by several processes has ``set_distributed(ranks)``, which refuses what
    cannot be dealt out among them and answers remarks for the log (see :mod:`.distributed`).
    """

    def step(self, progress: float, index: int) -> dict[str, float]: ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]: ...

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class PreparedRun:
    """A task ready to run, and what belongs to its run folder."""

    task: Task
    meta: dict[str, Any]  # what a snapshot says of itself
    opening: tuple[str, ...]  # lines for the log: data, sizes, device, remarks of the reader
    # previews, calibration, scores once trained; what it returns joins metrics.json
    finish: Callable[[Loop], dict[str, Any]]


@dataclass(frozen=True)
class TaskType:
    """How the recipes of a task are read: which keys they have, what refuses a bad one, what makes
    one ready to run.
    """

    keys: frozenset[str]
    check: Callable[[Mapping[str, Any]], None]
    prepare: Callable[[run_folder.RunConfig, torch.device], PreparedRun]
    plan: Callable[[Mapping[str, Any]], dict[str, Any]]  # sizes, for --dry-run
    # what several processes share; None: one process only
    batches: Callable[[Mapping[str, Any]], dict[str, int]] | None = None
    # "module:function" of what comes after a training, called with (loop, recipe, device)
    follow_up: str | None = None


@contextlib.contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a step in progress is finished first."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    old = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


class Loop:
    """Runs a task for ``steps`` or ``max_minutes``, whichever ends first, and keeps its folder.

    ``seconds`` are those of the steps; ``wall_seconds`` count from ``started``, a reading of
    ``time.perf_counter`` (None: now), with everything in them. Both go on where a resumed run left
    off. Of several ``ranks`` the first one writes; all of them go by the same clock and stop at the
    same step.
    """

    def __init__(
        self,
        task: Task,
        folder: Path,
        *,
        steps: int,
        snapshot_steps: int,
        max_minutes: float | None,
        meta: dict[str, Any],
        progress_bar: bool = True,
        ranks: Ranks | None = None,
        started: float | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.task, self.folder, self.steps, self.snapshot_steps = (
            task,
            folder,
            steps,
            snapshot_steps,
        )
        self.max_minutes, self.meta, self.progress_bar = max_minutes, meta, progress_bar
        self.index, self.seconds = 0, 0.0
        self.started, self.wall_before = time.perf_counter() if started is None else started, 0.0
        if hasattr(task, "say"):  # what a task has to tell belongs into the log too
            task.say = self.log

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue where a snapshot left off."""
        self.index, self.seconds = meta["step"], meta["seconds"]
        self.wall_before = run_folder.wall_seconds(self.folder, meta) or self.seconds
        self.task.load(tensors, meta["task_state"])
        if self.ranks.is_rank_zero:
            run_folder.write_stats(
                self.folder,
                [row for row in run_folder.read_stats(self.folder) if row["step"] <= self.index],
            )

    @property
    def wall_seconds(self) -> float:
        """Time of the whole run so far: reading, steps, snapshots and previews, those before it was
        resumed included.
        """
        return self.wall_before + time.perf_counter() - self.started

    def progress(self) -> float:
        """How far the training is, in [0, 1]: by steps, or by the clock if that is tighter."""
        by_clock = self.seconds / (60 * self.max_minutes) if self.max_minutes else 0.0
        return min(1.0, max(self.index / self.steps, by_clock))

    def save(self) -> Path:
        """Write a snapshot of now; returns where it lies, in every process once it is there."""
        if not self.ranks.is_rank_zero:
            return Path(self.ranks.broadcast_text(""))
        tensors, state = self.task.state()
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise self._diverged(name)
        clocks = {"seconds": self.seconds, "wall_seconds": self.wall_seconds}
        path = run_folder.save_snapshot(
            self.folder, self.index, tensors, {**self.meta, **clocks, **state}
        )
        self.log(f"step {self.index}: wrote {path.name}")
        return Path(self.ranks.broadcast_text(str(path)))

    def log(self, line: str) -> None:
        """A line in log.txt and on the terminal."""
        if not self.ranks.is_rank_zero:
            return
        tqdm.write(line, file=sys.stderr)
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def run(self) -> Path:
        """Train to the end; returns the last snapshot. Raises KeyboardInterrupt after saving when
        asked to stop.
        """
        self.sync_state()
        is_rank_zero = self.ranks.is_rank_zero
        shown = None if self.progress_bar and is_rank_zero else True
        bar = tqdm(
            total=self.steps, initial=self.index, desc="training", disable=shown, mininterval=1.0
        )
        saved = self.index if run_folder.snapshots(self.folder) else -1
        with (
            asked_to_stop() as stop,
            open(
                self.folder / "stats.jsonl" if is_rank_zero else os.devnull, "a", encoding="utf-8"
            ) as stats,
            tensorboard.event_writer(self.folder if is_rank_zero else None) as writer,
        ):
            tenths = int(10 * self.progress())
            while self.progress() < 1.0:
                start = time.perf_counter()
                numbers = self.task.step(self.progress(), self.index)
                self.index += 1
                numbers, seconds, stopping = self.ranks.mean_metrics(
                    numbers, time.perf_counter() - start, stop.is_set()
                )
                self.seconds += seconds
                self._check(numbers)
                stats.write(
                    json.dumps({"step": self.index, "seconds": round(self.seconds, 3), **numbers})
                    + "\n"
                )
                if self.index % 20 == 0:
                    bar.set_postfix(
                        {k: f"{v:.2g}" for k, v in numbers.items() if k != "rate"}, refresh=False
                    )
                    for name, value in numbers.items() if writer else ():
                        writer.add_scalar(name, value, self.index)
                bar.update()
                if bar.disable and self.progress_bar and int(10 * self.progress()) > tenths:
                    tenths = int(10 * self.progress())
                    self.log(f"{10 * tenths} % after {self.seconds:.0f} s, step {self.index}")
                if stopping:
                    self.save()
                    bar.close()
                    raise KeyboardInterrupt
                if self.index % self.snapshot_steps == 0:
                    stats.flush()
                    self.save()
                    if writer:
                        tensorboard.write_pictures(writer, self.task, self.index)
                    saved = self.index
        bar.close()
        return self.save() if saved != self.index else run_folder.snapshots(self.folder)[-1]

    def sync_state(self) -> None:
        """Hand the task its ranks; what the first of several has made or read becomes the state of
        all.
        """
        if hasattr(self.task, "set_distributed"):
            for remark in self.task.set_distributed(self.ranks):
                self.log(remark)
        if self.ranks.world_size == 1:
            return
        tensors, state = self.task.state() if self.ranks.is_rank_zero else ({}, {})
        found = {"step": self.index, "seconds": self.seconds, "task_state": state.get("task_state")}
        tensors, found = self.ranks.broadcast_state(tensors, found)
        if not self.ranks.is_rank_zero:
            self.load(tensors, found)

    def _check(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise self._diverged(name)

    def _diverged(self, name: str) -> RunError:
        kept = run_folder.snapshots(self.folder)
        last = kept[-1].name if kept else "none yet"
        return RunError(
            f"got {name} = NaN or infinity at step {self.index}",
            "wanted finite losses and weights",
            f"lower the learning rate and resume; the last good snapshot is {last}",
        )
