"""What every scene format promises: recognition, splits, sizes, poses, backgrounds, a recipe."""

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import ON_DISK, PHOTOS, TOY, refused

from mednerf_kit.core import config
from mednerf_kit.data.posed import toy
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.llff import in_frame
from mednerf_kit.data.posed.pictures import read_pictures
from mednerf_kit.data.posed.scene import (
    SCENES,
    detect_format,
    load_scene,
    preflight_report,
)
from mednerf_kit.data.posed.splits import chosen_views, held_out
from mednerf_kit.engine import session
from mednerf_kit.imaging.cameras import average_pose


@pytest.mark.parametrize("name", ON_DISK)
def test_an_example_is_recognised_and_loads(example, name):
    root = example(name)
    assert detect_format(root) == name
    for split in ("train", "test", "all"):
        scene = load_scene(root, split=split)
        v, rows, cols, channels = scene.images.shape
        assert v == scene.count == scene.cameras.count == len(set(scene.stems)) >= 1
        assert (rows, cols) == (scene.cameras.rows, scene.cameras.cols) and channels == (
            1 if name == "orbit" else 3
        )
        assert scene.format == name and scene.split == split and scene.images.is_contiguous()
        assert (
            float(scene.images.min()) >= 0
            and float(scene.images.max()) <= 1
            and float(scene.images.float().std()) > 0.01
        )
        assert scene.box.shape == (2, 3) and bool((scene.box[0] < scene.box[1]).all())
        rays = scene.cameras.rays(*pixel_grid(scene.cameras))
        for values in (rays.origin, rays.direction, rays.near, rays.far):
            assert bool(values.isfinite().all())
        assert float((rays.direction.norm(dim=-1) - 1).abs().max()) < 1e-5
        assert (
            float((rays.far - rays.near).min()) >= 0
            and float((rays.far > rays.near).float().mean()) > 0.5
        )
        assert all(len(line) > 5 for line in preflight_report(scene).facts)


@pytest.mark.parametrize("name", ON_DISK)
def test_train_and_test_views_are_apart_and_make_up_all(example, name):
    root = example(name)
    parts = {split: load_scene(root, split=split) for split in ("train", "test", "all")}
    assert parts["train"].count + parts["test"].count == parts["all"].count
    if name not in ("blender", "nsvf"):  # whose toys repeat their poses
        assert not set(parts["train"].stems) & set(parts["test"].stems)
    for split in ("train", "test"):
        # what is fitted does not depend on the split
        assert torch.equal(parts[split].box, parts["all"].box)
        assert (
            torch.as_tensor(parts[split].cameras.far).max()
            == torch.as_tensor(parts["all"].cameras.far).max()
        )


