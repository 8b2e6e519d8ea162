"""A process that ends when the one that started it does, however that came about.

A parent that is killed says nothing to its children. What it leaves behind is a closed pipe: a
child whose standard input is one (``stdin=subprocess.PIPE``, never written to) can wait for that.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import TextIO

INTERRUPTED = 130  # exit code


def end_with_parent(*, grace_s: float) -> None:
    """Interrupt this process, as Ctrl-C does, when its standard input is closed.

    Where it still runs after ``grace_s`` seconds it is ended at once, with exit code 130.
    """
    threading.Thread(target=_follow, args=(sys.stdin, grace_s), daemon=True).start()


def _follow(pipe: TextIO, grace_s: float) -> None:
    pipe.read()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(grace_s)
    os._exit(INTERRUPTED)
