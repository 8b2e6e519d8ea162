"""Square pixels: pictures whose rows and columns lie at different distances, resampled."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

ALIKE = 0.002  # a share: 5 pixels of 2,500


def square_size(rows: int, cols: int, row_mm: float, col_mm: float) -> tuple[int, int]:
    """Rows and columns once pixels are square: the coarser axis is brought to the finer step.

    ``row_mm`` is the distance between rows, ``col_mm`` between columns; only their ratio counts.
    Steps alike to 0.2 % are taken for equal.

    >>> square_size(100, 100, 0.2, 0.1), square_size(100, 100, 0.1, 0.1001)
    ((200, 100), (100, 100))
    """
    fine = min(row_mm, col_mm)
    if max(row_mm, col_mm) <= fine * (1 + ALIKE):
        return rows, cols
    return max(1, round(rows * row_mm / fine)), max(1, round(cols * col_mm / fine))


def square_pixels(pixels: np.ndarray, row_mm: float, col_mm: float) -> np.ndarray:
    """A picture [H, W] resampled linearly to square pixels; its type is kept.

    Integers are rounded, and of a mask [H, W] a pixel is True where it is wholly inside.

    >>> square_pixels(np.array([[0, 4]], dtype=np.uint8), 0.1, 0.2).tolist()
    [[0, 1, 3, 4]]
    """
    rows, cols = pixels.shape
    size = square_size(rows, cols, row_mm, col_mm)
    if size == (rows, cols):
        return pixels
    values = torch.from_numpy(pixels.astype(np.float32))[None, None]
    resampled = interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    if pixels.dtype == bool:
        return resampled > 1 - 1e-4
    return resampled.round().astype(pixels.dtype) if pixels.dtype.kind in "ui" else resampled
