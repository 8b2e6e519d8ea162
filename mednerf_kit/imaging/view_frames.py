"""Where the source and the detector of one view stand: for set-ups that are no simple orbit.

A C-arm, two oblique films or a helical scan have a source, a detector and image axes of their own
in every view. A frame gives them in the room: LPS millimetres, the isocentre at the origin. The
centre of the pixel in row y and column x of a picture of H × W pixels is

    detector_mm + (x − (W − 1)/2) · column_mm + (y − (H − 1)/2) · row_mm,

which is what ASTRA's ``cone_vec`` says with its vectors (source, d, u, v).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import UserError, unknown_name

# sine of the smallest angle that a detector's axes, or a ray and the detector, may enclose
FLAT = 1e-3


@dataclass(frozen=True, kw_only=True)
class ViewFrame:
    """The source and the detector of one view, in millimetres about the isocentre (LPS).

    The axes are steps: a pixel pitch long, and of two lengths where pixels are not square.

    >>> frame = ViewFrame(
    ...     source_mm=(1000, 0, 0),
    ...     detector_mm=(-500, 0, 0),
    ...     column_mm=(0, -1.5, 0),
    ...     row_mm=(0, 0, -1.5),
    ... )
    >>> frame.source_mm
    (1000.0, 0.0, 0.0)
    """

    source_mm: tuple[float, float, float]
    detector_mm: tuple[float, float, float]  # centre of all pixels
    column_mm: tuple[float, float, float]  # from a pixel to the next column: image right
    row_mm: tuple[float, float, float]  # from a pixel to the next row: image down

    def __post_init__(self) -> None:
        try:
            for field in dataclasses.fields(self):
                x, y, z = (float(v) for v in getattr(self, field.name))
                object.__setattr__(self, field.name, (x, y, z))
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                "got a view frame with a value that is no point (x, y, z)",
                "wanted three millimetres each in source_mm, detector_mm, column_mm and row_mm",
                "correct view_frames in geometry.json",
            ) from None
        frames = Frames.of([self])
        if not all(bool(v.isfinite().all()) for v in frames):
            raise UserError(
                "got a view frame with a missing or infinite number",
                "wanted finite millimetres",
                "correct view_frames in geometry.json",
            )
        pitches = math.hypot(*self.column_mm) * math.hypot(*self.row_mm)
        area = float(torch.linalg.cross(frames.column, frames.row).norm())
        if not area > FLAT * pitches:
            raise UserError(
                f"got a view frame with column_mm {list(self.column_mm)} and row_mm "
                f"{list(self.row_mm)}",
                "wanted two axes that span the detector",
                "correct view_frames in geometry.json",
            )
        ahead = math.dist(self.source_mm, self.detector_mm)
        if not float(frames.source_to_detector_mm.abs()) > FLAT * ahead:
            raise UserError(
                "got a view frame whose source lies in the plane of its detector",
                "wanted a source in front of the detector",
                "correct source_mm and detector_mm in view_frames",
            )

    def resampled(self, wider: float, higher: float) -> ViewFrame:
        """The same detector under pixels this many times as wide and as high."""
        x, y, z = (wider * v for v in self.column_mm)
        p, q, r = (higher * v for v in self.row_mm)
        return dataclasses.replace(self, column_mm=(x, y, z), row_mm=(p, q, r))

    def moved(self, cols: float, rows: float) -> ViewFrame:
        """The same with the detector's centre moved by columns and rows of its pixels."""
        x, y, z = (
            centre + cols * right + rows * down
            for centre, right, down in zip(
                self.detector_mm, self.column_mm, self.row_mm, strict=True
            )
        )
        return dataclasses.replace(self, detector_mm=(x, y, z))


