"""Pinhole cameras: rays against a projection written out by hand, boxes, normalised device
coordinates, paths.
"""

import math
from dataclasses import replace

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.cameras import (
    Cameras,
    average_pose,
    box_span,
    circle_path,
    look_at,
    nearest_to_axes,
    path,
    spiral,
)

Z = torch.tensor([0.0, 0, 1])


def some_cameras(count=5, seed=0, **changes):
    rng = torch.Generator().manual_seed(seed)
    position = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=-1) * 4
    poses = look_at(position, 0.3 * torch.randn(count, 3, generator=rng), Z)
    focal = 30 + 5 * torch.rand(count, 2, generator=rng)
    centre = torch.tensor([9.5, 7.5]) + torch.randn(count, 2, generator=rng)
    return replace(Cameras(poses, focal, centre, 16, 20, 2.0, 6.0), **changes)


def front_cameras(count=6, seed=0):
    """Cameras near the plane z = 0 that look along −z."""
    rng = torch.Generator().manual_seed(seed)
    position = torch.cat(
        [0.3 * torch.randn(count, 2, generator=rng), 0.05 * torch.randn(count, 1, generator=rng)],
        -1,
    )
    poses = look_at(position, torch.tensor([0.0, 0, -4.0]), torch.tensor([0.0, 1, 0]))
    return Cameras(
        poses,
        torch.full((count, 2), 18.0),
        torch.tensor([[9.5, 7.5]] * count),
        16,
        20,
        0.0,
        1.0,
        ndc=True,
    )


def projected(cameras, view, point):
    """Pixel (row, column) and planar depth of one point with matrices as in a textbook: K [R | t]
    x, OpenCV axes.
    """
    c2w = cameras.c2w[view].double()
    right, up, back, position = (c2w[:, k] for k in range(4))
    rotation = torch.stack([right, -up, -back])
    x, y, z = rotation @ (point.double() - position)
    (fx, fy), (cx, cy) = cameras.focal_px[view].tolist(), cameras.centre_px[view].tolist()
    return torch.tensor([fy * y / z + cy, fx * x / z + cx]), z


def test_the_ray_of_a_points_pixel_passes_through_the_point():
    cameras, rng = some_cameras(), torch.Generator().manual_seed(1)
    for view in range(cameras.count):
        for point in torch.randn(20, 3, generator=rng):
            yx, depth = projected(cameras, view, point)
            rays = cameras.rays(torch.tensor(view), yx.float())
            t = (point - rays.origin) @ rays.direction
            assert torch.allclose(rays.origin + t * rays.direction, point, atol=1e-4)
            assert t == pytest.approx(
                float(depth) * float(cameras.planar_factor(torch.tensor(view), yx.float())),
                rel=1e-5,
            )
            own_yx, own_depth = cameras.to_pixels(torch.tensor(view), point)
            assert torch.allclose(own_yx, yx.float(), atol=1e-3) and float(
                own_depth
            ) == pytest.approx(float(depth), rel=1e-5)


def test_rays_are_unit_bounded_and_follow_the_axes():
    camera = Cameras(
        look_at(torch.tensor([[0.0, -4, 0]]), torch.zeros(3), Z),
        torch.full((1, 2), 10.0),
        torch.full((1, 2), 4.5),
        10,
        10,
        1.0,
        9.0,
    )
    yx = torch.tensor([[4.5, 4.5], [4.5, 9.5], [-0.5, 4.5]])
    rays = camera.rays(torch.zeros(3, dtype=torch.long), yx)
    assert torch.allclose(rays.direction.norm(dim=-1), torch.ones(3))
    assert torch.allclose(rays.direction[0], torch.tensor([0.0, 1, 0]), atol=1e-6)
    # to the right of the picture: +x
    assert rays.direction[1, 0] > 0 and rays.direction[1, 2].abs() < 1e-6
    assert rays.direction[2, 2] > 0  # the top row looks up
    assert (
        rays.near.tolist() == [1] * 3
        and rays.far.tolist() == [9] * 3
        and rays.viewing is None
        and rays.depth is None
    )


def test_near_and_far_of_each_view():
    cameras = some_cameras(3, near=torch.tensor([1.0, 2, 3]), far=torch.tensor([4.0, 5, 6]))
    rays = cameras.rays(torch.tensor([[2], [0]]).expand(2, 4), torch.rand(2, 4, 2))
    assert rays.near.tolist() == [[3] * 4, [1] * 4] and rays.far.tolist() == [[6] * 4, [4] * 4]
    assert cameras.take([2, 0]).near.tolist() == [3, 1]


