"""Which pixels are compared, and poses found again from afar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ball_scene import BOX
from blob_scene import away, blob_model, seeded, small_scene

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.types import Scene
from mednerf_kit.imaging.motion import apart
from mednerf_kit.scene.pose.approach import approach
from mednerf_kit.scene.pose.options import PoseSearch
from mednerf_kit.scene.pose.pixels import PixelSets, corners, dilated
from mednerf_kit.scene.pose.search import align_cameras, refine, sees_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene()


def test_corners_are_those_of_a_square():
    image = torch.zeros(1, 40, 40, 1)
    image[:, 10:30, 12:28] = 1.0
    found = corners(image)[0].nonzero()
    assert len(found) >= 4
    for corner in ((9.5, 11.5), (9.5, 27.5), (29.5, 11.5), (29.5, 27.5)):
        assert float((found - torch.tensor(corner)).norm(dim=-1).min()) < 2.5
    with pytest.raises(UserError, match="without a single corner"):
        corners(torch.full((1, 20, 20, 3), 0.4))
    assert not corners(torch.full((1, 20, 20, 3), 0.4), needed=False).any()


@pytest.mark.parametrize("pixels", ["random", "interest", "region"])
def test_pixels_lie_where_they_may_and_carry_their_colours(pixels, scene):
    search = PoseSearch(pixels=pixels, rays=64, blur=0.1)
    points = None if pixels == "random" else corners(scene.images)
    sets = PixelSets(scene.images, points, search)
    photo = torch.tensor([2, 0, 2])
    yx, colours = sets.draw(len(sets.photos) - 1, photo, seeded())
    at = yx.long()
    assert yx.shape == (3, 64, 2) and bool((yx == yx.round()).all())
    torch.testing.assert_close(
        colours, scene.images[photo[:, None], at[..., 0], at[..., 1]].float()
    )
    if points is not None:
        allowed = points if pixels == "interest" else dilated(points, 5, 3)
        assert bool(allowed[photo[:, None], at[..., 0], at[..., 1]].all())
    else:
        assert all(len(spots.unique(dim=0)) > 60 for spots in yx)  # strata: hardly any pixel twice


def test_a_dilated_point_is_a_square():
    point = torch.zeros(1, 21, 21, dtype=torch.bool)
    point[0, 10, 10] = True
    assert int(dilated(point, 5, 3).sum()) == 13**2 and int(dilated(point, 3, 1, 2).sum()) == 7**2


@pytest.mark.parametrize("pixels", ["random", "region"])
def test_poses_are_found_again_all_in_one_batch(pixels, scene, monkeypatch):
    monkeypatch.setattr("mednerf_kit.scene.pose.search.RAYS_AT_ONCE", 200)  # groups of one
    which = torch.tensor([0, 2])
    truth = scene.cameras.c2w[which]
    starts = away(truth, 4.0, pivot=torch.zeros(3))
    search = PoseSearch(pixels=pixels, rays=120, steps=40)
    found = refine(
        blob_model(), scene.cameras, scene.images.float(), starts, which, search, rng=seeded()
    )
    turn, shift = apart(found.c2w, truth)
    assert float(turn.max()) < 0.5 and float(shift.max()) < 0.03
    assert found.path.shape == (3, 2, 3, 4) and found.step == [0, 20, 40]
    torch.testing.assert_close(found.path[0], starts)
    assert bool((found.loss[-1] < 0.1 * found.loss[0]).all())


def test_corners_of_the_render_count_where_asked(scene):
    search = PoseSearch(pixels="interest", points="both", rays=60, steps=1)
    start = away(scene.cameras.c2w[:1], 4.0, pivot=torch.zeros(3))
    found = refine(
        blob_model(),
        scene.cameras,
        scene.images.float(),
        start,
        torch.tensor([0]),
        search,
        rng=seeded(),
    )
    assert found.c2w.isfinite().all()


def test_an_approach_comes_near_from_afar(scene):
    which = torch.tensor([2, 0])
    truth = scene.cameras.c2w[which]
    on_the_spot, about_the_scene = (
        away(truth[:1], 30.0, seed=1),
        away(truth[1:], 30.0, seed=2, pivot=torch.zeros(3)),
    )
    starts = torch.cat([on_the_spot, about_the_scene])
    found = approach(blob_model(), scene.cameras, scene.images.float(), starts, which, rng=seeded())
    assert float(apart(found, truth)[0].max()) < 6.0


def test_a_view_refined_from_its_own_pose_stays(scene):
    kept = align_cameras(blob_model(), scene.cameras, scene.images.float(), steps=10)
    turn, shift = apart(kept.c2w, scene.cameras.c2w)
    assert float(turn.max()) < 0.3 and float(shift.max()) < 0.02


def test_a_camera_that_looks_away_sees_no_scene(scene):
    back = scene.cameras.c2w * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert (
        bool(sees_scene(scene.cameras, BOX).all())
        and not sees_scene(replace(scene.cameras, c2w=back), BOX).any()
    )


@pytest.mark.parametrize(("kernel", "iterations"), [(3, 1), (3, 4), (5, 2)])
def test_a_region_grows_as_often_as_it_is_told(kernel, iterations):
    """Each time by half a kernel to every side of a corner."""
    point = torch.zeros(1, 31, 31, dtype=torch.bool)
    point[0, 15, 15] = True
    search = PoseSearch(pixels="region", kernel=kernel, iterations=iterations, rays=500)
    yx, _ = PixelSets(torch.rand(1, 31, 31, 3), point, search).draw(0, torch.tensor([0]), seeded())
    reach = iterations * (kernel // 2)
    side = np.arange(15 - reach, 15 + reach + 1)
    assert {tuple(at) for at in yx[0].int().tolist()} == {(y, x) for y in side for x in side}
