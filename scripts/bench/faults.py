#!/usr/bin/env python3
"""Kills, terminations, full disks and little memory while commands run; then they are run again.

    python scripts/bench/faults.py --kill 40 --term 20 --disk 20 --memory 5

Trainings (a prior, an adversarial one, a scene, a prior in two processes), project, render,
tomography, data make and ablate, each with the smallest sizes, on inputs that are made here. After
each fault: no file under its own name is half written, and a failure is one sentence and the exit
code 1 (130 after SIGTERM; compiled code that gets no memory may end the process). The same command
once more then ends with results equal bit by bit to those of a run that nothing happened to, no
temporary file is left, and a training goes on from a snapshot at most one interval old. Full disks
are small tmpfs file systems: they need root and are left out without. Exits with 1 where something
misses, and says what.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from faults_jobs import EVERY, JOBS, SCENE, STEPS, Job
from fuzz import warm_up
from fuzz_corpus import example, make_set
from hostile import one_thread

from mednerf_kit import cli
from mednerf_kit.core import files, written
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.scene import SCENES
from mednerf_kit.engine import run_folder, snapshots

SECONDS = 1200  # of a command at most: one of seconds hangs, however busy the machine is
PATIENCE = 5  # s until a process that was told to end is killed


def make_inputs(home: Path) -> None:
    """A set, one of its films, a trained prior, a scene and an ablation of two runs on it."""
    import yaml

    make_set(home / "chest_set")
    shutil.copy(home / "chest_set" / "p2" / "xray_006.png", home / "xray.png")
    prior = JOBS[0]
    started = start(prior, home / "first", home)
    assert started.wait(SECONDS) == 0, started.said()
    shutil.move(next((home / "first").iterdir()), home / "prior")
    example(SCENES.entries["blender"], home / "scene")
    settings = dict(setting.split("=", 1) for setting in SCENE if not setting.startswith("scene="))
    node = {
        "base": "tensorf",
        "dataset": str(home / "scene"),
        "seeds": [0],
        "steps": STEPS,
        "settings": {key: yaml.safe_load(text) for key, text in settings.items()}
        | {"snapshot_steps": EVERY},
        "cells": {"first": {}, "second": {"selector.n": 16}},
        "metrics": ["psnr_db"],
    }
    (home / "ablation.yaml").write_text(yaml.safe_dump(node))


# a command in processes of its own


@dataclass
class Started:
    """A command in a process group of its own, forked from this process."""

    pid: int
    out: Path
    begun: float

    def wait(self, seconds: float = SECONDS) -> int | None:
        """The exit code, or minus the signal; None where it takes longer than so."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        return None

    def said(self) -> str:
        """What was printed."""
        return self.said_at.read_text(errors="replace")

    @property
    def said_at(self) -> Path:
        """Outside of the results' folder, whose disk may be full."""
        return self.out.with_name(f"{self.out.name}.txt")

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def start(job: Job, out: Path, home: Path, again: bool = False, most_mib: int = 0) -> Started:
    """Begin a command, or (``again``) go on; ``most_mib`` is its memory beside what is used now."""
    places = {"OUT": str(out), "HOME": str(home)}
    words = [*job.words, *(job.again if again else ())]
    words = [re.sub("OUT|HOME", lambda found: places[found[0]], word) for word in words]
    out.mkdir(parents=True, exist_ok=True)
    begun, pid = time.perf_counter(), os.fork()
    if pid == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            one_thread()
            said = os.open(f"{out}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 1)
            os.dup2(said, 2)
            sys.stdout, sys.stderr = (os.fdopen(fd, "w", 1) for fd in (1, 2))
            if most_mib:
                used = int(Path("/proc/self/statm").read_text().split()[0])
                limit = used * resource.getpagesize() + (most_mib << 20)
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            code = several(job.processes, words) if job.processes > 1 else cli.main(words)
            sys.stdout.flush()
        except SystemExit as error:
            code = int(error.code or 0)
        finally:
            os._exit(code)
    with contextlib.suppress(PermissionError):  # the child has done it
        os.setpgid(pid, pid)
    return Started(pid, out, begun)


def several(count: int, words: list[str]) -> int:
    """The same command in several processes, as torchrun starts and ends them: when one fails, the
    others are told to end, and killed after a while. The code of the first that failed, else 0.
    """
    import torch.distributed as dist

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ |= {
                **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
                **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(count)),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            if rank > 0:  # as `python -m mednerf_kit` does
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            code = cli.main(words)
            sys.stdout.flush()
            os._exit(code)  # the store's thread is the parent's alone
        children.append(child)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as its children have got it too
    first = 0
    while children:
        child, status = os.waitpid(-1, 0)
        children.remove(child)
        if not first and (first := os.waitstatus_to_exitcode(status)):
            end_all(children)
    return first


def end_all(children: list[int]) -> None:
    """SIGTERM to processes, and SIGKILL to those that are still there after PATIENCE seconds."""
    for child in children:
        os.kill(child, signal.SIGTERM)

    def kill(*_: object) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, kill)
    signal.alarm(PATIENCE)


# what is looked at afterwards