def test_near_beyond_far_is_refused():
    with pytest.raises(UserError, match="near 6 and far 2; wanted near < far"):
        some_cameras(near=6.0, far=2.0)


def test_box_clips_like_a_brute_force_walk_along_the_ray():
    box = torch.tensor([[-0.8, -0.5, -0.6], [0.7, 0.9, 0.4]])
    cameras = some_cameras(box=box, near=3.2)
    rng = torch.Generator().manual_seed(2)
    view = torch.randint(0, 5, (300,), generator=rng)
    rays = cameras.rays(view, torch.rand((300, 2), generator=rng) * torch.tensor([16.0, 20.0]))
    t = torch.linspace(3.2, 6.0, 4001)
    x = rays.origin[:, None] + t[:, None] * rays.direction[:, None]
    inside = ((x > box[0]) & (x < box[1])).all(-1)
    hit = inside.any(-1)
    assert 50 < int(hit.sum()) < 290
    first, last = t[inside.float().argmax(-1)], t[4000 - inside.flip(-1).float().argmax(-1)]
    assert torch.allclose(rays.near[hit], first[hit], atol=2e-3) and torch.allclose(
        rays.far[hit], last[hit], atol=2e-3
    )
    missed = rays.far - rays.near
    assert float(missed.min()) >= 0 and float(missed[~hit].max()) < 2e-3


def test_box_span_of_axis_parallel_and_inner_rays():
    box = torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    origin = torch.tensor([[0.0, 0, 0], [0, 0, 3], [0, 0, 3], [2, 0, 3]])
    direction = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0, 0, 1], [0, 0, -1]])
    enter, leave = box_span(origin, direction, box)
    assert torch.allclose(enter, torch.tensor([0.0, 2, 0, 0])) and torch.allclose(
        leave, torch.tensor([1.0, 4, 0, 0])
    )


def test_resizing_keeps_what_a_pixel_covers():
    cameras = some_cameras()
    half = cameras.resized(8, 10)
    view = torch.tensor(1)
    for row, col in ((0, 0), (3, 7), (7, 9)):
        four = torch.tensor([[2.0 * row + a, 2.0 * col + b] for a in (0, 1) for b in (0, 1)])
        middle = cameras.plane(view, four).mean(0)
        assert torch.allclose(
            half.plane(view, torch.tensor([float(row), float(col)])), middle, atol=1e-5
        )
    assert torch.allclose(half.resized(16, 20).centre_px, cameras.centre_px, atol=1e-5)


def test_gradients_reach_poses_and_pixels():
    cameras = some_cameras(box=torch.tensor([[-1.0] * 3, [1.0] * 3]))
    cameras = replace(cameras, c2w=cameras.c2w.clone().requires_grad_(True))
    yx = torch.full((5, 2), 8.0, requires_grad=True)
    rays = cameras.rays(torch.arange(5), yx)
    (rays.origin + rays.near[:, None] * rays.direction).sum().backward()
    assert (
        bool(yx.grad.isfinite().all())
        and bool(cameras.c2w.grad.isfinite().all())
        and float(yx.grad.abs().sum()) > 0
    )


def test_ndc_maps_the_frustum_to_a_cube_and_keeps_the_viewing_direction():
    cameras, rng = front_cameras(), torch.Generator().manual_seed(3)
    view = torch.randint(0, 6, (200,), generator=rng)
    yx = torch.rand((200, 2), generator=rng) * torch.tensor([15.0, 19.0])
    rays, (origin, direction) = cameras.rays(view, yx), cameras.world_rays(view, yx)
    assert torch.equal(rays.viewing, direction) and torch.allclose(
        rays.direction.norm(dim=-1), torch.ones(200), atol=1e-5
    )
    assert rays.near.tolist() == [0] * 200
    ends = rays.origin + rays.far[:, None] * rays.direction
    assert torch.allclose(rays.origin[:, 2], torch.full((200,), -1.0)) and torch.allclose(
        ends[:, 2], torch.ones(200), atol=1e-5
    )
    # The map itself, on points along the ray: (−2f/W x/z, −2f/H y/z, 1 + 2/z).
    for distance in (1.5, 4.0, 40.0):
        x, y, z = (origin + distance * direction).unbind(-1)
        wanted = torch.stack([-36 / 20 * x / z, -36 / 16 * y / z, 1 + 2 / z], -1)
        t = cameras.along_ray(view, yx, torch.full((200,), distance))
        assert torch.allclose(rays.origin + t[:, None] * rays.direction, wanted, atol=1e-4)
        assert torch.allclose(
            cameras.from_ray(view, yx, t), torch.full((200,), distance), rtol=2e-3
        )


