"""How unsure a posterior is of views and voxels: what members differ by, and where all may be off.

An X-ray hardly tells where along its beam a patient lies, and of any structure only that it lies
somewhere on its rays. Members of one prior agree on a usual place, so that their differences miss
what is most of the error: everything moved along the beam. The place is held for normal,

    d ~ N(0, C),     C⁻¹ = 1 / PLACE_MM² + Σ_n h_n h_nᵀ / SEEN_MM²,

in the plane of the orbit: a standard deviation of PLACE_MM (the centroids of the chest CTs that a
prior learned from scatter by 20.1 mm from front to back) before the X-rays, of which each fixes,
to SEEN_MM, what its picture's rows run along, h_n = (−sin a, −cos a): the Gaussian posterior of a
linear measurement (Tarantola 2005, ch. 3). The spread of a picture is then

    σ² = G (var over members + var over d of the mean picture moved by d),

with G a Gaussian blur: a few members' variance of a single pixel is noise (as covariances of small
ensembles are smoothed, Houtekamer & Mitchell 2001). A view from φ sees of d what lies along its own
rows, so that the second term vanishes at an X-ray's own angle, and behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ..imaging.film.exposure import blurred
from ..imaging.geometry import Geometry
from ..recon.field_volume import FieldVolume
from ..recon.measurement_update import smoothed

#: Standard deviation of where along the beam a patient lies.
PLACE_MM = 20.0
#: To which an X-ray fixes where things lie along its rows.
SEEN_MM = 3.0
#: Standard deviation of G in a view, at the isocentre.
SMOOTH_MM = 10.0
#: Moves in standard deviations: evenly spaced, of mean 0 and variance 1.
MOVES = tuple(k / 2**0.5 for k in (-2, -1, 0, 1, 2))


def place_covariance(inputs_deg: Sequence[float], place_mm: float = PLACE_MM) -> Tensor:
    """C [2, 2] in mm² along (x, y), after X-rays at ``inputs_deg``.

    >>> place_covariance([270.0]).sqrt().round(decimals=1)
    tensor([[ 3.,  0.],
            [ 0., 20.]])
    """
    rows = _along_rows(inputs_deg)
    known = torch.eye(2) / max(place_mm, 1e-6) ** 2 + rows.T @ rows / SEEN_MM**2
    return torch.linalg.inv(known)


def _along_rows(angles_deg: Sequence[float]) -> Tensor:
    """Unit vectors (x, y) that pictures' rows run along, to the right: [V, 2]."""
    turn = torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float32))
    return torch.stack([-turn.sin(), -turn.cos()], 1)


def moved(pictures: Tensor, by_px: Tensor) -> Tensor:
    """Pictures [B, C, H, W] moved by (x, y) pixels [B, 2], bilinear; the border goes on.

    >>> moved(torch.arange(4.0).view(1, 1, 1, 4), torch.tensor([[1.0, 0.0]])).flatten().tolist()
    [0.0, 0.0, 1.0, 2.0]
    """
    size = torch.tensor([pictures.shape[-1], pictures.shape[-2]])
    place = torch.eye(2, 3).repeat(len(pictures), 1, 1)
    place[:, :, 2] = -2 * by_px / size
    grid = affine_grid(place.to(pictures), list(pictures.shape), align_corners=False)
    return grid_sample(pictures, grid, align_corners=False, padding_mode="border")


def variance_moved(pictures: Tensor, sigma_px: Tensor) -> Tensor:
    """Variance of pictures [B, C, H, W] over moves of standard deviation (x, y) [B, 2] in pixels.

    All of a picture moves along one line.
    """
    seen = torch.stack([moved(pictures, step * sigma_px) for step in MOVES])
    return seen.var(0, unbiased=False)


def view_variance(
    members: Tensor,
    geometry: Geometry,
    inputs_deg: Sequence[float],
    place_mm: float = PLACE_MM,
) -> Tensor:
    """σ² of views: members [M, V, rows, cols] to [V, rows, cols].

    ``geometry`` is that of the V views, ``inputs_deg`` the angles of the X-rays.
    """
    rows = _along_rows(geometry.angles_deg)
    sigma_mm = (rows @ place_covariance(inputs_deg, place_mm) * rows).sum(1).sqrt()
    pixel_mm = 2 * geometry.half_width_mm / geometry.cols
    sigma_px = torch.stack([sigma_mm / pixel_mm, torch.zeros_like(sigma_mm)], 1)
    variance = variance_moved(members.mean(0)[:, None], sigma_px)[:, 0]
    if len(members) > 1:
        variance = variance + members.var(0)
    return blurred(variance, SMOOTH_MM / pixel_mm)


def voxel_variance(
    members: FieldVolume, inputs_deg: Sequence[float], place_mm: float = PLACE_MM
) -> Tensor:
    """σ² of voxels: members [M, D, H, W] to [D, H, W]; their mean moves along each axis of C."""
    squares, axes = torch.linalg.eigh(place_covariance(inputs_deg, place_mm))
    spacing_mm = torch.tensor(members.spacing_mm[:2])
    mean = members.values.mean(0)[None]
    sigma_px = squares.clamp_min(0).sqrt()[:, None] * axes.T / spacing_mm
    variance = torch.stack([variance_moved(mean, one[None])[0] for one in sigma_px]).sum(0)
    if len(members.values) > 1:
        variance = variance + members.values.var(0)
    return smoothed(variance)
