"""Patients varied: other bodies made from a volume by smooth deformation, size, pose and density.

Real CTs are few. A varied copy is as plausible an anatomy as its original as long as it stays
smooth, upright and the right way round: left and right never change places, for the heart lies on
the left.

The warp is one tensor-product cubic B-spline: its control points hold the position that an output
voxel reads from. B-splines reproduce straight lines, so that pose and size are moved control points
too, and the whole map costs three small matrix products. Voxels are attenuation in any unit that is
linear in mu, air being zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import avg_pool3d, grid_sample, interpolate

from ..core.config import Registry
from .motion import exp_se3

VARIATIONS: Registry[Variation] = Registry("variation")

# of water's attenuation: lung begins above air, is lung between these two, and ends below tissue
AIR, LUNG, TISSUE = 0.01, (0.04, 0.4), 0.6
BONE = 1.15  # of water's attenuation: 150 HU, where spongy bone begins
BODY = 0.1  # of water's attenuation: a voxel below it holds next to nothing
WHOLE = 0.9  # share of a slice that must have been scanned for it to be the scan's last
LIMIT = 2.5  # standard deviations at which every draw is cut, so that no anatomy folds
# the mean of Σ B² over a cubic B-spline's span: what it leaves of its control points' variance
SMOOTHED = 151 / 315


@VARIATIONS.register("smooth")
@dataclass(frozen=True, kw_only=True)
class Variation:
    """How strongly patients are varied; every strength is a standard deviation, 0 switches it off.

    Options:
        deformation_mm: smooth displacement, along each axis.
        grid_mm: spacing of the deformation's control points, at most; the finer, the shorter the
            waves, and the smaller the deformation that does not fold.
        size: log of the size of the whole body.
        stretch: log of the size along each axis, on top of it.
        rotation_deg: turn about each axis.
        shift_mm: shift along each axis.
        along_mm: further shift along the patient's axis, on which scans are centred as it comes.
        lung: log of the lungs' attenuation (breath, oedema, emphysema).
        bone: log of the attenuation that bone has above soft tissue.
        cut: largest share of the scan's height that is cut off at either end; half of the ends are
            left as they are.
        flat_ends: let the scan end in planes again after the warp, as every scan does.
    """

    deformation_mm: float = 6.0
    grid_mm: float = 90.0
    size: float = 0.05
    stretch: float = 0.03
    rotation_deg: float = 3.0
    shift_mm: float = 6.0
    along_mm: float = 0.0
    lung: float = 0.25
    bone: float = 0.15
    cut: float = 0.12
    flat_ends: bool = True


@dataclass(frozen=True)
class Variants:
    """What was drawn for a batch of B bodies."""

    control: Tensor  # [B, 3 (x, y, z), Kz, Ky, Kx] positions that are read, in half boxes
    lung: Tensor  # [B] factor of the lungs' attenuation
    bone: Tensor  # [B] factor of what bone has above soft tissue
    cut: Tensor  # [B, 2] shares of the scan's height cut off below (small z) and above
    flat_ends: bool


def varied(
    volumes: Tensor,
    rng: Generator,
    options: Variation,
    *,
    water: float,
    voxel_mm: float | Sequence[float],
) -> Tensor:
    """A varied copy of each of the volumes [B, D, H, W] = [B, z, y, x].

    ``water`` is the attenuation of water in the volumes' unit, ``voxel_mm`` their spacing,
    (x, y, z) or one number. What leaves the box is lost, what enters it is air. Interpolation is
    trilinear.

    >>> ball = torch.zeros(1, 8, 8, 8)
    >>> ball[:, 3:5, 3:5, 3:5] = 0.2
    >>> rng = torch.Generator().manual_seed(0)
    >>> varied(ball, rng, Variation(), water=0.2, voxel_mm=20.0).shape
    torch.Size([1, 8, 8, 8])
    """
    spacing = (voxel_mm,) * 3 if isinstance(voxel_mm, (int, float)) else tuple(voxel_mm)
    box_mm = tuple(n * mm for n, mm in zip(reversed(volumes.shape[1:]), spacing, strict=True))
    drawn = draw_variants(len(volumes), box_mm, rng, options)
    return apply_variants(volumes, drawn, water=water)


def draw_variants(
    count: int, box_mm: Sequence[float], rng: Generator, options: Variation
) -> Variants:
    """Draw ``count`` variations for boxes of this extent (x, y, z) in mm.

    A point x of the varied body reads the original at Rᵀ(x − t)/s + d(x): size s about the box's
    centre, then turn R and shift t, and a deformation d whose control points are independent.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=rng).clamp(-LIMIT, LIMIT)

    counts = [_spans(length, options.grid_mm) + 3 for length in box_mm]  # x, y, z
    size = (options.size * normal(1) + options.stretch * normal(3)).exp()
    turn = math.radians(options.rotation_deg) * normal(3)
    shift = options.shift_mm * normal(3)
    wave = options.deformation_mm / SMOOTHED**1.5 * normal(3, *reversed(counts))
    lung, bone = (options.lung * normal()).exp(), (options.bone * normal()).exp()
    cut = options.cut * torch.rand(count, 2, generator=rng)
    cut = cut * (torch.rand(count, 2, generator=rng) < 0.5)
    shift[:, 2] += options.along_mm * normal()

    x, y, z = (
        (torch.arange(-1, k - 1) / (k - 3) - 0.5) * length
        for k, length in zip(counts, box_mm, strict=True)
    )
    z, y, x = torch.meshgrid(z, y, x, indexing="ij")
    at = torch.stack([x, y, z]).flatten(1) - shift[:, :, None]
    back = exp_se3(torch.cat([turn, torch.zeros_like(turn)], -1))[:, :3, :3].mT
    read = (back @ at) / size[:, :, None] + wave.flatten(2)
    half = torch.tensor(list(box_mm))[:, None] / 2
    return Variants((read / half).reshape(wave.shape), lung, bone, cut, options.flat_ends)


