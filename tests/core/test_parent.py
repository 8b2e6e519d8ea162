"""A process ends with the one that started it."""

import signal
import subprocess
import sys

import pytest

CHILD = (
    "import signal, time\n"
    "from mednerf_kit.core.parent import end_with_parent\n"
    "{before}\n"
    "end_with_parent(grace_s=0.2)\n"
    "print('working', flush=True)\n"
    "time.sleep(60)\n"
)


@pytest.mark.parametrize(
    "before, code",
    [("", -signal.SIGINT), ("signal.signal(signal.SIGINT, signal.SIG_IGN)", 130)],
    ids=["interrupted", "ended at once"],
)
def test_a_child_whose_pipe_is_closed_ends(before, code):
    command = [sys.executable, "-c", CHILD.format(before=before)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout.readline() == b"working\n"
        child.stdin.close()
        assert child.wait(20) == code


def test_a_child_whose_parent_is_killed_ends():
    """The child holds the pipe of the middle one's output, which is closed when both are gone."""
    middle = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=subprocess.PIPE)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", middle, CHILD.format(before="")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as parent:
        assert parent.stdout.readline() == b"working\n"
        parent.kill()
        assert parent.stdout.read() == b""
