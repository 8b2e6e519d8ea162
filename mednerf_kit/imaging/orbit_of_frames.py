"""Views that each have a frame, and the simple orbit on which they stand, if they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..core.errors import UserError
from .geometry import AXES, Geometry
from .view_frames import Frames, ViewFrame, summed_up

# how far a source or a corner of a detector may lie from its place on the orbit
EXACT_MM = 1e-3
# the same of views that are taken for those of another geometry's orbit, as a share of its field
SAME_SHARE = 5e-3


def geometry_of_frames(
    frames: Sequence[ViewFrame], *, rows: int, cols: int, **options: Any
) -> Geometry:
    """The geometry of views with a frame each: a simple orbit where they stand on one.

    ``options`` are others of :class:`~mednerf_kit.imaging.geometry.Geometry`.

    >>> from mednerf_kit.imaging.geometry import DEFAULTS
    >>> orbit = DEFAULTS["chest"].at([10, 50])
    >>> found = geometry_of_frames(orbit.frames_of_views().to_list(), rows=128, cols=128)
    >>> found.angles_deg, found.view_frames
    ((10.0, 50.0), ())
    """
    framed = Geometry(
        **summed_up(frames), rows=rows, cols=cols, view_frames=tuple(frames), **options
    )
    return as_orbit(framed) or framed


def as_orbit(geometry: Geometry) -> Geometry | None:
    """The same views as an orbit about x, y or z; None where they stand on none.

    On an orbit, every source and every corner of a detector is within EXACT_MM of its place. A
    geometry that is an orbit already is returned as it is.
    """
    if not geometry.view_frames:
        return geometry
    wanted = Frames.of(geometry.view_frames)
    first = wanted.take(torch.tensor(0))
    middle = first.detector - first.source + first.source_to_detector_mm * first.towards
    right, down = (v / v.norm() for v in (first.column, first.row))
    for axis, turn in AXES.items():
        tilt_deg = math.degrees(math.asin(float(first.towards["xyz".index(axis)].clamp(-1, 1))))
        if abs(tilt_deg) >= 80:
            continue
        place = {
            "tilt_deg": tilt_deg,
            "offset_mm": (float(middle @ right), -float(middle @ down)),
            "angles_deg": tuple(wanted.angles_deg(turn).tolist()),
        }
        own = {**summed_up(geometry.view_frames), **place, "view_frames": ()}
        orbit = replace(geometry, axis=axis, **own)
        if apart_mm(orbit, geometry) < EXACT_MM:
            return orbit
    return None


def views_in(geometry: Geometry, views: Geometry) -> Geometry:
    """The views of another set-up in the field units, pixels and scale of a geometry.

    They are on its own orbit where they stand there, and have frames elsewhere. Raises UserError
    for pictures of another shape.

    >>> from mednerf_kit.imaging.geometry import DEFAULTS
    >>> chest, knee = DEFAULTS["chest"], DEFAULTS["knee"].at([90])
    >>> views_in(chest, chest.resized(64).at([30])) == chest.at([30])
    True
    >>> views_in(chest, knee).half_width_mm == chest.half_width_mm
    True
    """
    if views.rows * geometry.cols != views.cols * geometry.rows:
        raise UserError(
            f"got pictures of {views.rows}×{views.cols}",
            f"wanted the shape of the prior's, {geometry.rows}×{geometry.cols}",
            "cut or pad them to that shape",
        )
    views = views.resized(geometry.cols)
    orbit = geometry.at(views.angles_deg)
    if apart_mm(orbit, views) < SAME_SHARE * geometry.half_width_mm:
        return orbit
    return replace(orbit, view_frames=tuple(views.frames_of_views().to_list()))


def turned(geometry: Geometry, turns_deg: Sequence[float]) -> Geometry:
    """The same set-up with every view turned about the axis by so many degrees.

    >>> from mednerf_kit.imaging.geometry import DEFAULTS
    >>> turned(DEFAULTS["chest"].at([0, 90]), [1, -2]).angles_deg
    (1.0, 88.0)
    """
    angles_deg = [a + turn for a, turn in zip(geometry.angles_deg, turns_deg, strict=True)]
    orbit = geometry.at(angles_deg)
    if not geometry.view_frames:
        return orbit
    turn_deg = torch.tensor(list(turns_deg), dtype=torch.float64)
    frames = geometry.frames_of_views().turned(turn_deg, "xyz".index(geometry.axis))
    return replace(orbit, view_frames=tuple(frames.to_list()))


def apart_mm(one: Geometry, other: Geometry) -> float:
    """The largest distance between sources, or corners of detectors, of the same views."""
    corners = torch.tensor([[0, 0], [0, one.cols - 1], [one.rows - 1, 0]]).double()
    ours, theirs = one.frames_of_views(), other.frames_of_views()
    away = [ours.source - theirs.source] + [
        ours.pixels(corner, one.rows, one.cols) - theirs.pixels(corner, one.rows, one.cols)
        for corner in corners
    ]
    return float(torch.stack(away).norm(dim=-1).max())
