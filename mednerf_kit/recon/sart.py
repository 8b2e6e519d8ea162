"""Iterative reconstruction of an orbit: ordered-subsets SART with gains and total variation.

For each subset s of the views y_s, with A_s the projector and one factor g_s per view,

    v <- max(0, v + relax · A_sᵀ[(g_s y_s − A_s v) / A_s 1] / A_sᵀ 1),

and on request a step towards less total variation after each pass over the subsets (as Sidky & Pan,
Phys. Med. Biol. 53, 2008, do between POCS passes). The method is that of Andersen & Kak (Ultrasonic
Imaging 6, 1984), its subsets those of Hudson & Larkin (IEEE Trans. Med. Imaging 13, 1994).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ..imaging.geometry import Geometry
from ..metrics.image import psnr_from_mse_db
from .field_volume import FieldProjector, FieldVolume, cylinder

# of the dual iteration after each pass: what is left of the gap shrinks with the next pass
TV_STEPS = 12


@dataclass(frozen=True)
class Reconstruction:
    """A volume, with what was fitted beside it."""

    volume: FieldVolume  # [D, H, W]
    # [V] factor that turns a view's projection into its picture; the reciprocals average 1
    gains: Tensor
    fit_db: float  # PSNR of the reprojections against the pictures divided by their gains


def sart(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int = 64,
    epochs: int = 5,
    subset_views: int = 6,
    relax: float = 0.8,
    decay: float = 0.85,
    smooth: float = 0.0,
    fit_gains: bool = False,
    start: FieldVolume | None = None,
) -> Reconstruction:
    """Reconstruct the views [V, rows, cols] of a geometry, an orbit's or others.

    Options:
        size: voxels along each side of the cube.
        epochs: passes over all views.
        subset_views: views in a subset, about; 1 is SART proper.
        relax: share of each correction that is applied in the first pass.
        decay: factor on ``relax`` and ``smooth`` from pass to pass.
        smooth: weight of the total variation in each pass's ½|u − v|² + weight · TV(u), in image
            value per field unit; 0 leaves the step out.
        fit_gains: fit one gain per view, from the second pass on, for a set that was scaled view by
            view; otherwise all gains are 1.
        start: [size, size, size] where the first pass begins, in whose units the answer is; zero
            in the units of the geometry by default.
    """
    images = images.float()
    inside = cylinder(size).float()
    volume = FieldVolume.of(torch.zeros(size, size, size), geometry) if start is None else start
    values = volume.values.float() * inside
    subsets = [
        _Subset(views, volume.with_values(inside), geometry)
        for views in interleaved(len(images), subset_views)
    ]
    raw = torch.ones(len(images))  # factor on each picture, of any common scale
    for epoch in range(epochs):
        factors = raw / raw.mean()
        for subset in subsets:
            pictures = images[subset.views]
            seen = subset.forward(values)
            if fit_gains and epoch > 0:
                raw[subset.views] = least_squares_factors(seen, pictures)
            wanted = factors[subset.views][:, None, None] * pictures
            correction = subset.adjoint((wanted - seen) / subset.row_sums) / subset.column_sums
            values = (values + relax * inside * correction).clamp_min(0)
        if smooth:
            values = inside * smoothed(values, smooth)
        relax, smooth = relax * decay, smooth * decay
    factors = raw / raw.mean()
    errors = [
        subset.forward(values) - factors[subset.views][:, None, None] * images[subset.views]
        for subset in subsets
    ]
    mse = float(torch.cat(errors).square().mean())
    return Reconstruction(volume.with_values(values), 1 / factors, psnr_from_mse_db(mse))


class _Subset(FieldProjector):
    """Some views of an orbit: their projector A, and its row and column sums.

    A row sum (of A 1) is the length of a ray inside the cylinder; both sums are kept away from
    zero.
    """

    def __init__(self, views: Tensor, inside: FieldVolume, geometry: Geometry) -> None:
        super().__init__(inside, geometry.subset(views.tolist()))
        self.views = views
        self.row_sums = self.forward(inside.values).clamp_min(0.05)
        self.column_sums = self.adjoint(torch.ones_like(self.row_sums)).clamp_min(1e-2)


def interleaved(views: int, subset_views: int) -> list[Tensor]:
    """The indices of all views in subsets of about ``subset_views``, in a fixed random order.

    Each subset is spread over the whole orbit.

    >>> sorted(subset.tolist() for subset in interleaved(6, 3))
    [[0, 2, 4], [1, 3, 5]]
    """
    count = max(1, round(views / subset_views))
    order = torch.randperm(count, generator=Generator().manual_seed(0))
    return [torch.arange(first, views, count) for first in order.tolist()]


def least_squares_factors(seen: Tensor, pictures: Tensor) -> Tensor:
    """Factors g [V] on each picture [V, rows, cols] that minimises |g · picture − seen|²."""
    return (seen * pictures).sum((1, 2)) / pictures.square().sum((1, 2)).clamp_min(1e-6)


def smoothed(values: Tensor, weight: float, *, steps: int = TV_STEPS) -> Tensor:
    """argmin_u ½|u − values|² + weight · TV(u) of a volume [D, H, W].

    ``steps`` iterations of Chambolle's dual projection (J. Math. Imaging 20, 2004).

    >>> step = torch.zeros(8, 8, 8).index_fill_(2, torch.arange(4), 1.0)
    >>> noisy = step + 0.2 * torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> bool((smoothed(noisy, 0.2) - step).square().mean() < 0.2 * (noisy - step).square().mean())
    True
    """
    from skimage.restoration import denoise_tv_chambolle

    # its first iteration only evaluates the start; eps 0 turns its own stopping rule off
    found = denoise_tv_chambolle(values.numpy(), weight=weight, eps=0, max_num_iter=steps + 1)
    return torch.from_numpy(found)
