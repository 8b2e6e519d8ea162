"""Views that each have a frame, as the simple orbit on which they stand, if they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from .geometry import AXES, Geometry
from .view_frames import Frames, ViewFrame, summed_up

# how far a source or a corner of a detector may lie from its place on the orbit
EXACT_MM = 1e-3


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
    corners = torch.tensor([[0.0, 0.0], [0.0, geometry.cols - 1], [geometry.rows - 1, 0.0]])
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
        found = orbit.frames_of_views()
        away = [found.source - wanted.source] + [
            found.pixels(corner.double(), geometry.rows, geometry.cols)
            - wanted.pixels(corner.double(), geometry.rows, geometry.cols)
            for corner in corners
        ]
        if float(torch.stack(away).norm(dim=-1).max()) < EXACT_MM:
            return orbit
    return None