class Frames(NamedTuple):
    """Sources and detectors of views, [..., 3] each, in mm about the isocentre."""

    source: Tensor
    detector: Tensor  # the centre
    column: Tensor  # step to the next column
    row: Tensor  # step to the next row

    @classmethod
    def of(cls, frames: Iterable[ViewFrame]) -> Frames:
        """Those of V frames, [V, 3] each, in double precision."""
        rows = [(f.source_mm, f.detector_mm, f.column_mm, f.row_mm) for f in frames]
        return cls(*torch.tensor(rows, dtype=torch.float64).reshape(-1, 4, 3).unbind(1))

    def to_list(self) -> list[ViewFrame]:
        """A frame for each of V views."""
        names = [field.name for field in dataclasses.fields(ViewFrame)]
        views = zip(*(part.tolist() for part in self), strict=True)
        return [ViewFrame(**dict(zip(names, view, strict=True))) for view in views]

    def to(self, like: Tensor) -> Frames:
        """On the device of ``like``, in its precision."""
        return Frames(*(part.to(like) for part in self))

    def take(self, views: Tensor) -> Frames:
        """Those of views [...] of V: [..., 3] each."""
        return Frames(*(part[views] for part in self))

    def split(self, views: int) -> list[Frames]:
        """Those of V views, at most so many at a time."""
        return [Frames(*some) for some in zip(*(part.split(views) for part in self), strict=True)]

    @property
    def towards(self) -> Tensor:
        """Unit vectors across the detector, to the side of the source: [..., 3]."""
        across = torch.linalg.cross(self.column, self.row)
        side = ((self.source - self.detector) * across).sum(-1, keepdim=True).sign()
        return torch.nn.functional.normalize(across * side, dim=-1)

    @property
    def source_to_detector_mm(self) -> Tensor:
        """How far each source is from the plane of its detector: [...]."""
        return ((self.source - self.detector) * self.towards).sum(-1)

    @property
    def source_to_isocentre_mm(self) -> Tensor:
        """The same from the plane through the isocentre that is parallel to the detector: [...]."""
        return (self.source * self.towards).sum(-1)

    def angles_deg(self, turn: Sequence[int] = (0, 1, 2)) -> Tensor:
        """View angles [...] of the orbit at which the sources stand, in [0, 360).

        ``turn`` are the world's axes that are x, y and z of an orbit about z.
        """
        x, y, _ = (self.source[..., i] for i in turn)
        return torch.rad2deg(torch.atan2(-y, x)).round(decimals=6) % 360

    @property
    def columns_flipped(self) -> Tensor:
        """Whether columns run as on a radiograph, not as the source sees them: bool [...]."""
        across = torch.linalg.cross(self.column, self.row)
        return ((self.source - self.detector) * across).sum(-1) > 0

    def pixels(self, yx: Tensor, rows: int, cols: int) -> Tensor:
        """Centres of pixels yx [..., 2] (row and column) of detectors of this size: [..., 3]."""
        y, x = (yx - yx.new_tensor([(rows - 1) / 2, (cols - 1) / 2])).unbind(-1)
        return self.detector + x[..., None] * self.column + y[..., None] * self.row

    def shadows(self, points: Tensor, rows: int, cols: int) -> Tensor:
        """Row and column at which a view shows points [N, 3] (mm): [..., N, 2].

        >>> frames = Frames(*torch.tensor([[9.0, 0, 0], [-9, 0, 0], [0, -1, 0], [0, 0, -1]]))
        >>> frames.shadows(torch.tensor([[0.0, 0, 0], [0, 2, 3]]), 11, 11).tolist()
        [[5.0, 5.0], [-1.0, 1.0]]
        """
        source, detector, column, row = (part[..., None, :] for part in self)
        across, ahead = torch.linalg.cross(column, row), points - source
        far = ((detector - source) * across).sum(-1) / (ahead * across).sum(-1)
        met = source + far[..., None] * ahead - detector
        # coordinates on two axes that need not be at right angles
        x = (torch.linalg.cross(met, row) * across).sum(-1)
        y = (torch.linalg.cross(column, met) * across).sum(-1)
        yx = torch.stack([y, x], -1) / across.square().sum(-1, keepdim=True)
        return yx + yx.new_tensor([(rows - 1) / 2, (cols - 1) / 2])

    def turned(self, degrees: Tensor, axis: int = 2) -> Frames:
        """The same turned about a coordinate axis by [...] degrees of view angle.

        >>> frames = Frames(*torch.eye(4, 3).double()[:, None])
        >>> turned = frames.turned(torch.tensor([90.0], dtype=torch.float64))
        >>> turned.source.round().tolist()
        [[0.0, -1.0, 0.0]]
        """
        one, other = ((axis + 1) % 3, (axis + 2) % 3)
        angle = torch.deg2rad(degrees)

        def turn(v: Tensor) -> Tensor:
            parts = list(v.unbind(-1))
            a, b = parts[one], parts[other]
            parts[one] = angle.cos() * a + angle.sin() * b
            parts[other] = angle.cos() * b - angle.sin() * a
            return torch.stack(torch.broadcast_tensors(*parts), -1)

        return Frames(*map(turn, self))


def as_view_frame(values: ViewFrame | Mapping[str, Any]) -> ViewFrame:
    """A view frame from its entry in ``geometry.json``; one that is a frame already stays."""
    if isinstance(values, ViewFrame):
        return values
    wanted = [field.name for field in dataclasses.fields(ViewFrame)]
    if not isinstance(values, Mapping) or not set(wanted) <= set(values):
        raise UserError(
            "got a view frame that is not whole",
            f"wanted {', '.join(wanted)} of each view",
            "correct view_frames in geometry.json",
        )
    for name in values:
        if name not in wanted:
            raise unknown_name("key of a view frame", str(name), wanted)
    return ViewFrame(**values)


def summed_up(frames: Sequence[ViewFrame]) -> dict[str, Any]:
    """What an orbit that stands for all of these views has: medians of distances and pitch.

    Raises UserError where the isocentre is not between sources and detectors.
    """
    parts = Frames.of(frames)
    to_isocentre_mm = float(parts.source_to_isocentre_mm.median())
    to_detector_mm = float(parts.source_to_detector_mm.median())
    if not 0 < to_isocentre_mm < to_detector_mm:
        raise UserError(
            "got view_frames with the isocentre, (0, 0, 0), not between sources and detectors",
            "wanted positions about the point that the views have in common",
            "subtract that point from source_mm and detector_mm",
        )
    return {
        "source_to_isocentre_mm": to_isocentre_mm,
        "source_to_detector_mm": to_detector_mm,
        "pixel_mm": float(parts.column.norm(dim=-1).median()),
        "columns_flipped": bool(parts.columns_flipped.float().mean() > 0.5),
    }
