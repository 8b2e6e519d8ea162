"""How far the work on X-rays is, for whoever watches it.

Watching changes nothing of the result: no random number is drawn for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Pixels along the longer side of the pictures that are shown on the way.
LIVE_PX = 64


@dataclass(frozen=True)
class Progress:
    """Where the work stands."""

    stage: str  # read, invert, predict or write
    text: str  # what is being done, or which part of the search it is
    step: int = 0
    steps: int = 0  # of this part of the search; 0 where nothing is counted
    held_out_mse: float | None = None
    # the X-rays and what the best guess shows of them, [2, n, rows, cols]; made when it is called
    pictures: Callable[[], Tensor] | None = None


Watch = Callable[[Progress], None]


def coarse_pixels(shape: Sequence[int], most: int = LIVE_PX) -> Tensor:
    """Pixels (view, row, column) of views [n, rows, cols], at most ``most`` along a side.

    They are evenly spaced: [n, rows', cols', 3].

    >>> coarse_pixels((1, 4, 4), most=2)[0, :, :, 1:].flatten(0, 1).tolist()
    [[0, 0], [0, 2], [2, 0], [2, 2]]
    """
    n, rows, cols = shape
    apart = -(-max(rows, cols) // most)
    axes = (torch.arange(n), torch.arange(0, rows, apart), torch.arange(0, cols, apart))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
