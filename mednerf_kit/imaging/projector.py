"""Line integrals of a voxel volume along the rays of a cone-beam geometry: Joseph's projector.

In the package, projection means this forward direction (:func:`project_volume`), and the way back
from a picture to a volume is an inversion; only the command ``mednerf-kit project`` is named after
what its users do.

Joseph's method (IEEE Trans. Med. Imaging 1, 1982) walks a ray slice by slice along the grid axis it
is most parallel to and interpolates bilinearly within each slice. Here all slices of an axis form
one batch of 2-D pictures: ray r meets slice k at ``start_r + k·step_r``, an affine point, so that
one 2-D ``grid_sample`` serves every ray and slice.

    p_r = length_r · Σ_k bilinear(slice_k, start_r + k·step_r)
    length_r = slice spacing · |d_r| / |d_r along the axis|

The volume is taken as zero outside, falling off linearly over the last voxel. The projector and its
adjoint are each other's exact transpose and each other's gradient, so that the volume may be
differentiated any number of times; the view angles and the volume's centre may be differentiated
once. Nothing is stored for the way back but the rays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..core.errors import UserError
from .geometry import Geometry
from .view_frames import Frames

# slices per grid_sample call: enough for every thread, few enough that many rays pass by and are
# left out
SLICES = 32
SAMPLES = 1 << 21  # interpolations per grid_sample call: 16 MiB of coordinates
KEPT = 1 << 23  # interpolations whose coordinates a Projector keeps: 64 MiB
RAYS = 1 << 18  # rays aimed at a time
# [D, H, W] as slices across x, y, z: the lower world axis lies last
LAYOUT = ((2, 0, 1), (1, 0, 2), (0, 1, 2))


class Call(NamedTuple):
    """What one grid_sample call samples: slices, and the box of a view's rays that cross them."""

    view: int
    slices: slice
    rows: slice
    cols: slice
    # [K, rows, cols, 2] where the rays meet the slices; None: computed when needed
    points: Tensor | None


@dataclass(frozen=True)
class Bundle:
    """Views whose rays take the slices of one volume axis.

    Points are in grid_sample's units: ±1 at a slice's outer edges.
    """

    axis: int  # 0 x, 1 y, 2 z
    views: Tensor  # [V] which views these are
    start: Tensor  # [V, rows, cols, 2] where a ray meets slice 0
    step: Tensor  # [V, rows, cols, 2] how far it moves from one slice to the next
    # [V, rows, cols] length of ray that one slice stands for; 0 for a ray that takes another axis
    length_mm: Tensor
    calls: tuple[Call, ...]

    def to(self, like: Tensor) -> Bundle:
        """On the device of ``like``, in its precision."""
        start, step, length_mm = (v.to(like) for v in (self.start, self.step, self.length_mm))
        calls = tuple(
            c if c.points is None else c._replace(points=c.points.to(like)) for c in self.calls
        )
        return Bundle(self.axis, self.views.to(like.device), start, step, length_mm, calls)

    def with_points(self) -> Bundle:
        """The same with every point computed now, for repeated use."""
        met = _met(self.start, self.step, self.calls)
        return replace(
            self,
            calls=tuple(
                call._replace(points=points) for call, points in zip(self.calls, met, strict=True)
            ),
        )