def test_without_ndc_distances_stay():
    cameras, t = some_cameras(), torch.tensor([3.0])
    view, yx = torch.tensor([0]), torch.zeros(1, 2)
    assert cameras.along_ray(view, yx, t) is t and cameras.from_ray(view, yx, t) is t


def test_look_at_is_a_rotation_that_looks_at_its_target():
    poses = some_cameras(20).c2w
    assert torch.allclose(
        poses[:, :, :3].mT @ poses[:, :, :3], torch.eye(3).expand(20, 3, 3), atol=1e-5
    )
    assert torch.allclose(torch.linalg.det(poses[:, :, :3]), torch.ones(20), atol=1e-5)
    one = look_at(torch.tensor([1.0, 2, 3]), torch.tensor([0.5, -1, 2]), Z)
    assert torch.allclose(
        -one[:, 2], torch.nn.functional.normalize(torch.tensor([-0.5, -3, -1]), dim=0), atol=1e-6
    )


def test_nearest_to_axes_and_average_pose():
    target = torch.tensor([0.4, -0.2, 0.1])
    poses = look_at(some_cameras(8).position, target, Z)
    assert torch.allclose(nearest_to_axes(poses), target, atol=1e-4)
    same = poses[:1].expand(4, -1, -1)
    assert torch.allclose(average_pose(same), same[0], atol=1e-5) and bool(
        nearest_to_axes(same).isfinite().all()
    )


def test_orbit_keeps_distance_height_and_picture():
    cameras = some_cameras(12)
    cameras = replace(
        cameras,
        c2w=look_at(
            4 * torch.nn.functional.normalize(cameras.position.abs() + 0.2, dim=-1),
            torch.zeros(3),
            Z,
        ),
    )
    turn = circle_path(cameras, views=8, up=Z)
    assert turn.count == 8 and (turn.rows, turn.cols, turn.near, turn.far) == (16, 20, 2.0, 6.0)
    away = turn.position - nearest_to_axes(cameras.c2w)
    assert (
        torch.allclose(away.norm(dim=-1), torch.full((8,), 4.0), atol=1e-3)
        and float(away[:, 2].std()) < 1e-4
    )
    mean = (cameras.position[:, 2] / 4).asin().mean()
    assert float((away[:, 2] / 4).asin()[0]) == pytest.approx(float(mean), abs=1e-3)
    assert torch.allclose(nearest_to_axes(turn.c2w), nearest_to_axes(cameras.c2w), atol=1e-3)
    steps = torch.atan2(away[:, 1], away[:, 0]).diff().remainder(2 * math.pi)
    assert torch.allclose(steps, torch.full((7,), math.pi / 4), atol=1e-4)


def test_orbit_of_mirrored_cameras_is_mirrored():
    cameras = some_cameras(6)
    mirrored = replace(cameras, c2w=cameras.c2w * torch.tensor([-1.0, 1, 1, 1]))
    assert bool((torch.linalg.det(circle_path(mirrored, up=Z).c2w[:, :, :3]) < 0).all())
    assert bool((torch.linalg.det(path(mirrored, cameras.c2w).c2w[:, :, :3]) < 0).all())
    assert bool((torch.linalg.det(path(cameras, cameras.c2w).c2w[:, :, :3]) > 0).all())


def test_spiral_looks_at_its_focus_from_within_the_cameras_reach():
    cameras = front_cameras(30)
    turn = spiral(cameras, focus=4.0, views=50)
    middle = average_pose(cameras.c2w)
    assert turn.count == 50 and turn.ndc
    assert torch.allclose(nearest_to_axes(turn.c2w), middle[:, 3] - 4 * middle[:, 2], atol=1e-3)
    offsets = ((turn.position - middle[:, 3]) @ middle[:, :3]).abs().amax(0)
    reach = ((cameras.position - middle[:, 3]) @ middle[:, :3]).abs().amax(0)
    assert bool((offsets <= reach + 1e-5).all()) and float(offsets[0]) > 0.3 * float(reach[0])