def results(job: Job, out: Path) -> dict[str, str]:
    """A digest of every result: of DICOM the pixels, of tensors without their clocks, else of all.

    A training that had kept no snapshot begins anew: its newest run folder counts.
    """
    found = {}
    out = max(out.iterdir()) if job.trains and out.is_dir() else out
    for pattern in job.results:
        for path in sorted(path for path in out.glob(pattern) if path.is_file()):
            # runs of an ablation too may have begun anew
            name = re.sub(r"/\d{5}-", "/", path.relative_to(out).as_posix())
            if path.suffix == ".safetensors":
                found[name] = files.digest_of(files.load_tensors(path)[0], "")
            else:
                dicom = path.suffix == ".dcm"  # whose identifiers and date are always new
                content = pydicom.dcmread(path).PixelData if dicom else path.read_bytes()
                found[name] = hashlib.blake2b(content, digest_size=8).hexdigest()
    if job.trains:
        rows = [{**row, "seconds": 0} for row in run_folder.read_stats(out)]
        found["stats.jsonl"] = hashlib.sha1(json.dumps(rows).encode()).hexdigest()
    return found


def strays(out: Path) -> list[Path]:
    """Temporary files and folders."""
    return [path for path in out.rglob(".*") if files.TEMPORARY.fullmatch(path.name)]


def half_files(out: Path) -> list[str]:
    """Files under their own names that are not whole."""
    apart, bad = strays(out), []
    for path in out.rglob("*"):
        if not path.is_file() or path in apart or any(stray in path.parents for stray in apart):
            continue
        try:
            written.check_whole(path)
            if path.suffix == ".jsonl":
                for line in path.read_text().splitlines(keepends=True):
                    json.loads(line if line.endswith("\n") else "")
        except (OSError, ValueError) as error:
            bad.append(f"{path.name}: {error}")
    return bad


def lost_steps(out: Path) -> int:
    """Steps of a training that its newest readable snapshot does not know."""
    lost = 0
    for folder in out.iterdir():
        done = max((row["step"] for row in run_folder.read_stats(folder)), default=0)
        try:
            kept = snapshots.newest_readable(folder)[2]["step"]
        except UserError:
            kept = 0
        lost = max(lost, done - kept)
    return lost


@dataclass
class Tally:
    """A row of the table: a command under one kind of fault."""

    job: Job
    fault: str
    codes: list[str]
    misses: list[str]
    lost: int = 0
    equal: int = 0

    def row(self) -> str:
        """Its line."""
        counts = ", ".join(f"{n} × {code}" for code, n in counted(self.codes))
        lost = str(self.lost) if self.job.trains else "–"
        runs = len(self.codes)
        return (
            f"| {self.job.name} | {self.fault} | {runs} | {counts} | {lost} | "
            f"{self.equal} of {runs} | {len(self.misses)} |"
        )


