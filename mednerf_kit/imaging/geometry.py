"""The X-ray set-up in millimetres: a cone-beam source and a flat detector on a single-axis orbit.

Convention (LPS, isocentre at the origin, orbit about z): at view angle a the source stands at
SOD·(cos a, −sin a, 0), image right is (−sin a, −cos a, 0), image up is +z. 0° is a lateral film,
90° a frontal one with the patient's left on the image's left, 270° the clinical PA film with the
patient's left on the image's right.

Views that stand on no such orbit have a frame each (:mod:`.view_frames`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from ..core import files
from ..core.errors import UserError, reading, unknown_name
from ..core.types import SUPPORT, Rays
from .view_frames import Frames, ViewFrame, as_view_frame, summed_up

SYNONYMS = {
    "SAD": "source_to_isocentre_mm",
    "SOD": "source_to_isocentre_mm",
    "DSO": "source_to_isocentre_mm",
    "SID": "source_to_detector_mm",
    "SDD": "source_to_detector_mm",
    "DSD": "source_to_detector_mm",
}
NUMBERS = ("source_to_isocentre_mm", "source_to_detector_mm", "pixel_mm", "tilt_deg")
# where the canonical (right-handed) axes land for each orbit axis
AXES = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Cone-beam geometry of an orbit: immutable, validated, JSON in and out.

    With ``view_frames`` every view has a source, a detector and axes of its own, and the other
    numbers only sum them up: they say how large a field unit is, and where an orbit of new views
    (:meth:`orbit`, :meth:`at`) would stand.

    >>> distances = {"source_to_isocentre_mm": 1000, "source_to_detector_mm": 1500}
    >>> g = Geometry(**distances, rows=4, cols=4, pixel_mm=1.5)
    >>> g.half_width_mm, g.orbit(4).angles_deg
    (2.0, (0.0, 90.0, 180.0, 270.0))
    """

    source_to_isocentre_mm: float
    source_to_detector_mm: float
    rows: int
    cols: int
    pixel_mm: float  # square pixels, at the detector
    # shift of the detector's centre to image right and up
    offset_mm: tuple[float, float] = (0.0, 0.0)
    columns_flipped: bool = True  # image right as stated above; False mirrors the columns
    axis: str = "z"
    tilt_deg: float = 0.0  # cranio-caudal elevation of the source above the orbit's plane
    angles_deg: tuple[float, ...] = ()
    # line integral of an image value of 1; None: unknown (relative)
    line_integral_scale: float | None = None
    # of each view, where they are no orbit; ``angles_deg`` then only names the views
    view_frames: tuple[ViewFrame, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        try:
            for name in NUMBERS:
                object.__setattr__(self, name, float(getattr(self, name)))
            object.__setattr__(self, "offset_mm", tuple(float(v) for v in self.offset_mm))
            object.__setattr__(self, "angles_deg", tuple(float(a) for a in self.angles_deg))
            for name in ("rows", "cols"):
                object.__setattr__(self, name, int(getattr(self, name)))
            if self.line_integral_scale is not None:
                object.__setattr__(self, "line_integral_scale", float(self.line_integral_scale))
            object.__setattr__(self, "view_frames", tuple(map(as_view_frame, self.view_frames)))
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                "got a geometry with a value that is not a number",
                "wanted numbers in millimetres and degrees",
                "correct geometry.json",
            ) from None
        if self.columns_flipped not in (True, False):
            raise UserError(
                f"got columns_flipped {self.columns_flipped!r}",
                "wanted true or false",
                "correct geometry.json",
            )
        numbers = [*(getattr(self, name) for name in NUMBERS), *self.offset_mm, *self.angles_deg]
        if not all(map(math.isfinite, numbers)) or len(self.offset_mm) != 2:
            raise UserError(
                "got a geometry with a missing or infinite number",
                "wanted finite millimetres and degrees",
                "correct geometry.json",
            )
        if not 0 < self.source_to_isocentre_mm < self.source_to_detector_mm:
            raise UserError(
                f"got source-to-isocentre {self.source_to_isocentre_mm:g} mm and "
                "source-to-detector "
                f"{self.source_to_detector_mm:g} mm",
                "wanted 0 < SOD < SDD",
                "check the two distances (are they swapped?)",
            )
        if self.line_integral_scale is not None and not (
            math.isfinite(self.line_integral_scale) and self.line_integral_scale > 0
        ):
            raise UserError(
                f"got line_integral_scale {self.line_integral_scale:g}",
                "wanted a positive number or null",
                "correct geometry.json",
            )
        if min(self.rows, self.cols) < 1 or self.pixel_mm <= 0:
            raise UserError(
                f"got a detector of {self.rows}×{self.cols} pixels of {self.pixel_mm:g} mm",
                "wanted at least 1×1 pixels of positive size",
                "correct rows, cols and pixel_mm",
            )
        if self.axis not in AXES:
            raise unknown_name("orbit axis", str(self.axis), AXES)
        if abs(self.tilt_deg) >= 80:
            raise UserError(
                f"got a tilt of {self.tilt_deg:g}°",
                "wanted less than 80° either way",
                "choose another orbit axis",
            )
        if self.view_frames and not self.angles_deg:
            around = Frames.of(self.view_frames).angles_deg(AXES[self.axis])
            object.__setattr__(self, "angles_deg", tuple(around.tolist()))
        if self.view_frames and len(self.view_frames) != len(self.angles_deg):
            raise UserError(
                f"got {len(self.view_frames)} view_frames and {len(self.angles_deg)} angles_deg",
                "wanted one of each for a view",
                "leave angles_deg out of geometry.json, or correct it",
            )

    def __repr__(self) -> str:
        # caches are named after it: without frames it reads as it did before there were any
        fields = [f.name for f in dataclasses.fields(self) if f.name != "view_frames"]
        shown = fields + ["view_frames"] * bool(self.view_frames)
        return f"Geometry({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    @property
    def half_width_mm(self) -> float:
        """Half the detector's width as seen at the isocentre: the unit of learned fields."""
        at_detector_mm = 0.5 * self.cols * self.pixel_mm
        return at_detector_mm * self.source_to_isocentre_mm / self.source_to_detector_mm

    @property
    def fov_deg(self) -> float:
        """Full opening angle across the detector's columns."""
        return 2 * math.degrees(
            math.atan(0.5 * self.cols * self.pixel_mm / self.source_to_detector_mm)
        )

    @property
    def views(self) -> int:
        return len(self.angles_deg)

    def orbit(self, views: int, *, start_deg: float = 0.0, direction: int = 1) -> Geometry:
        """The same set-up with ``views`` equally spaced angles on a simple orbit.

        ``direction`` −1 turns the other way.
        """
        if views < 1 or direction not in (1, -1):
            raise UserError(
                f"got {views} views in direction {direction}",
                "wanted at least one view and direction 1 or -1",
                "correct --views",
            )
        return self.at(start_deg + direction * 360.0 * k / views for k in range(views))

    def at(self, angles_deg: Iterable[float]) -> Geometry:
        """The same set-up at these view angles of a simple orbit, in degrees."""
        return dataclasses.replace(self, angles_deg=tuple(angles_deg), view_frames=())

    def subset(self, views: Iterable[int]) -> Geometry:
        """The same set-up with these of its views, in this order."""
        views = list(views)
        return dataclasses.replace(
            self,
            angles_deg=tuple(self.angles_deg[k] for k in views),
            view_frames=tuple(self.view_frames[k] for k in views if self.view_frames),
        )

    def resized(self, size: int) -> Geometry:
        """The same detector area sampled with ``size`` columns (rows in proportion)."""
        rows = max(1, round(self.rows * size / self.cols))
        wider, higher = self.cols / size, self.rows / rows
        return dataclasses.replace(
            self,
            rows=rows,
            cols=size,
            pixel_mm=self.pixel_mm * wider,
            view_frames=tuple(f.resampled(wider, higher) for f in self.view_frames),
        )

    def with_fov(self, fov_deg: float) -> Geometry:
        """The same field of view at the isocentre, seen under another opening angle.

        Both distances change in proportion. Raises UserError where every view has a frame.
        """
        if self.view_frames:
            raise UserError(
                "got another opening angle for views that each have a frame of their own",
                "wanted the set-up as it was measured",
                "leave the opening angle out, or view_frames",
            )
        if not 0 < fov_deg < 120:
            raise UserError(
                f"got a field of view of {fov_deg:g}°",
                "wanted between 0° and 120°",
                "correct the angle",
            )
        detector_mm = 0.5 * self.cols * self.pixel_mm / math.tan(math.radians(fov_deg / 2))
        ratio = self.source_to_isocentre_mm / self.source_to_detector_mm
        return dataclasses.replace(
            self, source_to_detector_mm=detector_mm, source_to_isocentre_mm=detector_mm * ratio
        )

    @property
    def distance(self) -> float:
        """Source to isocentre in field units (half-widths): 1 / tan(half the opening angle)."""
        return self.source_to_isocentre_mm / self.half_width_mm

    def field_rays(
        self, angles_deg: Tensor, yx: Tensor, distance: Tensor | float, support: float = SUPPORT
    ) -> Rays:
        """Rays in field units through pixels, with the source at ``distance``.

        They are differentiable in ``distance``, so that an unknown field of view can be fitted.

        ``angles_deg`` [...], ``yx`` [..., 2], ``distance`` broadcasts to [...]; otherwise as
        :meth:`rays`.
        """
        source, centre, right, up = self.frames(angles_deg)
        towards = source / self.source_to_isocentre_mm
        u = (yx[..., 1] - (self.cols - 1) / 2) * (2 / self.cols)
        v = ((self.rows - 1) / 2 - yx[..., 0]) * (2 / self.cols)
        unit = 2 / (self.cols * self.pixel_mm)
        target = (u + self.offset_mm[0] * unit)[..., None] * right + (v + self.offset_mm[1] * unit)[
            ..., None
        ] * up
        origin = torch.as_tensor(distance, dtype=towards.dtype)[..., None] * towards
        direction = torch.nn.functional.normalize(target - origin, dim=-1)
        near, far = cylinder_span(origin, direction, support, "xyz".index(self.axis))
        return Rays(origin.expand_as(direction), direction, near, far)

    def view_rays(
        self,
        view: Tensor,
        yx: Tensor,
        *,
        distance: Tensor | float | None = None,
        turn_deg: Tensor | None = None,
        support: float = SUPPORT,
    ) -> Rays:
        """Rays in field units through pixels yx [..., 2] of the geometry's own views [...].

        ``turn_deg`` [V] are added to the view angles. ``distance`` (field units) is where an
        orbit's source is; views with frames stand where these say.
        """
        if turn_deg is None:
            turn_deg = torch.zeros(self.views, device=yx.device)
        if not self.view_frames:
            angles_deg = torch.tensor(self.angles_deg).to(turn_deg) + turn_deg
            away = self.distance if distance is None else distance
            return self.field_rays(angles_deg[view], yx, away, support)
        axis = "xyz".index(self.axis)
        frames = self.frames_of_views().to(yx).turned(turn_deg.to(yx), axis).take(view)
        origin = frames.source / self.half_width_mm
        target = frames.pixels(yx, self.rows, self.cols) / self.half_width_mm
        direction = torch.nn.functional.normalize(target - origin, dim=-1)
        near, far = cylinder_span(origin, direction, support, axis)
        return Rays(origin.expand_as(direction), direction, near, far)

    def frames(self, angles_deg: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Source, detector centre (mm), image right and image up for angles [...], each [..., 3].

        Image right and up are unit vectors.
        """
        a = torch.deg2rad(angles_deg)
        e = torch.full_like(a, math.radians(self.tilt_deg))
        zero = torch.zeros_like(a)
        towards = torch.stack([a.cos() * e.cos(), -a.sin() * e.cos(), e.sin()], -1)
        up = torch.stack([-a.cos() * e.sin(), a.sin() * e.sin(), e.cos()], -1)
        right = torch.stack([-a.sin(), -a.cos(), zero], -1) * (
            1.0 if self.columns_flipped else -1.0
        )
        turn = torch.tensor(AXES[self.axis])
        towards, right, up = (v[..., turn.argsort()] for v in (towards, right, up))
        source = self.source_to_isocentre_mm * towards
        centre = (
            source
            - self.source_to_detector_mm * towards
            + self.offset_mm[0] * right
            + self.offset_mm[1] * up
        )
        return source, centre, right, up

    def frames_of_views(self, angles_deg: Tensor | None = None) -> Frames:
        """Sources, detectors and axes of all views, [V, 3] each, in double precision.

        Those of the orbit at other angles [...] where ``angles_deg`` says so, in its precision.

        >>> right_way = DEFAULTS["chest"].at([0]).frames_of_views().column
        >>> right_way.tolist()
        [[-0.0, -4.0, 0.0]]
        """
        if angles_deg is None:
            if self.view_frames:
                return self._framed
            angles_deg = torch.tensor(self.angles_deg, dtype=torch.float64)
        source, centre, right, up = self.frames(angles_deg)
        return Frames(source, centre, right * self.pixel_mm, -up * self.pixel_mm)

    @cached_property
    def _framed(self) -> Frames:
        return Frames.of(self.view_frames)

    def pixel_grid(self) -> Tensor:
        """Row and column of every pixel centre, [rows, cols, 2]."""
        return torch.stack(
            torch.meshgrid(torch.arange(self.rows), torch.arange(self.cols), indexing="ij"), -1
        ).float()

    def rays(self, angles_deg: Tensor, yx: Tensor, *, support_mm: float | None = None) -> Rays:
        """Rays in millimetres from the source through pixels.

        ``angles_deg`` [...] and ``yx`` [..., 2] (row and column, pixel centres at integers) share
        their leading shape. ``near`` and ``far`` bound the ray inside the support cylinder of that
        radius about the orbit's axis (default :data:`~mednerf_kit.core.types.SUPPORT` half-widths).
        """
        source, centre, right, up = self.frames(angles_deg)
        u = (yx[..., 1] - (self.cols - 1) / 2) * self.pixel_mm
        v = ((self.rows - 1) / 2 - yx[..., 0]) * self.pixel_mm
        target = centre + u[..., None] * right + v[..., None] * up
        direction = torch.nn.functional.normalize(target - source, dim=-1)
        radius = SUPPORT * self.half_width_mm if support_mm is None else support_mm
        near, far = cylinder_span(source, direction, radius, "xyz".index(self.axis))
        return Rays(source.expand_as(direction), direction, near, far)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``geometry.json``; ``view_frames`` only where there are some."""
        values = dataclasses.asdict(self)
        frames = [{k: list(v) for k, v in frame.items()} for frame in values.pop("view_frames")]
        return {
            **values,
            "offset_mm": list(self.offset_mm),
            "angles_deg": list(self.angles_deg),
            **({"view_frames": frames} if frames else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | str | Path) -> Geometry:
        """Build from ``geometry.json`` (a mapping or a path); knows SAD/SOD/DSO and SID/SDD/DSD.

        Distances and pixel pitch that ``view_frames`` tell may be left out.
        """
        if not isinstance(values, Mapping):
            path = Path(values)
            try:
                values = files.read_json(path)
                if not isinstance(values, dict):
                    raise ValueError("no JSON object")
            except (OSError, ValueError, RecursionError) as error:
                raise UserError(
                    f"got '{path}' ({error})",
                    "wanted a readable geometry.json",
                    "write one or correct it",
                ) from None
            with reading(f"'{path}'", "wanted a geometry.json", "correct it"):
                return cls.from_json(values)
        known = {f.name for f in dataclasses.fields(cls)}
        named: dict[str, Any] = {}
        for key, value in values.items():
            name = SYNONYMS.get(key.removesuffix("_mm").upper(), key)
            if name not in known:
                raise unknown_name("geometry key", key, known | set(SYNONYMS))
            named[name] = value
        if named.get("view_frames"):
            frames = [as_view_frame(frame) for frame in named["view_frames"]]
            named = {**summed_up(frames), **named, "view_frames": frames}
        missing = {
            f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING
        } - set(named)
        if missing:
            raise UserError(
                f"got a geometry without {', '.join(sorted(missing))}",
                "wanted every distance and the detector",
                "add them to geometry.json",
            )
        return cls(**named)

    def save(self, path: str | Path) -> None:
        """Write ``geometry.json``."""
        files.write_json(path, self.to_json())


@overload
def angle_difference_deg(a: float, b: float) -> float: ...
@overload
def angle_difference_deg(a: Tensor, b: Tensor | float) -> Tensor: ...
def angle_difference_deg(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    """The turn from angle ``b`` to angle ``a``, the short way round, in [−180, 180).

    >>> angle_difference_deg(350.0, 10.0), angle_difference_deg(torch.tensor([5, 185]), 355)
    (-20.0, tensor([  10, -170]))
    """
    return (a - b + 180) % 360 - 180


def nearest_view(angles_deg: Sequence[float], wanted_deg: float) -> int:
    """Index of the view whose angle is nearest to the wanted one; the first of equals.

    >>> nearest_view((0.0, 90.0, 180.0, 270.0), 359.0)
    0
    """
    return min(
        range(len(angles_deg)), key=lambda k: abs(angle_difference_deg(angles_deg[k], wanted_deg))
    )


def interpolated_by_angle(
    values: Tensor, angles_deg: Sequence[float], wanted_deg: Tensor | Sequence[float]
) -> Tensor:
    """Values [N] known at N angles, interpolated linearly at wanted angles: [H].

    The two known angles nearest to each wanted one count. A single value holds everywhere.

    >>> interpolated_by_angle(torch.tensor([1.0, 2.0, 3.0]), (0.0, 90.0, 180.0), (45.0, 100.0))
    tensor([1.5000, 2.1111])
    """
    if len(values) == 1:
        return values.expand(len(wanted_deg))
    wanted = torch.as_tensor(wanted_deg)[:, None]
    near, which = (
        angle_difference_deg(wanted, torch.tensor(angles_deg)).abs().topk(2, largest=False)
    )
    share = near.flip(1) / near.sum(1, keepdim=True).clamp_min(1e-6)
    return (share * values[which]).sum(1)


def cylinder_span(
    origin: Tensor, direction: Tensor, radius: float | Tensor, axis: int = 2
) -> tuple[Tensor, Tensor]:
    """Where unit rays [..., 3] enter and leave an infinite cylinder about a coordinate axis.

    Solves |o + t d|² = radius² in the plane across the axis; rays that miss (or run along the axis
    outside it) get near = far.

    >>> o, d = torch.tensor([5.0, 0, 0]), torch.tensor([-1.0, 0, 0])
    >>> [float(v) for v in cylinder_span(o, d, 2.0)]
    [3.0, 7.0]
    """
    across = [i for i in range(3) if i != axis]
    o, d = origin[..., across], direction[..., across]
    a = (d * d).sum(-1).clamp_min(1e-12)
    b = (o * d).sum(-1)
    root = (b * b - a * ((o * o).sum(-1) - radius**2)).clamp_min(0).sqrt()
    near = ((-b - root) / a).clamp_min(0)
    return near, torch.maximum((-b + root) / a, near)


#: View angles of the clinical PA film and of a lateral one.
FRONTAL_DEG, LATERAL_DEG = 270.0, 0.0

#: Set-ups used when nothing else is said: the phantom cohorts', which imitate the published sets.
DEFAULTS = {
    "chest": Geometry(
        source_to_isocentre_mm=1120,
        source_to_detector_mm=1600,
        rows=128,
        cols=128,
        pixel_mm=4.0,
        line_integral_scale=7.5,
    ),
    "knee": Geometry(
        source_to_isocentre_mm=570,
        source_to_detector_mm=1040,
        rows=128,
        cols=128,
        pixel_mm=350 / 128,
        line_integral_scale=3.7,
    ),
}

#: Line integrals that become white in DRRs of real CTs: the densest rays of 34 chests reach 10.9
#: (12.0 through a piece of metal), those of 22 knees and legs 6.2. Phantoms have their own scales,
#: in DEFAULTS.
CT_SCALES = {"chest": 12.0, "knee": 7.0}
