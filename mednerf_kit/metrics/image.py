"""How well a picture repeats the truth: pure functions of views [..., H, W], one number a view.

Per-view scores lie in the ``METRICS`` registry as functions of one :class:`ScoredViews` record, so
that an evaluation is a loop over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import UserError

T = TypeVar("T", float, Tensor)

CONVENTIONS = (
    "Images lie in [0, 1], bone bright; the data range is 1. Every score is computed per view, "
    "then averaged over views, then over patients; input views are never scored. PSNR is raw: the "
    "picture with a fitted gain has its own key. SSIM is Gaussian (11×11, sigma 1.5, K1 0.01, "
    "K2 0.03), averaged over pixels whose whole window lies in the image. Masked scores count the "
    "body only: truth > 0.02, dilated by 2 px. An empty mask scores NaN, identical pictures score "
    "120 dB."
)
SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
#: Mean squared errors below it count as this much: equal pictures score 120 dB, not infinity,
#: which neither averages nor JSON can hold.
LEAST_MSE = 1e-12

METRICS: Registry[Tensor] = Registry("metric")


@dataclass(frozen=True)
class ScoredViews:
    """What a per-view metric reads: all fields share the shape [..., H, W]."""

    image: Tensor  # in [0, 1]
    truth: Tensor  # in [0, 1]
    mask: Tensor  # bool, the body


def scores(image: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Every registered metric of views [..., H, W] against the truth, each [...].

    >>> sorted(scores(torch.zeros(3, 16, 16), torch.full((3, 16, 16), 0.1)))
    ['mae', 'psnr_db', 'psnr_gain_fitted_db', 'psnr_mask_db', 'ssim', 'ssim_mask']
    """
    views = ScoredViews(image, truth, body_mask(truth))
    return {name: metric(views) for name, metric in METRICS.entries.items()}


def psnr_from_mse_db(mse: T) -> T:
    """Peak signal-to-noise ratio −10·log10(MSE) in dB at data range 1, of a number or element by
    element; at most 120 dB (:data:`LEAST_MSE`), NaN stays NaN.

    >>> psnr_from_mse_db(0.01), psnr_from_mse_db(torch.tensor([0.1, 0.0])).tolist()
    (20.0, [10.0, 120.0])
    """
    if isinstance(mse, Tensor):
        return -10 * mse.clamp_min(LEAST_MSE).log10()
    return -10 * math.log10(max(mse, LEAST_MSE))


def psnr_db(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio per view [..., H, W] -> [...] (:func:`psnr_from_mse_db`), over the
    pixels of a mask where there is one.

    >>> psnr_db(torch.full((2, 4, 4), 0.1), torch.zeros(2, 4, 4)).round().tolist()
    [20.0, 20.0]
    """
    return psnr_from_mse_db(masked_mean((image - truth) ** 2, mask))


def gain_fitted_psnr_db(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """PSNR of each view [..., H, W] -> [...] after its least-squares gain
    g = <image, truth> / <image, image>.

    >>> truth = torch.rand(8, 8)
    >>> round(float(gain_fitted_psnr_db(0.5 * truth, truth)))
    120
    """
    power = masked_mean(image * image, mask).clamp_min(LEAST_MSE)
    gain = masked_mean(image * truth, mask) / power
    return psnr_db(gain[..., None, None] * image, truth, mask)


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None, *, dims: int = 2) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) at data range 1, over the last ``dims``
    dimensions: views [..., H, W] -> [...], or volumes [..., D, H, W] with 3.

    Gaussian window, population covariance; the map is averaged over pixels whose window lies inside
    the image and, with a mask, inside the mask. Raises :class:`UserError` for images smaller than
    the window.

    >>> truth = torch.rand(2, 16, 16)
    >>> ssim(truth, truth).tolist()
    [1.0, 1.0]
    """
    similarity = _ssim_map(image, truth, dims)
    if mask is not None:
        for dim in range(-dims, 0):
            mask = mask.narrow(dim, SSIM_WINDOW_PX // 2, similarity.shape[dim])
    return masked_mean(similarity, mask, dims=dims)


def body_mask(truth: Tensor) -> Tensor:
    """Where the body is: truth [..., H, W] > 0.02, dilated by a 5×5 square (2 px each way) -> bool
    [..., H, W].

    >>> truth = torch.zeros(9, 9)
    >>> truth[4, 4] = 1
    >>> int(body_mask(truth).sum())
    25
    """
    body = (truth > 0.02).float().reshape(-1, 1, *truth.shape[-2:])
    return functional.max_pool2d(body, 5, stride=1, padding=2).reshape(truth.shape) > 0


def masked_mean(values: Tensor, mask: Tensor | None, *, dims: int = 2) -> Tensor:
    """Mean over the last ``dims`` dimensions, of the mask's pixels where there is one; NaN for an
    empty mask.

    >>> masked_mean(torch.tensor([[1.0, 5.0]]), torch.tensor([[True, False]]))
    tensor(1.)
    """
    over = tuple(range(-dims, 0))
    if mask is None:
        return values.mean(over)
    return (values * mask).sum(over) / mask.expand(values.shape).sum(over)


@METRICS.register("psnr_db")
def _psnr(views: ScoredViews) -> Tensor:
    """Peak signal-to-noise ratio of the raw picture, dB, data range 1."""
    return psnr_db(views.image, views.truth)


@METRICS.register("psnr_gain_fitted_db")
def _psnr_gain_fitted(views: ScoredViews) -> Tensor:
    """Peak signal-to-noise ratio after one least-squares gain per view, dB."""
    return gain_fitted_psnr_db(views.image, views.truth)


@METRICS.register("ssim")
def _ssim(views: ScoredViews) -> Tensor:
    """Structural similarity, Gaussian 11×11, sigma 1.5, data range 1."""
    return ssim(views.image, views.truth)


@METRICS.register("psnr_mask_db")
def _psnr_mask(views: ScoredViews) -> Tensor:
    """Peak signal-to-noise ratio inside the body mask, dB."""
    return psnr_db(views.image, views.truth, views.mask)


@METRICS.register("ssim_mask")
def _ssim_mask(views: ScoredViews) -> Tensor:
    """Structural similarity averaged inside the body mask."""
    return ssim(views.image, views.truth, views.mask)


@METRICS.register("mae")
def _mae(views: ScoredViews) -> Tensor:
    """Mean absolute error, in image units."""
    return masked_mean((views.image - views.truth).abs(), None)


def _ssim_map(a: Tensor, b: Tensor, dims: int) -> Tensor:
    if min(a.shape[-dims:]) < SSIM_WINDOW_PX:
        raise UserError(
            f"got a size of {'×'.join(map(str, a.shape[-dims:]))}",
            f"wanted at least {SSIM_WINDOW_PX} pixels each way",
            "score larger images",
        )
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_a, mean_b = _gaussian_blur(a, dims), _gaussian_blur(b, dims)
    product = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    variances = _gaussian_blur(a * a + b * b, dims) - squares
    covariance = _gaussian_blur(a * b, dims) - product
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _gaussian_blur(x: Tensor, dims: int) -> Tensor:
    half = SSIM_WINDOW_PX // 2
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1) / SSIM_SIGMA_PX) ** 2)
    shares = (taps / taps.sum()).tolist()
    for dim in range(-dims, 0):
        kept = x.shape[dim] - 2 * half
        total = torch.zeros_like(x.narrow(dim, 0, kept))
        for i, share in enumerate(shares):
            total = total.add_(x.narrow(dim, i, kept), alpha=share)
        x = total
    return x