def apply_variants(volumes: Tensor, drawn: Variants, *, water: float) -> Tensor:
    """The volumes [B, D, H, W] warped, denser or thinner, and cut, as was drawn."""
    _, depth, height, width = volumes.shape
    read = read_positions(drawn, (depth, height, width)).to(volumes)
    varied = grid_sample(volumes[:, None], read, align_corners=False)[:, 0]
    for k, (lung, bone) in enumerate(zip(drawn.lung.tolist(), drawn.bone.tolist(), strict=True)):
        one, (below, above) = varied[k], drawn.cut[k].tolist()
        first, last = scan_extent(volumes[k], level=BODY * water)
        if drawn.flat_ends:
            first, last = _flat_extent(one, read[k, ..., 2], first, last, level=BODY * water)
        else:
            first, last = scan_extent(one, level=BODY * water)
        if lung != 1:
            one *= 1 + (lung - 1) * lung_weight(one / water)
        if bone != 1:
            one += (bone - 1) * (one - BONE * water).clamp_min(0)
        below, above = first + below * (last - first), last - above * (last - first)
        one *= _between(depth, below, above).to(one)
    return varied


def read_positions(drawn: Variants, shape: tuple[int, int, int]) -> Tensor:
    """Where every voxel reads, in half boxes from the centre: [B, D, H, W, 3 (x, y, z)].

    p = Σ_kji B_k(z) B_j(y) B_i(x) c_kji, over the cubic B-splines B of each axis.
    """
    depth, height, width = (
        _basis(n, k).to(drawn.control) for n, k in zip(shape, drawn.control.shape[2:], strict=True)
    )
    at = torch.einsum("dk,bckji->bcdji", depth, drawn.control)
    at = torch.einsum("hj,bcdji->bcdhi", height, at)
    return (at @ width.T).permute(0, 2, 3, 4, 1)


def lung_weight(relative: Tensor) -> Tensor:
    """How much each voxel [D, H, W] is lung, 0 to 1, from attenuation relative to water.

    Lung lies between air and soft tissue and among its like: the mean weight of a neighbourhood of
    some 6³ voxels keeps the skin out, whose half-filled voxels form one thin layer.
    """
    low, high = LUNG
    weight = ((TISSUE - relative) * (1 / (TISSUE - high))).clamp_(0, 1)
    weight *= ((relative - AIR) * (1 / (low - AIR))).clamp_(0, 1)
    mean = avg_pool3d(weight[None], 2, ceil_mode=True, count_include_pad=False)
    for kernel in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):
        mean = avg_pool3d(mean, kernel, stride=1, padding=tuple(k // 2 for k in kernel))
    mean = interpolate(mean[None], size=weight.shape)[0, 0]
    return weight * (mean * 4 - 1).clamp_(0, 1)


def scan_extent(volume: Tensor, *, level: float) -> tuple[int, int]:
    """The first slice of [D, H, W] that holds more than ``level``, and the one after the last."""
    held = (volume.amax((1, 2)) > level).nonzero().flatten().tolist()
    return (held[0], held[-1] + 1) if held else (0, len(volume))


def _flat_extent(
    varied: Tensor, read_z: Tensor, first: int, last: int, *, level: float
) -> tuple[int, int]:
    """The slices of a warped body [D, H, W] that lie WHOLE inside the scan first to last.

    ``read_z`` [D, H, W] is where its voxels read along z; only columns with something in them
    count.
    """
    depth, body = len(varied), varied[:, ::2, ::2].amax(0) > level  # every fourth column will do
    at = read_z[:, ::2, ::2][:, body]  # [D, columns]
    inside = (at > 2 * first / depth - 1) & (at < 2 * last / depth - 1)
    whole = (inside.float().mean(1) >= WHOLE).nonzero().flatten().tolist()
    return (whole[0], whole[-1] + 1) if whole else (0, depth)


def _between(depth: int, bottom: float, top: float) -> Tensor:
    """Weights [depth, 1, 1] of slices between two heights; a slice that one cuts is kept in part.

    >>> _between(4, 0.25, 3.0).flatten()
    tensor([0.7500, 1.0000, 1.0000, 0.0000])
    """
    index = torch.arange(depth)
    return torch.minimum(index + 1 - bottom, top - index).clamp(0, 1)[:, None, None]


def _spans(length_mm: float, grid_mm: float) -> int:
    """Spans of a B-spline over this length, none longer than ``grid_mm``."""
    return max(1, math.ceil(length_mm / grid_mm - 1e-6))


def _basis(voxels: int, control: int) -> Tensor:
    """The cubic B-splines of an axis's ``control`` points at its voxels: [voxels, control].

    B(t) = 2/3 − t² + |t|³/2 within |t| < 1, (2 − |t|)³/6 within |t| < 2 (Unser 1999, eq. 5).
    """
    at = (torch.arange(voxels) + 0.5) / voxels * (control - 3)
    t = (at[:, None] - torch.arange(-1, control - 1)).abs()
    return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp_min(0) ** 3 / 6)
