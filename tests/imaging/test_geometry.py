"""The X-ray set-up: its convention by what a patient looks like, its rays against brute force, and
JSON in and out.
"""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Rays
from mednerf_kit.imaging.geometry import (
    AXES,
    DEFAULTS,
    Geometry,
    angle_difference_deg,
    cylinder_span,
    interpolated_by_angle,
    nearest_view,
)
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.imaging.view_turn import turn_between

BASE = {
    "source_to_isocentre_mm": 1000,
    "source_to_detector_mm": 1500,
    "rows": 64,
    "cols": 48,
    "pixel_mm": 3.0,
}
LEFT, POSTERIOR, UP = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)
SMALL_MM = 20.0


def geometry(**changes) -> Geometry:
    return Geometry(**{**BASE, **changes})


def view_rays(g: Geometry, angle_deg: float, **options) -> Rays:
    yx = g.pixel_grid()
    return g.rays(torch.full(yx.shape[:-1], angle_deg), yx, **options)


def seen_at(g: Geometry, angle_deg: float, point_mm) -> tuple[int, int]:
    """Row and column of the pixel whose ray passes nearest to a point."""
    rays, point = view_rays(g, angle_deg), torch.tensor(point_mm)
    offset = point - rays.origin
    across = offset - (offset * rays.direction).sum(-1, keepdim=True) * rays.direction
    return divmod(int(across.norm(dim=-1).argmin()), g.cols)


def shown(g: Geometry, angle_deg: float, direction) -> tuple[str, str]:
    """On which side of the picture a point off the isocentre appears."""
    row, col = seen_at(g, angle_deg, [SMALL_MM * v for v in direction])
    middle_row, middle_col = (g.rows - 1) / 2, (g.cols - 1) / 2
    return (
        "up" if row < middle_row - 2 else "down" if row > middle_row + 2 else "",
        "right" if col > middle_col + 2 else "left" if col < middle_col - 2 else "",
    )


# The convention


def test_270_is_the_clinical_pa_film():
    """The patient's left on the picture's right, and the rays go from the back to the front."""
    g = geometry()
    assert (
        shown(g, 270.0, LEFT) == ("", "right")
        and shown(g, 270.0, UP) == ("up", "")
        and shown(g, 270.0, POSTERIOR) == ("", "")
    )
    rays = view_rays(g, 270.0)
    assert (
        rays.origin[0, 0].tolist() == pytest.approx([0, 1000, 0], abs=1e-3)
        and (rays.direction[..., 1] < -0.9).all()
    )


def test_90_is_a_frontal_with_the_patients_left_on_the_left():
    g = geometry()
    assert shown(g, 90.0, LEFT) == ("", "left") and shown(g, 90.0, UP) == ("up", "")
    assert view_rays(g, 90.0).origin[0, 0].tolist() == pytest.approx([0, -1000, 0], abs=1e-3)


def test_0_is_a_lateral():
    g = geometry()
    assert (
        shown(g, 0.0, LEFT) == ("", "")
        and shown(g, 0.0, POSTERIOR) == ("", "left")
        and shown(g, 0.0, UP) == ("up", "")
    )
    assert shown(g, 180.0, POSTERIOR) == ("", "right")


@pytest.mark.parametrize("angle_deg", [0.0, 33.0, 145.0, 270.0])
def test_frames_are_the_stated_formulas(angle_deg):
    g, a = geometry(), math.radians(angle_deg)
    source, centre, right, up = (v.tolist() for v in g.frames(torch.tensor(angle_deg)))
    towards = [math.cos(a), -math.sin(a), 0.0]
    assert source == pytest.approx([1000 * v for v in towards], abs=1e-3)
    assert centre == pytest.approx([-500 * v for v in towards], abs=1e-3)
    assert right == pytest.approx(
        [-math.sin(a), -math.cos(a), 0], abs=1e-6
    ) and up == pytest.approx([0, 0, 1], abs=1e-6)


def test_unflipped_columns_are_the_mirrored_picture():
    g, mirrored = geometry(), geometry(columns_flipped=False)
    a, b = view_rays(g, 30.0), view_rays(mirrored, 30.0)
    torch.testing.assert_close(a.direction.flip(1), b.direction)
    assert shown(mirrored, 270.0, LEFT) == ("", "left")


def test_offset_moves_the_detector_right_and_up():
    g = geometry(offset_mm=(12.0, 6.0))
    a, b = view_rays(geometry(), 200.0), view_rays(g, 200.0)
    torch.testing.assert_close(b.direction[2:, :-4], a.direction[:-2, 4:], rtol=1e-4, atol=1e-5)


