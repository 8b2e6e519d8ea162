"""Which device a training or a reconstruction runs on."""

from __future__ import annotations

import torch

from ..core.errors import UserError


def select_device(name: str) -> torch.device:
    """``auto`` is the first GPU where there is one; there networks may multiply in TF32, with ten
    bits of mantissa.
    """
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise UserError(
            "got --device cuda", "wanted a CUDA device torch can see", "use --device cpu"
        )
    if name == "cpu" or not there:
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")
