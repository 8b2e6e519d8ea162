"""Two builds side by side: a checkout of a commit before, and whole processes measured."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Ran:
    """What a process took."""

    seconds: float  # of a processor, user and system
    peak_mib: float
    exit_code: int
    said: str  # stdout and stderr


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with the project as it was at a commit, gone afterwards."""
    with tempfile.TemporaryDirectory() as home:
        place = Path(home) / "before"
        git = ["git", "-C", str(HERE), "worktree"]
        subprocess.run(
            [*git, "add", "--detach", str(place), commit], check=True, capture_output=True
        )
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def ran(command: Sequence[str | Path], *, cwd: Path, build: Path | None = None) -> Ran:
    """Run a command in one thread and wait for it; ``build`` is the checkout it imports."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if build is not None:
        environment["PYTHONPATH"] = str(build)
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [str(word) for word in command], cwd=cwd, env=environment, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    return Ran(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, child.returncode, text)


def kit(build: Path, *words: str | Path, cwd: Path) -> Ran:
    """Run a command of the kit from a checkout."""
    return ran([sys.executable, "-m", "mednerf_kit", *words], cwd=cwd, build=build)


def alternating(
    sides: Mapping[str, Sequence[str | Path]], rounds: int, *, cwd: Path, builds: Mapping[str, Path]
) -> dict[str, list[Ran]]:
    """Each side's command in turn, ``rounds`` times; what fails stops the bench."""
    found: dict[str, list[Ran]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            found[name].append(ran(command, cwd=cwd, build=builds.get(name)))
    return found


def least(runs: Sequence[Ran]) -> float:
    """The least processor time: what the others have more is the machine's."""
    return min(run.seconds for run in runs)


def peak(runs: Sequence[Ran]) -> float:
    """The median of the peak memory in MiB."""
    return statistics.median(run.peak_mib for run in runs)
