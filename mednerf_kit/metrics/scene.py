"""How well a fitted scene repeats pictures, depth and outline of views it never saw.

Pure functions, one number a view.

Pictures are [V, H, W, C] in [0, 1]; depths [V, H, W] are distances along the unit ray in the
scene's unit, nan where unknown.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .image import psnr_from_mse_db, ssim

CONVENTIONS = (
    "Images lie in [0, 1], composited on the scene's background; the data range is 1. Every score "
    "is computed per view, then averaged over views; the spread is the population standard "
    "deviation over views. PSNR is over all pixels and channels; SSIM is Gaussian (11×11, sigma "
    "1.5) per channel, averaged over channels and over pixels whose whole window lies in the "
    "image. Masked pixels do not count: PSNR is over the others, and for SSIM and LPIPS the "
    "render is replaced by the truth there. Depth is Σ w t / Σ w along the unit ray, scored where "
    "the true depth is known; a ray that hits nothing there misses delta (share within a factor "
    "of 1.25) and is left out of L1 and RMSE; depth_seen is the share of these pixels with "
    "opacity over 0.5. Alpha IoU compares opacity > 0.5 with alpha > 0.5. The edge band is 3 px "
    "each way about the outline of alpha, or about Canny edges of the truth where there is no "
    "alpha. Sharpness is the mean length over which accumulated opacity rises from 10 to 90 % of "
    "its end value along rays of opacity > 0.5: less is sharper. Depth and sharpness are lengths "
    "of the scene's files. Chamfer, where the exact surface is known, is the mean of accuracy "
    "(mesh to truth) and completeness (truth to mesh, hidden sides included), mean distances as "
    "shares of the scene's size, which is the diagonal of the true surface's bounding box; the "
    "mesh is cut on 128 cells a side, at signed distance 0 or where half the light is stopped "
    "within one cell, and closed at the box; watertight: each of its edges belongs to two faces. "
    "Peak memory is that of the evaluating process, or of its GPU."
)
OPAQUE = 0.5
EDGE_BAND_PX = 3
DELTA = 1.25  # Eigen et al. 2014


def eight_bit(image: Tensor) -> Tensor:
    """The picture as an 8-bit PNG would give it back; published tables score pictures from such
    files.

    >>> eight_bit(torch.tensor([0.5, 1.2])).tolist()
    [0.501960813999176, 1.0]
    """
    return (image.clamp(0, 1) * 255 + 0.5).floor() / 255


def image_scores(image: Tensor, truth: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
    """``psnr_db``, ``ssim``, ``mse`` and ``mae`` of pictures [V, H, W, C] -> [V] each; colours
    count as more pixels.

    Of ``valid`` [V, H, W] pixels alone where it is given; SSIM is then that of pictures that agree
    in the others.

    >>> scores = image_scores(torch.full((1, 16, 16, 3), 0.6), torch.full((1, 16, 16, 3), 0.5))
    >>> round(float(scores["psnr_db"]), 3), round(float(scores["mae"]), 3)
    (20.0, 0.1)
    """
    share_of = torch.ones_like(image[:, 0, 0, 0])
    if valid is not None:
        image = torch.where(valid[..., None], image, truth)
        share_of = valid.float().mean((1, 2))
    off = image - truth
    mse = off.square().mean((1, 2, 3)) / share_of
    return {
        "psnr_db": psnr_from_mse_db(mse),
        "ssim": ssim(image.movedim(-1, 1), truth.movedim(-1, 1)).mean(1),
        "mse": mse,
        "mae": off.abs().mean((1, 2, 3)) / share_of,
    }


def depth_scores(depth: Tensor, truth: Tensor, opacity: Tensor) -> dict[str, Tensor]:
    """``depth_l1``, ``depth_rmse``, ``depth_delta`` and ``depth_seen`` of depths [V, H, W] -> [V]
    each, where truth is finite.

    L1 and RMSE are in scene units, over pixels that have a predicted depth; ``depth_delta`` is the
    share of all pixels of known depth with max(d/D, D/d) < 1.25 (Eigen et al. 2014), ``depth_seen``
    their share with opacity > 0.5. A view without any is nan.

    >>> depth = torch.tensor([[[2.0, 4.4, torch.nan, 1.0]]])
    >>> truth = torch.tensor([[[2.0, 4.0, 3.0, torch.nan]]])
    >>> found = depth_scores(depth, truth, torch.ones(1, 1, 4))
    >>> {k: round(float(v), 3) for k, v in found.items()}
    {'depth_l1': 0.2, 'depth_rmse': 0.283, 'depth_delta': 0.667, 'depth_seen': 1.0}
    """
    known = truth.isfinite()
    both = known & depth.isfinite()
    off = depth - truth
    ratio = torch.maximum(depth / truth, truth / depth)
    return {
        "depth_l1": share(off.abs(), both),
        "depth_rmse": share(off.square(), both).sqrt(),
        "depth_delta": share((ratio < DELTA).float(), known),
        "depth_seen": share((opacity > OPAQUE).float(), known),
    }


def share(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values [V, H, W] over the mask's pixels -> [V]; nan without any.

    >>> share(torch.tensor([[[1.0, torch.nan]]]), torch.tensor([[[True, False]]]))
    tensor([1.])
    """
    return torch.where(mask, values, 0.0).sum((1, 2)) / mask.sum((1, 2))


