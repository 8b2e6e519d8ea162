"""Pickles as other programs leave them behind: written by a Python process of their own."""

from __future__ import annotations

import functools
import subprocess
import sys

START = "import collections, os, pickle, sys; import numpy as np\n"


@functools.cache
def pickled(value: str, protocol: int, *lines: str) -> bytes:
    """The pickle of a Python expression, after these lines of code."""
    dump = f"sys.stdout.buffer.write(pickle.dumps({value}, protocol={protocol}))"
    return run("\n".join([START, *lines, dump]))


def run(code: str, *arguments: str) -> bytes:
    """What a Python process of its own writes to stdout."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=60
    ).stdout
