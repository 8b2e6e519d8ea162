"""``mednerf-kit ablate``: plans a grid, runs what is not done yet, writes tables and a figure."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ...core import files
from ...core.errors import RunError, UserError, unknown_name
from ...engine.device import select_device
from ...engine.loop import stop_requested
from . import figure, grid, results, table
from .grid import Ablation, Cell
from .results import Result
from .scoring import train_and_score

# cell, its folder, device -> what evaluation found, and "run"
RunCell = Callable[[Cell, Path, str], Mapping[str, Any]]
#: In the folder of an ablation: what goes on with it.
COMMAND_FILE = "command.txt"


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What a person asks for instead of what an ablation's file says.

    Options:
        dataset: a dataset, or a folder of scenes; it replaces the file's scenes too.
        scenes: names with commas between, or ``all`` of the dataset's.
        seeds: seeds of every cell.
        preset: size of the base recipe, instead of the file's own size.
        max_minutes: training time of a run.
        settings: dotted ``key=value`` in every cell, after those of the file.
    """

    dataset: str | None = None
    scenes: str | None = None
    seeds: Sequence[int] | None = None
    preset: str | None = None
    max_minutes: float | None = None
    settings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where and for how long cells are run.

    Options:
        device: ``auto``, ``cpu``, ``cuda``, or several such as ``cuda:0,cuda:1``.
        jobs: runs at a time, each a process; one for each device by default.
        limit_minutes: no run is begun after this time.
    """

    device: str = "auto"
    jobs: int | None = None
    limit_minutes: float | None = None


def ablate(
    source: str,
    *,
    cells: Sequence[str] = (),
    overrides: Overrides = Overrides(),
    workers: Workers = Workers(),
    outdir: Path | None = None,
    dry_run: bool = False,
    run_cell: RunCell | None = None,
) -> Path | None:
    """Run what is not done yet of an ablation; returns the folder of its tables.

    ``cells`` names those to run; the others stay as they are. Every run is a process of its own,
    so that one that dies takes no other along and memory is its own; ``run_cell`` runs them here
    instead. ``dry_run`` prints the plan and returns None. Raises :class:`RunError` at the end when
    cells failed.
    """
    ablation = overridden(grid.read(source), overrides)
    for name in cells:
        if name not in ablation.cells:
            raise unknown_name("cell", name, ablation.cells)
    sets = grid.datasets(ablation.dataset, ablation.scenes, is_scene)
    planned = grid.plan(ablation, sets, resolve, overrides.settings)
    folder = Path(outdir or Path("runs") / f"ablate-{ablation.name}")
    known = [results.read(folder, cell) for cell in planned]
    if dry_run:
        print("\n".join(listing(ablation, known)))
        return None
    todo = [r.cell for r in known if r.status != "done" and (not cells or r.cell.name in cells)]
    devices = device_names(workers.device)
    files.write_text(folder / COMMAND_FILE, command(source, overrides, folder) + "\n")
    done = len(planned) - len(todo)
    report(f"{ablation.name}: {len(planned)} runs, {done} done or not asked for")
    minutes = workers.limit_minutes
    deadline = time.monotonic() + 60 * minutes if minutes else float("inf")
    slots = [devices[i % len(devices)] for i in range(workers.jobs or len(devices))]
    try:
        if run_cell is not None:
            run_here(todo, folder, devices[0], deadline, run_cell)
        else:
            run_apart(todo, folder, slots, deadline, process)
    finally:
        found = write_tables(folder, ablation, planned)
    failed = [r for r in found if r.status == "failed"]
    if failed:
        raise RunError(
            f"got {len(failed)} of {len(found)} cells that failed (the first: "
            f"{failed[0].error.rstrip('.?!')})",
            "wanted none",
            f"read {folder / 'table.md'} and start again: done cells stay",
        )
    return folder


def command(source: str, overrides: Overrides, folder: Path) -> str:
    """The command line that goes on with an ablation.

    >>> command("my set.yaml", Overrides(seeds=(0, 1), settings=("steps=9",)), Path("runs/a"))
    "mednerf-kit ablate 'my set.yaml' --seeds 0,1 --set steps=9 --outdir runs/a"
    """
    words = ["mednerf-kit", "ablate", source]
    for name in ("dataset", "scenes", "seeds", "preset", "max_minutes"):
        value = getattr(overrides, name)
        if value is not None:
            text = ",".join(map(str, value)) if name == "seeds" else str(value)
            words += [f"--{name.replace('_', '-')}", text]
    for setting in overrides.settings:
        words += ["--set", setting]
    return shlex.join([*words, "--outdir", str(folder)])


def overridden(ablation: Ablation, overrides: Overrides) -> Ablation:
    """The ablation with what its file does not decide any more."""
    if overrides.preset is not None:
        ablation = grid.resized(ablation, overrides.preset)
    if overrides.dataset is not None:
        ablation = replace(ablation, dataset=overrides.dataset, scenes=None)
    if overrides.scenes:
        ablation = replace(ablation, scenes=overrides.scenes)
    if overrides.seeds is not None:
        ablation = replace(ablation, seeds=tuple(overrides.seeds))
    if overrides.max_minutes is not None:
        ablation = replace(ablation, max_minutes=overrides.max_minutes)
    return ablation


def device_names(device: str) -> list[str]:
    """The devices of a list such as ``cuda:0,cuda:1``.

    ``auto`` stands for all CUDA devices there are, else for the processor.
    """
    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    several = there if len(there) > 1 else [str(select_device("auto"))]
    return [one for name in device.split(",") for one in (several if name == "auto" else [name])]


def resolve(dataset: str, base: str, preset: str, settings: Sequence[str]) -> dict[str, Any]:
    """A cell's recipe, refused when nothing can work with it."""
    from ...engine.session import resolve

    return resolve(dataset, base, preset, settings)


