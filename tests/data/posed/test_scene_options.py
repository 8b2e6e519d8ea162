"""Options of captured scenes that no recipe sets: each does what it promises."""

from __future__ import annotations

import pytest
import torch

from mednerf_kit.data.posed.scene import SCENES, load_scene
from mednerf_kit.data.posed.toy import toy_cameras
from mednerf_kit.imaging.cameras import average_pose


@pytest.mark.parametrize("factor", [0.75, 0.5])
def test_llffs_lengths_are_counted_in_a_share_of_the_nearest_bound(factor, tmp_path):
    """The toy's bounds are 2 and 6."""
    scene = load_scene(SCENES["llff"].example(tmp_path), split="all", ndc=False, bd_factor=factor)
    scale = 1 / (2 * factor)
    assert scene.facts["scale"] == pytest.approx(scale)
    assert scene.cameras.near == pytest.approx(
        0.9 * 2 * scale
    ) and scene.cameras.far == pytest.approx(6 * scale)
    apart = torch.pdist(scene.cameras.position)
    torch.testing.assert_close(
        apart, scale * torch.pdist(toy_cameras().position), rtol=1e-4, atol=1e-4
    )


def test_llffs_poses_are_about_their_average_or_the_files_own(tmp_path):
    root = SCENES["llff"].example(tmp_path)
    recentred, own = (
        load_scene(root, split="all", ndc=False, recentre=r).cameras for r in (True, False)
    )
    torch.testing.assert_close(average_pose(recentred.c2w), torch.eye(4)[:3], atol=1e-5, rtol=0)
    wanted = toy_cameras().c2w.clone()
    wanted[:, :, 3] /= 2 * 0.75
    torch.testing.assert_close(own.c2w, wanted, atol=1e-4, rtol=0)


def test_colmaps_points_are_no_depth_where_nobody_wants_it(tmp_path):
    root = SCENES["colmap"].example(tmp_path)
    with_depth, without = (load_scene(root, split="all", sparse_depth=on) for on in (True, False))
    assert with_depth.depth is not None and with_depth.confidence is not None
    assert without.depth is None and without.confidence is None
    assert len(without.facts["points"]) == 40 and torch.equal(with_depth.box, without.box)
