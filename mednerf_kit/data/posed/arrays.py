"""What NumPy raises for damaged files of arrays, and maps of numbers read from them."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UserError

ERRORS = (
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_array_map(path: Path) -> Tensor:
    """A map of a NumPy file, [H, W] float32."""
    try:
        values = np.squeeze(np.load(path, allow_pickle=False)).astype(np.float32)
        if values.ndim != 2:
            raise ValueError(f"shape {list(values.shape)}")
    except ERRORS as error:
        raise UserError(
            f"got '{path}', which cannot be read ({error})",
            "wanted an array [H, W]",
            "write it again",
        ) from None
    return torch.from_numpy(values)
