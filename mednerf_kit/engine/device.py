"""Which device a training or a reconstruction runs on."""

from __future__ import annotations

import torch

from ..core.errors import UserError


def select_device(name: str) -> torch.device:
    """The device of ``--device``: ``cpu``, ``cuda``, or ``auto``, the first GPU where there is one.

    Choosing a GPU has an effect on the whole process: :func:`allow_tf32`.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError(
            "got --device cuda", "wanted a CUDA device torch can see", "use --device cpu"
        )
    if name == "cpu" or not there:
        return torch.device("cpu")
    allow_tf32()
    return torch.device("cuda")


def allow_tf32() -> None:
    """From here on this process multiplies float32 matrices in TF32 (ten bits of mantissa)."""
    torch.set_float32_matmul_precision("high")
