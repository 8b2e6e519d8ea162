"""The exact area filter: pictures brought to another size."""

from __future__ import annotations

import torch
from torch import Tensor


def area_matrix(n_in: int, n_out: int, *, span: float | None = None) -> Tensor:
    """The area filter along one axis as weights [n_out, n_in].

    ``span`` input pixels about the centre fill the output (default: all of them).

    Each output pixel averages the input over its own extent, but never less than one input pixel,
    which is the mean over the covered area when shrinking and linear interpolation when enlarging.
    Where the span reaches past the input, that is black.

    >>> area_matrix(4, 2).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    >>> area_matrix(2, 4, span=4).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    """
    span = float(n_in if span is None else span)
    step, start = span / n_out, (n_in - span) / 2
    middle = start + (torch.arange(n_out, dtype=torch.float64)[:, None] + 0.5) * step
    half = max(step, 1.0) / 2
    pixel = torch.arange(n_in, dtype=torch.float64)
    low, high = middle - half, middle + half
    covered = (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp_min(0)
    # An enlarging footprint that leaves both picture and span at the border would darken the edge:
    # it counts only what exists.
    whole = high.clamp(max=max(n_in, start + span)) - low.clamp(min=min(0.0, start))
    return (covered / whole).float()


def area_resized(images: Tensor, rows: int, cols: int) -> Tensor:
    """Pictures [..., H, W] at another size [..., rows, cols] by :func:`area_matrix`, in float32.

    The mean is kept when shrinking.

    >>> area_resized(torch.tensor([[1.0, 3.0, 5.0, 7.0]]), 1, 2)
    tensor([[2., 6.]])
    """
    down, across = area_matrix(images.shape[-2], rows), area_matrix(images.shape[-1], cols)
    return down.to(images.device) @ images.float() @ across.T.to(images.device)
