"""Solids as implicit functions: signed distances in mm that turn into soft coverage.

A solid has bounds ``lo``, ``hi`` [3] and ``distance(x, y, z)`` on coordinate arrays that broadcast
together; distances are first-order, exact at the surface: f / |∇f|.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]  # float32 wherever voxels are counted in millions
FAR_MM = 1000.0


class Solid:
    """The interface of every solid."""

    lo: Array
    hi: Array

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the surface in mm, negative inside."""
        raise NotImplementedError

    def widened(self, edge_mm: float) -> tuple[Solid, float]:
        """A solid no thinner than a soft edge, and the opacity that keeps its mass.

        A thin vessel must not gain weight.
        """
        return self, 1.0

    def coverage(
        self, x: Array, y: Array, z: Array, edge_mm: float, inset_mm: float = 0.0
    ) -> Array:
        """The share, in [0, 1], of a voxel of size ``edge_mm`` that lies inside the solid.

        The solid is first shrunk by ``inset_mm``.
        """
        solid, opacity = self.widened(edge_mm) if inset_mm == 0 else (self, 1.0)
        inside = 0.5 - (solid.distance(x, y, z) + inset_mm) / np.float32(edge_mm)
        return np.clip(inside, 0, 1, out=inside) * np.float32(opacity)


def unit(vector: ArrayLike) -> Array:
    """A vector of length one."""
    v = np.asarray(vector, np.float32)
    return v / np.linalg.norm(v)


def axes_along(direction: ArrayLike) -> Array:
    """Rotation [3, 3] whose third row is ``direction``; the other two rows are across it."""
    w = unit(direction)
    helper = np.eye(3, dtype=np.float32)[int(np.argmin(np.abs(w)))]
    u = unit(np.cross(helper, w))
    return np.stack([u, np.cross(w, u), w])


@dataclass(eq=False)
class Blob(Solid):
    """An ellipsoid (``flat`` 2) or a puck with flatter ends and an elliptic section (4, 8).

    (u² + v²)^(n/2) + wⁿ = 1 with u, v, w the coordinates along the rows of ``rotation`` over the
    half axes.

    >>> ball = blob((0, 0, 0), (5, 5, 5))
    >>> ball.distance(*(np.float32(v) for v in (7, 0, 0))).round(3)
    np.float32(1.714)
    """

    centre: Array
    axes: Array
    rotation: Array
    flat: int = 2

    def __post_init__(self) -> None:
        if self.flat == 2:
            reach = np.sqrt(((self.rotation * self.axes[:, None]) ** 2).sum(0))
        else:
            across = np.sqrt(((self.rotation[:2] * self.axes[:2, None]) ** 2).sum(0))
            reach = across + np.abs(self.rotation[2]) * self.axes[2]
        self.lo, self.hi = self.centre - reach, self.centre + reach

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        a, b, c = self.axes
        r = self.rotation
        u, v, w = ((r[i, 0] * x + r[i, 1] * y + r[i, 2] * z) / self.axes[i] for i in range(3))
        s, w2 = u * u + v * v, w * w
        slope2 = (u / a) ** 2 + (v / b) ** 2
        if self.flat == 2:
            return (s + w2 - 1) / (2 * np.sqrt(slope2 + w2 / (c * c)) + np.float32(1e-6))
        half = self.flat // 2 - 1
        sn, wn = s**half, w2**half
        slope = np.sqrt(sn * sn * slope2 + wn * wn * w2 / (c * c))
        return (sn * s + wn * w2 - 1) / (self.flat * slope + np.float32(1e-6))

    def widened(self, edge_mm: float) -> tuple[Solid, float]:
        thick = np.maximum(self.axes, 0.5 * edge_mm)
        opacity = float(np.prod(self.axes / thick))
        return (self, 1.0) if opacity == 1 else (replace(self, axes=thick), opacity)


def blob(centre: ArrayLike, axes: ArrayLike, rotation: Array | None = None, flat: int = 2) -> Blob:
    """A :class:`Blob` from plain numbers; upright unless turned."""
    turn = np.eye(3, dtype=np.float32) if rotation is None else rotation.astype(np.float32)
    return Blob(np.asarray(centre, np.float32), np.asarray(axes, np.float32), turn, flat)


