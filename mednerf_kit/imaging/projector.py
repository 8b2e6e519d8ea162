"""Line integrals of a voxel volume along every ray of a cone-beam geometry: the slice-wise Joseph projector.

Joseph's method (IEEE Trans. Med. Imaging 1, 1982) walks a ray slice by slice along the grid axis it is most parallel to
and interpolates bilinearly within each slice. Here all slices of an axis form one batch of 2-D pictures: ray r meets
slice k at ``start_r + k·step_r``, an affine point, so that one 2-D ``grid_sample`` serves every ray and slice.

    p_r = length_r · Σ_k bilinear(slice_k, start_r + k·step_r),    length_r = slice spacing · |d_r| / |d_r along the axis|

The volume is taken as zero outside, falling off linearly over the last voxel. The projector and its adjoint are each
other's exact transpose and each other's gradient, so that the volume may be differentiated any number of times; the view
angles and the volume's centre may be differentiated once. Nothing is stored for the way back but the rays.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..core.errors import UserError
from .geometry import Geometry

SAMPLES = 1 << 21  # interpolations per grid_sample call: 16 MiB of coordinates; more gains no speed
SLICES = 16  # at least this many slices per call: torch spreads them over its threads
LAYOUT = ((2, 0, 1), (1, 0, 2), (0, 1, 2))  # [D, H, W] as slices across x, y, z: the lower world axis lies last
RAYS = 1 << 20  # rays aimed at a time


@dataclass(frozen=True)
class Bundle:
    """Rays that cross the slices of one volume axis. Points are in grid_sample's units: ±1 at the slice's outer edges."""

    axis: int  # 0 x, 1 y, 2 z
    pixels: Tensor  # [R] where the rays belong in the flattened [V, rows, cols]
    start: Tensor  # [R, 2] where a ray meets slice 0
    step: Tensor  # [R, 2] how far it moves from one slice to the next
    length_mm: Tensor  # [R] length of ray that one slice stands for

    def to(self, like: Tensor) -> Bundle:
        """On the device of ``like``, in its precision."""
        return Bundle(self.axis, self.pixels.to(like.device), *(v.to(like) for v in (self.start, self.step, self.length_mm)))


def project(
    values: Tensor,
    spacing_mm: Sequence[float] | Tensor,
    geometry: Geometry,
    angles_deg: Tensor | None = None,
    *,
    centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Tensor:
    """Line integrals [..., V, rows, cols] of volumes [..., D, H, W] on one axis-aligned LPS grid.

    ``values`` are attenuation per millimetre (the line integral then has no unit), ``spacing_mm`` and ``centre_mm`` are (x, y, z),
    the centre relative to the isocentre; ``angles_deg`` [V] defaults to the geometry's. Leading axes are projected together.

    >>> g = Geometry(source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=1, cols=1, pixel_mm=1, angles_deg=(0, 90))
    >>> project(torch.full((8, 8, 8), 0.02), (5, 5, 5), g).flatten()  # 40 mm of water, two views
    tensor([0.8000, 0.8000])
    """
    angles_deg = _angles(geometry, angles_deg)
    slices: dict[int, Tensor] = {}
    views = max(1, RAYS // (geometry.rows * geometry.cols))
    chunks = [
        _integrate(values, aim(values.shape[-3:], spacing_mm, geometry, some, centre_mm=centre_mm), len(some), geometry, slices)
        for some in angles_deg.split(views)
    ]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, -3)


class Projector:
    """The projector A of one grid and a fixed set of views, with the rays aimed once (20 bytes a ray).

    ``forward`` is :func:`project`; ``adjoint`` is its transpose (unfiltered back-projection, in image units × mm): <A x, y> = <x, Aᵀ y>.
    The slices of the latest volume without gradient are kept (up to three copies of it) for the next call with the same tensor;
    a change made in place through torch is noticed, one made behind its back through NumPy is not.

    >>> g = Geometry(source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=4, cols=4, pixel_mm=9).orbit(6)
    >>> a = Projector((8, 8, 8), (5, 5, 5), g)
    >>> x, y = torch.rand(8, 8, 8), torch.rand(6, 4, 4)
    >>> bool(torch.isclose((a(x) * y).sum(), (x * a.adjoint(y)).sum()))
    True
    """

    def __init__(
        self,
        shape: Sequence[int],
        spacing_mm: Sequence[float] | Tensor,
        geometry: Geometry,
        *,
        angles_deg: Tensor | None = None,
        centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    ) -> None:
        angles_deg = _angles(geometry, angles_deg)
        self.shape = tuple(shape)
        self.geometry = geometry
        self.views = len(angles_deg)
        with torch.no_grad():
            exact = aim(self.shape, spacing_mm, geometry, angles_deg, centre_mm=centre_mm)
        self.bundles = [bundle.to(torch.zeros(())) for bundle in exact]
        self._sliced: tuple[Tensor, int, dict[int, Tensor]] | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Volumes [..., D, H, W] to images [..., V, rows, cols]."""
        if tuple(values.shape[-3:]) != self.shape:
            raise ValueError(f"values: expected [..., {', '.join(map(str, self.shape))}], got {list(values.shape)}")
        if values.requires_grad or values.is_inference():  # inference tensors do not count their changes
            return _integrate(values, self.bundles, self.views, self.geometry, {})
        if self._sliced is None or self._sliced[0] is not values or self._sliced[1] != values._version:
            self._sliced = (values, values._version, {})
        return _integrate(values, self.bundles, self.views, self.geometry, self._sliced[2])

    __call__ = forward

    def adjoint(self, images: Tensor) -> Tensor:
        """Images [..., V, rows, cols] to volumes [..., D, H, W]."""
        expected = (self.views, self.geometry.rows, self.geometry.cols)
        if tuple(images.shape[-3:]) != expected:
            raise ValueError(f"images: expected [..., {', '.join(map(str, expected))}], got {list(images.shape)}")
        flat = _floating(images).reshape(-1, images.shape[-3:].numel())
        parts = []
        for bundle in self.bundles:
            bundle = bundle.to(flat)
            weighted = flat[:, bundle.pixels] * bundle.length_mm
            depth, *picture = (self.shape[i] for i in LAYOUT[bundle.axis])
            slices = _Spread.apply(weighted, bundle.start, bundle.step, torch.Size((depth, len(flat), *picture)))
            parts.append(slices.movedim(0, 3 - bundle.axis))
        return reduce(torch.add, parts).reshape(*images.shape[:-3], *self.shape)