def project_volume(
    values: Tensor,
    spacing_mm: Sequence[float] | Tensor,
    geometry: Geometry,
    angles_deg: Tensor | None = None,
    *,
    centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
) -> Tensor:
    """Line integrals [..., V, rows, cols] of volumes [..., D, H, W] on one axis-aligned LPS grid.

    ``values`` are attenuation per millimetre (the line integral then has no unit); ``spacing_mm``,
    ``centre_mm`` are (x, y, z), the centre relative to the isocentre. The views are the geometry's
    own, or those of its orbit at ``angles_deg`` [V]. Leading axes are projected together.

    >>> distances = {"source_to_isocentre_mm": 1000, "source_to_detector_mm": 1500}
    >>> g = Geometry(**distances, rows=1, cols=1, pixel_mm=1, angles_deg=(0, 90))
    >>> project_volume(torch.full((8, 8, 8), 0.02), (5, 5, 5), g).flatten()  # 40 mm of water
    tensor([0.8000, 0.8000])
    """
    frames, picture = _views(geometry, angles_deg), (geometry.rows, geometry.cols)
    dtype = _floating(values).dtype
    slices: dict[int, Tensor] = {}
    chunks = [
        _integrate(
            values,
            aim(values.shape[-3:], spacing_mm, some, picture, centre_mm=centre_mm, dtype=dtype),
            (len(some.source), *picture),
            slices,
        )
        for some in frames.split(max(1, RAYS // math.prod(picture)))
    ]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, -3)


class Projector:
    """The projector A of one grid and a fixed set of views, with the rays aimed once.

    It keeps 20 bytes a ray, or all points of the rays where these are few.

    ``forward`` is :func:`project_volume`; ``adjoint`` is its transpose, unfiltered back-projection:
    <A x, y> = <x, Aᵀ y>. The slices of the latest volume without gradient (up to three copies of
    it) are kept for the next call with the same tensor; a change made in place through torch is
    noticed, one made behind its back through NumPy is not.

    >>> distances = {"source_to_isocentre_mm": 1000, "source_to_detector_mm": 1500}
    >>> g = Geometry(**distances, rows=4, cols=4, pixel_mm=9).orbit(6)
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
        frames, picture = _views(geometry, angles_deg), (geometry.rows, geometry.cols)
        self.shape = tuple(shape)
        self.pictures = (len(frames.source), *picture)
        with torch.no_grad():
            self.bundles = aim(self.shape, spacing_mm, frames, picture, centre_mm=centre_mm)
            if sum(_samples(call) for bundle in self.bundles for call in bundle.calls) <= KEPT:
                self.bundles = [bundle.with_points() for bundle in self.bundles]
        self._sliced: tuple[Tensor, int, dict[int, Tensor]] | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Volumes [..., D, H, W] to images [..., V, rows, cols]."""
        if tuple(values.shape[-3:]) != self.shape:
            raise ValueError(
                f"values: expected [..., {', '.join(map(str, self.shape))}], got "
                f"{list(values.shape)}"
            )
        self.bundles = [bundle.to(_floating(values)) for bundle in self.bundles]
        # inference tensors do not count their changes
        if values.requires_grad or values.is_inference():
            return _integrate(values, self.bundles, self.pictures, {})
        if (
            self._sliced is None
            or self._sliced[0] is not values
            or self._sliced[1] != values._version
        ):
            self._sliced = (values, values._version, {})
        return _integrate(values, self.bundles, self.pictures, self._sliced[2])

    __call__ = forward

    def adjoint(self, images: Tensor) -> Tensor:
        """Images [..., V, rows, cols] to volumes [..., D, H, W]."""
        if tuple(images.shape[-3:]) != self.pictures:
            raise ValueError(
                f"images: expected [..., {', '.join(map(str, self.pictures))}], got "
                f"{list(images.shape)}"
            )
        flat = _floating(images).reshape(-1, *self.pictures)
        self.bundles = [bundle.to(flat) for bundle in self.bundles]
        parts = []
        for bundle in self.bundles:
            depth, *picture = (self.shape[i] for i in LAYOUT[bundle.axis])
            weighted = flat.index_select(1, bundle.views) * bundle.length_mm
            slices = _Spread.apply(
                weighted, bundle.start, bundle.step, bundle.calls, (depth, len(flat), *picture)
            )
            parts.append(slices.movedim(0, 3 - bundle.axis))
        return reduce(torch.add, parts).reshape(*images.shape[:-3], *self.shape)


def aim(
    shape: Sequence[int],
    spacing_mm: Sequence[float] | Tensor,
    frames: Frames,
    picture: tuple[int, int],
    *,
    centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    dtype: torch.dtype = torch.float32,
) -> list[Bundle]:
    """The rays of views [V], sorted by the axis of the grid whose slices they cross.

    ``picture`` are a view's rows and columns. A view takes the axis that its central ray crosses
    fastest, counted in voxels; rays of a very wide fan that would cross another axis more than
    twice as fast take that one.
    """
    size = torch.tensor(tuple(shape)[::-1], dtype=torch.float64)
    spacing = torch.as_tensor(spacing_mm, dtype=torch.float64, device="cpu")
    centre = torch.as_tensor(centre_mm, dtype=torch.float64, device="cpu")
    if (
        len(size) != 3
        or spacing.shape != (3,)
        or centre.shape != (3,)
        or not bool((spacing > 0).all())
    ):
        raise ValueError(
            "expected a [D, H, W] grid, three positive spacings and a centre, got "
            f"{tuple(shape)}, {spacing_mm}, {centre_mm}"
        )
    # [3, V]
    source, middle, column, row = (t.T for t in frames)
    _refuse_volume_at_source(
        source, middle - source, (size * spacing / 2)[:, None], centre[:, None]
    )
    ahead, column, row, source = (
        t.to(dtype)[:, :, None, None]
        for t in (middle - source, column, row, source - centre[:, None])
    )
    size, spacing = size.to(dtype), spacing.to(dtype)
    y, x = (torch.arange(n, dtype=dtype) - (n - 1) / 2 for n in picture)
    d = ahead + column * x + row * y[:, None]  # [3, V, rows, cols], source to pixel
    axis = _axes(d.detach(), ahead.detach(), spacing.detach()[:, None, None, None])
    length = d.square().sum(0).sqrt()

    bundles = []
    for m in range(3):
        mine = axis == m
        views = mine.flatten(1).any(1).nonzero()[:, 0]
        if not len(views):
            continue
        mine, (at, ray) = mine[views], (t.index_select(1, views) for t in (source, d))
        # whatever a ray of another axis does here, it must not divide by zero
        along = torch.where(mine, ray[m], 1)
        inside = [i for i in range(3) if i != m]
        unit = [2 / (size[i] * spacing[i]) for i in inside]
        slope = [ray[i] / along for i in inside]
        to_first = (1 - size[m]) / 2 * spacing[m] - at[m]
        start = [(at[i] + to_first * r) * n for i, r, n in zip(inside, slope, unit, strict=True)]
        step = [r * (spacing[m] * n) for r, n in zip(slope, unit, strict=True)]
        calls = _calls(
            mine,
            [t.detach() for t in start],
            [t.detach() for t in step],
            size[inside],
            int(size[m]),
        )
        length_mm = torch.where(mine, spacing[m] * length[views] / along.abs(), 0)
        bundles.append(
            Bundle(m, views, torch.stack(start, -1), torch.stack(step, -1), length_mm, calls)
        )
    return bundles


def _axes(d: Tensor, ahead: Tensor, spacing: Tensor) -> Tensor:
    """The axis whose slices each ray d [3, V, rows, cols] is sent through, [V, rows, cols].

    ``ahead`` [3, V, 1, 1] are the central rays.
    """
    favourite = (ahead / spacing).abs().argmax(0, keepdim=True)
    sign = ahead.gather(0, favourite).sign()

    def oblique(d: Tensor) -> Tensor:
        rate = d / spacing
        return 2 * sign * rate.gather(0, favourite.expand(1, *d.shape[1:])) < rate.abs().amax(
            0, keepdim=True
        )

    rows, cols = d.shape[2:]
    # no worse anywhere than at the four corners
    if not bool(oblique(d[:, :, :: max(1, rows - 1), :: max(1, cols - 1)]).any()):
        return favourite[0].expand(d.shape[1:])
    return torch.where(oblique(d), (d / spacing).abs().argmax(0, keepdim=True), favourite)[0]


def _calls(
    mine: Tensor, start: list[Tensor], step: list[Tensor], size: Tensor, slices: int
) -> tuple[Call, ...]:
    """Runs of slices, and for each view the box of rays that meet them.

    A ray meets a slice where it comes within the picture's outermost half voxel.
    """
    enter, leave = torch.zeros_like(start[0]), torch.full_like(start[0], slices - 1)
    for at, by, edge in zip(start, step, (1 + 1 / size).tolist(), strict=True):
        by = torch.where(by.abs() < 1e-12, 1e-12, by)
        one, other = (-edge - at) / by, (edge - at) / by
        enter, leave = (
            torch.maximum(enter, torch.minimum(one, other)),
            torch.minimum(leave, torch.maximum(one, other)),
        )
    mine = mine & (enter <= leave)
    at_once = max(1, SAMPLES // (SLICES * mine.shape[2]))
    calls: list[Call] = []
    for run in _ranges(0, slices, SLICES):
        crossed = mine & (enter < run.stop) & (leave >= run.start)
        for view, (rows, cols) in enumerate(
            zip(_spans(crossed.any(2)), _spans(crossed.any(1)), strict=True)
        ):
            calls += [
                Call(view, run, some, cols, None)
                for some in _ranges(rows.start, rows.stop, at_once)
            ]
    return tuple(calls)


def _spans(flags: Tensor) -> list[slice]:
    """From the first to the last true flag of each line [V, N]; empty where none is true."""
    first = flags.byte().argmax(1)
    stop = (flags.shape[1] - flags.flip(1).byte().argmax(1)) * flags.any(1)
    return [slice(a, max(a, b)) for a, b in zip(first.tolist(), stop.tolist(), strict=True)]


def _ranges(first: int, stop: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, stop)) for i in range(first, stop, size)]


