"""Projections in processes of their own: one at a time, the rest waits in a queue.

A job is a folder with the X-ray, ``job.json`` (what was asked and what became of it) and what its
process tells on the way (:mod:`.job_process`). The queue belongs to one server: when that ends, so
does the process that is running, and what was finished is there again the next time.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ..core import files
from ..core.errors import RunError, UserError
from ..core.parent import INTERRUPTED

State = Literal["draft", "waiting", "running", "done", "failed", "stopped"]
ENDED: tuple[State, ...] = ("done", "failed", "stopped")
FOLDER = ".jobs"  # in the folder of the results; the catalogue passes hidden ones over
COMMAND = (sys.executable, "-m", "mednerf_kit.view.job_process")
GRACE_S = 10.0  # between asking a process to stop and ending it
MOST_DRAFTS = 12  # X-rays that were given and never started; the oldest goes
KEPT_LINES = 40  # of what a process says
BY_HAND, CLOSED = "stopped by hand", "the workbench was closed"
NAME = re.compile(r"\w[\w .-]{0,59}")


@dataclass(frozen=True)
class Job:
    """One X-ray and what is to be done with it; ``job.json`` holds it."""

    id: str
    xray: str  # name of its file in the job's folder
    created: float  # seconds since 1970
    state: State = "draft"
    name: str = ""  # of the result, as long as nothing else is called so
    prior: str = ""  # as it is shown
    options: Mapping[str, Any] = field(default_factory=dict)  # of ``invert.reconstruct.project``
    result: str = ""  # name of the folder that it became
    problem: str = ""  # why it failed or stopped, a sentence
    server: int = 0  # process of the server whose queue it is in


class Jobs:
    """The queue of one server.

    ``outdir`` gets the results; ``command`` with the job's folder behind it starts a process.
    """

    def __init__(self, outdir: Path, command: Sequence[str] = COMMAND) -> None:
        self.outdir, self.home, self.command = outdir, outdir / FOLDER, tuple(command)
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] | None = None  # in the order in which they were started
        self._process: tuple[str, subprocess.Popen[str]] | None = None
        self._stopping: set[str] = set()
        self._worker: threading.Thread | None = None
        self._closed = False

    def all(self) -> list[Job]:
        """Every job that was started, the newest first."""
        with self._known() as jobs:
            return [job for job in reversed(jobs.values()) if job.state != "draft"]

    def __getitem__(self, id: str) -> Job:
        """The job of this id; a :class:`UserError` where there is none (any more)."""
        with self._known() as jobs:
            if id in jobs:
                return jobs[id]
        raise UserError(
            "got a job that is not there any more", "wanted one of the list", "reload the page"
        )

    def folder(self, id: str) -> Path:
        """Where a job's files lie."""
        return self.home / self[id].id

    def position(self, id: str) -> int:
        """How many jobs go before a waiting one."""
        with self._known() as jobs:
            before = [job.id for job in jobs.values() if job.state in ("running", "waiting")]
            return before.index(id) if id in before else 0

    def progress(self, id: str) -> dict[str, Any]:
        """What a job's process told last; empty before it said anything."""
        try:
            return json.loads((self.folder(id) / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    @contextmanager
    def draft(self, suffix: str) -> Iterator[tuple[str, Path]]:
        """A new job's id and where to write its X-ray; it is there when the block ends well.

        The X-ray gets a name that says nothing of the patient, with its own ``suffix``.
        """
        with self._known() as jobs:
            drafts = [id for id, job in jobs.items() if job.state == "draft"]
        for old in drafts[: max(0, len(drafts) - MOST_DRAFTS + 1)]:
            self.remove(old)
        job = Job(secrets.token_hex(6), f"xray{suffix.lower()}", time.time(), server=os.getpid())
        folder = self.home / job.id
        try:
            folder.mkdir(parents=True)
            yield job.id, folder / job.xray
            self._keep(job)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            raise RunError(
                f"could not keep the X-ray ({error.strerror or error})",
                "wanted a writable disk with space",
                "free some space and give it again",
            ) from error

    def start(self, id: str, *, name: str, prior: str, options: Mapping[str, Any]) -> Job:
        """Put a draft, or a job that has ended, at the end of the queue."""
        with self._changed:
            job = self[id]
            if job.state in ("waiting", "running"):
                return job
            if name and not NAME.fullmatch(name):
                raise UserError(
                    f"got '{name[:60]}' for a name",
                    "wanted up to 60 letters, digits, spaces, dots and dashes",
                    "choose a shorter or plainer one",
                )
            self._forget_progress(id)
            job = replace(
                job,
                state="waiting",
                name=name or time.strftime("xray-%Y%m%d-%H%M%S"),
                prior=prior,
                options=options,
                result="",
                problem="",
                server=os.getpid(),
            )
            self._keep(job)
            with self._known() as jobs:
                jobs[id] = jobs.pop(id)  # to the end
            if self._worker is None and not self._closed:
                self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._worker.start()
            self._changed.notify_all()
            return job

    def again(self, id: str) -> Job:
        """Start a job that has ended once more, with what it was asked."""
        job = self[id]
        return self.start(id, name=job.name, prior=job.prior, options=job.options)

    def stop(self, id: str, why: str = BY_HAND) -> None:
        """Take a job out of the queue, or ask its process to end in good order."""
        with self._changed:
            job = self[id]
            if job.state == "waiting":
                self._keep(replace(job, state="stopped", problem=why), lenient=True)
            elif self._process is not None and self._process[0] == id:
                process = self._process[1]
                if id not in self._stopping:
                    process.send_signal(signal.SIGINT)
                    timer = threading.Timer(GRACE_S, _end, [process])
                    timer.daemon = True
                    timer.start()
                self._stopping.add(id)

    def remove(self, id: str) -> None:
        """Forget a draft or a job that has ended, with its X-ray; a result of it stays."""
        with self._changed:
            if self[id].state in ("waiting", "running"):
                raise UserError(
                    "got a job that has not ended", "wanted one that has", "stop it first"
                )
            shutil.rmtree(self.folder(id), ignore_errors=True)
            with self._known() as jobs:
                jobs.pop(id)

    def close(self) -> None:
        """Stop what runs and what waits, and wait for that."""
        with self._changed:
            self._closed = True
            for job in list((self._jobs or {}).values()):
                if job.state in ("waiting", "running"):
                    self.stop(job.id, CLOSED)
                if job.state == "draft":
                    self.remove(job.id)
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join(2 * GRACE_S)

    @contextmanager
    def _known(self) -> Iterator[dict[str, Job]]:
        """The jobs by id; read from the disk the first time."""
        with self._changed:
            if self._jobs is None:
                self._jobs = {job.id: job for job in _found(self.home)}
            yield self._jobs

    def _keep(self, job: Job, *, lenient: bool = False) -> None:
        """Write a job down. ``lenient``: a full disk does not keep it from having ended."""
        with self._known() as jobs:
            try:
                files.write_json(self.home / job.id / "job.json", asdict(job))
            except RunError:
                if not lenient:
                    raise
            jobs[job.id] = job

    def _forget_progress(self, id: str) -> None:
        for name in ("progress.json", "progress.png"):
            (self.folder(id) / name).unlink(missing_ok=True)

    def _work(self) -> None:
        """Run what waits, one after the other, until the queue is closed."""
        while True:
            with self._changed:  # nobody stops or removes it before its process is there
                job = self._next()
                if job is None:
                    return
                try:
                    process = self._process_of(job)
                except OSError as error:
                    text = f"no process can be started ({error.strerror or error})."
                    self._keep(replace(job, state="failed", problem=text), lenient=True)
                    continue
            self._keep(self._ended(job, process), lenient=True)

    def _next(self) -> Job | None:
        """The first that waits, once there is one; None of a queue that is closed."""
        with self._known() as jobs:
            while not self._closed:
                waiting = [job for job in jobs.values() if job.state == "waiting"]
                if waiting:
                    return waiting[0]
                self._changed.wait()
            return None

    def _process_of(self, job: Job) -> subprocess.Popen[str]:
        """Start a job's process. It ends when the pipe to it does: it never outlives this one."""
        process = subprocess.Popen(
            [*self.command, str(self.home / job.id)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C on the terminal is the server's alone
        )
        self._process = (job.id, process)
        self._keep(replace(job, state="running"), lenient=True)
        return process

    def _ended(self, job: Job, process: subprocess.Popen[str]) -> Job:
        """Wait for a job's process; what became of the job."""
        with process:
            assert process.stderr is not None
            said = deque((line.strip() for line in process.stderr), maxlen=KEPT_LINES)
            code = process.wait()
        with self._changed:
            self._process = None
            stopped = job.id in self._stopping or code == INTERRUPTED
            self._stopping.discard(job.id)
        if code == 0:
            return replace(job, state="done", result=self.progress(job.id).get("result", ""))
        shutil.rmtree(self.home / job.id / "result", ignore_errors=True)
        if stopped:
            why = CLOSED if self._closed else BY_HAND
            return replace(job, state="stopped", problem=why)
        return replace(job, state="failed", problem=_reason(code, said))


def _end(process: subprocess.Popen[str]) -> None:
    """End a process that did not stop when it was asked to, with whatever it started."""
    with suppress(ProcessLookupError, PermissionError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _reason(code: int, said: Sequence[str]) -> str:
    """Why a process ended with this code.

    >>> _reason(2, ["reading …", "Error: got a cat; wanted an X-ray: try another."])
    'got a cat; wanted an X-ray: try another.'
    >>> _reason(-9, [])
    'it was ended from outside (signal 9), perhaps for want of memory.'
    """
    errors = [line.removeprefix("Error: ") for line in said if line.startswith("Error: ")]
    if errors:
        return errors[-1]
    if code < 0:
        return f"it was ended from outside (signal {-code}), perhaps for want of memory."
    return f"it ended with code {code}" + (f" ({said[-1]})." if said else ".")


def _found(home: Path) -> list[Job]:
    """The jobs of an earlier server, the oldest first; what it left undone has stopped."""
    jobs = []
    for path in sorted(home.glob("*/job.json")):
        job = _read(path)
        if job is None or (job.state not in ENDED and _is_another_alive(job.server)):
            continue
        if job.state == "draft":
            shutil.rmtree(path.parent, ignore_errors=True)
            continue
        if job.state not in ENDED:
            shutil.rmtree(path.parent / "result", ignore_errors=True)
            job = replace(job, state="stopped", problem=CLOSED)
        jobs.append(job)
    return sorted(jobs, key=lambda job: job.created)


def _read(path: Path) -> Job | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {f.name for f in fields(Job)}
        job = Job(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return replace(job, id=path.parent.name)


def _is_another_alive(pid: int) -> bool:
    """Whether a process of this number, another than this one, is there."""
    if pid in (0, os.getpid()):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
