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
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.config import Registry
from ..core.errors import RunError
from ..core.files import GrowingFile
from . import run_folder, snapshots
from .distributed import Ranks

SHOWN_EVERY = 20  # steps between two updates of the progress bar's numbers and of TensorBoard's

TASKS: Registry[Task] = Registry("task")


def print_line(line: str) -> None:
    """A line on the terminal that leaves a progress bar whole."""
    tqdm.write(line, file=sys.stderr)


class Task:
    """What the loop trains: ``step``, ``state`` and ``load`` are a task's own, the rest has a
    default.
    """

    #: Tells something worth knowing; the loop puts its own log here.
    log: Callable[[str], None] = staticmethod(print_line)

    def step(self, progress: float, index: int) -> dict[str, float]:
        """Step ``index``, at ``progress`` in [0, 1] through the training; returns what to log."""
        raise NotImplementedError

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a continued run needs: named tensors, and plain values, of which ``load`` gets
        those under ``task_state``.
        """
        raise NotImplementedError

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        raise NotImplementedError

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Become one of several processes (see :mod:`.distributed`); returns remarks for the log.

        Refuses what cannot be dealt out among them.
        """
        return []

    def pictures(self, index: int) -> dict[str, Tensor]:
        """What TensorBoard shows beside the numbers (see :mod:`.tensorboard`)."""
        return {}

    def fitted(self) -> dict[str, Any]:
        """What is learned of the set-up: ``distance`` of the source, gains of views."""
        return {}


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
    # batch sizes that several processes share, by their keys; None: one process only
    batches: Callable[[Mapping[str, Any]], dict[str, int]] | None = None
    # "module:function" of what comes after a training, called with (loop, recipe, device)
    follow_up: str | None = None


@contextlib.contextmanager
def stop_requested() -> Iterator[threading.Event]:
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
        self.task = task
        self.folder = folder
        self.steps = steps
        self.snapshot_steps = snapshot_steps
        self.max_minutes = max_minutes
        self.meta = meta
        self.progress_bar = progress_bar
        self.ranks = ranks or Ranks()
        self.started = time.perf_counter() if started is None else started
        self.index, self.seconds, self.wall_before = 0, 0.0, 0.0
        task.log = self.log

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue where a snapshot left off."""
        self.index, self.seconds = meta["step"], meta["seconds"]
        self.wall_before = run_folder.wall_seconds(self.folder, meta) or self.seconds
        self.task.load(tensors, meta["task_state"])
        if self.ranks.is_rank_zero:
            rows = run_folder.read_stats(self.folder)
            run_folder.write_stats(self.folder, [row for row in rows if row["step"] <= self.index])

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
        """Write a snapshot of now; returns its path, in every process once it is there.

        Weights that are not finite are a :class:`RunError`, and nothing is written.
        """
        if not self.ranks.is_rank_zero:
            return Path(self.ranks.broadcast_text(""))
        tensors, state = self.task.state()
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise self._diverged(name)
        clocks = {"seconds": self.seconds, "wall_seconds": self.wall_seconds}
        meta = {**self.meta, **clocks, **state}
        path = snapshots.save_snapshot(self.folder, self.index, tensors, meta)
        self.log(f"step {self.index}: wrote {path.name}")
        return Path(self.ranks.broadcast_text(str(path)))

    def log(self, line: str) -> None:
        """A line in log.txt and on the terminal."""
        if not self.ranks.is_rank_zero:
            return
        print_line(line)
        with GrowingFile(self.folder / "log.txt") as file:
            file.append(f"{line}\n".encode())

    def run(self) -> Path:
        """Train to the end; returns the last snapshot. Raises KeyboardInterrupt after saving when
        it is asked to stop.
        """
        from . import tensorboard  # a recipe that is only checked writes no events

        self.sync_state()
        first = self.ranks.is_rank_zero
        shown = None if self.progress_bar and first else True
        bar = tqdm(
            total=self.steps, initial=self.index, desc="training", disable=shown, mininterval=1.0
        )
        saved = self.index if snapshots.snapshot_files(self.folder) else -1
        stats_path = self.folder / "stats.jsonl" if first else os.devnull
        with (
            stop_requested() as stop,
            GrowingFile(stats_path) as stats,
            tensorboard.event_writer(self.folder if first else None) as writer,
        ):
            tenths = int(10 * self.progress())
            while self.progress() < 1.0:
                numbers, stopping = self._step(stop)
                self._record(numbers, stats, writer, bar)
                if bar.disable and self.progress_bar and int(10 * self.progress()) > tenths:
                    tenths = int(10 * self.progress())
                    self.log(f"{10 * tenths} % after {self.seconds:.0f} s, step {self.index}")
                if stopping:
                    self.save()
                    bar.close()
                    raise KeyboardInterrupt
                if self.index % self.snapshot_steps == 0:
                    self.save()
                    if writer:
                        sheets = self.folder / "previews"
                        tensorboard.write_pictures(writer, self.task, self.index, folder=sheets)
                    saved = self.index
        bar.close()
        return self.save() if saved != self.index else snapshots.snapshot_files(self.folder)[-1]

    def sync_state(self) -> None:
        """Hand the task its ranks; what the first of several has made or read becomes the state of
        all.
        """
        for remark in self.task.set_distributed(self.ranks):
            self.log(remark)
        if self.ranks.world_size == 1:
            return
        tensors, state = self.task.state() if self.ranks.is_rank_zero else ({}, {})
        found = {"step": self.index, "seconds": self.seconds, "task_state": state.get("task_state")}
        tensors, found = self.ranks.broadcast_state(tensors, found)
        if not self.ranks.is_rank_zero:
            self.load(tensors, found)

    def _step(self, stop: threading.Event) -> tuple[dict[str, float], bool]:
        """One step: its numbers, averaged over the processes, and whether to stop after it."""
        start = time.perf_counter()
        numbers = self.task.step(self.progress(), self.index)
        self.index += 1
        seconds = time.perf_counter() - start
        numbers, seconds, stopping = self.ranks.mean_metrics(numbers, seconds, stop.is_set())
        self.seconds += seconds
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise self._diverged(name)
        return numbers, stopping

    def _record(
        self, numbers: dict[str, float], stats: GrowingFile, writer: Any, bar: tqdm
    ) -> None:
        """Write a step's numbers to stats.jsonl, and now and then to TensorBoard and the bar."""
        row = {"step": self.index, "seconds": round(self.seconds, 3), **numbers}
        stats.append(f"{json.dumps(row)}\n".encode())
        if self.index % SHOWN_EVERY == 0:
            shown = {name: f"{value:.2g}" for name, value in numbers.items() if name != "rate"}
            bar.set_postfix(shown, refresh=False)
            if writer:
                for name, value in numbers.items():
                    writer.add_scalar(name, value, self.index)
        bar.update()

    def _diverged(self, name: str) -> RunError:
        kept = snapshots.snapshot_files(self.folder)
        last = kept[-1].name if kept else "none yet"
        return RunError(
            f"got {name} = NaN or infinity at step {self.index}",
            "wanted finite losses and weights",
            f"lower the learning rate and resume; the last good snapshot is {last}",
        )
