"""Distances between two sets: of feature vectors [N, F], computed in float64, or of images
[N, C, H, W] patch by patch (sliced Wasserstein). Pure functions.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ..core.errors import UserError

CHUNK = 1024  # rows of a distance matrix held at once


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance |μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½) of the Gaussians that fit a [N, F]
    and b [M, F].

    Dowson & Landau 1982; FID when the features are Inception's (Heusel et al. 2017). With centred
    rows A = (a − μa)/√(N−1), the last trace is the sum of the singular values of A Bᵀ: no root of a
    matrix is taken. Biased upwards in small sets.

    >>> x = torch.tensor([[0.0], [2.0], [4.0]])
    >>> round(frechet_distance(x, 3 * x + 1), 6)  # means 2 and 7, standard deviations 2 and 6
    41.0
    """
    _refuse_small(a, b, 2)
    (mean_a, a), (mean_b, b) = _centred(a), _centred(b)
    cross = float(torch.linalg.svdvals(_short(a) @ _short(b).T).sum())
    traces = (mean_a - mean_b).square().sum() + a.square().sum() + b.square().sum()
    return max(0.0, float(traces) - 2 * cross)


def kernel_distance(
    a: Tensor, b: Tensor, rng: Generator, *, subsets: int = 100, size: int = 1000
) -> tuple[float, float | None]:
    """Squared maximum mean discrepancy with the kernel (x·y / F + 1)³, unbiased, and its standard
    deviation over subsets.

    Bińkowski et al. 2018: KID when the features are Inception's. ``subsets`` random subsets of
    ``size`` from each set (as many as the smaller set has, at most) are averaged. Where a subset
    can only be both whole sets there is one, without a deviation.

    >>> x, y = torch.randn(2, 40, 3, generator=Generator().manual_seed(0))
    >>> abs(kernel_distance(x, y, Generator().manual_seed(0))[0]) < 0.5
    True
    """
    _refuse_small(a, b, 2)
    n = min(size, len(a), len(b))

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=rng)[:n]].double()

    rounds = 1 if n == len(a) == len(b) else subsets
    found = torch.stack([_unbiased_mmd(subset(a), subset(b)) for _ in range(rounds)])
    return float(found.mean()), float(found.std()) if len(found) > 1 else None


def precision_recall(reals: Tensor, fakes: Tensor, *, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    A set's manifold is the union of balls about its members that reach their ``k``-th nearest
    neighbour in the set. Precision is the share of fakes on the reals' manifold, recall the share
    of reals on the fakes'.

    >>> reals = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    >>> precision_recall(reals, torch.tensor([[0.5], [0.6], [0.7], [0.8]]), k=1)
    (1.0, 0.0)
    """
    _refuse_small(reals, fakes, k + 1)
    reals, fakes = reals.double(), fakes.double()
    return _share_inside(fakes, reals, k), _share_inside(reals, fakes, k)


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
    Laplacian pyramid (``swd_SIZE``) and on average (``swd``).

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
    levels = (laplacian_pyramid(images, smallest_px) for images in (reals, fakes))
    for real, fake in zip(*levels, strict=True):
        rows, cols = (n - patch_px + 1 for n in real.shape[-2:])
        place = torch.randperm(rows * cols, generator=rng, device=rng.device)
        place = place[:patches].to(real.device)
        a, b = (_descriptors(x, place // cols, place % cols, patch_px) for x in (real, fake))
        distance = 0.0
        for _ in range(repeats):
            axes = torch.randn(directions, a.shape[1], generator=rng, device=rng.device).to(a)
            axes = functional.normalize(axes, dim=1)
            off = (axes @ a.T).sort(1).values - (axes @ b.T).sort(1).values
            distance += float(off.abs().mean()) / repeats
        result[f"swd_{real.shape[-2]}"] = 1e3 * distance
    result["swd"] = sum(result.values()) / len(result)
    return result


def laplacian_pyramid(images: Tensor, smallest_px: int = 16) -> list[Tensor]:
    """Band-pass levels of images [N, C, H, W] (Burt & Adelson 1983), halving down to
    ``smallest_px``; the last one is the low-pass rest.

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


def _share_inside(points: Tensor, others: Tensor, k: int) -> float:
    """Share of the points that lie in a ball of the others."""
    nearest = [torch.cdist(some, others).kthvalue(k + 1, 1) for some in others.split(CHUNK)]
    radius = torch.cat([found.values for found in nearest])
    inside = [(torch.cdist(some, others) <= radius).any(1) for some in points.split(CHUNK)]
    return float(torch.cat(inside).double().mean())


def _unbiased_mmd(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x / a.shape[1] ** 0.5 for x in (a, b))
    aa, diagonal_a = _kernel_sums(a, a)
    bb, diagonal_b = _kernel_sums(b, b)
    ab, _ = _kernel_sums(a, b)
    n, m = len(a), len(b)
    return (aa - diagonal_a) / (n * (n - 1)) + (bb - diagonal_b) / (m * (m - 1)) - 2 * ab / (n * m)


def _kernel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of (x·y + 1)³ over all pairs, and over the diagonal."""
    k = torch.addmm(torch.ones(1, 1, dtype=a.dtype), a, b.T)
    return torch.dot((k * k).flatten(), k.flatten()), (k.diagonal() ** 3).sum()


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.double()
    mean = x.mean(0)
    return mean, (x - mean) / (len(x) - 1) ** 0.5


def _short(x: Tensor) -> Tensor:
    """A matrix with as many rows as it has columns, or fewer, and the same xᵀ x."""
    return torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x


def _refuse_small(a: Tensor, b: Tensor, least: int) -> None:
    if min(len(a), len(b)) < least:
        raise UserError(
            f"got sets of {len(a)} and {len(b)} pictures",
            f"wanted at least {least} in each",
            "ask for more of them",
        )


def _descriptors(level: Tensor, rows: Tensor, cols: Tensor, patch_px: int) -> Tensor:
    # [N, C, P, patch, patch]
    patches = level.unfold(2, patch_px, 1).unfold(3, patch_px, 1)[:, :, rows, cols]
    over = (0, 2, 3, 4)
    centred = patches - patches.mean(over, keepdim=True)
    normal = centred / centred.square().mean(over, keepdim=True).sqrt().clamp_min(1e-8)
    return normal.transpose(1, 2).flatten(0, 1).flatten(1)


def _binomial(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 4, 6, 4, 1], dtype=x.dtype, device=x.device) / 16
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 5, 5)
    return functional.conv2d(
        functional.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, groups=x.shape[1]
    )