def _refuse_volume_at_source(source: Tensor, ahead: Tensor, half: Tensor, centre: Tensor) -> None:
    """Refuse a volume that does not lie in front of the source altogether.

    A slice sum runs along the whole line, in front of the source and behind it.
    """
    nearest = ((centre - source) * ahead).sum(0) - (half * ahead.abs()).sum(0)
    if bool((nearest.detach() <= 0).any()):
        raise UserError(
            "got a volume that reaches the X-ray source",
            "wanted the whole volume between source and detector",
            "check the spacing, the centre and source_to_isocentre_mm",
        )


def _views(geometry: Geometry, angles_deg: Tensor | None) -> Frames:
    angles_deg = None if angles_deg is None else angles_deg.to("cpu", torch.float64)
    frames = geometry.frames_of_views(angles_deg)
    if frames.source.ndim != 2 or not len(frames.source):
        raise ValueError(
            f"angles_deg: expected [V] with at least one view, got {list(frames.source.shape[:-1])}"
        )
    return frames


def _floating(values: Tensor) -> Tensor:
    """The same values in at least single precision.

    Half precision cannot even tell where a sample lies.
    """
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def _integrate(
    values: Tensor,
    bundles: list[Bundle],
    pictures: tuple[int, int, int],
    slices: dict[int, Tensor],
) -> Tensor:
    """Line integrals along bundles, ``pictures`` [V, rows, cols].

    ``slices`` keeps the volume's copy per axis for the next call.
    """
    flat = _floating(values).reshape(-1, *values.shape[-3:])
    image = flat.new_zeros(len(flat), *pictures)
    for bundle in bundles:
        bundle = bundle.to(flat)
        if bundle.axis not in slices:
            slices[bundle.axis] = _slices(flat, bundle.axis)
        part = (
            _Gather.apply(slices[bundle.axis], bundle.start, bundle.step, bundle.calls)
            * bundle.length_mm
        )
        image = image.index_add(1, bundle.views, part)
    return image.reshape(*values.shape[:-3], *image.shape[1:])