@dataclass(eq=False)
class Segment(Solid):
    """A round cone with round caps from ``a`` to ``b``.

    ``wide`` stretches its section ``ratio`` times along a direction.
    """

    a: Array
    b: Array
    ra: float
    rb: float
    wide: Array | None = None
    ratio: float = 1.0

    def __post_init__(self) -> None:
        r = max(self.ra, self.rb) * self.ratio
        self.lo, self.hi = np.minimum(self.a, self.b) - r, np.maximum(self.a, self.b) + r

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        x, y, z = x - self.a[0], y - self.a[1], z - self.a[2]
        e = self.b - self.a
        t = (x * e[0] + y * e[1] + z * e[2]) / np.float32(e @ e + 1e-6)
        np.clip(t, 0, 1, out=t)
        x, y, z = x - t * e[0], y - t * e[1], z - t * e[2]
        square = x * x + y * y + z * z
        if self.wide is not None:
            across = x * self.wide[0] + y * self.wide[1] + z * self.wide[2]
            square -= across * across * np.float32(1 - 1 / self.ratio**2)
        return np.sqrt(np.maximum(square, 0)) - (
            np.float32(self.ra) + np.float32(self.rb - self.ra) * t
        )

    def widened(self, edge_mm: float) -> tuple[Solid, float]:
        # A disc of radius r with a linear edge of width e has the area π (r² + e²/12), and needs r
        # ≥ e/2 to have a full middle.
        a, b = (
            float(np.sqrt(max(r * r - edge_mm**2 / 12, edge_mm**2 / 4))) for r in (self.ra, self.rb)
        )
        return replace(self, ra=a, rb=b), min(1.0, 0.75 * (self.ra + self.rb) ** 2 / edge_mm**2)


def tube(
    points: Sequence[Any] | Array,
    radius: ArrayLike,
    *,
    wide: ArrayLike | None = None,
    ratio: float = 1.0,
) -> list[Solid]:
    """A polyline swept with a round section, as segments.

    With ``wide`` the section is flat: ``ratio`` times wider along that direction.
    """
    path = np.asarray(points, np.float32)
    radii = np.broadcast_to(np.asarray(radius, np.float32), len(path))
    result: list[Solid] = []
    for i in range(len(path) - 1):
        along = unit(path[i + 1] - path[i])
        across = (
            None
            if wide is None
            else unit(np.asarray(wide, np.float32) - (along @ np.asarray(wide, np.float32)) * along)
        )
        result.append(
            Segment(
                path[i],
                path[i + 1],
                float(radii[i]),
                float(radii[i + 1]),
                across,
                ratio if wide is not None else 1.0,
            )
        )
    return result


def smooth_path(points: Sequence[Any] | Array, n: int) -> Array:
    """``n`` points [n, 3] of a cubic spline through control points, at equal chord lengths."""
    from scipy.interpolate import CubicSpline

    path = np.asarray(points, float)
    chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    return CubicSpline(chord, path, bc_type="natural")(np.linspace(0, chord[-1], n)).astype(
        np.float32
    )


@dataclass(eq=False)
class Union(Solid):
    """Several solids as one, blended over ``blend_mm`` (polynomial smooth minimum)."""

    parts: Sequence[Solid]
    blend_mm: float = 0.0

    def __post_init__(self) -> None:
        self.lo = np.min([p.lo for p in self.parts], 0) - self.blend_mm / 4
        self.hi = np.max([p.hi for p in self.parts], 0) + self.blend_mm / 4

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        result = self.parts[0].distance(x, y, z)
        for part in self.parts[1:]:
            d = part.distance(x, y, z)
            near = np.minimum(result, d)
            if self.blend_mm:
                h = np.maximum(self.blend_mm - np.abs(result - d), 0)
                near -= h * h * np.float32(0.25 / self.blend_mm)
            result = near
        return result


@dataclass(eq=False)
class Cut(Solid):
    """``whole`` ∩ the inside of each of ``keep``, minus each of ``away``."""

    whole: Solid
    away: Sequence[Solid] = ()
    keep: Sequence[Solid] = ()

    def __post_init__(self) -> None:
        self.lo = np.max([s.lo for s in (self.whole, *self.keep)], 0)
        self.hi = np.min([s.hi for s in (self.whole, *self.keep)], 0)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        result = self.whole.distance(x, y, z)
        for solid in self.keep:
            result = np.maximum(result, solid.distance(x, y, z))
        for solid in self.away:
            result = np.maximum(result, -solid.distance(x, y, z))
        return result