@pytest.mark.parametrize("name", ON_DISK)
def test_half_the_size_is_the_mean_over_four_pixels(example, name):
    root = example(name)
    once = 4 if name == "llff" else 1  # whose toy has images_4 alone
    whole, half = load_scene(root, downscale=once), load_scene(root, downscale=2 * once)
    v, rows, cols, channels = whole.images.shape
    mean = whole.images.float().view(v, rows // 2, 2, cols // 2, 2, channels).mean((2, 4))
    assert torch.allclose(half.images.float(), mean, atol=2e-3)
    assert torch.allclose(half.cameras.focal_px, whole.cameras.focal_px / 2)


@pytest.mark.parametrize("name", ["blender", "nsvf", "colmap"])
def test_poses_and_lens_come_back_from_the_disk(example, name):
    scene = load_scene(example(name), split="all")
    index = [0, 1] if name == "colmap" else [0, 1, 0, 1]
    assert torch.allclose(scene.cameras.c2w, TOY.c2w[index], atol=1e-5)
    assert torch.allclose(scene.cameras.focal_px, TOY.focal_px[index], atol=1e-4)
    assert torch.allclose(scene.cameras.centre_px, TOY.centre_px[index], atol=1e-4)


def test_poses_of_llff_come_back_up_to_scale_and_frame(example):
    scene = load_scene(example("llff"), split="all")
    wanted = TOY.c2w.clone()
    wanted[:, :, 3] *= scene.facts["scale"]
    assert torch.allclose(scene.cameras.c2w, in_frame(average_pose(wanted), wanted), atol=1e-4)
    assert scene.facts["scale"] == pytest.approx(1 / (2.0 * 0.75))
    assert torch.allclose(scene.cameras.focal_px, TOY.focal_px, atol=1e-3)


def test_poses_of_dtu_come_back_in_the_unit_ball(example):
    scene = load_scene(example("dtu"), split="all")
    to_world = scene.facts["to_world"]
    assert torch.allclose(
        scene.cameras.position @ to_world[:3, :3].T + to_world[:3, 3], TOY.position, atol=1e-4
    )
    assert torch.allclose(scene.cameras.c2w[:, :, :3], TOY.c2w[:, :, :3], atol=1e-5)
    assert torch.allclose(scene.cameras.focal_px, TOY.focal_px, atol=1e-3)
    cover = torch.stack([toy.toy_picture(TOY, v)[..., 3] for v in range(2)])
    assert scene.facts["mm_per_unit"] == 2 and torch.equal(scene.alpha.float(), cover)


@pytest.mark.parametrize("name", PHOTOS)
def test_the_ball_is_where_its_pixels_are(example, name):
    """The rays of covered pixels pass through the ball, those of the others past it, in the space
    of the toy.
    """
    scene = load_scene(example(name), split="all", clip=False)
    if name == "llff":
        return  # its space is warped; its poses are tested above
    view, yx = pixel_grid(scene.cameras)
    origin, direction = scene.cameras.world_rays(view, yx)
    centre, radius = torch.tensor(toy.BALL.centre), toy.BALL.radius
    if name == "dtu":
        to_world = scene.facts["to_world"]
        centre, radius = (centre - to_world[:3, 3]) / to_world[0, 0], radius / 2
    away = centre - origin
    passes = (away.square().sum(-1) - (away * direction).sum(-1).square()).sqrt() < radius
    seen = (scene.images.float() - scene.background).abs().sum(-1) > 0.02
    assert float((passes == seen).float().mean()) > 0.995


@pytest.mark.parametrize("background", ["white", "black"])
def test_transparent_pixels_take_the_background(example, background):
    scene = load_scene(example("blender"), background=background)
    clear = scene.alpha < 0.5
    assert float(clear.float().mean()) > 0.3 and scene.background == (background == "white")
    assert torch.equal(scene.images[clear], torch.full_like(scene.images[clear], scene.background))


def test_half_transparent_pixels_are_mixed(tmp_path):
    pixels = np.array(
        [[[255, 0, 0, 128], [0, 255, 0, 0]], [[10, 20, 30, 255], [0, 0, 0, 255]]], dtype=np.uint8
    )
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_pictures([tmp_path / "a.png"])
    a = 128 / 255
    assert torch.allclose(
        found.images[0, 0].float(), torch.tensor([[1, 1 - a, 1 - a], [1, 1, 1]]), atol=1e-3
    )
    assert torch.allclose(
        read_pictures([tmp_path / "a.png"], downscale=2).alpha.float(),
        torch.tensor([[[(2 + a) / 4]]]),
        atol=1e-3,
    )


def test_views_thins_out_training_alone(example):
    root = example("orbit")
    assert load_scene(root, views=2).stems == ("xray_000", "xray_004")
    assert load_scene(root, split="test", views=2).count == 6  # of an orbit the others are the test
    nsvf = example("nsvf")
    assert (
        load_scene(nsvf, views=1).stems == ("0_0000",)
        and load_scene(nsvf, views=1, split="test").count == 2
    )
    refused("views 3", "at most the 2", root=nsvf, views=3)


def test_few_views_are_evenly_chosen():
    for n in range(1, 12):
        chosen = chosen_views(range(100), "train", n, "x")
        gaps = np.diff([*chosen, 100])
        assert len(set(chosen)) == n and chosen[0] == 0 and gaps.max() - gaps.min() <= 1


def test_held_out_views_and_a_split_without_any(example):
    assert held_out(range(20), "test", 8) == held_out(range(20), "val", 8) == [0, 8, 16]
    assert len(held_out(range(20), "train", 8)) == 17 and held_out(range(3), "train", 0) == [
        0,
        1,
        2,
    ]
    refused("train split has no views left", "fewer views", root=example("llff"), hold=1)


def test_take_keeps_what_belongs_together(example):
    scene = load_scene(example("colmap"), split="all")
    one = scene.take([1])
    assert (
        one.stems == ("photo_1",)
        and torch.equal(one.images[0], scene.images[1])
        and one.cameras.count == 1
    )
    assert (
        torch.equal(one.depth[0].isnan(), scene.depth[1].isnan())
        and one.confidence.shape == one.depth.shape
    )


def test_every_format_names_a_recipe_that_fits_a_scene():
    named = {name: entry.recipe for name, entry in SCENES.entries.items()}
    assert named == {
        "blender": "tensorf",
        "blocks": "tensorf",
        "colmap": "tensorf",
        "dtu": "neus_dtu",
        "llff": "tensorf_ndc",
        "nsvf": "tensorf_nsvf",
        "orbit": None,
    }
    assert all(config.load(recipe)["task"]["name"] == "fit" for recipe in named.values() if recipe)
    assert [session.default_recipe(name) for name in ("blocks", "chest", "knee")] == [
        "tensorf",
        "chest",
        "knee",
    ]


def test_a_new_format_brings_its_recipe_along(tmp_path, monkeypatch):
    monkeypatch.setattr(SCENES, "known", dict(SCENES.entries))

    @SCENES.register("postcards")
    class Postcards:
        recipe = "hash"

        @staticmethod
        def detect(root):
            return (root / "postcards.txt").is_file()

    (tmp_path / "postcards.txt").touch()
    assert session.default_recipe(str(tmp_path)) == "hash"
    assert session.resolve(str(tmp_path), None, "quick", [])["fields"]["scene"]["name"] == "hash"
