"""How much memory there is, and refusing before it starts what needs more than that.

What is estimated is the least that a job holds at once: a job that is refused could not be done,
one that is not may still be too large. Large arrays that are read a part at a time lie in files.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

CONTAINER = Path("/sys/fs/cgroup")
#: Tensors of at least so many bytes are laid into a file.
MAPPED_BYTES = 256 << 20


def check_room(what: str, needed_bytes: float, next_step: str) -> None:
    """Refuse what needs more memory than is free; ``next_step`` says what makes it fit.

    >>> check_room("a picture of 2 pixels", 8, "choose a smaller --size")
    """
    free = available_bytes()
    if needed_bytes > free:
        raise UserError(
            f"got {what}, which takes {said(needed_bytes)} of memory at least",
            f"wanted at most the {said(free)} that are free here",
            next_step,
        )


def check_views_room(
    views: int, rows: int, cols: int, *, supersample: int = 1, jobs: int = 1
) -> None:
    """Refuse views of so many pixels that memory cannot hold, of ``jobs`` patients at a time.

    ``supersample``² rays are averaged over each pixel.
    """
    fine = supersample**2 if supersample > 1 else 0
    ways = ["choose a smaller --size (of a recipe: dataset.size) or fewer views"]
    ways += ["a smaller --supersample"] * bool(fine) + ["fewer --jobs"] * (jobs > 1)
    check_room(
        f"{views} views of {cols}×{rows} pixels" + (f" with {fine} rays each" if fine else ""),
        4 * jobs * views * rows * cols * (1 + fine),
        ", ".join(ways),
    )


def said(count: float) -> str:
    """A number of bytes for people.

    >>> said(3 * 2**20), said(2.5 * 2**30)
    ('3 MiB', '2.5 GiB')
    """
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def available_bytes() -> float:
    """Memory that this process can still get: of the machine, its container, and its own limit."""
    return max(0.0, min(_of_machine(), _of_container(), _of_process()))


def mapped_tensor(shape: Sequence[int], folder: Path) -> Tensor:
    """An empty float32 tensor [shape], which lies in a nameless file in ``folder`` where it is
    large: the system keeps in memory what is used of it.
    """
    import torch

    count = math.prod(shape)
    if 4 * count < MAPPED_BYTES:
        return torch.empty(*shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # gone with the process, killed or not
            # a file with holes would end the process when the disk is full
            reserve = getattr(os, "posix_fallocate", lambda handle, _, n: os.truncate(handle, n))
            reserve(file.fileno(), 0, 4 * count)
            memory = mmap.mmap(file.fileno(), 4 * count)
    except OSError as error:
        raise UserError(
            f"got no room for {said(4 * count)} in '{folder}' ({error.strerror})",
            "wanted it for the patients' volumes",
            "free some, or set MEDNERF_KIT_CACHE to another disk's folder",
        ) from None
    return torch.frombuffer(memory, dtype=torch.float32).view(*shape)


def _of_machine() -> float:
    """Memory and swap that are free or can be freed; all of it where nobody says."""
    with suppress(OSError):
        text = Path("/proc/meminfo").read_text()
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
        if "MemAvailable" in found:
            return 1024.0 * (int(found["MemAvailable"]) + int(found.get("SwapFree", 0)))
    with suppress(OSError, ValueError, AttributeError):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return math.inf


def _of_container() -> float:
    """What the limit of a container leaves; caches are given back when memory is short."""
    try:
        limit = float((CONTAINER / "memory.max").read_text())
        text = (CONTAINER / "memory.stat").read_text()
    except (OSError, ValueError):  # there is none, or it is "max"
        return math.inf
    used = re.search(r"^anon (\d+)", text, re.MULTILINE)
    return limit - int(used[1] if used else 0)


def _of_process() -> float:
    """What ``ulimit -v`` leaves."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return math.inf
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return float(limit - pages * resource.getpagesize())
    except (ImportError, OSError, ValueError):
        return math.inf