def _slices(flat: Tensor, axis: int) -> Tensor:
    """[C, D, H, W] cut across an axis into contiguous pictures [K, C, A, B]."""
    if axis == 0:  # the same as below, by torch's blocked matrix transpose: twice as fast
        return flat.reshape(-1, flat.shape[-1]).t().contiguous().view(-1, *flat.shape[:-1])
    return flat.movedim(3 - axis, 0).contiguous()


def _samples(call: Call) -> int:
    return math.prod(run.stop - run.start for run in call[1:4])


def _met(start: Tensor, step: Tensor, calls: tuple[Call, ...]) -> Iterator[Tensor]:
    """For each call, where its rays meet its slices, [K, rows, cols, 2]."""
    for view, ks, rows, cols, points in calls:
        if points is None:
            points = torch.addcmul(
                start[view, rows, cols], _numbers(ks, start), step[view, rows, cols]
            )
        yield points


def _numbers(ks: slice, like: Tensor) -> Tensor:
    return torch.arange(ks.start, ks.stop, device=like.device, dtype=like.dtype)[
        :, None, None, None
    ]


def _pull(grad: Tensor, slices: Tensor, points: Tensor, which: int) -> Tensor:
    """grid_sample's gradient for one image [C, rows, cols] under every slice.

    It is the one to the slices (``which`` 0) or to the points (1).
    """
    under = grad.expand(len(slices), -1, -1, -1)
    return torch.ops.aten.grid_sampler_2d_backward(
        under, slices, points, 0, 0, False, [which == 0, which == 1]
    )[which]


