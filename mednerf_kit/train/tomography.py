"""From a whole orbit back to a volume: what training patients are before the generator sees them.

Ordered-subsets SART (Andersen & Kak 1984; Hudson & Larkin 1994): for each subset of views,
v <- max(0, v + relax · A_sᵀ[(g y − A_s v) / A_s 1] / A_sᵀ 1), with one gain g per view where a set was scaled view by view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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


FOVS_DEG = (12.0, 15.0, 18.0, 21.5, 25.5, 30.0, 35.0, 40.0, 46.0)  # opening angles that are tried on a set without distances


def fov_curve(images: Tensor, geometry: Geometry, *, size: int = 64, views: int = 36, epochs: int = 4) -> Tensor:
    """How well reconstructions at each of ``FOVS_DEG`` explain an orbit that came without distances, in dB: [9].

    Works on a coarse copy. Fewer views or epochs flatten the curve and move its peak by many degrees.
    """
    step = max(1, len(images) // views)
    small = geometry.at(geometry.angles_deg[::step]).resized(min(64, geometry.cols))
    coarse = torch.nn.functional.interpolate(images[::step, None].float(), size=(small.rows, small.cols), mode="area")[:, 0]
    options = {"size": size, "epochs": epochs, "subset_views": 4, "fit_gains": True}
    return torch.tensor([lift(coarse, small.with_fov(fov_deg), **options).fit_db for fov_deg in FOVS_DEG])


def peak(curve: Tensor) -> tuple[float, float]:
    """Opening angle and height of a curve's maximum: the parabola through its highest point and the two beside it.

    >>> fov_deg, fit_db = peak(30 - 0.01 * (torch.tensor(FOVS_DEG) - 37) ** 2)
    >>> round(fov_deg, 3), round(fit_db, 3)
    (37.0, 30.0)
    """
    middle = min(max(int(curve.argmax()), 1), len(curve) - 2)
    x = torch.tensor(FOVS_DEG[middle - 1 : middle + 2], dtype=torch.float64)
    a, b, c = torch.linalg.solve(torch.stack([x**2, x, torch.ones_like(x)], 1), curve[middle - 1 : middle + 2].double())
    best = float((-b / (2 * a)).clamp(x[0], x[2])) if a < 0 else FOVS_DEG[int(curve.argmax())]
    return best, float(a * best**2 + b * best + c)


def agreed_fovs_deg(curves: Tensor, given_deg: float, *, margin_db: float = 0.5) -> list[float]:
    """One opening angle for each orbit of a set from their curves [P, 9]: the set's median, as one scanner made it.

    The geometry's own angle stands unless the median explains the orbits better by the margin on average, and an orbit keeps an
    angle of its own where that explains it better by the margin (a picture cropped by another hand).
    """
    peaks = [peak(curve) for curve in curves]
    common = sorted(fov_deg for fov_deg, _ in peaks)[len(peaks) // 2]
    gain = sum(height(curve, common) - height(curve, given_deg) for curve in curves) / len(curves)
    common = common if gain > margin_db else given_deg
    return [own if best_db - height(curve, common) > margin_db else common
            for curve, (own, best_db) in zip(curves, peaks, strict=True)]  # fmt: skip


def height(curve: Tensor, fov_deg: float) -> float:
    """A curve between its points."""
    return float(np.interp(fov_deg, FOVS_DEG, curve.numpy()))
