"""How unsure a posterior is of views and voxels: what members differ by, and where all may be off.

An X-ray tells of any structure only that it lies somewhere on its rays. Members of one prior agree
on a usual place, so that their differences miss what is most of the error: body wall and organs
moved along the beam. The spread σ of a picture holds it:

    σ² = G (var over members + var over d of the mean picture moved by d),    d ~ N(0, s²),

with s = PLACE_MM along the beam: a little less than what the front and the back of the chest CTs
that the prior of the package learned from scatter by about the middles of the bodies (12 and 16 mm,
one standard deviation), for an X-ray tells a part of it. A view turned by t from the nearest
X-ray sees |sin t| of the move, along its rows: nothing at the X-ray's own angle, and behind. G is a
Gaussian blur, since a few members' variance of a single pixel is noise (as covariances of small
ensembles are smoothed, Houtekamer & Mitchell, Mon. Weather Rev. 129, 2001).
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

#: Standard deviation of where along the beam a structure lies.
PLACE_MM = 10.0
#: Standard deviation of G in a view, at the isocentre.
SMOOTH_MM = 10.0
#: Moves in standard deviations: evenly spaced, of mean 0 and variance 1.
MOVES = tuple(k / 2**0.5 for k in (-2, -1, 0, 1, 2))
TURNS_DEG = tuple(float(t) for t in range(0, 180, 5))  # of views, half a turn


def levers(angles_deg: Sequence[float], inputs_deg: Sequence[float]) -> Tensor:
    """|sin| of the turn from each view to the nearest X-ray: [V].

    >>> levers([270.0, 90.0, 300.0, 0.0], [270.0]).round(decimals=2).tolist()
    [0.0, 0.0, 0.5, 1.0]
    """
    angles, inputs = (torch.deg2rad(torch.tensor(a)) for a in (angles_deg, inputs_deg))
    return (angles[:, None] - inputs).sin().abs().amin(1)


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


def variance_over(members: Tensor, *, correction: int = 1) -> Tensor:
    """Variance [...] of members [M, ...], with M − ``correction`` degrees of freedom.

    ``Tensor.var`` takes eight times as long along an axis whose numbers lie far apart.

    >>> variance_over(torch.tensor([[1.0], [3.0]])), variance_over(torch.ones(2, 1), correction=0)
    (tensor([2.]), tensor([0.]))
    """
    return (members - members.mean(0)).square_().sum(0) / (len(members) - correction)


def variance_moved(pictures: Tensor, sigma_px: Tensor) -> Tensor:
    """Variance of pictures [B, C, H, W] over moves of standard deviation (x, y) [B, 2] in pixels.

    All of a picture moves along one line.
    """
    seen = torch.stack([moved(pictures, step * sigma_px) for step in MOVES])
    return variance_over(seen, correction=0)


def view_variance(
    members: Tensor,
    geometry: Geometry,
    inputs_deg: Sequence[float],
    place_mm: float = PLACE_MM,
) -> Tensor:
    """σ² of views: members [M, V, rows, cols] to [V, rows, cols].

    ``geometry`` is that of the V views, ``inputs_deg`` the angles of the X-rays.
    """
    pixel_mm = 2 * geometry.half_width_mm / geometry.cols
    sigma_px = place_mm / pixel_mm * levers(geometry.angles_deg, inputs_deg)
    sigma_px = torch.stack([sigma_px, torch.zeros_like(sigma_px)], 1)
    variance = variance_moved(members.mean(0)[:, None], sigma_px)[:, 0]
    if len(members) > 1:
        variance = variance + variance_over(members)
    return blurred(variance, SMOOTH_MM / pixel_mm)


def voxel_variance(
    members: FieldVolume, inputs_deg: Sequence[float], place_mm: float = PLACE_MM
) -> Tensor:
    """σ² of voxels: members [M, D, H, W] to [D, H, W].

    The mean moves along the beam of each X-ray, by as much of PLACE_MM as the view that is turned
    farthest from all of them sees; the variances are averaged over X-rays.
    """
    turn = torch.deg2rad(torch.tensor(inputs_deg))
    beams = torch.stack([turn.cos(), -turn.sin()], 1)  # (x, y) towards the source: [n, 2]
    sigma_mm = place_mm * levers(TURNS_DEG, inputs_deg).amax() * beams
    mean = members.values.mean(0)[None]
    sigma_px = sigma_mm / torch.tensor(members.spacing_mm[:2])
    variance = torch.stack([variance_moved(mean, one[None])[0] for one in sigma_px]).mean(0)
    if len(members.values) > 1:
        variance = variance + variance_over(members.values)
    return smoothed(variance)
