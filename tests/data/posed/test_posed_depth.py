"""Depth beside a scene: arrays, pictures with a scale, monocular maps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import refused

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.depth import (
    fit_scale_shift,
    pixel_grid,
    resized_nearest,
    save_depth,
)
from mednerf_kit.data.posed.scene import load_scene


def test_depth_arrays_beside_a_scene(example):
    root = example("nsvf")
    depth = torch.full((2, 24, 32), 3.0)
    depth[:, :2] = torch.nan
    depth[0, 2:4] = 5.0
    save_depth(root / "depth_train.npz", ["0_0000", "0_0001"], depth, torch.full((2, 24, 32), 0.25))
    scene = load_scene(root)
    assert torch.equal(scene.depth.nan_to_num(), depth[:, 1::2, 1::2].nan_to_num()) and bool(
        (scene.confidence == 0.25).all()
    )
    assert load_scene(root, split="test").depth is None
    everything = load_scene(root, split="all")
    assert bool(everything.depth[:2].isfinite().any()) and bool(everything.depth[2:].isnan().all())
    assert any("no depth for 2 of 4 views" in note for note in everything.notes)
    save_depth(root / "depth_train.npz", ["other"], depth[:1])
    refused("without an array for '0_0000'", root=root)
    (root / "depth_train.npz").write_bytes(b"nothing")
    refused("depth_train.npz", "cannot be read", root=root)


def test_depth_arrays_of_splits_that_repeat_their_stems(example):
    root = example("blender")
    for part, value in (("train", 3.0), ("test", 4.0)):
        save_depth(root / f"depth_{part}.npz", ["r_0", "r_1"], torch.full((2, 12, 16), value))
    scene = load_scene(root, split="all")
    assert scene.stems == ("train/r_0", "train/r_1", "test/r_0", "test/r_1")
    assert scene.depth[:, 0, 0].tolist() == [3, 3, 4, 4]


@pytest.mark.parametrize("kind", ["planar", "distance"])
def test_depth_pictures_with_their_scale(example, kind):
    root = example("nsvf")
    (root / "depth").mkdir()
    levels = np.full((12, 16), 3000, dtype=np.uint16)
    levels[0] = 0
    Image.fromarray(levels).save(root / "depth" / "0_0001.png")
    refused("without their scale", "depth.json", root=root)
    (root / "depth" / "depth.json").write_text(json.dumps({"scale": 0.001, "kind": kind}))
    scene = load_scene(root)
    assert bool(scene.depth[0].isnan().all()) and bool(scene.depth[1, 0].isnan().all())
    factor = (
        scene.cameras.planar_factor(*pixel_grid(scene.cameras))[1, 1:]
        if kind == "planar"
        else torch.ones(11, 16)
    )
    assert torch.allclose(scene.depth[1, 1:], 3.0 * factor)


def test_depth_pictures_of_one_split_are_not_those_of_another(example):
    root = example("blender")  # both splits have r_0 and r_1
    (root / "depth" / "train").mkdir(parents=True)
    (root / "depth" / "depth.json").write_text(json.dumps({"scale": 0.5, "kind": "distance"}))
    for name in ("r_0.png", "r_1.png"):
        Image.fromarray(np.full((12, 16), 6, dtype=np.uint16)).save(root / "depth" / name)
    for split in ("train", "test"):
        refused("'r_0' in several splits", f"depth/{split}/r_0.png", root=root, split=split)
    for name in ("r_0.png", "r_1.png"):
        (root / "depth" / name).rename(root / "depth" / "train" / name)
    assert (
        bool((load_scene(root).depth == 3).all()) and load_scene(root, split="test").depth is None
    )
    assert load_scene(root, split="all").depth[:, 0, 0].isnan().tolist() == [
        False,
        False,
        True,
        True,
    ]
    (root / "transforms_test.json").unlink()
    (root / "depth" / "train").rename(root / "depth" / "old")
    (root / "depth" / "old" / "r_0.png").rename(root / "depth" / "r_0.png")
    assert bool((load_scene(root).depth[0] == 3).all())  # one split alone: no doubt whose it is


def test_depth_beside_a_scene_does_not_replace_what_scores_are_measured_against(example):
    root = example("blender")
    for split in ("train", "test"):
        Image.fromarray(np.full((12, 16), 127, dtype=np.uint8)).save(
            root / split / "r_0_depth_0029.png"
        )
        save_depth(root / f"depth_{split}.npz", ["r_0", "r_1"], torch.full((2, 12, 16), 3.0))
    assert bool((load_scene(root).depth == 3).all())
    scene = load_scene(root, split="test")
    assert torch.allclose(scene.depth[0], torch.tensor(8 * (1 - 127 / 255))) and bool(
        scene.depth[1].isnan().all()
    )
    assert any("no depth for 1 of 2 views (the first is 'r_1.png')" in note for note in scene.notes)
    (root / "test" / "r_0_depth_0029.png").unlink()
    assert bool((load_scene(root, split="test").depth == 3).all())  # the format brings none


def test_depth_of_an_ndc_scene_is_along_its_rays(example):
    root = example("llff")
    save_depth(root / "depth_train.npz", ["image001"], torch.full((1, 12, 16), 2.5))
    warped, plain = load_scene(root), load_scene(root, ndc=False)
    view, yx = pixel_grid(plain.cameras)
    length = 2.5 * plain.facts["scale"]  # the file's 2.5 in the lengths that are fitted
    assert torch.allclose(plain.depth, torch.tensor(length))
    origin, direction = plain.cameras.world_rays(view, yx)
    z = (origin + length * direction)[..., 2]
    rays = warped.cameras.rays(view, yx)
    assert torch.allclose(
        (rays.origin + warped.depth[..., None] * rays.direction)[..., 2], 1 + 2 / z, atol=1e-4
    )


def test_nearest_takes_the_pixel_at_the_centre():
    values = torch.arange(36.0).view(6, 6)
    assert torch.equal(resized_nearest(values, 2, 2), values[[[1], [4]], [[1, 4]]]) and torch.equal(
        resized_nearest(values, 6, 6), values
    )
    assert resized_nearest(values, 12, 12).shape == (12, 12)


def test_scale_and_shift_of_a_monocular_map_survive_outliers():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2000, generator=rng)
    y = 1.7 * x + 0.4 + 0.005 * torch.randn(2000, generator=rng)
    y[:150] += 3
    y[150] = torch.nan
    plain = np.polyfit(
        x[torch.arange(2000) != 150].numpy(), y[torch.arange(2000) != 150].numpy(), 1
    )
    scale, shift = fit_scale_shift(x.view(40, 50), y.view(40, 50), torch.ones(40, 50))
    assert abs(shift - 0.4) < 0.05 < abs(plain[1] - 0.4) and abs(scale - 1.7) < 0.05
    masked = torch.ones(2000)
    masked[:150] = 0
    assert fit_scale_shift(x, y, masked) == (
        pytest.approx(1.7, abs=0.01),
        pytest.approx(0.4, abs=0.01),
    )
    with pytest.raises(UserError, match="two that differ"):
        fit_scale_shift(x, y, torch.zeros(2000))
