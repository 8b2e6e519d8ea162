"""The queue: one at a time, in order, stopped in good order, there again after a restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import torch

from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.invert.progress import Progress
from mednerf_kit.view import job_process, jobs
from mednerf_kit.view.catalogue import Catalogue
from mednerf_kit.view.jobs import Jobs

FAKE = (sys.executable, str(Path(__file__).with_name("fake_job.py")))
WAITS, QUICK, FAILS, KILLED = range(4)  # seeds of fake_job.py


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def started(queue: Jobs, name: str, seed: int) -> str:
    with queue.draft(".png") as (id, path):
        path.write_bytes(b"an X-ray")
    queue.start(id, name=name, prior="bundled:chest", options={"seed": seed})
    return id


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Jobs]:
    queue = Jobs(tmp_path / "out", FAKE)
    yield queue
    queue.close()


def test_three_run_one_after_the_other(queue: Jobs, tmp_path: Path) -> None:
    one, two, three = (started(queue, name, WAITS) for name in ("one", "two", "three"))
    until(lambda: queue.progress(one))
    assert [queue[id].state for id in (one, two, three)] == ["running", "waiting", "waiting"]
    assert [queue.position(id) for id in (one, two, three)] == [0, 1, 2]
    assert [job.name for job in queue.all()] == ["three", "two", "one"]
    (tmp_path / "go").touch()
    until(lambda: queue[three].state == "done")
    assert [queue[id].state for id in (one, two)] == ["done", "done"]
    ends = [(tmp_path / "out" / name).stat().st_mtime for name in ("one", "two", "three")]
    assert ends == sorted(ends)


def test_what_runs_and_what_waits_is_stopped(queue: Jobs, tmp_path: Path) -> None:
    one, two = (started(queue, name, WAITS) for name in ("one", "two"))
    until(lambda: queue.progress(one))
    queue.stop(two)
    assert queue[two].state == "stopped"
    queue.stop(one)
    queue.stop(one)  # twice is no more than once
    until(lambda: queue[one].state == "stopped")
    assert queue[one].problem == jobs.BY_HAND
    assert not (queue.folder(one) / "result").exists()
    assert Catalogue([tmp_path / "out"]).entries() == []  # no half result
    (tmp_path / "go").touch()
    queue.again(one)
    until(lambda: queue[one].state == "done")
    assert [entry.name for entry in Catalogue([tmp_path / "out"]).entries()] == ["one"]


def test_a_process_that_does_not_listen_is_ended(
    queue: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    queue.command = (sys.executable, "-c", deaf)
    monkeypatch.setattr(jobs, "GRACE_S", 0.5)
    id = started(queue, "one", WAITS)
    until(lambda: queue[id].state == "running")
    time.sleep(0.3)  # python starts
    queue.stop(id)
    until(lambda: queue[id].state == "stopped")


@pytest.mark.parametrize(
    ("seed", "sentence"), [(FAILS, "a cat; wanted an X-ray."), (KILLED, "want of memory")]
)
def test_a_failure_says_why(queue: Jobs, seed: int, sentence: str) -> None:
    id = started(queue, "one", seed)
    until(lambda: queue[id].state == "failed")
    assert sentence in queue[id].problem
    queue.remove(id)
    assert not queue.all() and not (queue.home / id).exists()


def test_a_command_that_is_not_there_fails_and_the_rest_goes_on(queue: Jobs) -> None:
    queue.command = ("/nowhere/at/all",)
    id = started(queue, "one", QUICK)
    until(lambda: queue[id].state == "failed")
    assert "no process can be started" in queue[id].problem
    queue.command = FAKE
    other = started(queue, "two", QUICK)
    until(lambda: queue[other].state == "done")


def test_closing_stops_and_a_restart_shows_what_was(queue: Jobs, tmp_path: Path) -> None:
    done = started(queue, "one", QUICK)
    until(lambda: queue[done].state == "done")
    runs, waits = (started(queue, name, WAITS) for name in ("two", "three"))
    until(lambda: queue.progress(runs))
    assert queue._process is not None
    process = queue._process[1]
    with queue.draft("") as (draft, path):
        path.touch()
    queue.close()
    assert process.poll() == 130
    again = Jobs(tmp_path / "out", FAKE)
    assert {job.id: job.state for job in again.all()} == {
        done: "done",
        runs: "stopped",
        waits: "stopped",
    }
    assert again[done].result == "one" and again[runs].problem == jobs.CLOSED
    with pytest.raises(UserError, match="not there any more"):
        again[draft]


def test_what_a_killed_server_left_has_stopped(queue: Jobs, tmp_path: Path) -> None:
    id = started(queue, "one", QUICK)
    until(lambda: queue[id].state == "done")
    file = queue.home / id / "job.json"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for server, shown in ((ended.pid, ["stopped"]), (os.getppid(), [])):  # gone, and at work
        left = json.loads(file.read_text()) | {"state": "running", "server": server}
        file.write_text(json.dumps(left))
        assert [job.state for job in Jobs(tmp_path / "out", FAKE).all()] == shown
    file.write_text("{")
    assert Jobs(tmp_path / "out", FAKE).all() == []


def test_a_name_is_plain_and_the_oldest_draft_goes(queue: Jobs) -> None:
    drafts = []
    for _ in range(jobs.MOST_DRAFTS + 1):
        with queue.draft(".PNG") as (id, path):
            path.touch()
        drafts.append(id)
    assert path.name == "xray.png"
    assert not (queue.home / drafts[0]).exists() and (queue.home / drafts[1]).exists()
    for name in ("../up", ".hidden", "a/b", "x" * 61, "a\nb"):
        with pytest.raises(UserError, match="for a name"):
            queue.start(drafts[1], name=name, prior="", options={})


def test_a_full_disk_keeps_no_draft(queue: Jobs) -> None:
    with pytest.raises(RunError, match="No space left"), queue.draft(".png") as (_, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert not any(queue.home.iterdir())


@pytest.mark.parametrize("how", ["the pipe is closed", "SIGTERM", "SIGINT"])
def test_a_process_ends_with_its_server(tmp_path: Path, how: str) -> None:
    """Whatever ends it, nothing half is left."""
    code = (
        "import pathlib, sys, time\n"
        "from mednerf_kit.view import job_process as p\n"
        "def work(folder):\n"
        "    (folder / 'result').mkdir()\n"
        "    print('working', flush=True)\n"
        "    time.sleep(60)\n"
        "p._project = work\n"
        "sys.exit(p.main(pathlib.Path(sys.argv[1])))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"working\n"
    if how == "the pipe is closed":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    assert process.wait(10) == 130
    assert not (tmp_path / "result").exists()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def test_a_result_never_takes_anothers_place(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        result = tmp_path / "result"
        result.mkdir()
        names.append(job_process.published(result, tmp_path, "film").name)
    assert names == ["film", "film-2", "film-3"]


def test_the_reporter_writes_stages_numbers_and_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    reporter = job_process.Reporter(tmp_path)
    pictures = torch.stack([torch.zeros(1, 4, 6), torch.ones(1, 4, 6)])
    reporter(Progress("read", "reading"))
    reporter(Progress("invert", "codes", 0, 20, 0.1, lambda: pictures))
    reporter(Progress("invert", "codes", 10, 20, 0.01, lambda: pictures))  # too soon for another
    told = json.loads((tmp_path / "progress.json").read_text())
    assert [stage["name"] for stage in told["stages"]] == ["read", "invert"]
    assert told["stages"][0]["seconds"] is not None and told["stages"][1]["seconds"] is None
    assert (told["part"], told["step"], told["steps"]) == ("codes", 10, 20)
    assert told["curve"] == [["codes", 0, 10.0], ["codes", 10, 20.0]] and told["pictures"] == 1
    picture = Image.open(tmp_path / "progress.png")
    assert picture.size == (18, 4)
    black, white, error = (picture.getpixel((x, 0)) for x in (2, 8, 14))
    assert black == (0, 0, 0) and white == (255, 255, 255)
    assert error[0] > error[2]  # too bright is red
    (tmp_path / "file").touch()
    blocked = job_process.Reporter(tmp_path / "file")  # no place to write to
    blocked(Progress("invert", "codes", 0, 20, 0.1, lambda: pictures))
    assert blocked.pictures == 0


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_job_never_outlives_its_server(tmp_path: Path, how: str) -> None:
    """Asked to end, the server writes down what became of the job; killed, the job ends itself."""
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import os, pathlib, sys, time\n"
        "from mednerf_kit.view import job_process as p\n"
        "def work(folder):\n"
        "    (folder / 'pid').write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "p._project = work\n"
        "sys.exit(p.main(pathlib.Path(sys.argv[1])))\n"
    )
    code = (
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"  # as the command does
        "from mednerf_kit.view.server import address, listening_socket, serve\n"
        "from mednerf_kit.view.site import Catalogue, Site\n"
        "site = Site(Catalogue([]), pathlib.Path('out'), None, (sys.executable, 'slow.py'))\n"
        "with site.jobs.draft('.png') as (id, path):\n"
        "    path.touch()\n"
        "site.jobs.start(id, name='one', prior='', options={})\n"
        "listener = listening_socket('127.0.0.1', 0)\n"
        "print(address(listener, 'secret'), flush=True)\n"
        "serve(site, listener, 'secret', host='127.0.0.1')\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert httpx.get(server.stdout.readline().strip(), timeout=20).is_success  # it answers
    found: list[Path] = []
    until(lambda: found.extend((tmp_path / "out").glob(".jobs/*/pid")) or found)
    until(found[0].read_text)
    pid = int(found[0].read_text())
    server.send_signal(getattr(signal, how))
    _, said = server.communicate(timeout=10)
    if how != "SIGKILL":
        assert (server.returncode, said) == (0, "")

    def has_ended() -> bool:
        try:
            os.kill(pid, 0)
            # one that nobody waited for is a zombie
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except ProcessLookupError:
            return True
        except FileNotFoundError:  # it has just gone, or there is no /proc here
            return False

    until(has_ended)
    (job,) = Jobs(tmp_path / "out", FAKE).all()
    assert (job.state, job.problem) == ("stopped", jobs.CLOSED)