def test_tilt_raises_the_source():
    g = geometry(tilt_deg=30.0)
    source, centre, right, up = g.frames(torch.tensor(270.0))
    assert source.tolist() == pytest.approx([0, 1000 * math.cos(math.pi / 6), 500], abs=1e-2)
    assert abs(float(up @ source)) < 1e-3 and abs(float(right @ up)) < 1e-6
    assert centre.tolist() == pytest.approx((-0.5 * source).tolist(), abs=1e-3)


@pytest.mark.parametrize("axis", sorted(AXES))
def test_another_axis_is_the_same_orbit_turned(axis):
    """A cyclic change of coordinates: still right-handed, and picture up is along the axis."""
    turn = {"z": [0, 1, 2], "x": [2, 0, 1], "y": [1, 2, 0]}[axis]
    for angle in (0.0, 70.0):
        for ours, canonical in zip(
            geometry(axis=axis).frames(torch.tensor(angle)),
            geometry().frames(torch.tensor(angle)),
            strict=True,
        ):
            torch.testing.assert_close(ours, canonical[turn])
    up = geometry(axis=axis).frames(torch.tensor(10.0))[3]
    assert up.tolist() == [float(axis == name) for name in "xyz"]


# Sizes


def test_half_width_is_what_the_detector_sees_at_the_isocentre():
    g = geometry()
    row, col = seen_at(g, 270.0, (g.half_width_mm * (1 - 1 / g.cols), 0.0, 0.0))
    assert col == g.cols - 1 and row in (31, 32)
    assert g.half_width_mm == pytest.approx(48) and g.distance == pytest.approx(1000 / 48)
    assert g.fov_deg == pytest.approx(2 * math.degrees(math.atan(1 / g.distance)))


