"""Hostile files, each read in a process of its own: the harness of the ``hostile_*`` benches."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mednerf_kit.core.errors import UserError

SECONDS, GIB, KILLED_AFTER_S = 2.0, 1.0, 20


@dataclass(frozen=True)
class Case:
    """A file: its kind, its name and content, and whether it must be refused.

    Where the content is a mapping, it is a folder of files; ``target`` is the one of them that is
    read, or the folder itself.
    """

    kind: str
    name: str
    data: bytes | Mapping[str, bytes]
    must_refuse: bool = True
    target: str = ""

    def write(self, folder: Path, number: int) -> Path:
        """Write it into a folder; returns what is to be read."""
        path = folder / f"{number:03d} {self.name.replace('/', ' ').replace('%', '')}"
        if isinstance(self.data, bytes):
            path.write_bytes(self.data)
            return path
        for name, data in self.data.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path / self.target if self.target else path


@dataclass(frozen=True)
class Ending:
    """What became of a case: "read" or the sentence, processor time, peak memory, faults."""

    case: Case
    said: str
    seconds: float
    gib: float

    @property
    def faults(self) -> list[str]:
        found = []
        if self.said.startswith("Traceback") or "\n" in self.said:
            found.append(self.said)
        elif self.said == "read" and self.case.must_refuse:
            found.append("was read")
        if self.seconds > SECONDS:
            found.append(f"took {self.seconds:.1f} s")
        if self.gib > GIB:
            found.append(f"took {self.gib:.2f} GiB")
        return found


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """What reading a file comes to: "read", or the sentence."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return "read"


def one_thread() -> None:
    """For a forked process: its parent's threads are not here, and none may be waited for."""
    import torch

    torch.set_num_threads(1)


def in_a_process(read: Callable[[Path], object], path: Path) -> tuple[str, float, float]:
    """The outcome in a process of its own, its seconds of processor time and its peak in GiB."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(KILLED_AFTER_S)
        one_thread()
        try:
            said = outcome(read, path)
        except BaseException as error:
            said = f"Traceback: {type(error).__name__} {error}"
        os.write(writing, said.encode(errors="replace")[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status, used = os.wait4(child, 0)
    if status:
        said = f"Traceback: ended with status {status} after {said!r}"
    return said, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20


def through_the_command(words: Iterable[str], folder: Path) -> str:
    """What is wrong with a command of a bad file; nothing where it says one sentence."""
    command = [sys.executable, "-m", "mednerf_kit", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    if done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr:
        return ""
    return f"exit code {done.returncode}, {len(errors)} sentences"


def run(
    cases: Iterable[Case],
    good: Iterable[Case],
    *,
    read: Callable[[Case, Path], object],
    command: Callable[[Case, Path], list[str]],
    commands: int,
    verbose: bool,
) -> int:
    """Try every case, some of the refused ones through the whole command; print a table.

    Returns how many missed. The good ones are read first: imports are not what is measured.
    """
    endings: list[tuple[Ending, Path]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, case in enumerate(good):
            path = case.write(folder, number)
            assert (said := outcome(lambda p, c=case: read(c, p), path)) == "read", said
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        start = time.perf_counter()
        for number, case in enumerate(cases, 100):
            path = case.write(folder, number)
            found = Ending(case, *in_a_process(lambda p, c=case: read(c, p), path))
            endings.append((found, path))
            if verbose:
                print(
                    f"{case.name:40s} {found.seconds:5.2f} s {found.gib:5.2f} GiB  "
                    f"{found.said[:160]}",
                    flush=True,
                )
        refused = [(one.case, path) for one, path in endings if one.said != "read"]
        step = max(1, len(refused) // max(1, commands))
        tried = {
            case.name: through_the_command(command(case, path), folder)
            for case, path in refused[::step][:commands]
        }
    print(f"imports alone take {base:.2f} GiB")
    every = [one for one, _ in endings]
    _print_table(every)
    print(f"{time.perf_counter() - start:.0f} s in all; {len(tried)} through the command")
    missed = [f"{one.case.name}: {'; '.join(one.faults)}" for one in every if one.faults]
    missed += [f"command, {name}: {fault}" for name, fault in tried.items() if fault]
    print(*missed, sep="\n")
    return len(missed)


def _print_table(every: list[Ending]) -> None:
    """A row for each kind, and one for all."""
    print("| kind | files | refused | read | missed | slowest, s | largest, GiB |")
    print("|---|---|---|---|---|---|---|")
    for kind in [*dict.fromkeys(one.case.kind for one in every), "all"]:
        some = [one for one in every if kind in (one.case.kind, "all")]
        read = sum(one.said == "read" for one in some)
        missed = sum(bool(one.faults) for one in some)
        print(
            f"| {kind} | {len(some)} | {len(some) - read} | {read} | {missed} | "
            f"{max(one.seconds for one in some):.2f} | {max(one.gib for one in some):.2f} |"
        )