def aim(
    shape: Sequence[int],
    spacing_mm: Sequence[float] | Tensor,
    geometry: Geometry,
    angles_deg: Tensor,
    *,
    centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> list[Bundle]:
    """The rays of views ``angles_deg`` [V] sorted by the axis of the [D, H, W] grid whose slices they cross.

    A view keeps to the axis that its rays cross fastest on average, counted in voxels; rays of a very wide fan that would cross
    another axis more than twice as fast take that one.
    """
    size = torch.tensor(tuple(shape)[::-1], dtype=torch.float64)
    spacing = torch.as_tensor(spacing_mm, dtype=torch.float64, device="cpu")
    centre = torch.as_tensor(centre_mm, dtype=torch.float64, device="cpu")
    if len(size) != 3 or spacing.shape != (3,) or centre.shape != (3,) or not bool((spacing > 0).all()):
        raise ValueError(f"expected a [D, H, W] grid, three positive spacings and a centre, got {tuple(shape)}, {spacing_mm}, {centre_mm}")
    source, middle, right, up = (t.T for t in geometry.frames(angles_deg.to("cpu", torch.float64)))  # [3, V]
    u = (torch.arange(geometry.cols) - (geometry.cols - 1) / 2) * geometry.pixel_mm
    v = ((geometry.rows - 1) / 2 - torch.arange(geometry.rows)) * geometry.pixel_mm
    ahead, right, up, s = (t[:, :, None, None] for t in (middle - source, right, up, source))
    d = ahead + right * u + up * v[:, None]  # [3, V, rows, cols], source to pixel
    _refuse_volume_at_source(source, d.mean((2, 3)), (size * spacing / 2)[:, None], centre[:, None])
    axis = _axes(d.detach(), spacing.detach()).flatten()
    norm = d.square().sum(0).sqrt().flatten()
    s, d = s.expand_as(d).flatten(1), d.flatten(1)

    bundles = []
    for m in range(3):
        pixels = (axis == m).nonzero()[:, 0]
        if not len(pixels):
            continue
        origin, ray, length = (s, d, norm) if len(pixels) == len(axis) else (t.index_select(-1, pixels) for t in (s, d, norm))
        inside = [i for i in range(3) if i != m]
        unit = (2 / (size * spacing))[inside]
        first = centre[m] - (size[m] - 1) / 2 * spacing[m]
        slope = [ray[i] / ray[m] for i in inside]
        start = [(origin[i] + (first - origin[m]) * r - centre[i]) * n for i, r, n in zip(inside, slope, unit)]
        step = [r * spacing[m] * n for r, n in zip(slope, unit)]
        bundles.append(Bundle(m, pixels, torch.stack(start, -1), torch.stack(step, -1), spacing[m] * length / ray[m].abs()))
    return bundles


def _axes(d: Tensor, spacing: Tensor) -> Tensor:
    """The axis whose slices each ray [3, V, rows, cols] is sent through, [V, rows, cols]."""
    rate = d.abs() / spacing[:, None, None, None]
    favourite = rate.mean((2, 3)).argmax(0)
    axis = favourite[:, None, None].expand(d.shape[1:])
    oblique = 2 * rate.gather(0, axis[None])[0] < rate.amax(0)
    return torch.where(oblique, rate.argmax(0), axis) if bool(oblique.any()) else axis


def _refuse_volume_at_source(source: Tensor, ahead: Tensor, half: Tensor, centre: Tensor) -> None:
    """A slice sum runs along the whole line, so the volume must lie in front of the source altogether."""
    nearest = ((centre - source) * ahead).sum(0) - (half * ahead.abs()).sum(0)
    if bool((nearest.detach() <= 0).any()):
        raise UserError("got a volume that reaches the X-ray source", "wanted the whole volume between source and detector",
                        "check the spacing, the centre and source_to_isocentre_mm")


def _angles(geometry: Geometry, angles_deg: Tensor | None) -> Tensor:
    if angles_deg is None:
        angles_deg = torch.tensor(geometry.angles_deg, dtype=torch.float64)
    if angles_deg.ndim != 1 or not len(angles_deg):
        raise ValueError(f"angles_deg: expected [V] with at least one view, got {list(angles_deg.shape)}")
    return angles_deg


def _floating(values: Tensor) -> Tensor:
    """At least single precision: half precision cannot even say where a sample lies."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _integrate(values: Tensor, bundles: list[Bundle], views: int, geometry: Geometry, slices: dict[int, Tensor]) -> Tensor:
    """Line integrals along bundles; ``slices`` keeps the volume's copy per axis for the next call."""
    flat = _floating(values).reshape(-1, *values.shape[-3:])
    images = []
    for bundle in bundles:
        bundle = bundle.to(flat)
        if bundle.axis not in slices:
            slices[bundle.axis] = _slices(flat, bundle.axis)
        images.append(_Gather.apply(slices[bundle.axis], bundle.start, bundle.step) * bundle.length_mm)
    image = images[0]
    if len(images) > 1:
        image = torch.cat(images, 1)[:, torch.cat([bundle.pixels for bundle in bundles]).argsort().to(image.device)]
    return image.reshape(*values.shape[:-3], views, geometry.rows, geometry.cols)


def _slices(flat: Tensor, axis: int) -> Tensor:
    """[C, D, H, W] cut across an axis into contiguous pictures [K, C, A, B]."""
    if axis == 0:  # the same as below, by torch's blocked matrix transpose: twice as fast
        return flat.reshape(-1, flat.shape[-1]).t().contiguous().view(-1, *flat.shape[:-1])
    return flat.movedim(3 - axis, 0).contiguous()


def _chunks(shape: torch.Size, rays: int) -> tuple[list[slice], list[slice]]:
    """Ranges of slices and of rays that keep one grid_sample call on slices [K, C, A, B] within :data:`SAMPLES`."""
    some_rays = min(rays, max(1, SAMPLES // (SLICES * shape[1])))
    some_slices = max(SLICES, SAMPLES // (some_rays * shape[1]))
    return _ranges(shape[0], some_slices), _ranges(rays, some_rays)


def _ranges(end: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, end)) for i in range(0, end, size)]


def _points(start: Tensor, step: Tensor, ks: slice) -> Tensor:
    """Where rays [R, 2] meet slices, [K, R, 1, 2]."""
    return torch.addcmul(start, _numbers(ks, start), step)[:, :, None]


def _numbers(ks: slice, like: Tensor) -> Tensor:
    return torch.arange(ks.start, ks.stop, device=like.device, dtype=like.dtype)[:, None, None]


def _pull(grad: Tensor, slices: Tensor, points: Tensor, which: int) -> Tensor:
    """grid_sample's gradient for the same image [C, R] under every slice: to the slices (``which`` 0) or to the points (1)."""
    spread = grad[None, :, :, None].expand(len(slices), -1, -1, -1)
    return torch.ops.aten.grid_sampler_2d_backward(spread, slices, points, 0, 0, False, [which == 0, which == 1])[which]


class _Gather(torch.autograd.Function):
    """Sum over slices of what each ray meets: slices [K, C, A, B], start and step [R, 2] -> [C, R]."""

    @staticmethod
    def forward(ctx, slices: Tensor, start: Tensor, step: Tensor) -> Tensor:
        ctx.shape = slices.shape
        ctx.save_for_backward(slices if start.requires_grad or step.requires_grad else None, start, step)

        def share(ks: slice, rays: slice) -> Tensor:
            return grid_sample(slices[ks], _points(start[rays], step[rays], ks), align_corners=False).sum(0)[..., 0]

        many, bunches = _chunks(slices.shape, len(start))
        return torch.cat([reduce(torch.add, (share(ks, rays) for ks in many)) for rays in bunches], 1)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        slices, start, step = ctx.saved_tensors
        to_slices = _Spread.apply(grad, start.detach(), step.detach(), ctx.shape) if ctx.needs_input_grad[0] else None
        if slices is None:
            return to_slices, None, None
        to_start, to_step = torch.zeros_like(start), torch.zeros_like(step)
        many, bunches = _chunks(slices.shape, len(start))
        for ks, rays in itertools.product(many, bunches):
            moved = _pull(grad[:, rays], slices[ks], _points(start[rays], step[rays], ks), 1)[:, :, 0]
            to_start[rays] += moved.sum(0)
            to_step[rays] += (_numbers(ks, start) * moved).sum(0)
        return to_slices, to_start, to_step


class _Spread(torch.autograd.Function):
    """The transpose of :class:`_Gather`: image [C, R] -> slices [K, C, A, B]."""

    @staticmethod
    def forward(ctx, image: Tensor, start: Tensor, step: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(start, step)
        blank = image.new_empty((1, *shape[1:])).expand(shape)  # only its shape is read

        def share(ks: slice, rays: slice) -> Tensor:
            return _pull(image[:, rays], blank[ks], _points(start[rays], step[rays], ks), 0)

        many, bunches = _chunks(shape, len(start))
        parts = [reduce(torch.add, (share(ks, rays) for rays in bunches)) for ks in many]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _Gather.apply(grad.contiguous(), *ctx.saved_tensors), None, None, None