@pytest.mark.parametrize("size", [24, 96])
def test_resizing_keeps_what_is_seen(size):
    g = geometry().resized(size)
    assert (g.rows, g.cols) == (size * 64 // 48, size)
    assert g.half_width_mm == pytest.approx(
        geometry().half_width_mm
    ) and g.fov_deg == pytest.approx(geometry().fov_deg)


def test_another_opening_angle_keeps_the_field_of_view():
    g = geometry().with_fov(30.0)
    assert g.fov_deg == pytest.approx(30) and g.half_width_mm == pytest.approx(
        geometry().half_width_mm
    )
    assert g.source_to_isocentre_mm / g.source_to_detector_mm == pytest.approx(2 / 3)
    same = geometry().with_fov(geometry().fov_deg)
    assert same.source_to_detector_mm == pytest.approx(1500)


def test_orbits_are_equally_spaced():
    assert geometry().orbit(4).angles_deg == (0, 90, 180, 270)
    assert geometry().orbit(3, start_deg=10, direction=-1).angles_deg == pytest.approx(
        (10, -110, -230)
    )
    g = geometry().orbit(72)
    assert g.views == 72 and g.angles_deg[54] == 270 and g.at([1, 2]).angles_deg == (1.0, 2.0)


# Rays


@pytest.mark.parametrize(
    "change", [{}, {"axis": "x"}, {"offset_mm": (7.0, -4.0)}, {"columns_flipped": False}]
)
def test_field_rays_are_the_rays_in_half_widths(change):
    """The same lines; where the isocentre's plane is crossed they agree, though the field's
    detector stands there.
    """
    g = geometry(**change)
    yx = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([63.0, 47.0])
    angles = torch.linspace(0, 350, 40)
    ours, mm = (
        g.field_rays(angles, yx, g.distance, 1.4),
        g.rays(angles, yx).scaled(1 / g.half_width_mm),
    )
    for name in ("origin", "direction", "near", "far"):
        torch.testing.assert_close(getattr(ours, name), getattr(mm, name), rtol=1e-4, atol=1e-4)


def test_distance_is_differentiable():
    g, distance = geometry(), torch.tensor(20.0, requires_grad=True)
    yx = torch.tensor([[10.0, 5.0], [40.0, 40.0]])
    rays = g.field_rays(torch.tensor([0.0, 200.0]), yx, distance)
    (rays.origin + rays.near[..., None] * rays.direction).square().sum().backward()
    assert distance.grad.isfinite() and distance.grad != 0


def test_rays_have_unit_length_and_pixel_centres_at_integers():
    g = geometry()
    rays = view_rays(g, 123.0)
    torch.testing.assert_close(rays.direction.norm(dim=-1), torch.ones(64, 48))
    centre = g.rays(torch.tensor(123.0), torch.tensor([31.5, 23.5]))
    torch.testing.assert_close(centre.direction, -centre.origin / 1000, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        centre.far - centre.near, torch.tensor(2 * 1.4 * 48.0), rtol=1e-4, atol=1e-2
    )


def test_support_bounds_the_rays():
    rays = view_rays(geometry(), 50.0, support_mm=30.0)
    for t in (rays.near, rays.far):
        hit = rays.far > rays.near
        radius = (rays.origin + t[..., None] * rays.direction)[..., :2].norm(dim=-1)
        assert (radius[hit] - 30).abs().max() < 1e-2
    assert 0.5 < hit.float().mean() < 0.8, "48 mm are seen either way, 30 mm are sampled"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cylinder_span_against_marching(axis):
    rng = torch.Generator().manual_seed(axis)
    origin = 3 * torch.randn(300, 3, generator=rng)
    direction = torch.nn.functional.normalize(torch.randn(300, 3, generator=rng), dim=-1)
    near, far = cylinder_span(origin, direction, 1.5, axis)
    t = torch.linspace(0, 60, 60_001)
    across = [i for i in range(3) if i != axis]
    for o, d, start, end in zip(origin, direction, near, far, strict=True):
        if d[across].norm() < 0.1:
            continue
        inside = t[(o + t[:, None] * d)[:, across].norm(dim=-1) < 1.5]
        if len(inside):
            assert abs(float(inside[0] - start)) < 2e-3 and abs(float(inside[-1] - end)) < 2e-3
        else:
            assert end - start < 1e-3
    assert (near >= 0).all() and (far >= near).all()


def test_a_ray_along_the_axis_outside_the_cylinder_misses_it():
    near, far = cylinder_span(torch.tensor([5.0, 0, -9]), torch.tensor([0.0, 0, 1]), 2.0)
    assert near == far


# JSON


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_json_round_trip(tmp_path, name):
    g = dataclasses.replace(
        DEFAULTS[name], offset_mm=(1.5, -2.0), axis="y", columns_flipped=False, tilt_deg=5.0
    ).orbit(7)
    g.save(tmp_path / "geometry.json")
    assert Geometry.from_json(tmp_path / "geometry.json") == g == Geometry.from_json(g.to_json())
    assert isinstance(json.loads((tmp_path / "geometry.json").read_text())["angles_deg"], list)


@pytest.mark.parametrize(
    "near", ["SAD", "SOD", "DSO", "SOD_mm", "sad_mm", "source_to_isocentre_mm"]
)
@pytest.mark.parametrize("far", ["SID", "SDD", "DSD", "SDD_mm", "source_to_detector_mm"])
def test_other_names_of_the_distances_are_known(near, far):
    assert (
        Geometry.from_json({near: 1000, far: 1500, "rows": 64, "cols": 48, "pixel_mm": 3})
        == geometry()
    )


@pytest.mark.parametrize(
    "change, said",
    [
        ({"source_to_isocentre_mm": 1500.0}, "1500 mm and.*1500 mm.*SOD < SDD"),
        ({"source_to_isocentre_mm": 1600}, "swapped"),
        ({"source_to_isocentre_mm": -1}, "SOD < SDD"),
        ({"source_to_isocentre_mm": "far"}, "not a number"),
        ({"rows": None}, "not a number"),
        ({"pixel_mm": float("nan")}, "infinite"),
        ({"source_to_detector_mm": float("inf")}, "infinite"),
        ({"rows": 0}, "0×48"),
        ({"pixel_mm": 0}, "0 mm"),
        ({"axis": "w"}, "orbit axis 'w'.*x, y, z"),
        ({"tilt_deg": 85}, "85°"),
        ({"offset_mm": (1,)}, "geometry"),
        ({"angles_deg": (1, float("nan"))}, "infinite"),
        ({"angles_deg": 5}, "not a number"),
        ({"offset_mm": "ab"}, "not a number"),
        ({"line_integral_scale": 0}, "line_integral_scale"),
        ({"line_integral_scale": "nine"}, "line_integral_scale|not a number"),
        ({"rows": float("inf")}, "geometry"),
    ],
)
def test_an_impossible_geometry_gets_one_sentence(change, said):
    with pytest.raises(UserError, match=said) as caught:
        geometry(**change)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "geometry.json.*readable"),
        ("[1]", "no JSON object"),
        ('{"rows": 3}', "without cols, pixel_mm, source"),
        ('{"pixl_mm": 3}', "geometry key 'pixl_mm'.*did you mean 'pixel_mm'"),
    ],
)
def test_a_broken_geometry_file_gets_one_sentence(tmp_path, text, said):
    path = tmp_path / "geometry.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        Geometry.from_json(path)