def counted(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each word with how often it is there."""
    for word in sorted(set(words)):
        yield word, words.count(word)


# code and process of a command: (job, out, home, seconds of an undisturbed run, rng)
Ended = tuple[int | None, Started]


def killed(job: Job, out: Path, home: Path, seconds: float, rng: random.Random) -> Ended:
    """kill -9 somewhere between begin and end."""
    return stopped(start(job, out, home), rng.uniform(0, seconds), signal.SIGKILL)


def terminated(job: Job, out: Path, home: Path, seconds: float, rng: random.Random) -> Ended:
    """SIGTERM likewise."""
    return stopped(start(job, out, home), rng.uniform(0, seconds), signal.SIGTERM)


def to_its_end(job: Job, out: Path, home: Path, seconds: float, rng: random.Random) -> Ended:
    """A command to its end, whatever that is."""
    return stopped(start(job, out, home), SECONDS, signal.SIGKILL)


def with_little_memory(job: Job, out: Path, home: Path, _: float, rng: random.Random) -> Ended:
    """A limit of the address space, beyond what the program takes before it begins."""
    limited = start(job, out, home, most_mib=rng.choice((8, 32, 64, 128, 256)))
    return stopped(limited, SECONDS, signal.SIGKILL)


def stopped(started: Started, after: float, number: signal.Signals) -> Ended:
    """Send a signal after so many seconds, unless the command has ended."""
    code = started.wait(after)
    if code is None:
        started.end(number)
        code = started.wait()
    started.end(signal.SIGKILL)  # what is left of the group
    return code, started


FAULTS = {
    "kill -9": killed,
    "SIGTERM": terminated,
    "full disk": to_its_end,
    "little memory": with_little_memory,
}


#: Exit codes after faults that end a process. Compiled code of libraries may abort or crash without
#: memory before python learns of it; as after a kill, the files are then what counts.
ALLOWED = {
    "kill -9": (0, -signal.SIGKILL),
    "SIGTERM": (0, 130, -signal.SIGTERM),
    "little memory": (0, 1, 2, -signal.SIGSEGV, -signal.SIGABRT),
}


def check(job: Job, code: int | None, started: Started, fault: str) -> list[str]:
    """What is wrong right after a fault."""
    said, bad = started.said(), half_files(started.out)
    allowed = ALLOWED.get(fault, (0, 1, 2))
    if code not in allowed:
        bad.append(f"exit code {code}")
    if "Traceback" in said or "unexpected" in said:
        bad.append("not foreseen")
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    if code in (1, 2, 130) and (not errors or (len(errors) > 1 and job.name != "ablate")):
        bad.append(f"{len(errors)} sentences")
    if code not in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT) and strays(started.out):
        bad.append(f"left {strays(started.out)[0].name}")
    if fault == "SIGTERM" and code == 130 and job.trains and lost_steps(started.out):
        bad.append("steps lost after SIGTERM")
    return bad


def go_on(job: Job, out: Path, home: Path, wanted: dict[str, str]) -> list[str]:
    """Run the command once more, and compare with the run that nothing happened to."""
    again = start(job, out, home, again=True)
    code = again.wait()
    again.end(signal.SIGKILL)
    if code == 2 and job.name == "data make" and "which is not empty" in again.said():
        code = 0  # it had been finished
    bad = [f"again: exit code {code}: {again.said()[-300:]}"] if code != 0 else []
    found = results(job, out)
    different = [
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    ]
    bad += [f"again: other {name}" for name in different[:2]]
    bad += [f"again: left {path.name}" for path in strays(out)[:1]]
    return bad + half_files(out)


@contextlib.contextmanager
def small_disk(out: Path, free_bytes: int) -> Iterator[None]:
    """A tmpfs of this size at ``out``."""
    out.mkdir(parents=True)
    size = max(4096, free_bytes)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(out)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


def faults_of(job: Job, fault: str, runs: int, home: Path, seed: int, whole: Baseline) -> Tally:
    """A command under one kind of fault, so often."""
    tally, rng = Tally(job, fault, [], []), random.Random(f"{seed} {job.name} {fault}")
    for k in range(runs):
        with contextlib.ExitStack() as stack:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home))) / "out"
            if fault == "full disk":
                stack.enter_context(small_disk(out, round(1.1 * whole.size * k / max(1, runs - 1))))
            code, started = FAULTS[fault](job, out, home, whole.seconds, rng)
            tally.codes.append(str(code))
            bad = check(job, code, started, fault)
            if job.trains:
                tally.lost = max(tally.lost, lost_steps(out))
                bad += [f"{tally.lost} steps lost"] if tally.lost > EVERY else []
            if fault == "full disk":
                subprocess.run(["mount", "-o", "remount,size=200M", str(out)], check=True)
            said = started.said()
            more = go_on(job, out, home, whole.results)
            tally.equal += not more
            tally.misses += [
                f"{job.name}, {fault} {k}: {what}: {said[-200:]}" for what in bad + more
            ]
    return tally


@dataclass(frozen=True)
class Baseline:
    """A run that nothing happened to."""

    results: dict[str, str]
    seconds: float
    size: int  # bytes on the disk, in whole pages


def undisturbed(job: Job, home: Path) -> Baseline:
    """Run a command to its end, twice: the shorter time counts, and results must be the same."""
    seconds, found = [], []
    for k in range(2):
        out = home / f"whole {job.name} {k}"
        started = start(job, out, home)
        code = started.wait()
        if code != 0:
            raise SystemExit(f"{job.name}: exit code {code}: {started.said()}")
        seconds.append(time.perf_counter() - started.begun)
        found.append(results(job, out))
    assert found[0] == found[1], f"{job.name} does not give the same results twice"
    pages = sum(1 + path.stat().st_size // 4096 for path in out.rglob("*"))
    return Baseline(found[0], min(seconds), 4096 * pages)


def main() -> None:
    """Run every command under every kind of fault and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    for name, count, text in (
        ("kill", 40, "kill -9 of all commands together"),
        ("term", 20, "SIGTERM of all commands together"),
        ("disk", 20, "full disks of every command"),
        ("memory", 2, "limits of memory of every command"),
    ):
        parser.add_argument(f"--{name}", type=int, default=count, help=text)
    parser.add_argument("--only", default="", help="commands with this in their names")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warm_up()
    jobs = [job for job in JOBS if options.only in job.name]
    disks = options.disk if os.geteuid() == 0 else 0
    start_s, misses = time.perf_counter(), []
    print("| command | fault | runs | exit codes | steps lost, at most | equal again | missed |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ["MEDNERF_KIT_CACHE"] = f"{home}/cache"
        make_inputs(home)
        for i, job in enumerate(jobs):
            whole = undisturbed(job, home)
            runs = share(options.kill, i, len(jobs)), share(options.term, i, len(jobs))
            for fault, count in zip(FAULTS, (*runs, disks, options.memory), strict=True):
                if count:
                    tally = faults_of(job, fault, count, home, options.seed, whole)
                    print(tally.row(), flush=True)
                    misses += tally.misses
    print(f"{time.perf_counter() - start_s:.0f} s, seed {options.seed}")
    print(*misses, sep="\n")
    sys.exit(1 if misses else 0)


def share(total: int, i: int, parts: int) -> int:
    """Part ``i`` of a number dealt out evenly."""
    return (i + 1) * total // parts - i * total // parts


if __name__ == "__main__":
    main()
