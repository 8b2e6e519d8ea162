"""How good a picture, a volume, a distribution or an uncertainty is: pure functions of tensors.

Per-view scores live in the ``METRICS`` registry as functions of one :class:`Views` record, so that
evaluation is a loop over it.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..core.config import Registry
from ..core.errors import RunError, UserError

CONVENTIONS = (
    "Images lie in [0, 1], bone bright; the data range is 1. Every score is computed per view, "
    "then averaged over views, then "
    "over patients; input views are never scored. PSNR is raw: the picture with a fitted gain has "
    "its own key. SSIM is Gaussian "
    "(11×11, sigma 1.5, K1 0.01, K2 0.03), averaged over pixels whose whole window lies in the "
    "image. Masked scores count the "
    "body only: truth > 0.02, dilated by 2 px. An empty mask scores NaN, identical pictures score "
    "120 dB."
)
SSIM_WINDOW_PX, SSIM_SIGMA_PX, SSIM_K1, SSIM_K2 = 11, 1.5, 0.01, 0.03
# identical pictures score 120 dB instead of infinity, which neither averages nor JSON can hold
LEAST_MSE = 1e-12
# the name under which torch.hub caches torchvision's AlexNet
LPIPS_BACKBONE = "alexnet-owt-7be5be79.pth"
LPIPS_BACKBONES = {"alex": LPIPS_BACKBONE, "vgg": "vgg16-397923af.pth"}

METRICS: Registry[Tensor] = Registry("metric")


@dataclass(frozen=True)
class Views:
    """What a per-view metric reads: all fields share the shape [..., H, W]."""

    image: Tensor  # in [0, 1]
    truth: Tensor  # in [0, 1]
    mask: Tensor  # bool, the body


def scores(image: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Every registered metric of views [..., H, W] against the truth, each [...], inside and
    outside the body mask.

    >>> sorted(scores(torch.zeros(3, 16, 16), torch.full((3, 16, 16), 0.1)))
    ['mae', 'psnr_db', 'psnr_gain_fitted_db', 'psnr_mask_db', 'ssim', 'ssim_mask']
    """
    record = Views(image, truth, body_mask(truth))
    return {name: metric(record) for name, metric in METRICS.entries.items()}