def is_scene(folder: Path) -> bool:
    """Whether a folder is a scene of a known format."""
    from ...data.posed.scene import detect_format

    try:
        detect_format(str(folder))
    except UserError:
        return False
    return True


def listing(ablation: Ablation, known: Sequence[Result]) -> Iterator[str]:
    """The lines of ``--dry-run``: what each cell changes in the first one's recipe, its state."""
    yield f"{ablation.name}: {ablation.about}" if ablation.about else ablation.name
    first = known[0].cell
    for name in ablation.cells:
        mine = [r for r in known if r.cell.name == name]
        states = [
            f"{n} {status}"
            for status in ("done", "failed", "started", "not run")
            if (n := sum(r.status == status for r in mine))
        ]
        changes = grid.differences(first.recipe, mine[0].cell.recipe)
        yield f"{name} ({', '.join(states)}): {'; '.join(changes) or 'recipe ' + mine[0].cell.base}"
    scenes = dict.fromkeys(r.cell.dataset for r in known)
    minutes = f", at most {ablation.max_minutes:g} min each" if ablation.max_minutes else ""
    yield (
        f"{len(known)} runs: {len(ablation.cells)} cells × seeds "
        f"{', '.join(map(str, ablation.seeds))} × "
        f"{', '.join(scenes)}; {first.base}, preset {first.preset}{minutes}"
    )


def report(line: str) -> None:
    """A line on the terminal, beside progress bars."""
    tqdm.write(line, file=sys.stderr)


def work(cell: Cell, folder: Path, device: str, run_cell: RunCell) -> Result:
    """Run one cell in this process and keep its result; only an interruption passes through."""
    home = folder / cell.place
    results.write(folder, Result(cell, "started", device=device))
    start = time.perf_counter()
    try:
        found = dict(run_cell(cell, home, device))
        result = Result(
            cell, "done", results.scores_of(found), device=device, run=str(found.get("run", ""))
        )
    except UserError as error:
        result = Result(cell, "failed", error=str(error), device=device)
    except Exception as error:
        files.write_text(home / "traceback.txt", traceback.format_exc())
        first = (str(error).strip().splitlines() or ["without a message"])[0]
        result = Result(
            cell,
            "failed",
            error=f"{type(error).__name__}: {first} (see traceback.txt)",
            device=device,
        )
    result = replace(result, seconds=round(time.perf_counter() - start, 1))
    results.write(folder, result)
    return result


