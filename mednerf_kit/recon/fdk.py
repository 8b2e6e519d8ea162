"""Filtered back-projection of a cone-beam orbit.

Feldkamp, Davis & Kress, J. Opt. Soc. Am. A 1, 1984.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..core.errors import UserError
from ..imaging.geometry import Geometry
from ..imaging.orbit_of_frames import as_orbit
from .field_volume import FieldVolume, cylinder, voxel_axis
from .redundancy import redundancy, turn_of


def fdk(
    images: Tensor,
    geometry: Geometry,
    *,
    size: int = 64,
    cutoff: float = 1.0,
    extend: float = 1.0,
) -> FieldVolume:
    """Reconstruct an orbit [V, rows, cols] by Feldkamp's method: [size, size, size].

    f(x) = Σ_views Δβ · (D / (D − x·s))² · q(u, v), with q the rows of w·p · D / sqrt(D² + u² + v²)
    through a ramp filter (Kak & Slaney 1988, eq. 3.61) under a Hann window. The weights w count
    every ray once in all (:mod:`.redundancy`): they are ½ all the way round, and others on a short
    arc or behind a displaced detector. Views may be spaced unevenly.

    Options:
        size: voxels along each side of the cube.
        cutoff: where the Hann window ends, as a share of the Nyquist frequency; inf: no window.
        extend: detector widths by which a row that is cut off by the detector's edge goes on on
            either side, falling to zero like a cosine.

    Raises UserError for views that stand on no level orbit or leave rays unmeasured.
    """
    geometry = level_orbit(geometry)
    images, distance, cols = images.float(), geometry.distance, geometry.cols
    angles = torch.tensor(geometry.angles_deg)
    shift_u, shift_v = (offset * 2 / (cols * geometry.pixel_mm) for offset in geometry.offset_mm)
    grid = geometry.pixel_grid()
    u = (grid[..., 1] - (cols - 1) / 2) * 2 / cols + shift_u
    v = ((geometry.rows - 1) / 2 - grid[..., 0]) * 2 / cols + shift_v
    # a displaced detector's filtered rows are needed as far as its mirror image reaches
    wide = round(max(extend, abs(shift_u)) * cols)
    turn = turn_of(angles)
    once = redundancy(geometry, turn)[:, None]
    weighted = once * images * distance / (distance**2 + u**2 + v**2).sqrt()
    filtered = ramp(tapered(weighted, wide), 2 / cols, cutoff)
    # from field units on the detector to grid_sample's units of the widened rows
    to_grid_u, to_grid_v = torch.tensor([cols / (cols + 2 * wide), cols / geometry.rows])
    source, _, right, up = geometry.frames(angles)
    towards = source / geometry.source_to_isocentre_mm
    axis = voxel_axis(size)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    total = torch.zeros_like(x)
    for k, share in enumerate(turn.shares):
        s, r, h = (
            (along[0] * x + along[1] * y + along[2] * z) for along in (towards[k], right[k], up[k])
        )
        nearer = distance / (distance - s)
        place = torch.stack(
            [(r * nearer - shift_u) * to_grid_u, (shift_v - h * nearer) * to_grid_v], -1
        )
        seen = grid_sample(
            filtered[k][None, None],
            place.view(1, size, -1, 2),
            padding_mode="border",
            align_corners=False,
        )
        total += share * nearer**2 * seen.view_as(x)
    return FieldVolume.of(total * cylinder(size), geometry)


def level_orbit(geometry: Geometry) -> Geometry:
    """The orbit that views stand on; UserError where they stand on none, or on a tilted one."""
    orbit = as_orbit(geometry)
    if orbit is None or orbit.tilt_deg:
        raise UserError(
            "got views that stand on no circle about the isocentre, or are tilted out of its plane",
            "wanted a level orbit",
            "reconstruct with sart",
        )
    return orbit


def tapered(rows: Tensor, wide: int) -> Tensor:
    """Rows [..., cols] continued by ``wide`` columns on both sides, like a cosine down to zero."""
    if not wide:
        return rows
    fall = torch.cos(math.pi / 2 * (torch.arange(wide) + 1) / wide).to(rows).clamp_min(0)
    return torch.cat([rows[..., :1] * fall.flip(0), rows, rows[..., -1:] * fall], -1)


def ramp(rows: Tensor, step: float, cutoff: float = math.inf) -> Tensor:
    """Rows [..., n] sampled every ``step`` through the band-limited ramp filter (padded FFT).

    ``cutoff`` is the end of the Hann window as a share of the Nyquist frequency; inf: no window.
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