def opacity_iou(opacity: Tensor, alpha: Tensor) -> Tensor:
    """Intersection over union of opacity > 0.5 with alpha > 0.5, [V, H, W] -> [V]; nan where both
    are empty.

    >>> opacity_iou(torch.tensor([[[1.0, 1.0, 0.0]]]), torch.tensor([[[1.0, 0.0, 1.0]]]))
    tensor([0.3333])
    """
    ours, theirs = opacity > OPAQUE, alpha > OPAQUE
    return (ours & theirs).sum((1, 2)) / (ours | theirs).sum((1, 2))


def edge_band(truth: Tensor, alpha: Tensor | None = None, reach_px: int = EDGE_BAND_PX) -> Tensor:
    """Pixels within ``reach_px`` (each way) of an outline -> bool [V, H, W].

    The outline is both sides of the border of alpha > 0.5; without alpha, Canny edges (sigma 1) of
    the truth's mean channel.

    >>> alpha = torch.zeros(1, 1, 20); alpha[..., 10:] = 1
    >>> edge_band(torch.zeros(1, 1, 20, 3), alpha, 2)[0, 0].nonzero().flatten().tolist()
    [7, 8, 9, 10, 11, 12]
    """
    edges = outline(alpha > OPAQUE) if alpha is not None else canny_edges(truth)
    size = 2 * reach_px + 1
    return functional.max_pool2d(edges[:, None].float(), size, stride=1, padding=reach_px)[:, 0] > 0


def outline(inside: Tensor) -> Tensor:
    """Pixels of bool [V, H, W] that differ from a neighbour above, below, left or right."""
    edges = torch.zeros_like(inside)
    across, along = inside[:, :, 1:] != inside[:, :, :-1], inside[:, 1:] != inside[:, :-1]
    edges[:, :, 1:] |= across
    edges[:, :, :-1] |= across
    edges[:, 1:] |= along
    edges[:, :-1] |= along
    return edges


def canny_edges(truth: Tensor) -> Tensor:
    """Canny edges (sigma 1) of the mean channel of [V, H, W, C] -> bool [V, H, W]."""
    from skimage.feature import canny

    grey = truth.float().mean(-1).cpu().double().numpy()
    return torch.stack([torch.from_numpy(canny(picture, sigma=1.0)) for picture in grey])


def masked_psnr_db(image: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """PSNR of pictures [V, H, W, C] over the pixels of a mask [V, H, W] -> [V]; nan for none."""
    return psnr_from_mse_db(share((image - truth).square().mean(-1), mask))


def rise_width(w: Tensor, t: Tensor, dt: Tensor) -> Tensor:
    """Length over which a ray's accumulated weight [..., S] rises from 10 to 90 % of its total
    -> [...]; 0 for no weight.

    The weight of a sample rises evenly over its cell, t ± dt/2, so that a surface inside one cell
    is 0.8 of the cell wide.

    >>> t = torch.arange(10) + 0.5
    >>> round(float(rise_width(torch.full((10,), 0.1), t, torch.ones(10))), 5)
    8.0
    """
    total = w.sum(-1, keepdim=True)
    after = w.cumsum(-1)

    def place(fraction: float) -> Tensor:
        goal = fraction * total
        cell = (after < goal).sum(-1, keepdim=True).clamp_max(w.shape[-1] - 1)
        within = 1 - (after.gather(-1, cell) - goal) / w.gather(-1, cell).clamp_min(1e-12)
        return (t.gather(-1, cell) + (within.clamp(0, 1) - 0.5) * dt.gather(-1, cell))[..., 0]

    return torch.where(total[..., 0] > 0, place(0.9) - place(0.1), 0.0).clamp_min(0)