def work_on(home: Path, device: str) -> Result:
    """The same for a cell's folder: what a process of its own does."""
    cell = results.load(home / results.CELL_FILE).cell
    return work(cell, home.parents[len(cell.place.parts) - 1], device, train_and_score)


def run_here(
    todo: Sequence[Cell], folder: Path, device: str, deadline: float, run_cell: RunCell
) -> None:
    """One cell after the other; none is begun after the deadline."""
    for cell in todo:
        if time.monotonic() >= deadline:
            return
        tell(work(cell, folder, device, run_cell))


def process(home: Path, device: str, slots: int) -> subprocess.Popen:
    """A cell in a process of its own, on one device, with its share of the cores.

    One process at a time speaks on this terminal; where there are several each has a ``log.txt``.
    It ends when this one does (``core/parent.py``): the next start finds nobody at work.
    """
    kind, _, index = device.partition(":")
    threads = max(1, (os.cpu_count() or 1) // slots)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    if index:
        visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        environment["CUDA_VISIBLE_DEVICES"] = (
            visible[int(index)] if int(index) < len(visible) else index
        )
    command = [
        sys.executable,
        "-m",
        __name__.partition(".")[0],
        "ablate",
        "--cell",
        str(home),
        "--device",
        kind,
    ]
    with open(home / "log.txt" if slots > 1 else os.devnull, "ab") as log:
        errors = log if slots > 1 else None
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=errors, env=environment
        )


def run_apart(
    todo: Sequence[Cell],
    folder: Path,
    slots: Sequence[str],
    deadline: float,
    start: Callable[[Path, str, int], subprocess.Popen],
) -> None:
    """Run cells in processes, one for each of the ``slots``, which are names of devices.

    A free slot takes the next cell.
    """
    waiting, free = list(todo), list(slots)
    with stop_requested() as stop, ended() as running:
        while running or (waiting and time.monotonic() < deadline):
            while free and waiting and time.monotonic() < deadline:
                cell, device = waiting.pop(0), free.pop(0)
                results.write(folder, Result(cell, "started", device=device))
                running.append((start(folder / cell.place, device, len(slots)), cell, device))
            time.sleep(0.05)
            if stop.is_set():
                raise KeyboardInterrupt
            for worker, cell, device in [entry for entry in running if entry[0].poll() is not None]:
                running.remove((worker, cell, device))
                free.append(device)
                close(folder, cell, device, worker.returncode)


@contextmanager
def ended() -> Iterator[list[tuple[subprocess.Popen, Cell, str]]]:
    """A list of running processes; those left when the block ends are stopped and waited for."""
    running: list[tuple[subprocess.Popen, Cell, str]] = []
    try:
        yield running
    finally:
        for worker, _, _ in running:
            worker.terminate()
        for worker, _, _ in running:
            worker.wait()


def close(folder: Path, cell: Cell, device: str, code: int) -> None:
    """A process is over: one that left no result has failed."""
    result = results.read(folder, cell)
    if result.status == "started":
        result = Result(
            cell, "failed", error=f"its process ended with code {code} and no result", device=device
        )
        results.write(folder, result)
    tell(result)


def tell(result: Result) -> None:
    """What became of a cell, in a line."""
    why = f" ({result.error})" if result.error else ""
    report(f"{result.cell.place.as_posix()}: {result.status} after {result.seconds:.0f} s{why}")


def write_tables(folder: Path, ablation: Ablation, planned: Sequence[Cell]) -> list[Result]:
    """results.csv, table.md and figure.png of the whole grid as it stands."""
    found = [results.read(folder, cell) for cell in planned]
    files.write_text(folder / "results.csv", results.as_csv(found))
    files.write_text(folder / "table.md", table.as_markdown(ablation, found))
    with files.atomic(folder / "figure.png") as path:
        path.write_bytes(figure.as_png(ablation, found))
    return found
