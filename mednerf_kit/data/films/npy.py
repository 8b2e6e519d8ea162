"""A NumPy array as a radiograph."""

from __future__ import annotations

import tokenize
from pathlib import Path

import numpy as np

from ...core.errors import UserError
from .checks import check_size, damaged
from .levels import levels
from .stored import StoredFilm

ERRORS = (  # what a damaged header leads to
    EOFError,
    MemoryError,
    OSError,
    OverflowError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,
)


def read_npy(path: Path) -> StoredFilm:
    """A two-dimensional ``.npy`` of integers or floats in either byte order.

    Raises UserError for a damaged file, another number of axes and other types.
    """
    try:
        # mapped, so that a header's claims cost no memory
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except ERRORS as error:
        raise damaged(path, error) from None
    if values.ndim != 2:
        raise UserError(
            f"got '{path}' of shape {values.shape}",
            "wanted one grey picture [rows, cols]",
            "save one view alone",
        )
    check_size(path, *values.shape)
    return StoredFilm(**levels(path, values, 8 * values.dtype.itemsize))