def test_an_absent_geometry_file_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.json"):
        Geometry.from_json(tmp_path / "gone.json")


def test_wrong_orbits_and_angles_are_refused():
    for call in (
        lambda: geometry().orbit(0),
        lambda: geometry().orbit(4, direction=2),
        lambda: geometry().with_fov(0),
        lambda: geometry().with_fov(130),
    ):
        with pytest.raises(UserError):
            call()


# Angles


@pytest.mark.parametrize(
    "a, b, turn",
    [(10, 350, 20), (350, 10, -20), (0, 180, -180), (180, 0, -180), (725, 0, 5), (-90, 90, -180)],
)
def test_the_short_way_between_two_angles(a, b, turn):
    assert angle_difference_deg(float(a), float(b)) == turn
    assert angle_difference_deg(torch.tensor([float(a)]), torch.tensor(float(b))).tolist() == [turn]


def test_the_nearest_view_looks_across_the_full_turn():
    angles = (0.0, 90.0, 180.0, 270.0)
    assert [nearest_view(angles, wanted) for wanted in (350.0, 44.0, 46.0, -90.0)] == [0, 0, 1, 3]
    assert nearest_view(angles, 45.0) == 0, "the first of two that are equally near"


def test_values_between_angles_are_those_of_the_two_beside():
    values, angles = torch.tensor([1.0, 2.0, 3.0, 5.0]), (0.0, 90.0, 180.0, 270.0)
    wanted = (0.0, 90.0, 22.5, 315.0)
    expected = torch.tensor([1.0, 2.0, 1.25, 3.0])  # 315° lies between 270° and 0°
    torch.testing.assert_close(interpolated_by_angle(values, angles, wanted), expected)
    found = interpolated_by_angle(values, angles, torch.tensor(wanted))
    torch.testing.assert_close(found, expected)
    assert interpolated_by_angle(torch.tensor([7.0]), (12.0,), (0.0, 200.0)).tolist() == [7.0, 7.0]


@pytest.mark.parametrize("value", ["false", "true", None, [], "0", 2])
def test_columns_are_mirrored_or_not_and_nothing_between(value, tmp_path):
    """``"false"`` is a text, and so would be true."""
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps({**DEFAULTS["chest"].to_json(), "columns_flipped": value}))
    with pytest.raises(UserError, match="got columns_flipped.*wanted true or false"):
        Geometry.from_json(path)


@pytest.mark.parametrize(
    "change",
    [
        {"axis": []},
        {"angles_deg": 3},
        {"offset_mm": [1]},
        {"rows": "many"},
        {"pixel_mm": float("nan")},
        {"view_frames": [{"source": 1}]},
        {"view_frames": 5},
        {"line_integral_scale": [7.5]},
    ],
    ids=str,
)
def test_a_damaged_geometry_is_one_sentence(change, tmp_path):
    path = tmp_path / "geometry.json"
    path.write_text(json.dumps({**DEFAULTS["chest"].to_json(), **change}))
    with pytest.raises(UserError) as caught:
        Geometry.from_json(path)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("columns_flipped", [True, False])
def test_a_turned_picture_is_what_the_other_geometry_sees(axis, columns_flipped):
    """Projections of one volume by both geometries, turned as said, are the same picture."""
    volume = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = DEFAULTS["chest"].resized(16)
    found = dataclasses.replace(wanted, axis=axis, columns_flipped=columns_flipped)
    known = 0
    for angle_deg in (0.0, 30.0, 90.0, 180.0, 270.0):
        turn = turn_between(found, wanted, angle_deg)
        if turn is None:
            continue
        known += 1
        quarters, mirrored, their_deg = turn
        theirs, ours = (
            project_volume(volume, (30.0, 30.0, 30.0), geometry.at([angle]))[0]
            for geometry, angle in ((found, their_deg), (wanted, angle_deg))
        )
        theirs = torch.rot90(theirs, -quarters)
        theirs = theirs.flip(-1) if mirrored else theirs
        assert torch.allclose(theirs, ours, rtol=0.02, atol=0.02 * float(ours.max()))
    assert known == (5 if axis == "z" else 2)  # two angles lie on both orbits
