"""The opening angle of an orbit that came without distances.

It is the angle at which a reconstruction explains the pictures best.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.resampling import area_resized
from ..imaging.geometry import Geometry
from .sart import sart

# that are tried
FOVS_DEG = (12.0, 15.0, 18.0, 21.5, 25.5, 30.0, 35.0, 40.0, 46.0)
COARSE_PX = 64  # columns of the pictures that are tried on


def fov_curve(
    images: Tensor, geometry: Geometry, *, size: int = 64, views: int = 36, epochs: int = 4
) -> Tensor:
    """How well an orbit [V, rows, cols] is explained at each of ``FOVS_DEG``: PSNR [9], in dB.

    Works on a coarse copy. Fewer views or epochs flatten the curve and move its peak by many
    degrees.

    Options:
        size: voxels along each side of the reconstructions.
        views: views that are used, about, evenly spaced.
        epochs: passes of each reconstruction.
    """
    step = max(1, len(images) // views)
    coarse = geometry.subset(range(0, geometry.views, step)).resized(min(COARSE_PX, geometry.cols))
    pictures = area_resized(images[::step].float(), coarse.rows, coarse.cols)

    def fit_db(fov_deg: float) -> float:
        opened = coarse.with_fov(fov_deg)
        found = sart(pictures, opened, size=size, epochs=epochs, subset_views=4, fit_gains=True)
        return found.fit_db

    return torch.tensor([fit_db(fov_deg) for fov_deg in FOVS_DEG])


def peak(curve: Tensor) -> tuple[float, float]:
    """Opening angle (degrees) and height (dB) of a curve's maximum.

    It is that of the parabola through the highest point and the two beside it.

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
    """One opening angle, in degrees, for each orbit of a set, from their curves [P, 9].

    It is the set's median, as one scanner made the set. The geometry's own angle ``given_deg``
    stands unless the median explains the orbits better by ``margin_db`` on average, and an orbit
    keeps an angle of its own where that explains it better by the margin (a picture that somebody
    cropped).
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
    """The PSNR, in dB, at any opening angle: a curve [9], linear between its points."""
    return float(np.interp(fov_deg, FOVS_DEG, curve.numpy()))
