"""How good a volume is, at a stated data range: pure functions of tensors."""

from __future__ import annotations

from torch import Tensor

from .anatomy import TISSUE_HU
from .image import SSIM_WINDOW_PX, masked_mean, psnr_from_mse_db, ssim

WINDOW_HU = (-1024.0, 1024.0)


def volume_errors(
    values: Tensor,
    truth: Tensor,
    data_range: float,
    *,
    mask: Tensor | None = None,
    with_ssim: bool = True,
) -> dict[str, float]:
    """Errors of a volume [D, H, W] at a stated data range: ``psnr_3d_db`` over all voxels at once,
    ``mae`` in the volume's own unit, and ``ssim_3d`` (11×11×11 Gaussian window) unless it is
    declined; with a mask [D, H, W], over its voxels only.

    The mean of per-slice PSNRs is several dB higher and is not computed.

    >>> import torch
    >>> truth = torch.zeros(12, 12, 12)
    >>> volume_errors(truth + 10.0, truth, 100.0, with_ssim=False)
    {'psnr_3d_db': 20.0, 'mae': 10.0}
    """
    scaled = (values - truth) / data_range
    mse = float(masked_mean(scaled**2, mask, dims=3))
    result = {
        "psnr_3d_db": round(psnr_from_mse_db(mse), 6),
        "mae": float(masked_mean((values - truth).abs(), mask, dims=3)),
    }
    if with_ssim:
        result["ssim_3d"] = float(ssim(values / data_range, truth / data_range, mask, dims=3))
    return result


def window_errors(hu: Tensor, truth: Tensor) -> dict[str, float]:
    """Errors of a volume [D, H, W] in HU in the fixed window −1024…1024 HU, whose width of 2048 HU
    is the data range (SPARC's rule): ``psnr_window_db``, ``ssim_window``.

    Both volumes are clipped to the window and cut to the box around the true body (above −500 HU):
    the air around a patient would flatter the score.

    >>> import torch
    >>> truth = torch.zeros(12, 12, 12)
    >>> round(window_errors(truth + 204.8, truth)["psnr_window_db"], 3)
    20.0
    """
    low, high = WINDOW_HU
    inside = (truth > TISSUE_HU).nonzero()
    if len(inside):
        first, last = inside.amin(0).tolist(), inside.amax(0).tolist()
        box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
        hu, truth = hu[box], truth[box]
    hu, truth = hu.clamp(low, high), truth.clamp(low, high)
    thick = min(truth.shape) >= SSIM_WINDOW_PX
    found = volume_errors(hu, truth, high - low, with_ssim=thick)
    return {
        "psnr_window_db": found["psnr_3d_db"],
        "ssim_window": found.get("ssim_3d", float("nan")),
    }