class _Gather(torch.autograd.Function):
    """Sum over slices of what each ray meets.

    Slices [K, C, A, B], start and step [V, rows, cols, 2] -> [C, V, rows, cols].
    """

    @staticmethod
    def forward(
        ctx: Any, slices: Tensor, start: Tensor, step: Tensor, calls: tuple[Call, ...]
    ) -> Tensor:
        ctx.shape, ctx.calls = slices.shape, calls
        ctx.save_for_backward(
            slices if start.requires_grad or step.requires_grad else None, start, step
        )
        image = slices.new_zeros(slices.shape[1], *start.shape[:-1])
        for (view, ks, rows, cols, _), points in zip(calls, _met(start, step, calls), strict=True):
            image[:, view, rows, cols] += grid_sample(slices[ks], points, align_corners=False).sum(
                0
            )
        return image

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slices, start, step = ctx.saved_tensors
        to_slices = (
            _Spread.apply(grad, start.detach(), step.detach(), ctx.calls, ctx.shape)
            if ctx.needs_input_grad[0]
            else None
        )
        if slices is None:
            return to_slices, None, None, None
        to_start, to_step = torch.zeros_like(start), torch.zeros_like(step)
        for (view, ks, rows, cols, _), points in zip(
            ctx.calls, _met(start, step, ctx.calls), strict=True
        ):
            moved = _pull(grad[:, view, rows, cols], slices[ks], points, 1)
            to_start[view, rows, cols] += moved.sum(0)
            to_step[view, rows, cols] += (_numbers(ks, start) * moved).sum(0)
        return to_slices, to_start, to_step, None


class _Spread(torch.autograd.Function):
    """The transpose of :class:`_Gather`: image [C, V, rows, cols] -> slices [K, C, A, B]."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        start: Tensor,
        step: Tensor,
        calls: tuple[Call, ...],
        shape: tuple[int, ...],
    ) -> Tensor:
        ctx.calls = calls
        ctx.save_for_backward(start, step)
        slices = image.new_zeros(shape)
        for (view, ks, rows, cols, _), points in zip(calls, _met(start, step, calls), strict=True):
            slices[ks] += _pull(image[:, view, rows, cols], slices[ks], points, 0)
        return slices

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (
            _Gather.apply(grad.contiguous(), *ctx.saved_tensors, ctx.calls),
            None,
            None,
            None,
            None,
        )
