"""What no radiograph file may be in any format: damaged, enormous, in colour or not finite."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...core.errors import UserError

#: More pixels than any detector has; a file that claims them would fill the memory.
MOST_PIXELS = 64_000_000
#: Lossy storage of a grey picture leaves a few levels of 255 of colour.
COLOUR_LEVELS = 8


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a file that a library could not read."""
    if type(error).__name__ == "DecompressionBombError":
        return enormous(path)
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    if path.name in reason:  # Pillow's "cannot identify image file PATH"
        reason = "no picture can be recognised in it"
    return UserError(
        f"got '{path}', which is damaged ({reason})",
        "wanted a whole picture",
        "copy or export the file again",
    )


def enormous(path: Path) -> UserError:
    """The error for a file that claims more pixels than a radiograph has."""
    return UserError(
        f"got '{path}', which claims to be enormous",
        f"wanted an X-ray of at most {MOST_PIXELS // 1_000_000} million pixels",
        "check where the file came from, or make it smaller",
    )


def check_size(path: Path, rows: int, cols: int) -> None:
    """Refuse a picture without pixels, or with too many, before they are decoded."""
    if min(rows, cols) < 1:
        raise damaged(path, ValueError(f"{rows}×{cols} pixels"))
    if rows * cols > MOST_PIXELS:
        raise enormous(path)


def check_finite(path: Path, pixels: np.ndarray) -> None:
    """Refuse NaN and infinite pixels."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise UserError(
            f"got '{path}' with NaN or infinite pixels",
            "wanted finite numbers",
            "replace them, or mask that part",
        )


@contextmanager
def silence(logger: str) -> Iterator[None]:
    """Keep a library's own remarks on a damaged file off the terminal.

    These are what it logs under ``logger`` and what its C code prints on file descriptor 2: the
    one sentence of the :class:`UserError` takes their place.
    """
    log, terminal = logging.getLogger(logger), os.dup(2)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)
        log.setLevel(level)


def one_of_several(path: Path, pages: int, what: str) -> UserError:
    """The error for a file of several pictures."""
    return UserError(
        f"got '{path}' with {pages} pages ({what})",
        "wanted one picture",
        "save the page you mean on its own",
    )


def grey_of_colours(path: Path, colours: np.ndarray, full_scale: float) -> np.ndarray:
    """The mean of three channels [H, W, 3] that are equal but for lossy storage: [H, W].

    Raises UserError for a picture in colour.
    """
    low, high = colours.min(-1), colours.max(-1)
    if float((high - low).max()) > COLOUR_LEVELS * full_scale / 255:
        raise UserError(
            f"got '{path}', a colour picture",
            "wanted a grey X-ray",
            "give the X-ray itself, saved as grey",
        )
    mean = colours.mean(-1, dtype=np.float64)
    whole = colours.dtype.kind == "u"
    return mean.round().astype(colours.dtype) if whole else mean.astype(np.float32)
