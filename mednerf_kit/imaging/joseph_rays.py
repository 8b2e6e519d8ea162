"""The rays of Joseph's projector: which slices each crosses, where, and in what order.

All is worked out on the CPU, once for a set of views; :mod:`.projector` sums along them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError
from .view_frames import Frames

# slices per grid_sample call: enough for every thread, few enough that many rays pass by and are
# left out, and of large slices so few that they (8 MiB) stay in a CPU's cache
SLICES, FEW_SLICES, CACHED_VOXELS = 32, 8, 1 << 21
# voxels along the sides of the blocks in which matter is looked for
BLOCK = 8
# interpolations per grid_sample call: on a CPU their coordinates (1 MiB) stay in its cache, which
# makes them 1.7 times as fast; on a GPU it takes more to keep it busy
SAMPLES, SAMPLES_ELSEWHERE = 1 << 17, 1 << 21


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
        if like.device.type != "cpu":
            calls = joined(calls)
        return Bundle(self.axis, self.views.to(like.device), start, step, length_mm, calls)

    def with_points(self) -> Bundle:
        """The same with every point computed now, for repeated use."""
        found = met(self.start, self.step, self.calls)
        return replace(
            self,
            calls=tuple(
                call._replace(points=points) for call, points in zip(self.calls, found, strict=True)
            ),
        )


def aim(
    shape: Sequence[int],
    spacing_mm: Sequence[float] | Tensor,
    frames: Frames,
    picture: tuple[int, int],
    *,
    centre_mm: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    dtype: torch.dtype = torch.float32,
    matter: Tensor | None = None,
) -> list[Bundle]:
    """The rays of views [V], sorted by the axis of the grid whose slices they cross.

    ``picture`` are a view's rows and columns. ``matter`` [d, h, w] bool says which blocks of the
    grid, BLOCK voxels wide, hold more than zeros: what passes by all of them is left out. A view
    takes the axis that its central ray crosses fastest, counted in voxels; rays of a very wide fan
    that would cross another axis more than twice as fast take that one.
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
    fixed = Frames(*(t.detach() for t in frames))
    boxes = _Boxes(tuple(shape)[::-1], spacing.detach(), centre.detach(), matter)
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
        calls = _calls(mine, boxes, m, fixed.take(views))
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


@dataclass(frozen=True)
class _Boxes:
    """Where the runs of a grid's slices hold matter; sizes and lengths are (x, y, z)."""

    size: Sequence[int]
    spacing_mm: Tensor  # [3]
    centre_mm: Tensor  # [3]
    matter: Tensor | None  # [d, h, w] bool, by blocks

    def runs(self, axis: int) -> list[slice]:
        """The slices across an axis from the first to the last that hold something, in runs."""
        first, stop = 0, self.size[axis]
        if self.matter is not None:
            here = self.matter.movedim(2 - axis, 0).flatten(1).any(1).nonzero().flatten().tolist()
            first, stop = (BLOCK * here[0], BLOCK * (here[-1] + 1)) if here else (0, 0)
        return _ranges(first, min(stop, self.size[axis]), self.at_once(axis))

    def at_once(self, axis: int) -> int:
        """How many slices across an axis a call takes."""
        fitting = CACHED_VOXELS * self.size[axis] // math.prod(self.size)
        return max(torch.get_num_threads(), min(SLICES, max(FEW_SLICES, fitting)))

    def of(self, axis: int, run: slice) -> Tensor | None:
        """Corners (mm) of what the slices ``run`` across an axis hold, [8, 3]; None: nothing.

        It is half a voxel wider than its voxels within the slices, where a value falls to zero.
        """
        lowest, highest = [0, 0, 0], [n - 1 for n in self.size]
        if self.matter is not None:
            here = slice(run.start // BLOCK, -(-run.stop // BLOCK))
            held = self.matter.narrow(2 - axis, here.start, here.stop - here.start)
            if not bool(held.any()):
                return None
            found = held.nonzero().flip(1)  # x, y, z
            lowest = (found.amin(0) * BLOCK).tolist()
            highest = [
                min(n, (k + 1) * BLOCK) - 1
                for n, k in zip(self.size, found.amax(0).tolist(), strict=True)
            ]
        ends = [
            (run.start, run.stop - 1) if i == axis else (lowest[i] - 1, highest[i] + 1)
            for i in range(3)
        ]
        middle = (torch.tensor(self.size) - 1) / 2
        corners = torch.cartesian_prod(*map(torch.tensor, ends))
        return self.centre_mm + (corners - middle) * self.spacing_mm


def _calls(mine: Tensor, boxes: _Boxes, axis: int, frames: Frames) -> tuple[Call, ...]:
    """Runs of slices, and for each view the box of its rays ``mine`` that meet matter there."""
    rows, cols = mine.shape[1:]
    at_once = max(1, SAMPLES // (boxes.at_once(axis) * cols))
    own = list(zip(_spans(mine.any(2)), _spans(mine.any(1)), strict=True))
    calls: list[Call] = []
    for run in boxes.runs(axis):
        corners = boxes.of(axis, run)
        if corners is None:
            continue
        shadow = frames.shadows(corners, rows, cols)
        # what reaches back beside the source may be seen anywhere
        ahead = ((frames.source[:, None] - corners) * frames.towards[:, None]).sum(-1) > 0
        low = torch.where(ahead[..., None], shadow, -math.inf).amin(1)
        high = torch.where(ahead[..., None], shadow, math.inf).amax(1)
        for view, ((top, left), (bottom, right)) in enumerate(
            zip(low.ceil().tolist(), high.floor().tolist(), strict=True)
        ):
            across, along = (_within(own[view][0], top, bottom), _within(own[view][1], left, right))
            if along.start < along.stop:
                calls += [
                    Call(view, run, some, along, None)
                    for some in _ranges(across.start, across.stop, at_once)
                ]
    return tuple(calls)


def _within(span: slice, first: float, last: float) -> slice:
    """The part of a span of pixels from the first to the last."""
    return slice(int(max(span.start, first)), int(min(span.stop, last + 1)))


def joined(calls: Sequence[Call], most: int = SAMPLES_ELSEWHERE) -> tuple[Call, ...]:
    """The same interpolations in fewer calls: neighbours are joined up to ``most`` in one."""
    found: list[Call] = []
    for call in calls:
        last = found[-1] if found else None
        if (
            last is not None
            and (*last[:2], last.rows.stop, last.cols) == (*call[:2], call.rows.start, call.cols)
            and samples_of(last) + samples_of(call) <= most
        ):
            points = None
            if last.points is not None and call.points is not None:
                points = torch.cat([last.points, call.points], 1)
            rows = slice(last.rows.start, call.rows.stop)
            found[-1] = last._replace(rows=rows, points=points)
        else:
            found.append(call)
    return tuple(found)


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


def samples_of(call: Call) -> int:
    return math.prod(run.stop - run.start for run in call[1:4])


def met(start: Tensor, step: Tensor, calls: tuple[Call, ...]) -> Iterator[Tensor]:
    """For each call, where its rays meet its slices, [K, rows, cols, 2]."""
    for view, ks, rows, cols, points in calls:
        if points is None:
            points = torch.addcmul(
                start[view, rows, cols], numbers(ks, start), step[view, rows, cols]
            )
        yield points


def numbers(ks: slice, like: Tensor) -> Tensor:
    return torch.arange(ks.start, ks.stop, device=like.device, dtype=like.dtype)[
        :, None, None, None
    ]
