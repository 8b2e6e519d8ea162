"""From an orbit back to a volume: what training patients are before the generator sees them, and
what few views are worth.

:func:`lift` is ordered-subsets SART (Andersen & Kak 1984; Hudson & Larkin 1994): for each subset of
views, v <- max(0, v + relax · A_sᵀ[(g y − A_s v) / A_s 1] / A_sᵀ 1), with one gain g per view where
a set was scaled view by view, and on request a step towards less total variation after each pass
(as Sidky & Pan 2008 do between POCS passes). :func:`fdk` is filtered back-projection for a cone
beam (Feldkamp, Davis & Kress 1984).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from ..core.resampling import area_resized
from ..core.types import SUPPORT
from ..imaging.geometry import Geometry
from ..imaging.projector import Projector
from ..metrics.image import psnr_from_mse_db

# of the dual iteration after each pass: what is left of the gap shrinks with the next pass
TV_STEPS = 12


@dataclass(frozen=True)
class Reconstruction:
    """A volume in field units over the cube ±``half_extent``, with what was fitted beside it."""

    values: Tensor  # [D, H, W] image value per field unit
    gains: Tensor  # [V] factor on a projection that gives the picture; their reciprocals average 1
    half_extent: float
    fit_db: float  # PSNR of the reprojections against the pictures


def lift(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int = 64,
    half_extent: float = SUPPORT,
    epochs: int = 5,
    subset_views: int = 6,
    relax: float = 0.8,
    decay: float = 0.85,
    smooth: float = 0.0,
    fit_gains: bool = False,
    start: Tensor | None = None,
) -> Reconstruction:
    """Reconstruct an orbit [V, rows, cols] taken at ``geometry.angles_deg``.

    ``relax`` falls by ``decay`` from pass to pass; ``smooth``, which falls with it, is the weight
    of the total variation in each pass's ½|u − v|² + weight · TV(u), in image value per field unit.
    ``start`` [size, size, size] is where the first pass begins.
    """
    images = images.float()
    count = max(1, round(len(images) / subset_views))
    order = [
        torch.arange(s, len(images), count)
        for s in torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    ]
    unit_mm = geometry.half_width_mm
    spacing_mm = (2 * half_extent * unit_mm / size,) * 3
    angles = torch.tensor(geometry.angles_deg)
    inside = cylinder(size).float()
    projectors = [
        Projector((size,) * 3, spacing_mm, geometry.at(angles[s].tolist())) for s in order
    ]
    rows = [(p.forward(inside) / unit_mm).clamp_min(0.05) for p in projectors]
    columns = [
        (p.adjoint(torch.ones_like(r)) / unit_mm).clamp_min(1e-2)
        for p, r in zip(projectors, rows, strict=True)
    ]
    values, raw = (
        torch.zeros(size, size, size) if start is None else start.float() * inside,
        torch.ones(len(images)),
    )
    weight = smooth
    for epoch in range(epochs):
        gains = raw / raw.mean()
        for subset, projector, row, column in zip(order, projectors, rows, columns, strict=True):
            seen = projector.forward(values) / unit_mm
            picture = images[subset]
            if fit_gains:
                raw[subset] = (
                    (seen * picture).sum((1, 2)) / picture.square().sum((1, 2)).clamp_min(1e-6)
                    if epoch
                    else raw[subset]
                )
            residual = (gains[subset][:, None, None] * picture - seen) / row
            values = (
                values + relax * inside * projector.adjoint(residual) / unit_mm / column
            ).clamp_min(0)
        if weight:
            values = inside * smoothed(values, weight)
        relax, weight = relax * decay, weight * decay
    gains = raw / raw.mean()
    seen = torch.cat([p.forward(values) / unit_mm for p in projectors])
    error = (seen - (gains[:, None, None] * images)[torch.cat(order)]).square().mean()
    return Reconstruction(values, 1 / gains, half_extent, psnr_from_mse_db(float(error)))


def cylinder(size: int) -> Tensor:
    """The voxels of a cube [size, size, size] inside the upright cylinder that touches its
    sides.
    """
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    return (line[:, None] ** 2 + line**2 < 1).expand(size, size, size)


def smoothed(values: Tensor, weight: float, *, steps: int = TV_STEPS) -> Tensor:
    """argmin_u ½|u − values|² + weight · TV(u) of a volume [D, H, W], by Chambolle's dual
    projection (J. Math. Imaging 20, 2004).

    p <- (p + τ ∇(div p − v/weight)) / (1 + τ |∇(div p − v/weight)|), u = v − weight · div p, with τ
    = 1/6.

    >>> step = torch.zeros(8, 8, 8).index_fill_(2, torch.arange(4), 1.0)
    >>> noisy = step + 0.2 * torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> bool((smoothed(noisy, 0.2) - step).square().mean() < 0.2 * (noisy - step).square().mean())
    True
    """
    target, dual = values / weight, values.new_zeros(3, *values.shape)
    for _ in range(steps):
        off = _divergence(dual).sub_(target)
        slope = torch.stack([pad(off.diff(dim=axis), _after(axis)) for axis in range(3)])
        size = slope.square().sum(0).sqrt_()
        dual = dual.add_(slope, alpha=1 / 6).div_(size.div_(6).add_(1))
    return values - weight * _divergence(dual)


def _divergence(dual: Tensor) -> Tensor:
    """The negative adjoint of forward differences: [3, D, H, W] to [D, H, W]."""
    total = torch.zeros_like(dual[0])
    for axis in range(3):
        kept = dual[axis].narrow(axis, 0, dual.shape[axis + 1] - 1)
        total.narrow(axis, 0, kept.shape[axis]).add_(kept)
        total.narrow(axis, 1, kept.shape[axis]).sub_(kept)
    return total


def _after(axis: int) -> list[int]:
    """One element of padding behind an axis of three, as ``pad`` wants it."""
    return [0, 0] * (2 - axis) + [0, 1]


def fdk(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int = 64,
    half_extent: float = SUPPORT,
    cutoff: float = 1.0,
    extend: float = 1.0,
) -> Tensor:
    """Reconstruct an orbit [V, rows, cols] by Feldkamp's method: image value per field unit, [size,
    size, size].

    f(x) = Σ_views Δβ/2 · (D / (D − x·s))² · q(u, v), q the rows of p · D / sqrt(D² + u² + v²)
    through a ramp filter (Kak & Slaney 1988, eq. 3.61) under a Hann window that ends at ``cutoff``
    of the Nyquist frequency (inf: none). A row that is cut off by the detector's edge goes on for
    ``extend`` detector widths and falls to zero like a cosine. Views may be spaced unevenly; they
    should go all the way round.
    """
    images, distance, cols = images.float(), geometry.distance, geometry.cols
    angles = torch.tensor(geometry.angles_deg)
    order = angles.remainder(360).argsort()
    around = torch.cat([angles.remainder(360)[order], angles.remainder(360)[order[:1]] + 360])
    gaps = torch.deg2rad(around.diff())
    share = torch.empty_like(gaps).scatter_(0, order, (gaps + gaps.roll(1)) / 2)
    grid = geometry.pixel_grid()
    shift = [offset * 2 / (cols * geometry.pixel_mm) for offset in geometry.offset_mm]
    u = (grid[..., 1] - (cols - 1) / 2) * 2 / cols + shift[0]
    v = ((geometry.rows - 1) / 2 - grid[..., 0]) * 2 / cols + shift[1]
    wide = round(extend * cols)
    filtered = ramp(
        tapered(images * distance / (distance**2 + u**2 + v**2).sqrt(), wide), 2 / cols, cutoff
    )
    line = ((torch.arange(size) + 0.5) / size * 2 - 1) * half_extent
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    source, _, right, up = geometry.frames(angles)
    towards = source / geometry.source_to_isocentre_mm
    stretch = torch.tensor([cols / (cols + 2 * wide), cols / geometry.rows])
    total = torch.zeros_like(x)
    for k in range(len(images)):
        s, r, h = (
            (axis[0] * x + axis[1] * y + axis[2] * z) for axis in (towards[k], right[k], up[k])
        )
        nearer = distance / (distance - s)
        place = torch.stack(
            [(r * nearer - shift[0]) * stretch[0], (shift[1] - h * nearer) * stretch[1]], -1
        )
        seen = grid_sample(
            filtered[k][None, None],
            place.view(1, size, -1, 2),
            padding_mode="border",
            align_corners=False,
        )
        total += share[k] / 2 * nearer**2 * seen.view_as(x)
    return total * cylinder(size)


def tapered(rows: Tensor, wide: int) -> Tensor:
    """Rows [..., cols] continued by ``wide`` columns on both sides, from the edge's value to zero
    like a cosine.
    """
    if not wide:
        return rows
    fall = torch.cos(math.pi / 2 * (torch.arange(wide) + 1) / wide).to(rows).clamp_min(0)
    return torch.cat([rows[..., :1] * fall.flip(0), rows, rows[..., -1:] * fall], -1)


def ramp(rows: Tensor, step: float, cutoff: float = math.inf) -> Tensor:
    """Rows [..., n] sampled every ``step`` through the band-limited ramp filter, by a padded
    Fourier transform.
    """
    n = rows.shape[-1]
    length = 1 << (2 * n - 1).bit_length()
    k = torch.fft.fftfreq(length, 1 / length).abs()
    kernel = torch.where(
        k % 2 == 1, -1 / (math.pi * k.clamp_min(1) * step) ** 2, torch.zeros_like(k)
    )
    kernel[0] = 1 / (4 * step**2)
    response = torch.fft.rfft(kernel).real * step
    if math.isfinite(cutoff):
        share = torch.arange(length // 2 + 1) / (length / 2) / cutoff
        response = response * torch.where(share < 1, 0.5 + 0.5 * torch.cos(math.pi * share), 0)
    return torch.fft.irfft(torch.fft.rfft(rows, length) * response, length)[..., :n]


# opening angles that are tried on a set without distances
FOVS_DEG = (12.0, 15.0, 18.0, 21.5, 25.5, 30.0, 35.0, 40.0, 46.0)


def fov_curve(
    images: Tensor, geometry: Geometry, *, size: int = 64, views: int = 36, epochs: int = 4
) -> Tensor:
    """How well reconstructions at each of ``FOVS_DEG`` explain an orbit that came without
    distances, in dB: [9].

    Works on a coarse copy. Fewer views or epochs flatten the curve and move its peak by many
    degrees.
    """
    step = max(1, len(images) // views)
    small = geometry.at(geometry.angles_deg[::step]).resized(min(64, geometry.cols))
    coarse = area_resized(images[::step], small.rows, small.cols)
    options: dict[str, Any] = {"size": size, "epochs": epochs, "subset_views": 4, "fit_gains": True}
    return torch.tensor(
        [lift(coarse, small.with_fov(fov_deg), **options).fit_db for fov_deg in FOVS_DEG]
    )


def peak(curve: Tensor) -> tuple[float, float]:
    """Opening angle and height of a curve's maximum: the parabola through its highest point and the
    two beside it.

    >>> fov_deg, fit_db = peak(30 - 0.01 * (torch.tensor(FOVS_DEG) - 37) ** 2)
    >>> round(fov_deg, 3), round(fit_db, 3)
    (37.0, 30.0)
    """
    middle = min(max(int(curve.argmax()), 1), len(curve) - 2)
    x = torch.tensor(FOVS_DEG[middle - 1 : middle + 2], dtype=torch.float64)
    a, b, c = torch.linalg.solve(
        torch.stack([x**2, x, torch.ones_like(x)], 1), curve[middle - 1 : middle + 2].double()
    )
    best = float((-b / (2 * a)).clamp(x[0], x[2])) if a < 0 else FOVS_DEG[int(curve.argmax())]
    return best, float(a * best**2 + b * best + c)


def agreed_fovs_deg(curves: Tensor, given_deg: float, *, margin_db: float = 0.5) -> list[float]:
    """One opening angle for each orbit of a set from their curves [P, 9]: the set's median, as one
    scanner made it.

    The geometry's own angle stands unless the median explains the orbits better by the margin on
    average, and an orbit keeps an angle of its own where that explains it better by the margin (a
    picture cropped by another hand).
    """
    peaks = [peak(curve) for curve in curves]
    common = sorted(fov_deg for fov_deg, _ in peaks)[len(peaks) // 2]
    gain = sum(height(curve, common) - height(curve, given_deg) for curve in curves) / len(curves)
    common = common if gain > margin_db else given_deg
    return [
        own if best_db - height(curve, common) > margin_db else common
        for curve, (own, best_db) in zip(curves, peaks, strict=True)
    ]


def height(curve: Tensor, fov_deg: float) -> float:
    """A curve between its points."""
    return float(np.interp(fov_deg, FOVS_DEG, curve.numpy()))
