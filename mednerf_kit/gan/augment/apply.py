"""Augmentation carried out: drawn parameters on pictures, differentiable twice.

Geometry is one 3×3 matrix, executed once; then colour, spectral bands, noise and cutout. A picture
to which nothing happens comes back bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .parameters import AugmentParameters, translation


def augmented(images: Tensor, parameters: AugmentParameters) -> Tensor:
    """Pictures [B, C, H, W] with their parameters carried out, unclipped; same parameters, same
    result.

    Whole-pixel moves are copies; other geometry is resampled once. Both mirror the picture at its
    border.

    >>> from .parameters import Augment
    >>> drawn = Augment(xflip=1.0).draw(2, (1, 8, 8), 0.0, Generator().manual_seed(0))
    >>> images = torch.rand(2, 1, 8, 8)
    >>> torch.equal(augmented(images, drawn), images)  # at probability 0
    True
    """
    height, width = images.shape[-2:]
    matrix, color, hole = parameters.matrix, parameters.color, parameters.hole
    middle = torch.tensor([(width - 1) / 2, (height - 1) / 2], device=matrix.device)
    centre = middle.expand(len(images), 2)
    # the same map from row and column numbers
    index = translation(centre) @ matrix @ translation(-centre)
    whole = (index == index.round()).all(-1).all(-1)
    moved = (matrix != torch.eye(3, device=matrix.device)).any(-1).any(-1)
    colored = (color != torch.eye(4, device=color.device)).any(-1).any(-1)
    images = _where(moved & whole, _picked, images, index)
    images = _where(moved & ~whole, _resampled, images, matrix)
    images = _where(colored, _recolored, images, color)
    images = _where((parameters.bands != 1).any(-1), _filtered, images, parameters.bands)
    images = _where(parameters.noise > 0, _noised, images, parameters.noise, parameters.seed)
    return _where(hole[:, 1] > hole[:, 0], _punched, images, hole)


def _where(
    chosen: Tensor, change: Callable[..., Tensor], images: Tensor, *parameters: Tensor
) -> Tensor:
    """Change the chosen pictures only: cheaper at small p, and the others stay bit for bit."""
    rows = chosen.nonzero()[:, 0]
    if len(rows) == 0:
        return images
    here = rows.to(images.device)
    changed = change(images[here], *(parameter[rows] for parameter in parameters))
    return images.index_copy(0, here, changed)


def _mapped(matrix: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Matrices [B, 3, 3] on the grid of rows y [h] and columns x [w] -> [B, h, w, 2] (x, y); as
    sums, because a matrix product may round.
    """
    m = matrix[:, :2, :, None, None]  # [B, 2, 3, 1, 1]
    return (m[:, :, 0] * x + m[:, :, 1] * y[:, None] + m[:, :, 2]).movedim(1, -1)


def _picked(images: Tensor, index: Tensor) -> Tensor:
    """Copies of pixels; ``index`` [B, 3, 3] maps (column, row, 1) of the result to whole ones."""
    height, width = images.shape[-2:]
    y, x = (torch.arange(n, device=images.device) for n in (height, width))
    column, row = _mapped(index.round().long().to(images.device), y, x).unbind(-1)
    flat = _mirrored(row, height) * width + _mirrored(column, width)
    flat = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, flat).view_as(images)


def _mirrored(index: Tensor, n: int) -> Tensor:
    """Whole numbers folded into 0 … n − 1, reflected about the first and last pixel's centre."""
    period = max(1, 2 * (n - 1))
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def _bilinear(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )


class _Sampled(torch.autograd.Function):
    """Bilinear sampling, a linear map of the picture: it and its adjoint are each other's gradient.

    Saying so makes it differentiable twice where torch's own is not (2.5 refuses), and spares the
    grid's gradient.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return _bilinear(images, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(gradient, ctx.saved_tensors[0], ctx.shape), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        with torch.enable_grad():
            blank = dense.new_zeros(shape).requires_grad_()
            return torch.autograd.grad(_bilinear(blank, grid), blank, dense)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Sampled.apply(gradient, ctx.saved_tensors[0]), None, None


def _resampled(images: Tensor, matrix: Tensor) -> Tensor:
    """Anti-aliased affine resampling: up by two, bilinear at twice the density, low-pass, down by
    two.
    """
    height, width = images.shape[-2:]
    fine = _finer(_finer(images).transpose(-2, -1)).transpose(-2, -1)
    # The low-pass reaches three half-pixels beyond the picture.
    y, x = (
        torch.arange(-3, 2 * n + 2, device=images.device, dtype=images.dtype) / 2 - (n - 1) / 2
        for n in (height, width)
    )
    source = _mapped(matrix.to(images), y, x)
    half = torch.tensor([max(1, width - 1) / 2, max(1, height - 1) / 2]).to(images)
    dense = _Sampled.apply(fine, source / half)
    taps = torch.tensor([-1.0, 0, 9, 16, 9, 0, -1]).to(images) / 32
    flat = dense.flatten(0, 1)[:, None]
    flat = functional.conv2d(flat, taps[None, None, None], stride=(1, 2))
    return functional.conv2d(flat, taps[None, None, :, None], stride=(2, 1)).reshape_as(images)


def _finer(images: Tensor) -> Tensor:
    """Columns [..., W] and the values between them, by the four-point rule (−1, 9, 9, −1)/16 ->
    [..., 2W − 1].
    """
    width = images.shape[-1]
    wide = functional.pad(images, (1, 1, 0, 0), mode="reflect")
    between = (9 * (images[..., :-1] + images[..., 1:]) - wide[..., :-3] - wide[..., 3:]) / 16
    both = torch.stack([images[..., :-1], between], -1).flatten(-2)
    return torch.cat([both, images[..., width - 1 :]], -1)


def _recolored(images: Tensor, color: Tensor) -> Tensor:
    """Affine map of the channels; a picture without three channels is taken as grey."""
    linear, shift = color[:, :3, :3].to(images), color[:, :3, 3].to(images)
    if images.shape[1] == 3:
        return torch.einsum("bij,bjhw->bihw", linear, images) + shift[:, :, None, None]
    return images * linear.sum((1, 2))[:, None, None, None] / 3 + shift.mean(1)[:, None, None, None]


def _filtered(images: Tensor, bands: Tensor) -> Tensor:
    """Gains on four bands that add up to the picture: the differences of ever wider smoothings (à
    trous, spline [1 4 6 4 1]/16).
    """
    taps = torch.tensor([1.0, 4, 6, 4, 1]).to(images) / 16
    levels = [images.flatten(0, 1)[:, None]]
    for step in (1, 2, 4):
        smooth = functional.pad(levels[-1], (2 * step,) * 4, mode="reflect")
        smooth = functional.conv2d(smooth, taps[None, None, None], dilation=(1, step))
        levels.append(functional.conv2d(smooth, taps[None, None, :, None], dilation=(step, 1)))
    coarse_first = [levels[3], levels[2] - levels[3], levels[1] - levels[2], levels[0] - levels[1]]
    pictures = torch.stack([band.view_as(images) for band in coarse_first], 1)
    return (pictures * bands.to(images)[:, :, None, None, None]).sum(1)


def _noised(images: Tensor, std: Tensor, seed: Tensor) -> Tensor:
    """White noise, from the host's generator so that it is the same on every device."""
    shape = images.shape[1:]
    grain = [torch.randn(shape, generator=Generator().manual_seed(s)) for s in seed.tolist()]
    return images + std.to(images)[:, None, None, None] * torch.stack(grain).to(images)


def _punched(images: Tensor, hole: Tensor) -> Tensor:
    """Black where a pixel's centre lies in the hole."""
    y, x = (torch.arange(n, device=images.device) + 0.5 for n in images.shape[-2:])
    top, bottom, left, right = hole.to(images.device)[:, :, None].unbind(1)
    inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)
