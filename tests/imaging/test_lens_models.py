"""Lenses as rays, against Brown's and Kannala's formulas written out, and kornia's."""

import math

import pytest
import torch
from kornia.geometry.calibration import distort_points

from mednerf_kit.imaging.cameras import Cameras, path
from mednerf_kit.imaging.lens_models import Lenses

BROWN = [0.15, -0.05, 0.01, 0.0, 0.002, -0.003, 0.02, 0.001, 0.0]
FISHEYE = [-0.05, 0.01, 0.002, -0.001, 0, 0, 0, 0, 0]


def lenses(*rows):
    """Lenses of one view each: the number of a model and coefficients."""
    models, coefficients = zip(*rows, strict=True)
    return Lenses(torch.tensor(models), torch.tensor(coefficients, dtype=torch.float64))


def grid(reach):
    line = torch.linspace(-reach, reach, 9, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def test_brown_is_the_inverse_of_opencv_s_formula():
    ahead = torch.cat([grid(0.6), torch.ones(81, 1, dtype=torch.float64)], -1)
    k1, k2, k3, _, p1, p2, k4, k5, k6 = BROWN
    wanted = distort_points(
        ahead[:, :2],
        torch.eye(3, dtype=torch.float64),
        torch.tensor([k1, k2, p1, p2, k3, k4, k5, k6], dtype=torch.float64),
    )
    one = lenses((0, BROWN))
    view = torch.zeros(81, dtype=torch.long)
    assert torch.allclose(one.points(view, ahead), wanted, atol=1e-12)
    found = one.directions(view, wanted)
    assert torch.allclose(found[:, :2] / found[:, 2:], ahead[:, :2], atol=1e-10)


@pytest.mark.parametrize("degrees", [0.0, 30.0, 45.0, 60.0, 89.0, 100.0])
def test_a_fisheye_looks_round_corners(degrees):
    theta = math.radians(degrees)
    k1, k2, k3, k4 = FISHEYE[:4]
    radius = theta + k1 * theta**3 + k2 * theta**5 + k3 * theta**7 + k4 * theta**9
    one, view = lenses((1, FISHEYE)), torch.tensor([0])
    point = torch.tensor([[0.6 * radius, -0.8 * radius]], dtype=torch.float64)
    wanted = torch.tensor(
        [[0.6 * math.sin(theta), -0.8 * math.sin(theta), math.cos(theta)]], dtype=torch.float64
    )
    assert torch.allclose(one.directions(view, point), wanted, atol=1e-10)
    assert torch.allclose(one.points(view, 3 * wanted), point, atol=1e-10)


def test_the_sphere_is_longitude_and_latitude():
    one = lenses((2, [0.0] * 9))
    quarter = math.pi / 2
    points = torch.tensor(
        [[0, 0], [quarter, 0], [0, quarter], [2 * quarter, 0]], dtype=torch.float64
    )
    wanted = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, -1]]).double()
    view = torch.zeros(4, dtype=torch.long)
    assert torch.allclose(one.directions(view, points), wanted, atol=1e-12)
    assert torch.allclose(one.points(view, wanted)[:3], points[:3], atol=1e-12)


def test_each_view_has_its_own_lens():
    both = lenses((0, [0.0] * 9), (1, [0.0] * 9))
    point = torch.full((2, 2), 0.5, dtype=torch.float64)
    found = both.directions(torch.tensor([0, 1]), point)
    angle = torch.rad2deg(torch.atan2(found[:, :2].norm(dim=-1), found[:, 2]))
    half = math.sqrt(0.5)
    assert angle.tolist() == pytest.approx([math.degrees(math.atan(half)), math.degrees(half)])
    assert both.take(torch.tensor([1])).name(0) == "fisheye" and both.name(0) == "brown"


def test_gradients_are_those_of_the_inverse():
    for number, coefficients in ((0, BROWN), (1, FISHEYE), (2, [0.0] * 9)):
        one = lenses((number, coefficients))
        points = (grid(0.4)[::10] + 0.01).requires_grad_()
        view = torch.zeros(9, dtype=torch.long)
        assert torch.autograd.gradcheck(lambda p, o=one, v=view: o.directions(v, p), points)


def test_cameras_with_lenses_go_to_rays_and_back():
    pose = torch.eye(3, 4).repeat(3, 1, 1)
    pose[:, :, 3] = torch.tensor([0.5, -1.0, 2.0])
    cameras = Cameras(
        pose,
        torch.full((3, 2), 20.0),
        torch.tensor([[15.5, 11.5]] * 3),
        24,
        32,
        1.0,
        5.0,
        lenses=lenses((0, BROWN), (1, FISHEYE), (2, [0.0] * 9)),
    )
    view = torch.arange(3)[:, None].expand(3, 40)
    yx = torch.rand((3, 40, 2), generator=torch.Generator().manual_seed(0)) * 22
    rays = cameras.rays(view, yx)
    x = rays.origin + 3 * rays.direction
    found, depth = cameras.to_pixels(view, x)
    assert torch.allclose(found, yx, atol=1e-3)
    assert torch.allclose(depth * cameras.planar_factor(view, yx), torch.tensor(3.0), atol=1e-4)
    half = cameras.resized(12, 16)
    assert torch.allclose(half.to_pixels(view, x)[0], (yx + 0.5) / 2 - 0.5, atol=1e-3)
    around = path(cameras.take([2]), pose)
    assert around.lenses is None and float(around.focal_px[0, 0]) == 16
