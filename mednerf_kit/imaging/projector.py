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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from .geometry import Geometry
from .joseph_rays import BLOCK, Bundle, Call, aim, joined, met, numbers, samples_of
from .view_frames import Frames

KEPT = 1 << 23  # interpolations whose coordinates a Projector keeps: 64 MiB
RAYS = 1 << 18  # rays aimed at a time
LOOKED_FOR = 4  # interpolations a voxel from which it pays to look where matter is
VOXELS_A_RAY = 16  # at least, while a volume is sampled: what rays take is a third of its memory
# [D, H, W] as slices across x, y, z: the lower world axis lies last
LAYOUT = ((2, 0, 1), (1, 0, 2), (0, 1, 2))


def project_volume(
    values: Tensor,
    spacing_mm: Sequence[float] | Tensor,
    geometry: Geometry,
    angles_deg: Tensor | None = None,
    *,
    centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    attenuation: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Line integrals [..., V, rows, cols] of volumes [..., D, H, W] on one axis-aligned LPS grid.

    ``values`` are attenuation per millimetre (the line integral then has no unit); ``spacing_mm``,
    ``centre_mm`` are (x, y, z), the centre relative to the isocentre. The views are the geometry's
    own, or those of its orbit at ``angles_deg`` [V]. Leading axes are projected together.

    ``attenuation`` makes attenuation of other ``values``, Hounsfield units say, voxel by voxel.
    Where nothing is differentiated, it is given a few slices at a time, and no copy of the volume
    is made.

    >>> distances = {"source_to_isocentre_mm": 1000, "source_to_detector_mm": 1500}
    >>> g = Geometry(**distances, rows=1, cols=1, pixel_mm=1, angles_deg=(0, 90))
    >>> project_volume(torch.full((8, 8, 8), 0.02), (5, 5, 5), g).flatten()  # 40 mm of water
    tensor([0.8000, 0.8000])
    """
    frames, picture = _views(geometry, angles_deg), (geometry.rows, geometry.cols)
    dtype = _floating(values).dtype if values.is_floating_point() else torch.float32
    given = (values, spacing_mm, angles_deg, centre_mm)
    is_free = not torch.is_grad_enabled() or not any(
        isinstance(t, Tensor) and t.requires_grad for t in given
    )
    if attenuation is not None and not is_free:
        values = attenuation(values)
    shape, few = values.shape[-3:], max(1, RAYS // math.prod(picture))
    pieces = frames.split(few)
    aimed = partial(aim, shape, spacing_mm, picture=picture, centre_mm=centre_mm, dtype=dtype)
    if is_free:
        flat = values.reshape(-1, *shape)
        rays = len(frames.source) * math.prod(picture)
        if rays * max(shape) >= LOOKED_FOR * math.prod(shape):
            aimed = partial(aimed, matter=_matter(flat, attenuation))
        image = flat.new_zeros(len(flat), len(frames.source), *picture, dtype=dtype)
        at_once = max(1, math.prod(shape) // VOXELS_A_RAY // (few * math.prod(picture)))
        for first in range(0, len(pieces), at_once):
            bundles = [
                replace(bundle, views=bundle.views + few * k)
                for k, some in enumerate(pieces[first : first + at_once], first)
                for bundle in aimed(frames=some)
            ]
            _add_by_runs(image, flat, bundles, attenuation)
        return image.reshape(*values.shape[:-3], *image.shape[1:])
    slices: dict[int, Tensor] = {}
    chunks = [
        _integrate(values, aimed(frames=some), (len(some.source), *picture), slices)
        for some in pieces
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
            if sum(samples_of(call) for bundle in self.bundles for call in bundle.calls) <= KEPT:
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


def _matter(values: Tensor, attenuation: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Which blocks of volumes [C, D, H, W], BLOCK voxels wide, hold more than zeros: [d, h, w].

    ``attenuation`` is that of :func:`project_volume`.
    """
    found = []
    for slab in values.split(BLOCK, 1):
        slab = slab if attenuation is None else attenuation(_floating(slab))
        columns = slab.flatten(0, 1)
        held = (columns.amax(0) != 0) | (columns.amin(0) != 0)  # half the time of `any`
        found.append(max_pool2d(held[None].float(), BLOCK, ceil_mode=True) > 0)
    return torch.cat(found).cpu()


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


def _add_by_runs(
    image: Tensor,
    flat: Tensor,
    bundles: Sequence[Bundle],
    attenuation: Callable[[Tensor], Tensor] | None,
) -> None:
    """Add the line integrals of volumes [C, D, H, W] along bundles to ``image`` [C, V, rows, cols].

    A run of slices is cut, sampled for all bundles and forgotten: no copy of the volume is made.
    """
    bundles = [bundle.to(image) for bundle in bundles]
    sums = [image.new_zeros(len(flat), *bundle.length_mm.shape) for bundle in bundles]
    calls = [
        (b.axis, call.slices.start, n, call) for n, b in enumerate(bundles) for call in b.calls
    ]
    at, slices = None, flat
    for axis, first, n, call in sorted(calls, key=itemgetter(0, 1)):
        if (axis, first) != at:
            part = flat.narrow(3 - axis, first, call.slices.stop - first)
            at, slices = (axis, first), _slices(part.to(image.dtype), axis)
            if attenuation is not None:
                for one in slices:
                    one.copy_(attenuation(one))
        (points,) = met(bundles[n].start, bundles[n].step, (call,))
        seen = grid_sample(slices, points, align_corners=False)
        sums[n][:, call.view, call.rows, call.cols].add_(seen.sum(0))
    for bundle, total in zip(bundles, sums, strict=True):
        image.index_add_(1, bundle.views, total.mul_(bundle.length_mm))


def _slices(flat: Tensor, axis: int) -> Tensor:
    """[C, D, H, W] cut across an axis into contiguous pictures [K, C, A, B]."""
    if axis == 0:  # torch's blocked transpose of a matrix, which it has for contiguous ones alone
        columns = flat.contiguous().view(-1, flat.shape[-1])
        return columns.t().contiguous().view(-1, *flat.shape[:-1])
    return flat.movedim(3 - axis, 0).contiguous()


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
        for (view, ks, rows, cols, _), points in zip(calls, met(start, step, calls), strict=True):
            seen = grid_sample(slices[ks], points, align_corners=False)
            image[:, view, rows, cols].add_(seen.sum(0))
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
        calls = joined(ctx.calls)
        for (view, ks, rows, cols, _), points in zip(calls, met(start, step, calls), strict=True):
            moved = _pull(grad[:, view, rows, cols], slices[ks], points, 1)
            to_start[view, rows, cols].add_(moved.sum(0))
            to_step[view, rows, cols].add_((numbers(ks, start) * moved).sum(0))
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
        calls = joined(calls)  # each adds to whole slices
        for (view, ks, rows, cols, _), points in zip(calls, met(start, step, calls), strict=True):
            slices[ks].add_(_pull(image[:, view, rows, cols], slices[ks], points, 0))
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