class Profile:
    """A smooth function of one coordinate through knots, constant beyond its ends.

    It is kept as a table with 2 mm steps.

    >>> Profile([0, 10, 20], [1, 2, 1])(np.array([10.0, 50.0], np.float32))
    array([2., 1.], dtype=float32)
    """

    step_mm = 2.0

    def __init__(self, knots_mm: ArrayLike, values: ArrayLike) -> None:
        from scipy.interpolate import PchipInterpolator

        knots, heights = np.asarray(knots_mm, float), np.asarray(values, float)
        order = np.argsort(knots)
        knots, heights = knots[order], heights[order]
        self.start = float(knots[0])
        n = int(np.ceil((knots[-1] - knots[0]) / self.step_mm)) + 1
        at = np.minimum(self.start + self.step_mm * np.arange(n + 1), knots[-1])
        self.table = PchipInterpolator(knots, heights)(at).astype(np.float32)
        self.slope = np.diff(self.table)

    def at(self, z_mm: float) -> float:
        """The value at one place."""
        return float(self(np.array(z_mm, np.float32)))

    def __call__(self, z: Array) -> Array:
        place = np.clip(
            (z - np.float32(self.start)) * np.float32(1 / self.step_mm), 0, len(self.slope) - 1e-3
        )
        cell = place.astype(np.int32)
        return self.table[cell] + self.slope[cell] * (place - cell.astype(np.float32))


@dataclass(eq=False)
class Column(Solid):
    """A trunk along z, with a rounded section |u|^2.5 + |v|^2.5 = 1 at each height.

    The section lies between profiles of half width, front and back.
    """

    width: Profile
    front: Profile
    back: Profile
    bottom: float
    top: float
    # taken off the half width, the front and the back, mm
    inset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    middle: Profile | None = None  # where the section is centred across; 0 if not given

    def __post_init__(self) -> None:
        w, f, b = self.inset
        reach = self.width.table.max() - w
        aside = np.zeros(1) if self.middle is None else self.middle.table
        self.lo = np.array(
            [aside.min() - reach, self.front.table.min() + f, self.bottom], np.float32
        )
        self.hi = np.array([aside.max() + reach, self.back.table.max() - b, self.top], np.float32)

    def section(self, z: Array) -> tuple[Array, Array, Array]:
        """Half width, centre and half depth at a height, in mm."""
        front, back = (
            self.front(z) + np.float32(self.inset[1]),
            self.back(z) - np.float32(self.inset[2]),
        )
        return (
            np.maximum(self.width(z) - np.float32(self.inset[0]), 1),
            (front + back) * np.float32(0.5),
            np.maximum((back - front) * np.float32(0.5), 1),
        )

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        half, centre, depth = self.section(z)
        across = x if self.middle is None else x - self.middle(z)
        u, v = np.abs(across) / half, np.abs(y - centre) / depth
        u15, v15 = u * np.sqrt(u), v * np.sqrt(v)
        slope = np.sqrt((u15 / half) ** 2 + (v15 / depth) ** 2)
        side = (u * u15 + v * v15 - 1) / (np.float32(2.5) * slope + np.float32(1e-6))
        return np.maximum(side, np.maximum(z - np.float32(self.top), np.float32(self.bottom) - z))

    def ring(self, angle: Array, z: Array, out_mm: float = 0.0) -> Array:
        """Points [n, 3] of the outline grown by ``out_mm``, at angles in radians.

        Angle 0 is the back, 90° the side, 180° the front.
        """
        half, centre, depth = self.section(np.asarray(z, np.float32))
        s, c = np.sin(angle), np.cos(angle)
        r = (np.abs(s) ** 2.5 + np.abs(c) ** 2.5) ** -0.4
        return np.stack(
            [
                r * s * (half + out_mm),
                centre + r * c * (depth + out_mm),
                np.broadcast_to(z, np.shape(s)),
            ],
            -1,
        )


@dataclass(eq=False)
class Region(Solid):
    """Any signed distance in mm as a solid without bounds of its own, to cut others with."""

    inside: Callable[[Array, Array, Array], Array]
    lo: Array = field(default_factory=lambda: np.full(3, -FAR_MM, np.float32))
    hi: Array = field(default_factory=lambda: np.full(3, FAR_MM, np.float32))

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        return self.inside(x, y, z)