def psnr_db(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio −10·log10(MSE) per view [..., H, W] -> [...], in dB at data range
    1.

    >>> psnr_db(torch.full((2, 4, 4), 0.1), torch.zeros(2, 4, 4)).round().tolist()
    [20.0, 20.0]
    """
    return -10 * _mean((image - truth) ** 2, mask).clamp_min(LEAST_MSE).log10()


def gain_fitted_psnr_db(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """PSNR after the least-squares gain g = <image, truth> / <image, image> of each view [..., H,
    W] -> [...], in dB.

    >>> truth = torch.rand(8, 8)
    >>> round(float(gain_fitted_psnr_db(0.5 * truth, truth)))
    120
    """
    gain = _mean(image * truth, mask) / _mean(image * image, mask).clamp_min(LEAST_MSE)
    return psnr_db(gain[..., None, None] * image, truth, mask)


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13) per view [..., H, W] -> [...], at data range
    1.

    Gaussian window, population covariance; the map is averaged over pixels whose window lies inside
    the image and, with a mask, inside the mask. Raises :class:`UserError` for images smaller than
    the window.

    >>> truth = torch.rand(2, 16, 16)
    >>> ssim(truth, truth).tolist()
    [1.0, 1.0]
    """
    return _mean(_ssim_map(image, truth, 2), _inside(mask, 2))


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

    >>> volume_errors(torch.full((12, 12, 12), 10.0), torch.zeros(12, 12, 12), 100.0, with_ssim=False)
    {'psnr_3d_db': 20.0, 'mae': 10.0}
    """
    scaled = (values - truth) / data_range
    mse = float(_mean(scaled**2, mask, 3))
    result = {
        "psnr_3d_db": round(-10 * math.log10(max(mse, LEAST_MSE)), 6),
        "mae": float(_mean((values - truth).abs(), mask, 3)),
    }
    if with_ssim:
        result["ssim_3d"] = float(
            _mean(_ssim_map(values / data_range, truth / data_range, 3), _inside(mask, 3), 3)
        )
    return result


@METRICS.register("psnr_db")
def _psnr(views: Views) -> Tensor:
    """Peak signal-to-noise ratio of the raw picture, dB, data range 1."""
    return psnr_db(views.image, views.truth)


@METRICS.register("psnr_gain_fitted_db")
def _psnr_gain_fitted(views: Views) -> Tensor:
    """Peak signal-to-noise ratio after one least-squares gain per view, dB."""
    return gain_fitted_psnr_db(views.image, views.truth)


@METRICS.register("ssim")
def _ssim(views: Views) -> Tensor:
    """Structural similarity, Gaussian 11×11, sigma 1.5, data range 1."""
    return ssim(views.image, views.truth)


@METRICS.register("psnr_mask_db")
def _psnr_mask(views: Views) -> Tensor:
    """Peak signal-to-noise ratio inside the body mask, dB."""
    return psnr_db(views.image, views.truth, views.mask)


@METRICS.register("ssim_mask")
def _ssim_mask(views: Views) -> Tensor:
    """Structural similarity averaged inside the body mask."""
    return ssim(views.image, views.truth, views.mask)


@METRICS.register("mae")
def _mae(views: Views) -> Tensor:
    """Mean absolute error, in image units."""
    return _mean((views.image - views.truth).abs(), None)


def lpips_distance(
    a: Tensor, b: Tensor, weights_path: str | Path | None = None
) -> tuple[Tensor | None, str | None]:
    """Learned perceptual distance of grey views [..., H, W] in [0, 1] -> ([...], None):
    :func:`lpips_of_colours` with AlexNet.
    """
    shape = torch.broadcast_shapes(a.shape, b.shape)
    three = (*shape[:-2], 3, *shape[-2:])
    a, b = (x.expand(shape)[..., None, :, :].expand(three) for x in (a, b))
    return lpips_of_colours(a, b, weights_path)


def lpips_of_colours(
    a: Tensor,
    b: Tensor,
    weights_path: str | Path | None = None,
    *,
    net: Literal["alex", "vgg"] = "alex",
) -> tuple[Tensor | None, str | None]:
    """Learned perceptual distance (LPIPS v0.1; Zhang et al. 2018) of pictures [..., 3, H, W] in [0,
    1] -> ([...], None).

    The backbone is torchvision's AlexNet or VGG16 state dict: the file ``weights_path``, else
    ``$MEDNERF_KIT_LPIPS`` (either may be a folder that holds it under torch.hub's name), else
    torch.hub's cache. The network is never tried: what is missing answers (None, the reason in one
    sentence). Weights that were named and are unusable are a :class:`UserError`.
    """
    if min(a.shape[-2:]) < 32:
        return (
            None,
            f"LPIPS wants images of at least 32×32 pixels, these have {a.shape[-2]}×{a.shape[-1]}.",
        )
    named = weights_path or os.environ.get("MEDNERF_KIT_LPIPS")
    path = Path(named or Path(torch.hub.get_dir()) / "checkpoints")
    if named is None or path.is_dir():
        path = path / LPIPS_BACKBONES[net]
    if named is None and not path.is_file():
        return None, (
            f"LPIPS was not computed: the backbone '{path.name}' is not in '{path.parent}' and "
            "nothing is downloaded; "
            "put it there or name it in $MEDNERF_KIT_LPIPS."
        )
    try:
        model = _lpips_model(path, net).to(a.device)
    # a torchvision that does not fit torch fails with a RuntimeError
    except (ImportError, RuntimeError) as error:
        return None, f"LPIPS was not computed: its package cannot be imported ({error})."
    shape = torch.broadcast_shapes(a.shape, b.shape)
    pairs = (x.expand(shape).reshape(-1, *shape[-3:]).float().split(32) for x in (a, b))
    with torch.no_grad():
        parts = [model(x, y, normalize=True).flatten() for x, y in zip(*pairs, strict=True)]
    return torch.cat(parts).reshape(shape[:-3]), None


@lru_cache(maxsize=2)
def _lpips_model(path: Path, net: str) -> torch.nn.Module:
    import lpips

    with warnings.catch_warnings():  # lpips still speaks torchvision's previous dialect
        warnings.simplefilter("ignore")
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    try:
        backbone = _backbone(path)
        model.net.load_state_dict(
            {name: backbone["features." + name.split(".", 1)[1]] for name in model.net.state_dict()}
        )
    except Exception as error:  # a damaged archive fails in as many ways as it has bytes
        raise UserError(
            f"got LPIPS weights '{path}' that cannot be used ({type(error).__name__})",
            f"wanted torchvision's {'AlexNet' if net == 'alex' else 'VGG16'} state dict",
            "check the path or download it again",
        ) from None
    return model


def _backbone(path: Path) -> dict[str, Tensor]:
    return torch.load(path, map_location="cpu", weights_only=True)


def sliced_wasserstein(
    reals: Tensor,
    fakes: Tensor,
    rng: Generator,
    *,
    patches: int = 128,
    patch_px: int = 7,
    directions: int = 128,
    repeats: int = 4,
    smallest_px: int = 16,
) -> dict[str, float]:
    """Sliced Wasserstein distance ×1000 between two sets of images [N, C, H, W], per level of the
    Laplacian pyramid and mean.

    Karras et al. 2018, section 5: 7×7 patches of every level down to 16 px, each set normalised per
    channel, mean |difference| of sorted projections on 4×128 random unit directions. One deviation:
    every image of both sets gives its patches at the same random places, so identical sets are
    exactly 0 and the order of images matters by round-off only. Compare figures of equal N and
    equal seed: the seed alone moves them by a few per cent.

    >>> x = torch.rand(4, 1, 32, 32)
    >>> sliced_wasserstein(x, x.clone(), torch.Generator().manual_seed(0))
    {'swd_32': 0.0, 'swd_16': 0.0, 'swd': 0.0}
    """
    if reals.shape != fakes.shape or reals.ndim != 4 or min(reals.shape[-2:]) < patch_px:
        raise UserError(
            f"got sets of shape {tuple(reals.shape)} and {tuple(fakes.shape)}",
            f"wanted two equal shapes [N, C, H, W] of at least {patch_px} px",
            "draw as many fakes as there are reals",
        )
    result = {}
    for real, fake in zip(
        laplacian_pyramid(reals, smallest_px), laplacian_pyramid(fakes, smallest_px), strict=True
    ):
        rows, cols = (n - patch_px + 1 for n in real.shape[-2:])
        place = torch.randperm(rows * cols, generator=rng, device=rng.device)[:patches].to(
            real.device
        )
        a, b = (
            _descriptors(level, place // cols, place % cols, patch_px) for level in (real, fake)
        )
        distance = 0.0
        for _ in range(repeats):
            axes = torch.randn(directions, a.shape[1], generator=rng, device=rng.device).to(a)
            axes = functional.normalize(axes, dim=1)
            distance += (
                float(((axes @ a.T).sort(1).values - (axes @ b.T).sort(1).values).abs().mean())
                / repeats
            )
        result[f"swd_{real.shape[-2]}"] = 1e3 * distance
    result["swd"] = sum(result.values()) / len(result)
    return result


def laplacian_pyramid(images: Tensor, smallest_px: int = 16) -> list[Tensor]:
    """Band-pass levels of [N, C, H, W] (Burt & Adelson 1983), halving down to ``smallest_px``; the
    last one is the low-pass rest.

    >>> [level.shape[-1] for level in laplacian_pyramid(torch.rand(1, 1, 64, 64))]
    [64, 32, 16]
    """
    levels = []
    while min(images.shape[-2:]) // 2 >= smallest_px:
        coarse = _binomial(images)[..., ::2, ::2]
        spread = torch.zeros_like(images)
        spread[..., ::2, ::2] = coarse
        levels.append(images - 4 * _binomial(spread))
        images = coarse
    return [*levels, images]


def coverage(lower: Tensor, upper: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Share of (masked) pixels whose truth lies in [lower, upper]; a 90 % interval is honest when
    this is 0.9.

    >>> coverage(torch.zeros(4), torch.ones(4), torch.tensor([0.5, 1.0, 1.5, -0.1]))
    0.5
    """
    inside = (lower <= truth) & (truth <= upper)
    return float(_chosen(inside.double(), mask).mean())


def spread_error_correlation(
    spread: Tensor, error: Tensor, mask: Tensor | None = None
) -> dict[str, float]:
    """Does a wide spread tell a large |error|? ``pearson`` and ``spearman`` (ranks, ties shared)
    over (masked) pixels.

    A constant spread or error has no correlation and answers NaN.

    >>> spread_error_correlation(torch.tensor([1.0, 2, 3]), torch.tensor([-1.0, 4, -9]))["spearman"]
    1.0
    """
    x, y = _chosen(spread.double(), mask), _chosen(error.double().abs(), mask)
    return {"pearson": _correlation(x, y), "spearman": _correlation(_ranks(x), _ranks(y))}


def calibrate_scale(
    spread: Tensor, error: Tensor, level: float = 0.9, mask: Tensor | None = None
) -> float:
    """The least factor f with |error| <= f·spread at ``level`` of the (masked) pixels; to be fitted
    on validation patients only.

    Raises :class:`RunError` where no factor does it, because the spread is zero at too many wrong
    pixels.

    >>> calibrate_scale(torch.ones(10), torch.arange(10.0))
    8.0
    """
    ratio = _chosen(error.double().abs(), mask) / _chosen(spread.double(), mask)
    # no error where there is no spread is covered by any factor
    ratio = ratio.nan_to_num(nan=0.0, posinf=math.inf)
    scale = (
        float(ratio.kthvalue(max(1, math.ceil(level * len(ratio) - 1e-9))).values)
        if len(ratio)
        else math.inf
    )
    if math.isinf(scale):
        raise RunError(
            f"got a spread that is zero (or masked away) at more than {1 - level:.0%} of the "
            "pixels",
            "wanted a spread wherever there is an error",
            "draw more codes",
        )
    return scale


def _mean(values: Tensor, mask: Tensor | None, dims: int = 2) -> Tensor:
    over = tuple(range(-dims, 0))
    return (
        values.mean(over)
        if mask is None
        else (values * mask).sum(over) / mask.expand(values.shape).sum(over)
    )


def _chosen(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.flatten() if mask is None else values[mask.expand(values.shape)]


def _inside(mask: Tensor | None, dims: int) -> Tensor | None:
    edge = SSIM_WINDOW_PX // 2
    if mask is None:
        return None
    for dim in range(-dims, 0):
        mask = mask.narrow(dim, edge, mask.shape[dim] - 2 * edge)
    return mask


def _ssim_map(a: Tensor, b: Tensor, dims: int) -> Tensor:
    if min(a.shape[-dims:]) < SSIM_WINDOW_PX:
        raise UserError(
            f"got a size of {'×'.join(map(str, a.shape[-dims:]))}",
            f"wanted at least {SSIM_WINDOW_PX} pixels each way",
            "score larger images",
        )
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    mean_a, mean_b = _gaussian(a, dims), _gaussian(b, dims)
    product = mean_a * mean_b
    squares = mean_a**2 + mean_b**2
    variances = _gaussian(a * a + b * b, dims) - squares
    covariance = _gaussian(a * b, dims) - product
    return (2 * product + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))


def _gaussian(x: Tensor, dims: int) -> Tensor:
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


def _binomial(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=x.dtype, device=x.device) / 16
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 5, 5)
    return functional.conv2d(
        functional.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1]
    )


def _descriptors(level: Tensor, rows: Tensor, cols: Tensor, patch_px: int) -> Tensor:
    # [N, C, P, patch, patch]
    patches = level.unfold(2, patch_px, 1).unfold(3, patch_px, 1)[:, :, rows, cols]
    over = (0, 2, 3, 4)
    centred = patches - patches.mean(over, keepdim=True)
    normal = centred / centred.square().mean(over, keepdim=True).sqrt().clamp_min(1e-8)
    return normal.transpose(1, 2).flatten(0, 1).flatten(1)


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / ((x * x).sum() * (y * y).sum()).sqrt())


def _ranks(x: Tensor) -> Tensor:
    _, place, counts = x.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[place]
