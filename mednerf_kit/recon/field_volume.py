"""The voxel volume in the units of learned fields, and what turns it into a scan.

A field is baked into it, it is projected, and it becomes a scan in Hounsfield units. One field unit
is half the detector's width as seen at the isocentre, so that the field of view is ±1. A voxel
holds the *image value per field unit*: the integral along a ray, in field units, is the image value
of a pixel. With ``scale``, the line integral of an image value of 1,

    mu [1/mm] = value · scale / unit_mm,        HU = 1000 · (mu / mu_water − 1).

This module is the only place that converts between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, max_pool3d

from .. import DISCLAIMER
from ..core.types import SUPPORT
from ..imaging.geometry import Geometry
from ..imaging.projector import Projector, project_volume
from ..imaging.scans.read import read_volume
from ..imaging.volume import Volume

if TYPE_CHECKING:
    from ..fields.hyper import MlpWeights
    from ..gan.generator import PatientGenerator

# of the cube that holds a volume, in field units: the support cylinder fits into it
HALF_EXTENT = SUPPORT
# field units above and below the isocentre that are baked: a cone beam sees nothing beyond
BAKED_HALF_HEIGHT = 1.2
# share of its curvature that a sampled field gets back for what interpolation takes of it
UNBLURRED = 1 / 12
DETAIL_BAND = 2.0  # cycles per field unit of a band of spatial frequencies
HALO = 0.05  # field units
# cubes of at least so many voxels along a side are baked in two levels, of which the second leaves
# out what is below this share of the densest voxel
TWO_LEVELS = 80
AIR_SHARE = 0.01


@dataclass(frozen=True)
class FieldVolume:
    """Voxels [..., D, H, W] = [z, y, x] about the isocentre, with their units.

    >>> volume = FieldVolume(torch.full((4, 4, 4), 0.2), unit_mm=100.0, scale=8.2)
    >>> volume.spacing_mm, round(float(volume.per_mm[0, 0, 0]), 4)
    ((70.0, 70.0, 70.0), 0.0164)
    >>> round(float(volume.to_volume().values[0, 0, 0]))  # mu of water: 0.0205 per mm
    -200
    """

    values: Tensor  # image value per field unit
    unit_mm: float  # of one field unit
    scale: float | None = None  # line integral of an image value of 1; None: unknown
    # (x, y, z) of the box around the isocentre, in field units
    half_extents: tuple[float, float, float] = (HALF_EXTENT,) * 3

    @classmethod
    def of(cls, values: Tensor, geometry: Geometry) -> FieldVolume:
        """Voxels on the cube ±HALF_EXTENT in the units and on the scale of a geometry."""
        return cls(values, geometry.half_width_mm, geometry.line_integral_scale)

    @classmethod
    def from_ct(cls, path: str, geometry: Geometry, *, size: int) -> FieldVolume:
        """A CT file resampled (trilinear) to [size, size, size] about its world's origin."""
        ct = read_volume(path).aligned().to_mu()
        axis_mm = voxel_axis(size) * geometry.half_width_mm
        place = [
            2 * (axis_mm - centre) / (n * spacing)
            for centre, n, spacing in zip(
                ct.centre_mm, reversed(ct.shape), ct.spacing_mm, strict=True
            )
        ]
        z, y, x = torch.meshgrid(
            place[2].float(), place[1].float(), place[0].float(), indexing="ij"
        )
        mu = grid_sample(
            ct.values[None, None].float(), torch.stack([x, y, z], -1)[None], align_corners=False
        )[0, 0]
        return cls.of(mu * geometry.half_width_mm / (geometry.line_integral_scale or 1.0), geometry)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the voxels, (x, y, z)."""
        counts = reversed(self.values.shape[-3:])
        x, y, z = (
            2 * half * self.unit_mm / n for half, n in zip(self.half_extents, counts, strict=True)
        )
        return x, y, z

    @property
    def per_mm(self) -> Tensor:
        """Attenuation per mm [..., D, H, W]; image value per mm where the scale is unknown."""
        return self.values * ((self.scale or 1.0) / self.unit_mm)

    def with_values(self, values: Tensor) -> FieldVolume:
        """Other voxels in the same units."""
        return replace(self, values=values)

    def unblurred(self) -> FieldVolume:
        """Voxels whose views are those of the field that was sampled at their centres.

        Linear interpolation multiplies f cycles per voxel along an axis by
        sinc²(f) = 1 − π²f²/3 + …; what is returned, v + (2v − v₋ − v₊) / 12 along each axis, has
        first been multiplied by 1 + (1 − cos 2πf) / 6 = 1 + π²f²/3 − …

        >>> wave = torch.tensor([1.0, 0, -1, 0, 1, 0, -1, 0]).view(1, 1, 8).expand(8, 8, 8)
        >>> round(float(FieldVolume(wave, unit_mm=100.0).unblurred().values[4, 4, 2]), 4)
        -1.1667
        """
        values = self.values
        for axis in (-1, -2, -3):
            before, after = values.roll(1, axis), values.roll(-1, axis)
            values = values + UNBLURRED * (2 * values - before - after)
        return self.with_values(values)

    def with_detail(self, gains: Sequence[float]) -> FieldVolume:
        """A cube's spatial frequencies times ``gains``, one for each band of DETAIL_BAND.

        A gain holds in the middle of its band; in between they are interpolated, the mean stays,
        and beyond the last band its gain holds. No voxel leaves the range of those around it, up
        to HALO away: edges, which networks learn before they learn texture, get no halo.

        >>> wave = 1 + torch.cos(2 * torch.pi * torch.arange(28) / 4).expand(28, 28, 28) / 4
        >>> halved = FieldVolume(wave, unit_mm=100.0).with_detail([1, 0.5, 0.5]).values
        >>> [round(float(v), 3) for v in halved[0, 0, :4]]  # 2.5 cycles per field unit: 0.625
        [1.156, 1.0, 0.844, 1.0]
        """
        if not gains:
            return self
        size = self.values.shape[-1]
        along = np.fft.fftfreq(size, 2 * HALF_EXTENT / size)
        half = np.fft.rfftfreq(size, 2 * HALF_EXTENT / size)
        radius = np.sqrt(along[:, None, None] ** 2 + along[:, None] ** 2 + half**2)
        middles = DETAIL_BAND * (np.arange(len(gains)) + 0.5)
        factor = np.interp(radius, [0.0, *middles], [1.0, *gains])
        spectrum = torch.fft.rfftn(self.values, dim=(-3, -2, -1))
        spectrum = spectrum * torch.from_numpy(factor).to(self.values)
        values = torch.fft.irfftn(spectrum, s=(size,) * 3, dim=(-3, -2, -1))
        around = max(1, round(HALO * size / (2 * HALF_EXTENT)))
        most, least = (sign * self._largest_around(sign, around) for sign in (1, -1))
        return self.with_values(torch.maximum(torch.minimum(values, most), least))

    def _largest_around(self, sign: int, voxels: int) -> Tensor:
        """The largest of sign · values in the cube of so many voxels to each side of every one."""
        flat = sign * self.values.reshape(-1, 1, *self.values.shape[-3:])
        return max_pool3d(flat, 2 * voxels + 1, 1, voxels).view_as(self.values)

    def in_units_of(self, geometry: Geometry) -> FieldVolume:
        """The same volume [D, H, W] on the cube and in the field units of another geometry.

        >>> from mednerf_kit.imaging.geometry import DEFAULTS
        >>> volume = FieldVolume(torch.full((4, 4, 4), 0.2), unit_mm=200.0, scale=8.2)
        >>> other = volume.in_units_of(DEFAULTS["chest"])
        >>> round(float(volume.per_mm[1, 1, 1]), 4), round(float(other.per_mm[1, 1, 1]), 4)
        (0.0082, 0.0082)
        """
        ratio = geometry.half_width_mm / self.unit_mm
        points = cubic_grid(voxel_axis(self.values.shape[-1]) * ratio).view(1, -1, 3)
        values = sample_trilinear(self.values[None, None], points) * ratio
        return FieldVolume(values.view_as(self.values), geometry.half_width_mm, self.scale)

    def cpu(self) -> FieldVolume:
        """The same in main memory."""
        return self.with_values(self.values.cpu())

    def project(self, geometry: Geometry, distance: float | None = None) -> Tensor:
        """The views [..., V, rows, cols] of a geometry, in image values.

        ``distance`` (field units) replaces an orbit's own source distance, where it was fitted;
        views with frames stand where these say.
        """
        if distance is not None:
            geometry = at_distance(geometry, distance)
        return project_volume(self.values, self.spacing_mm, geometry) / self.unit_mm

    def to_volume(self, what: str = "Estimate.", *, difference: bool = False) -> Volume:
        """As a scan [D, H, W] about the isocentre, with a note that begins with ``what``.

        It is in Hounsfield units where the scale is known; elsewhere the values stay, relative.
        ``difference`` is for a standard deviation: 1000 · mu / mu_water, without HU's offset.
        """
        note = f"{what} {DISCLAIMER}"
        if self.scale is None:
            return Volume.centred(self.values.cpu(), self.spacing_mm, "relative", note=note)
        mu = Volume.centred(self.cpu().per_mm, self.spacing_mm, "mu_per_mm", note=note)
        if not difference:
            return mu.to_hu()
        return Volume.centred(
            1000 * mu.values / mu.mu_water_per_mm, self.spacing_mm, "hu", note=note
        )


class FieldProjector:
    """The projector A of voxels like those of a volume to the views of a geometry, in field units.

    ``distance`` (field units) replaces an orbit's own source distance.
    """

    def __init__(
        self, volume: FieldVolume, geometry: Geometry, distance: float | None = None
    ) -> None:
        if distance is not None:
            geometry = at_distance(geometry, distance)
        self.unit_mm = volume.unit_mm
        self.projector = Projector(volume.values.shape[-3:], volume.spacing_mm, geometry)

    def forward(self, values: Tensor) -> Tensor:
        """A v: voxels [..., D, H, W] to pictures [..., V, rows, cols]."""
        return self.projector.forward(values) / self.unit_mm

    def adjoint(self, pictures: Tensor) -> Tensor:
        """Aᵀ y: pictures [..., V, rows, cols] to voxels [..., D, H, W]."""
        return self.projector.adjoint(pictures) / self.unit_mm


@torch.no_grad()
def bake(
    generator: PatientGenerator, code: MlpWeights, geometry: Geometry, *, size: int = 96
) -> FieldVolume:
    """Evaluate a generated field once at the voxels' centres: [B, size, size, size].

    Only the support cylinder up to BAKED_HALF_HEIGHT is evaluated; elsewhere the voxels are zero.
    Of a cube of at least TWO_LEVELS the air is left out as :func:`bake_matter` does.
    """
    if size >= TWO_LEVELS:
        return bake_matter(generator, code, geometry, size=size)
    points = voxel_centres(size, device=code.layers[0][0].device)
    inside = _baked(generator, points)
    values = torch.zeros(code.batch, *inside.shape, device=points.device)
    for i in range(code.batch):
        values[i, inside] = generator.field.density(points[inside][None], code.one(i))[0]
    return FieldVolume.of(values, geometry)


def bake_matter(
    generator: PatientGenerator,
    code: MlpWeights,
    geometry: Geometry,
    *,
    size: int,
    air_share: float = AIR_SHARE,
) -> FieldVolume:
    """The same in two levels, differentiable with respect to the code where there is matter.

    Every other voxel along each side is evaluated first; where these and their neighbours hold
    air (less than ``air_share`` of the densest voxel), which is a third to three quarters of the
    cylinder, the others are interpolated between them, without a gradient.
    """
    points = voxel_centres(size, device=code.layers[0][0].device)
    inside = _baked(generator, points)
    rough = bake(generator, code, geometry, size=size // 2).values[:, None]
    densest = rough.amax((1, 2, 3, 4), keepdim=True)
    matter = (max_pool3d(rough, 3, 1, 1) > air_share * densest).float()
    dense = inside & (interpolate(matter, (size,) * 3)[:, 0] > 0)
    smooth = interpolate(rough, (size,) * 3, mode="trilinear", align_corners=False)[:, 0] * inside
    values = []
    for i, chosen in enumerate(dense):
        exact = generator.field.density(points[chosen][None], code.one(i))[0]
        values.append(smooth[i].masked_scatter(chosen, exact.to(smooth)))
    return FieldVolume.of(torch.stack(values), geometry)


def _baked(generator: PatientGenerator, points: Tensor) -> Tensor:
    """Which points [..., 3] are evaluated at all: bool [...]."""
    x, y, z = points.unbind(-1)
    return (x**2 + y**2 < generator.field.support**2) & (z.abs() < BAKED_HALF_HEIGHT)


def at_distance(geometry: Geometry, distance: float) -> Geometry:
    """The geometry with its source at ``distance`` half-widths; views with frames stay."""
    if geometry.view_frames:
        return geometry
    return geometry.with_fov(2 * torch.rad2deg(torch.atan(torch.tensor(1.0 / distance))).item())


def cell_axis(size: int, *, device: torch.device | None = None) -> Tensor:
    """Centres of ``size`` equal cells of the interval [0, 1]: [size].

    >>> cell_axis(4)
    tensor([0.1250, 0.3750, 0.6250, 0.8750])
    """
    return (torch.arange(size, device=device) + 0.5) / size


def voxel_axis(size: int, *, device: torch.device | None = None) -> Tensor:
    """Centres of a cube's voxels along one axis, in field units: [size]."""
    return (cell_axis(size, device=device) * 2 - 1) * HALF_EXTENT


def voxel_centres(size: int, *, device: torch.device | None = None) -> Tensor:
    """Centres (x, y, z) of a cube's voxels, in field units: [z, y, x, 3], ``size`` each way."""
    return cubic_grid(voxel_axis(size, device=device))


def cubic_grid(axis: Tensor) -> Tensor:
    """Points (x, y, z) of a grid with the same axis [N] each way: [N, N, N, 3] = [z, y, x, 3]."""
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], -1)


def cylinder(size: int) -> Tensor:
    """The voxels of a cube inside the upright cylinder that touches its sides: bool [size]³."""
    axis = cell_axis(size) * 2 - 1
    return (axis[:, None] ** 2 + axis**2 < 1).expand(size, size, size)


def sample_trilinear(values: Tensor, x: Tensor) -> Tensor:
    """Channels of cubes [B, C, D, H, W] at points x [B, N, 3] in field units: [B, C, N]."""
    found = grid_sample(values, (x / HALF_EXTENT)[:, :, None, None], align_corners=False)
    return found[..., 0, 0]
