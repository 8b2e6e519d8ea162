"""View frames: set-ups that are no orbit, and orbits written as frames."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.geometry import AXES, DEFAULTS, Geometry
from mednerf_kit.imaging.orbit_of_frames import as_orbit, geometry_of_frames
from mednerf_kit.imaging.view_frames import Frames, ViewFrame

C_ARM = [
    ViewFrame(
        source_mm=(0, 700, 100),
        detector_mm=(5, -400, -30),
        column_mm=(1.5, 0, 0),
        row_mm=(0, 0.2, -1.4),
    ),
    ViewFrame(
        source_mm=(600, 350, -60),
        detector_mm=(-350, -200, 20),
        column_mm=(0.75, -1.3, 0),
        row_mm=(0, 0, -1.2),
    ),
]
SIZE = {"rows": 48, "cols": 64}


def framed(orbit: Geometry) -> Geometry:
    """An orbit written as a frame for each view."""
    return replace(orbit, view_frames=tuple(orbit.frames_of_views().to_list()))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("tilt_deg", [0.0, 20.0])
@pytest.mark.parametrize("columns_flipped", [True, False])
def test_an_orbit_written_as_frames_is_found_again(axis, tilt_deg, columns_flipped):
    orbit = replace(
        DEFAULTS["knee"],
        axis=axis,
        tilt_deg=tilt_deg,
        columns_flipped=columns_flipped,
        offset_mm=(30.0, -7.0),
    ).at([0, 33.3, 200, 359])
    frames = orbit.frames_of_views().to_list()
    size = {"rows": orbit.rows, "cols": orbit.cols}
    found = geometry_of_frames(frames, **size, line_integral_scale=orbit.line_integral_scale)
    assert not found.view_frames and found.columns_flipped == columns_flipped
    # a set of other axes may describe the same views
    for ours, theirs in zip(found.frames_of_views(), orbit.frames_of_views(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_orbit_keeps_its_numbers():
    orbit = replace(DEFAULTS["chest"], offset_mm=(12.0, 3.0)).orbit(7, direction=-1)
    found = as_orbit(framed(orbit))
    assert found is not None
    assert found.angles_deg == pytest.approx([a % 360 for a in orbit.angles_deg], abs=1e-5)
    assert found.offset_mm == pytest.approx(orbit.offset_mm, abs=1e-6)
    assert found.source_to_isocentre_mm == pytest.approx(orbit.source_to_isocentre_mm)
    assert as_orbit(orbit) is orbit


@pytest.mark.parametrize("move", ["shift", "turn", "step"])
def test_one_view_out_of_line_makes_it_no_orbit(move):
    frames = DEFAULTS["chest"].orbit(5).frames_of_views()
    if move == "shift":
        frames.source[3, 2] += 0.1
    if move == "turn":
        frames.column[3], frames.row[3] = -frames.column[3].clone(), -frames.row[3].clone()
    if move == "step":
        frames.row[3] *= 1.001
    found = geometry_of_frames(frames.to_list(), rows=128, cols=128)
    assert len(found.view_frames) == 5


def test_a_point_lands_where_projective_geometry_puts_it():
    """The pixel a point is seen at, by solving source + t (point − source) = pixel's place."""
    point = torch.tensor([20.0, -15.0, 30.0], dtype=torch.float64)
    for frame in C_ARM:
        frames = Frames.of([frame])
        system = torch.stack([frames.column[0], frames.row[0], frames.source[0] - point], 1)
        x, y, _ = torch.linalg.solve(system, frames.source[0] - frames.detector[0])
        yx = torch.stack([y + (48 - 1) / 2, x + (64 - 1) / 2])[None]
        seen = frames.pixels(yx, 48, 64)
        direction = torch.nn.functional.normalize(seen - frames.source, dim=-1)
        away = point - frames.source
        assert float((away - (away * direction).sum() * direction).norm()) < 1e-9


def test_json_holds_frames_and_fills_in_what_they_say(tmp_path):
    geometry = geometry_of_frames(C_ARM, **SIZE, line_integral_scale=5.0)
    geometry.save(tmp_path / "geometry.json")
    assert Geometry.from_json(tmp_path / "geometry.json") == geometry
    bare = {"view_frames": geometry.to_json()["view_frames"], **SIZE, "line_integral_scale": 5}
    assert Geometry.from_json(bare) == geometry
    assert "view_frames" not in DEFAULTS["chest"].to_json()
    assert geometry.angles_deg == pytest.approx(
        [270.0, math.degrees(math.atan2(-350, 600)) % 360], abs=1e-5
    )


def test_resized_pixels_cover_the_same_detector():
    geometry = geometry_of_frames(C_ARM, **SIZE)
    small = geometry.resized(32)
    assert (small.rows, small.cols) == (24, 32)
    edge, small_edge = (
        torch.tensor([[-0.5, -0.5], [47.5, 63.5]]),
        torch.tensor([[-0.5] * 2, [23.5, 31.5]]),
    )
    for corner, small_corner in zip(edge.double(), small_edge.double(), strict=True):
        a = geometry.frames_of_views().pixels(corner, 48, 64)
        b = small.frames_of_views().pixels(small_corner, 24, 32)
        assert torch.allclose(a, b)


def test_chosen_views_keep_their_frames_and_new_angles_drop_them():
    geometry = geometry_of_frames(C_ARM, **SIZE)
    assert geometry.subset([1]).view_frames == (C_ARM[1],)
    assert geometry.subset([1]).angles_deg == geometry.angles_deg[1:]
    assert geometry.at([90]).view_frames == () and geometry.orbit(4).view_frames == ()
    assert DEFAULTS["chest"].orbit(4).subset([2, 0]).angles_deg == (180.0, 0.0)


def test_frames_turn_as_the_orbit_does():
    for axis, letter in enumerate("xyz"):
        orbit = replace(DEFAULTS["chest"], axis=letter)
        turned = orbit.at([10]).frames_of_views().turned(torch.tensor([25.0]).double(), axis)
        for ours, theirs in zip(turned, orbit.at([35]).frames_of_views(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-9)


GOOD = {
    "source_mm": [9, 0, 0],
    "detector_mm": [-9, 0, 0],
    "column_mm": [0, 1, 0],
    "row_mm": [0, 0, 1],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source_mm": [9, 0]}, "no point"),
        ({"source_mm": "far"}, "no point"),
        ({"row_mm": [0, 0, float("nan")]}, "infinite"),
        ({"row_mm": [0, 2, 0]}, "two axes"),
        ({"source_mm": [-9, 5, 0]}, "plane of its detector"),
        ({"source_mm": [-1, 0, 0]}, "isocentre"),
        ({"sourc_mm": [1, 0, 0]}, "sourc_mm"),
        ({"source_mm": None}, "no point"),
    ],
)
def test_impossible_frames_are_refused_in_a_sentence(change, said):
    with pytest.raises(UserError, match=said):
        Geometry.from_json({**SIZE, "view_frames": [{**GOOD, **change}]})


def test_frames_and_angles_must_be_as_many_and_whole():
    with pytest.raises(UserError, match="1 view_frames and 2 angles_deg"):
        Geometry.from_json({**SIZE, "view_frames": [GOOD], "angles_deg": [0, 1]})
    with pytest.raises(UserError, match="not whole"):
        Geometry.from_json({**SIZE, "view_frames": [{"source_mm": [1, 0, 0]}]})
    with pytest.raises(UserError, match="opening angle"):
        geometry_of_frames(C_ARM, **SIZE).with_fov(20)
