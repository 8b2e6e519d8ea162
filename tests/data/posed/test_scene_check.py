"""The pre-flight check: poses in other axes, boxes, depth of another scale."""

import numpy as np
import pytest
import torch
from scene_files import changed

from mednerf_kit import cli
from mednerf_kit.data.posed.bounds import bounds_of_poses
from mednerf_kit.data.posed.depth import save_depth
from mednerf_kit.data.posed.scene import load_scene, preflight_report
from mednerf_kit.imaging.cameras import look_at
from mednerf_kit.imaging.motion import square


def test_the_check_sees_poses_that_look_away(example):
    root = example("blender")

    def opencv(values):
        for frame in values["frames"]:
            frame["transform_matrix"] = (
                np.array(frame["transform_matrix"]) * [1, -1, -1, 1]
            ).tolist()
        return values

    for part in ("train", "test"):
        changed(root / f"transforms_{part}.json", opencv)
    scene = load_scene(root, near=2.0, far=6.0, box=[[-1, -1, -1], [1, 1, 1]])
    assert any("look away" in note for note in scene.notes)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("axes", [[1, 1, 1], [1, -1, -1]])
def test_the_check_sees_other_axes_and_inverses_where_nothing_else_tells(example, axes, inverted):
    """Cameras up to 0.3 off a centre that is 0.3 off the origin, in OpenGL's axes or OpenCV's, to
    the world or from it.
    """
    root = example("blender")
    rng = torch.Generator().manual_seed(0)
    position = 4 * torch.nn.functional.normalize(
        torch.randn(12, 3, generator=rng) + torch.tensor([0.0, 0, 1]), dim=-1
    )
    target = torch.tensor([0.2, -0.1, 0.2]) + 0.3 * torch.rand(12, 3, generator=rng)
    matrix = square(
        look_at(position, target, torch.tensor([0.0, 0, 1])) * torch.tensor([*axes, 1.0])
    )
    poses = (torch.linalg.inv(matrix) if inverted else matrix).tolist()
    frames = [
        {"file_path": f"train/r_{k % 2}", "transform_matrix": pose} for k, pose in enumerate(poses)
    ]
    for part in ("train", "test"):
        changed(root / f"transforms_{part}.json", lambda values: {**values, "frames": frames})
    found = any("look away from what they surround" in note for note in load_scene(root).notes)
    assert found == (inverted or axes != [1, 1, 1])
    if not inverted:
        assert any(
            ("lies behind them" if found else "they look at") in fact
            for fact in preflight_report(load_scene(root)).facts
        )


@pytest.mark.parametrize("apart", [-0.3, 0.0, 0.3])
def test_views_from_the_front_say_nothing_of_their_axes(apart):
    """Converging, parallel and diverging views, as of LLFF: the point nearest to their axes may lie
    anywhere.
    """
    x, y = (
        v.flatten()
        for v in torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 4), indexing="ij")
    )
    position = torch.stack([x, y, torch.full_like(x, 2.0)], -1)
    poses = look_at(
        position,
        position + torch.stack([apart * x, apart * y, torch.full_like(x, -1.0)], -1),
        torch.tensor([0.0, 1, 0]),
    )
    assert "look away" not in bounds_of_poses(poses).how


def test_the_check_sees_a_box_that_is_too_small_and_mirrored_poses(example):
    root = example("blender")
    scene = load_scene(root, box=[[-0.3, -0.3, -0.3], [0.3, 0.3, 0.3]])
    assert any("look past the box" in note for note in scene.notes)
    assert not any("look past the box" in note for note in load_scene(root).notes)

    def mirrored(values):
        values["frames"][0]["transform_matrix"] = (
            np.array(values["frames"][0]["transform_matrix"]) * [-1, 1, 1, 1]
        ).tolist()
        return values

    changed(root / "transforms_train.json", mirrored)
    assert any("1 of 2 poses are mirrored" in note for note in load_scene(root).notes)


def test_the_check_sees_depth_on_another_scale(example):
    root = example("nsvf")
    save_depth(root / "depth_train.npz", ["0_0000", "0_0001"], torch.full((2, 12, 16), 3000.0))
    assert any("check its scale" in note for note in load_scene(root).notes)


def test_clipping_by_the_box_can_be_left_out(example):
    root = example("nsvf")
    free, clipped = (
        load_scene(root, clip=clip).cameras.rays(torch.tensor(0), torch.tensor([6.0, 8.0]))
        for clip in (False, True)
    )
    assert float(clipped.near) > float(free.near) and float(clipped.far) < float(free.far)


def test_check_prints_the_report(example, capsys):
    root = example("blender")
    assert cli.main(["data", "check", str(root)]) == 0
    out = capsys.readouterr().out
    assert (
        "train:" in out
        and "2 train views of 16×12 pixels" in out
        and "val: got no transforms_val.json" in out
        and "up is +z" in out
    )
    assert (
        cli.main(
            [
                "data",
                "check",
                str(example("llff")),
                "--split",
                "train",
                "--set",
                "ndc=false",
                "--downscale",
                "4",
            ]
        )
        == 0
    )
    assert "normalised" not in capsys.readouterr().out
    (root / "train" / "r_0.png").write_bytes(b"")
    assert cli.main(["data", "check", str(root)]) == 2
    assert "which is empty" in capsys.readouterr().err
