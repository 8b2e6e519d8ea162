"""A short part of `scripts/faults`: kills, full disks and little memory while `data make` works."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time

import pytest
from faults import go_on, half_files, lost_steps, results, small_disk, start, strays
from faults_jobs import JOBS

from mednerf_kit import cli
from mednerf_kit.core import files
from mednerf_kit.engine import run_folder, snapshots

(MAKE,) = (job for job in JOBS if job.name == "data make")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run makes that nothing happens to."""
    home = tmp_path_factory.mktemp("whole")
    assert start(MAKE, home / "out", home).wait() == 0
    found = results(MAKE, home / "out")
    assert len(found) == 2 + 3 * 6  # geometry and split; views, volume and record of a patient
    return found


def test_after_a_kill_the_rest_is_made(whole, tmp_path):
    """Killed as soon as the first patient is there: nothing is half there, and the rest follows."""
    started = start(MAKE, tmp_path / "out", tmp_path)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("set/*/patient.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    started.end(signal.SIGKILL)
    assert started.wait() in (0, -signal.SIGKILL)
    assert half_files(tmp_path / "out") == []
    assert go_on(MAKE, tmp_path / "out", tmp_path, whole) == []


def test_sigterm_is_an_interruption_that_leaves_nothing_behind(tmp_path):
    started = start(MAKE, tmp_path / "out", tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/set/.*.part")) and time.monotonic() < deadline:
        time.sleep(0.001)
    started.end(signal.SIGTERM)
    assert started.wait() in (0, 130)
    assert strays(tmp_path / "out") == [] == half_files(tmp_path / "out")


@pytest.mark.parametrize("most_bytes", [0, 250])
def test_files_that_cannot_grow_leave_none_of_a_patient(most_bytes, tmp_path, capsys):
    """As on a full disk, the operating system refuses to write more of any file."""
    words = [word.replace("OUT", str(tmp_path)) for word in MAKE.words]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        code = cli.main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = [line for line in capsys.readouterr().err.splitlines() if "Error" in line]
    assert code == 1 and len(said) == 1 and "could not write" in said[0]
    assert half_files(tmp_path) == [] == strays(tmp_path)
    for folder in tmp_path.glob("set/knee-*"):
        assert (folder / "patient.json").is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system takes root")
@pytest.mark.parametrize("kib", [4, 40])
def test_a_full_disk_is_one_sentence(kib, whole, tmp_path):
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "out", kib << 10))
        except subprocess.CalledProcessError:
            pytest.skip("no file system can be mounted here")
        started = start(MAKE, tmp_path / "out", tmp_path)
        assert started.wait() == 1
        assert started.said().count("Error: could not write") == 1
        assert half_files(tmp_path / "out") == [] == strays(tmp_path / "out")
        remount = ["mount", "-o", "remount,size=20M", str(tmp_path / "out")]
        subprocess.run(remount, check=True)
        assert go_on(MAKE, tmp_path / "out", tmp_path, whole) == []


def test_half_files_and_lost_steps_are_found(tmp_path):
    """The checks themselves."""
    folder = tmp_path / "00000-chest"
    folder.mkdir()
    run_folder.write_stats(folder, [{"step": k} for k in range(1, 6)])
    assert lost_steps(tmp_path) == 5
    path = snapshots.save_snapshot(folder, 3, {}, {"seconds": 1.0})
    assert lost_steps(tmp_path) == 2 and half_files(tmp_path) == []
    path.write_bytes(path.read_bytes()[:-3])
    with open(folder / "stats.jsonl", "a") as file:
        file.write('{"step": 6')
    (folder / ".a.json-abcd1234.json").write_text("{")
    assert len(half_files(tmp_path)) == 2 and strays(tmp_path) == [folder / ".a.json-abcd1234.json"]
    files.made_folder(folder)
    assert strays(tmp_path) == []
