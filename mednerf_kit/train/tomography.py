"""From a whole orbit back to a volume: what training patients are before the generator sees them.

Ordered-subsets SART (Andersen & Kak 1984; Hudson & Larkin 1994): for each subset of views,
v <- max(0, v + relax · A_sᵀ[(g y − A_s v) / A_s 1] / A_sᵀ 1), with one gain g per view where a set was scaled view by view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..imaging.geometry import Geometry
from ..imaging.projector import Projector


@dataclass(frozen=True)
class Lifted:
    """A volume in field units over the cube ±``half_extent``, with what was fitted beside it."""

    values: Tensor  # [D, H, W] image value per field unit
    gains: Tensor  # [V] factor on a projection that gives the picture; their reciprocals average 1
    half_extent: float
    fit_db: float  # PSNR of the reprojections against the pictures


def lift(images: Tensor, geometry: Geometry, *, size: int = 64, half_extent: float = 1.4, epochs: int = 5, subset_views: int = 6,
         relax: float = 0.8, fit_gains: bool = False) -> Lifted:  # fmt: skip
    """Reconstruct an orbit [V, rows, cols] taken at ``geometry.angles_deg``."""
    images = images.float()
    count = max(1, round(len(images) / subset_views))
    order = [
        torch.arange(s, len(images), count) for s in torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    ]
    unit_mm = geometry.half_width_mm
    spacing_mm = (2 * half_extent * unit_mm / size,) * 3
    angles = torch.tensor(geometry.angles_deg)
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    inside = (line[:, None] ** 2 + line**2 < 1).float().expand(size, size, size)
    projectors = [Projector((size,) * 3, spacing_mm, geometry.at(angles[s].tolist())) for s in order]
    rows = [(p.forward(inside) / unit_mm).clamp_min(0.05) for p in projectors]
    columns = [(p.adjoint(torch.ones_like(r)) / unit_mm).clamp_min(1e-2) for p, r in zip(projectors, rows, strict=True)]
    values, raw = torch.zeros(size, size, size), torch.ones(len(images))
    for epoch in range(epochs):
        gains = raw / raw.mean()
        for subset, projector, row, column in zip(order, projectors, rows, columns, strict=True):
            seen = projector.forward(values) / unit_mm
            picture = images[subset]
            if fit_gains:
                raw[subset] = (
                    (seen * picture).sum((1, 2)) / picture.square().sum((1, 2)).clamp_min(1e-6) if epoch else raw[subset]
                )
            residual = (gains[subset][:, None, None] * picture - seen) / row
            values = (values + relax * inside * projector.adjoint(residual) / unit_mm / column).clamp_min(0)
        relax *= 0.85
    gains = raw / raw.mean()
    seen = torch.cat([p.forward(values) / unit_mm for p in projectors])
    error = (seen - (gains[:, None, None] * images)[torch.cat(order)]).square().mean()
    return Lifted(values, 1 / gains, half_extent, -10 * math.log10(float(error) + 1e-12))


def fit_fov_deg(images: Tensor, geometry: Geometry, *, size: int = 56, views: int = 18) -> float:
    """The opening angle whose reconstruction explains an orbit best: a golden-section search between 12° and 48°.

    For sets that come without distances. Works on a coarse copy, which resolves a few degrees: the geometry's own angle stands
    unless the one found explains the orbit half a decibel better.
    """
    step = max(1, len(images) // views)
    small = geometry.at(geometry.angles_deg[::step]).resized(min(64, geometry.cols))
    coarse = torch.nn.functional.interpolate(images[::step, None].float(), size=(small.rows, small.cols), mode="area")[:, 0]

    def misfit(fov_deg: float) -> float:
        return -lift(coarse, small.with_fov(fov_deg), size=size, epochs=3, subset_views=3, fit_gains=True).fit_db

    ratio = (math.sqrt(5) - 1) / 2
    low, high = 12.0, 48.0
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = misfit(a), misfit(b)
    while high - low > 4:
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = misfit(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = misfit(b)
    found = (low + high) / 2
    return found if misfit(geometry.fov_deg) - misfit(found) > 0.5 else geometry.fov_deg
