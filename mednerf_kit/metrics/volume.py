"""How good a volume is, at a stated data range: pure functions of tensors."""

from __future__ import annotations

from torch import Tensor

from .image import masked_mean, psnr_from_mse_db, ssim


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
