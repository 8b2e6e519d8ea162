"""Scenes: one contract over every format, then what each format, the check, depth and the archives
promise beside it.
"""

import hashlib
import http.server
import json
import math
import shutil
import struct
import threading
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from mednerf_kit import cli
from mednerf_kit.core import config
from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.data.posed import archives, blocks, colmap, toy
from mednerf_kit.data.posed.bounds import bounds_of_poses
from mednerf_kit.data.posed.depth import fit_scale_shift, nearest, pixel_grid, save_depth
from mednerf_kit.data.posed.llff import in_frame, spherified
from mednerf_kit.data.posed.nsvf import read_intrinsics
from mednerf_kit.data.posed.orbit import cameras_of
from mednerf_kit.data.posed.pictures import Lens, read_pictures, undistorted, zoom
from mednerf_kit.data.posed.scene import (
    SCENES,
    chosen_views,
    detect_format,
    find_format,
    held_out,
    load_scene,
    report,
)
from mednerf_kit.data.posed.transforms import write_transforms
from mednerf_kit.engine import session
from mednerf_kit.imaging.cameras import average_pose, look_at
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.motion import square

TOY = toy.toy_cameras()
ON_DISK = sorted(set(SCENES.entries) - {"blocks"})
PHOTOS = sorted(set(ON_DISK) - {"orbit"})
SMALL = {"size": 16, "train_views": 3}  # a version of blocks that takes a moment


@pytest.fixture
def example(tmp_path):
    """Writes a format's toy set and answers its root."""

    def write(name):
        folder = tmp_path / name
        folder.mkdir()
        return SCENES[name].example(folder)

    return write


def changed(path, edit):
    """Rewrite a JSON file."""
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


def refused(*words, root, **options):
    """The sentence with which a scene is refused, which must hold these words."""
    with pytest.raises(UserError) as error:
        load_scene(root, **options)
    for word in words:
        assert word in str(error.value), error.value
    return str(error.value)


# --- the contract of every format


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
        assert all(len(line) > 5 for line in report(scene).facts)


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


# --- choosing views


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


# --- what a scene is trained with


def test_every_format_names_a_recipe_that_fits_a_scene():
    named = {name: entry.recipe for name, entry in SCENES.entries.items()}
    assert named == {
        "blender": "lego_tensorf",
        "blocks": "lego_tensorf",
        "colmap": "lego_tensorf",
        "dtu": "dtu_neus",
        "llff": "fern_tensorf",
        "nsvf": "nsvf_tensorf",
        "orbit": None,
    }
    assert all(config.load(recipe)["task"]["name"] == "fit" for recipe in named.values() if recipe)
    assert [session.default_recipe(name) for name in ("blocks", "chest", "knee")] == [
        "lego_tensorf",
        "chest",
        "knee",
    ]


def test_a_new_format_brings_its_recipe_along(tmp_path, monkeypatch):
    monkeypatch.setattr(SCENES, "known", dict(SCENES.entries))

    @SCENES.register("postcards")
    class Postcards:
        recipe = "lego_hash"

        @staticmethod
        def detect(root):
            return (root / "postcards.txt").is_file()

    (tmp_path / "postcards.txt").touch()
    assert session.default_recipe(str(tmp_path)) == "lego_hash"
    assert session.resolve(str(tmp_path), None, "quick", [])["fields"]["scene"]["name"] == "hash"


# --- what is refused


def test_an_unknown_place_and_format(tmp_path):
    refused("no folder", root=tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "no scene format was recognised" in refused("blender", root=tmp_path / "empty")
    assert (
        find_format(tmp_path / "empty") is None
        and find_format("blocks") == "blocks"
        and find_format("chest") == "orbit"
    )


def test_unknown_words_offer_the_nearest(example):
    root = example("nsvf")
    refused("did you mean 'nsvf'", root=root, format="nsfv")
    refused("did you mean 'test'", root=root, split="tset")
    refused("did you mean 'white'", root=root, background="whit")
    refused("did you mean 'enlarge'", root=root, enlrage=1.2)
    refused("downscale", root=root, downscale=0)
    refused("'near'", "float", root=root, near="two")
    refused("[[x, y, z]", root=root, box=[[1, 1, 1], [0, 0, 0]])
    refused("near < far", root=root, near=5.0, far=2.0)


def test_a_folder_of_two_formats_asks_for_one(example):
    root = example("nsvf")
    (root / "poses_bounds.npy").write_bytes(b"")
    refused("llff or nsvf", "--set scene.format=llff", root=root)
    assert load_scene(root, format="nsvf").count == 2
    with pytest.raises(UserError, match="scene.format=llff"):
        session.resolve(str(root), None, "quick", [])
    recipe = session.resolve(str(root), None, "quick", ["scene.format=nsvf"])
    assert (
        recipe["scene"]["format"] == "nsvf"
        and session.default_recipe(str(root), ["scene.format=nsvf"]) == "nsvf_tensorf"
    )
    with pytest.raises(UserError, match="did you mean 'nsvf'"):
        session.resolve(str(root), None, "quick", ["scene.format=nsfv"])


def test_a_missing_frame(example):
    root = example("blender")
    (root / "train" / "r_1.png").unlink()
    refused("train/r_1", "no picture", root=root)


def test_a_damaged_picture_and_two_sizes(example):
    root = example("nsvf")
    (root / "rgb" / "0_0001.png").write_bytes(b"not a picture")
    refused("0_0001.png", "damaged", root=root)
    Image.new("RGBA", (8, 8)).save(root / "rgb" / "0_0001.png")
    refused("16×12", "8×8", "one size", root=root)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("llff", "images_4/zzz.png"), ("nsvf", "rgb/0_9999.png"), ("dtu", "image/zzz.png")],
)
def test_a_count_that_differs(example, name, extra):
    root = example(name)
    toy.write_toy_picture(root / extra, TOY, 0)
    refused(
        "3 pictures" if name != "nsvf" else "5 pictures",
        "one " if name != "nsvf" else "pose/NAME.txt",
        root=root,
    )


def test_poses_that_are_none(example):
    root = example("blender")

    def sheared(values):
        values["frames"][0]["transform_matrix"][0][0] += 0.5
        return values

    changed(root / "transforms_train.json", sheared)
    refused("perpendicular", "'r_0'", root=root)
    changed(
        root / "transforms_train.json",
        lambda v: {**v, "frames": [{**v["frames"][0], "transform_matrix": [[1, 2], [3]]}]},
    )
    refused("4×4", root=root)
    (root / "transforms_train.json").write_text("{")
    refused("cannot be read", root=root)


@pytest.mark.parametrize(
    "given", [{"camera_angle_x": "wide"}, {"camera_angle_x": 0}, {"fl_x": [1]}, {"near": math.nan}]
)
def test_numbers_of_a_transforms_file_that_are_none(example, given):
    root = example("blender")
    changed(root / "transforms_test.json", lambda values: {**values, **given})
    refused(
        f"{next(iter(given))} {next(iter(given.values()))!r}",
        "transforms_test.json",
        root=root,
        split="test",
    )


def test_lengths_in_the_wrong_order(example):
    root = example("nsvf")
    refused("near -1", "0 or more", root=root, near=-1.0)
    (root / "bbox.txt").write_text("1 1 1 -1 -1 -1 0.4\n")
    refused("bbox.txt", "lower corner below the upper", root=root)
    (root / "bbox.txt").write_text("1 1 1\n")
    refused("bbox.txt", "3 numbers", root=root)
    root = example("llff")
    values = np.load(root / "poses_bounds.npy")
    values[1, 15:] = values[1, :14:-1]
    np.save(root / "poses_bounds.npy", values)
    refused("view 1 has near 6 and far 2", "swap", root=root)


def test_no_transforms_of_a_split(example):
    refused("transforms_val.json", "train, test", root=example("blender"), split="val")


# --- one format at a time


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blender", {}),
        ("nsvf", {}),
        ("dtu", {}),
        ("colmap", {}),
        ("llff", {"ndc": False}),
        ("llff", {"spherify": True}),
    ],
)
def test_a_scene_written_as_transforms_is_read_back(example, tmp_path, name, options):
    root = example(name)
    if name == "colmap":  # a lens whose distortion is taken out of the pictures
        (root / "sparse" / "0" / "cameras.txt").write_text("1 SIMPLE_RADIAL 16 12 20 8 6 0.05\n")
    parts = ("train", "test") if name == "blender" else ("train", "test", "val")
    scenes = [load_scene(root, split=split, **options) for split in parts]
    write_transforms(scenes, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == scenes[0].count + scenes[1].count
    for scene in scenes:
        back = load_scene(tmp_path / "out", split=scene.split)
        assert (
            back.format == "blender"
            and back.stems == scene.stems
            and torch.equal(back.box, scene.box)
        )
        ours, theirs = (s.cameras.rays(*pixel_grid(s.cameras)) for s in (scene, back))
        for key in ("origin", "direction", "near", "far"):
            assert torch.allclose(getattr(ours, key), getattr(theirs, key), atol=1e-5), key
        assert float((back.images.float() - scene.images.float()).abs().max()) < 1 / 255
        assert (back.alpha is None) == (scene.alpha is None) and back.background == scene.background
        assert set(back.notes) <= set(scene.notes) and not any(
            "distortion" in note for note in back.notes
        )
    if name == "blender":
        refused("val split has no views left", root=tmp_path / "out", split="val")
        assert load_scene(tmp_path / "out", split="all").stems == (
            "train/r_0",
            "train/r_1",
            "test/r_0",
            "test/r_1",
        )


def test_coverage_is_written_beside_straight_colours(example, tmp_path):
    scene = load_scene(example("blender"))
    alpha = torch.rand(scene.alpha.shape, generator=torch.Generator().manual_seed(0))
    mixed = (0.7 * alpha[..., None] + (1 - alpha[..., None]) * scene.background).expand(
        *alpha.shape, 3
    )
    write_transforms([replace(scene, alpha=alpha.half(), images=mixed.half())], tmp_path)
    back = load_scene(tmp_path)
    assert float((back.images.float() - mixed).abs().max()) < 1 / 255
    assert float((back.alpha.float() - alpha).abs().max()) < 1 / 255


def test_what_transforms_cannot_express_is_refused(example, tmp_path):
    scene = load_scene(example("blender"))
    turned = replace(scene.cameras, c2w=scene.cameras.c2w * torch.tensor([-1.0, 1, 1, 1]))
    for given, words in (
        (replace(scene, cameras=turned), "mirrored"),
        (load_scene(example("orbit")), "radiographs"),
        (load_scene(example("llff")), "scene.ndc=false"),
    ):
        with pytest.raises(UserError, match=words):
            write_transforms([given], tmp_path)
    assert not (tmp_path / "transforms.json").exists()


def test_splits_of_nerfstudio(example, tmp_path):
    root = tmp_path / "out"
    write_transforms([load_scene(example("colmap"), split="all")], root)
    changed(
        root / "transforms.json",
        lambda v: {k: some for k, some in v.items() if k != "all_filenames"},
    )
    assert load_scene(root, split="test").stems == ("photo_0",) and load_scene(root).stems == (
        "photo_1",
    )
    changed(
        root / "transforms.json", lambda v: {**v, "test_filenames": [v["frames"][1]["file_path"]]}
    )
    assert load_scene(root, split="test").stems == ("photo_1",)
    refused("train split has no views left", root=root)


def test_lenses_of_nerfstudio_are_scaled_undistorted_or_refused(example):
    root = example("blender")
    changed(
        root / "transforms_train.json",
        lambda v: {**v, "fl_x": 40.0, "cx": 16.0, "cy": 12.0, "w": 32, "h": 24},
    )
    scene = load_scene(root)
    assert torch.allclose(scene.cameras.focal_px, torch.full((2, 2), 20.0)) and torch.allclose(
        scene.cameras.centre_px, TOY.centre_px
    )
    changed(root / "transforms_train.json", lambda v: {**v, "k1": -0.2})
    scene = load_scene(root)
    assert (
        any("distortion" in note for note in scene.notes)
        and float(scene.cameras.focal_px[0, 0]) >= 20
    )
    changed(root / "transforms_train.json", lambda v: {**v, "camera_model": "OPENCV_FISHEYE"})
    refused("OPENCV_FISHEYE", "image_undistorter", root=root)


def test_undistorting_undoes_the_lens():
    """Photograph a smooth pattern through the lens by its own formula; the pinhole picture must
    show the pattern straight.
    """
    rows, cols = 60, 80
    for radial, tangential in (((0.15, -0.05), (0.002, -0.003)), ((-0.25, 0.08), (0.0, 0.0))):
        lens = Lens((70.0, 72.0), (39.0, 30.5), radial, tangential)

        def pattern(x, y):
            return 0.5 + 0.25 * torch.sin(9 * x) + 0.25 * torch.cos(7 * y)

        y, x = torch.meshgrid(
            torch.arange(rows).double(), torch.arange(cols).double(), indexing="ij"
        )
        seen_x, seen_y = (x - 39.0) / 70, (y - 30.5) / 72
        true_x, true_y = seen_x.clone(), seen_y.clone()
        # invert the lens by fixed point: an oracle that the code itself does without
        for _ in range(50):
            bent_x, bent_y = lens.distort(true_x, true_y)
            true_x, true_y = true_x + seen_x - bent_x, true_y + seen_y - bent_y
        photo = pattern(true_x, true_y).float()[..., None]
        f = zoom(lens, rows, cols)
        wanted = pattern((x - 39.0) / (70 * f), (y - 30.5) / (72 * f)).float()
        assert f >= 1 and torch.allclose(undistorted(photo, lens)[..., 0], wanted, atol=0.01)


def test_depth_pictures_of_blender(example):
    root = example("blender")
    grey = np.zeros((24, 32, 4), dtype=np.uint8)  # twice the pictures' size: taken with nearest
    grey[::, 16:] = 127
    Image.fromarray(grey).save(root / "train" / "r_0_depth_0029.png")
    scene = load_scene(root)
    assert bool(scene.depth[1].isnan().all()) and bool(scene.depth[0, :, :8].isnan().all())
    assert torch.allclose(scene.depth[0, :, 8:], torch.tensor(8 * (1 - 127 / 255)))
    planar = load_scene(root, depth_kind="planar")
    factor = planar.cameras.planar_factor(*pixel_grid(planar.cameras))
    assert torch.allclose(planar.depth[0, :, 8:], 8 * (1 - 127 / 255) * factor[0, :, 8:])
    assert load_scene(root, split="test").depth is None


def test_llff_takes_what_pictures_there_are(example):
    root = example("llff")
    scene = load_scene(root, split="all", downscale=8)
    assert scene.images.shape[1:3] == (6, 8) and not scene.notes  # from images_4
    assert any("images_4" in note for note in load_scene(root, downscale=1).notes)
    (root / "images").mkdir()
    for v in range(2):
        Image.new("RGB", (64, 48), (v * 90, 50, 50)).save(root / "images" / f"image{v:03d}.jpg")
    assert load_scene(root, downscale=1).images.shape[1:3] == (48, 64)
    assert load_scene(root, downscale=2).images.shape[1:3] == (24, 32)
    assert load_scene(root, downscale=4).images.shape[1:3] == (12, 16)


def test_llff_without_ndc_and_spherified(example):
    root = example("llff")
    plain = load_scene(root, split="all", ndc=False)
    assert (
        not plain.cameras.ndc
        and plain.cameras.near == pytest.approx(0.9 / 0.75)
        and plain.cameras.far == pytest.approx(4.0)
    )
    round_ = load_scene(root, split="all", spherify=True)
    assert (
        float(round_.cameras.position.norm(dim=-1).square().mean()) == pytest.approx(1.0, abs=1e-4)
        and not round_.cameras.ndc
    )
    refused("ndc with spherify", root=root, ndc=True, spherify=True)
    poses, shrink = spherified(TOY.c2w)
    # the cameras stand above
    assert shrink == pytest.approx(0.25, rel=1e-3) and float(poses[:, 2, 3].min()) > 0


def test_both_forms_of_nsvf_intrinsics(tmp_path):
    path = tmp_path / "intrinsics.txt"
    path.write_text("277.8 100 100 0.\n0. 0. 0.\n0.\n1.\n200 200\n")
    focal, centre, matrix = read_intrinsics(path, (100, 100))
    assert (
        focal.tolist() == pytest.approx([138.9, 138.9])
        and centre.tolist() == [49.5, 49.5]
        and not matrix
    )
    path.write_text("1170 0 647 0\n0 1169 361 0\n0 0 1 0\n0 0 0 1\n")
    focal, centre, matrix = read_intrinsics(path, (720, 1280))
    assert focal.tolist() == [1170, 1169] and centre.tolist() == [646.5, 360.5] and matrix
    path.write_text("500.0\n")
    assert read_intrinsics(path, (40, 60))[1].tolist() == [29.5, 19.5]


def test_nsvf_test_views_are_1_where_there_is_no_2_and_tight_boxes_grow(example):
    root = example("nsvf")
    for folder in ("rgb", "pose"):
        for path in (root / folder).glob("2_*"):
            path.rename(path.with_name("1" + path.name[1:]))
    assert (
        load_scene(root, split="test").stems
        == load_scene(root, split="val").stems
        == ("1_0000", "1_0001")
    )
    assert torch.allclose(load_scene(root).box, torch.tensor([[-1.0, -1, -1], [1.2, 1.1, 1.3]]))
    assert torch.allclose(load_scene(root, enlarge=2.0).box[1], torch.tensor([2.3, 2.15, 2.45]))
    (root / "intrinsics.txt").write_text("20 0 8 0\n0 20 6 0\n0 0 1 0\n0 0 0 1\n")
    assert torch.allclose(load_scene(root).box[1], torch.tensor([1.42, 1.31, 1.53]))
    (root / "bbox.txt").unlink()
    assert any("no bbox.txt" in note for note in load_scene(root).notes)


def test_dtu_without_masks(example):
    scene = load_scene(example("dtu"), masked=False)
    assert scene.alpha is None and scene.background == 0


def as_binary(where):
    """Rewrite a text model of COLMAP as its binary form."""
    text = {
        name: (where / f"{name}.txt").read_text().splitlines()
        for name in ("cameras", "images", "points3D")
    }
    words = text["cameras"][1].split()
    (where / "cameras.bin").write_bytes(
        struct.pack("<QiiQQ4d", 1, 1, 1, 16, 12, *map(float, words[4:]))
    )
    out = struct.pack("<Q", len(text["images"]) // 2)
    for head, seen in zip(text["images"][::2], text["images"][1::2], strict=True):
        w, s = head.split(), seen.split()
        out += (
            struct.pack("<i7di", int(w[0]), *map(float, w[1:8]), int(w[8]))
            + w[9].encode()
            + b"\0"
            + struct.pack("<Q", len(s) // 3)
        )
        out += b"".join(
            struct.pack("<ddq", float(s[k]), float(s[k + 1]), int(s[k + 2]))
            for k in range(0, len(s), 3)
        )
    (where / "images.bin").write_bytes(out)
    out = struct.pack("<Q", len(text["points3D"]))
    for line in text["points3D"]:
        w = line.split()
        out += (
            struct.pack(
                "<Q3d3BdQ", int(w[0]), *map(float, w[1:4]), *map(int, w[4:7]), float(w[7]), 2
            )
            + b"\0" * 16
        )
    (where / "points3D.bin").write_bytes(out)
    for name in text:
        (where / f"{name}.txt").unlink()


def test_text_and_binary_models_of_colmap_are_the_same(example):
    root = example("colmap")
    text = load_scene(root, split="all")
    as_binary(root / "sparse" / "0")
    binary = load_scene(root, split="all")
    assert torch.allclose(text.cameras.c2w, binary.cameras.c2w) and torch.allclose(
        text.box, binary.box
    )
    assert (
        torch.equal(text.depth.nan_to_num(), binary.depth.nan_to_num())
        and text.stems == binary.stems
    )
    (root / "sparse" / "0" / "images.bin").write_bytes(b"\5")
    refused("cannot be read", root=root)


def test_points_of_colmap_give_depth_box_and_bounds(example):
    scene = load_scene(example("colmap"), split="all")
    known = scene.depth.isfinite()
    rays = scene.cameras.rays(*pixel_grid(scene.cameras))
    x = (rays.origin + scene.depth[..., None] * rays.direction)[known]
    # half a pixel is 0.1
    assert int(known.sum()) > 20 and float(toy.BALL.distance(x).abs().max()) < 0.15
    assert torch.allclose(scene.confidence[known], torch.tensor(np.exp(-1.0), dtype=torch.float32))
    centre = torch.tensor(toy.BALL.centre)
    assert bool((scene.box[0] < centre - 0.7).all()) and bool((scene.box[1] > centre + 0.7).all())
    assert scene.cameras.near < 3.1 and scene.cameras.far > 4.9


def test_lenses_of_colmap(example):
    root = example("colmap")
    cameras = root / "sparse" / "0" / "cameras.txt"
    cameras.write_text("1 SIMPLE_RADIAL 32 24 40 16 12 0.05\n")
    scene = load_scene(root)  # the pictures are half as large as what was reconstructed
    assert float(scene.cameras.focal_px[0, 0]) >= 20 and any(
        "distortion" in note for note in scene.notes
    )
    for line in (
        "1 SIMPLE_PINHOLE 16 12 20 8 6",
        "1 RADIAL 16 12 20 8 6 0 0",
        "1 OPENCV 16 12 20 20 8 6 0 0 0 0",
    ):
        cameras.write_text(line + "\n")
        assert torch.allclose(load_scene(root).cameras.centre_px, TOY.centre_px[:1])
    cameras.write_text("1 OPENCV_FISHEYE 16 12 20 20 8 6 0 0 0 0\n")
    refused("OPENCV_FISHEYE", "image_undistorter", root=root)


def test_a_picture_colmap_could_not_place_is_left_out(example):
    root = example("colmap")
    toy.write_toy_picture(root / "images" / "lost.png", TOY, 0)
    assert any("1 pictures have no pose" in note for note in load_scene(root).notes)


@pytest.mark.parametrize(
    "set_up",
    [
        DEFAULTS["chest"].resized(12).orbit(5),
        replace(
            DEFAULTS["knee"].resized(10).orbit(4, start_deg=20, direction=-1),
            offset_mm=(12.0, -7.0),
            columns_flipped=False,
        ),
        replace(DEFAULTS["chest"].resized(8).orbit(3), axis="x", tilt_deg=15.0, rows=6),
    ],
)
def test_rays_of_an_orbit_are_those_of_its_geometry(set_up):
    cameras = cameras_of(set_up)
    view, yx = pixel_grid(cameras)
    angles = torch.tensor(set_up.angles_deg)[:, None, None].expand(view.shape)
    wanted, rays = set_up.field_rays(angles, yx, set_up.distance), cameras.rays(view, yx)
    assert torch.allclose(rays.origin, wanted.origin, atol=1e-5) and torch.allclose(
        rays.direction, wanted.direction, atol=1e-5
    )
    inside = wanted.far > wanted.near
    assert bool((rays.near <= wanted.near + 1e-4)[inside].all()) and bool(
        (rays.far >= wanted.far - 1e-4)[inside].all()
    )


def test_an_orbit_measures_line_integrals_in_its_own_lengths(example):
    """Chords of the toy's ball of half a field unit: the picture times its scale is what the ball
    attenuates.
    """
    scene = load_scene(example("orbit"), split="all")
    rays = scene.cameras.rays(*pixel_grid(scene.cameras))
    away = torch.tensor([0.2, -0.1, 0.15]) - rays.origin
    along = (away * rays.direction).sum(-1)
    chord = 2 * (0.25 - away.square().sum(-1) + along.square()).clamp_min(0).sqrt()
    integral = scene.images[..., 0].float() * scene.facts["line_integral_scale"]
    assert torch.allclose(integral, chord * scene.facts["mm_per_unit"] * 0.02, atol=5e-3)
    assert (
        scene.quantity == "line_integral"
        and scene.background == 0
        and scene.facts["patient"] == "anna"
    )


def test_patients_of_an_orbit(example):
    root = example("orbit")
    assert load_scene(root, patient="ben").facts["patient"] == "ben"
    refused("did you mean 'ben'", root=root, patient="bem")
    refused("white background", root=root, background="white")
    refused("test split has no views left", root=root, views=8, split="test")


# --- blocks


@pytest.fixture(scope="module")
def embedded():
    return {split: load_scene("blocks", split=split, **SMALL) for split in ("train", "test")}


def test_blocks_has_its_views_box_and_surface(embedded):
    assert embedded["train"].count == 3 and embedded["test"].count == 25
    for scene in embedded.values():
        assert (
            scene.format == scene.name == "blocks" and scene.alpha is not None and not scene.notes
        )
        rays = replace(scene.cameras, box=None).rays(*pixel_grid(scene.cameras))
        known = scene.depth.isfinite()
        x = (rays.origin + scene.depth[..., None] * rays.direction)[known]
        assert float(scene.facts["surface"].distance(x).abs().max()) < 1e-3
        assert bool((x > scene.box[0]).all()) and bool((x < scene.box[1]).all())
        assert (
            bool((scene.alpha[known] > 0).all())
            and float((scene.alpha[~known] < 1).float().mean()) > 0.99
        )
        assert 0.2 < float(known.float().mean()) < 0.6


def test_depth_of_blocks_is_the_first_crossing_of_its_distance(embedded):
    """Sphere tracing, which uses nothing but the signed distance, must stop where the closed form
    says.
    """
    scene = embedded["test"].take([0, 7])
    rays = replace(scene.cameras, box=None).rays(*pixel_grid(scene.cameras))
    surface, t = scene.facts["surface"], torch.full(rays.near.shape, 2.0)
    for _ in range(400):
        t = t + surface.distance(rays.origin + t[..., None] * rays.direction).clamp_min(1e-5)
    hit = t < 7
    sure = ~(hit & scene.depth.isnan()) & ~(~hit & scene.depth.isfinite())
    assert float(sure.float().mean()) > 0.98
    both = hit & scene.depth.isfinite()
    assert float((t - scene.depth)[both].abs().quantile(0.98)) < 0.02


def test_surface_samples_lie_on_it_in_proportion_to_area():
    for solid in blocks.SURFACE.solids:
        x = solid.sample(500, torch.Generator().manual_seed(0))
        assert float(solid.distance(x).abs().max()) < 1e-5
    x = blocks.SURFACE.sample(4000, torch.Generator().manual_seed(1))
    areas = torch.tensor([solid.area for solid in blocks.SURFACE.solids])
    on = (
        torch.stack([solid.distance(x).abs() < 1e-4 for solid in blocks.SURFACE.solids])
        .float()
        .mean(1)
    )
    assert torch.allclose(on, areas / areas.sum(), atol=0.03)


def test_solids_stand_apart_so_that_the_distance_is_exact():
    for solid in blocks.SURFACE.solids:
        x = solid.sample(2000, torch.Generator().manual_seed(2))
        others = torch.stack(
            [other.distance(x) for other in blocks.SURFACE.solids if other is not solid]
        )
        assert float(others.min()) > 0.003


@pytest.mark.parametrize("solid", blocks.SURFACE.solids, ids=lambda solid: type(solid).__name__)
def test_a_solids_span_agrees_with_its_distance(solid):
    rng = torch.Generator().manual_seed(3)
    centre = torch.tensor(solid.centre)
    origin = centre + 3 * torch.nn.functional.normalize(torch.randn(400, 3, generator=rng), dim=-1)
    target = centre + solid.reach * (2 * torch.rand(400, 3, generator=rng) - 1)
    direction = torch.nn.functional.normalize(target - origin, dim=-1)
    enter, leave, normal = solid.span(origin, direction)
    hit = leave > enter
    assert 40 < int(hit.sum()) < 400
    for t in (enter, leave):
        assert float(solid.distance(origin + t[:, None] * direction)[hit].abs().max()) < 1e-4
    middle = origin + (0.5 * (enter + leave)).nan_to_num(0)[:, None] * direction
    assert float(solid.distance(middle)[hit].max()) < 1e-4
    x = (origin + enter[:, None] * direction)[hit].requires_grad_(True)
    # just outside, away from the kink
    slope = torch.autograd.grad(solid.distance(x + 1e-3 * normal[hit]).sum(), x)[0]
    assert float((slope * normal[hit]).sum(-1).quantile(0.05)) > 0.99
    t = torch.linspace(0, 6, 1200)
    away = solid.distance(origin[:, None] + t[:, None] * direction[:, None]).amin(1)
    assert float(away[~hit].min()) > -1e-3


def test_blocks_shines_differently_from_another_side(embedded):
    """The highlight moves with the eye: a point of the yellow ball is not of one colour."""
    ball = blocks.SURFACE.solids[4]
    x = ball.sample(3000, torch.Generator().manual_seed(0))
    n = (x - torch.tensor(ball.centre)) / ball.radius
    eyes = [torch.tensor([2.0, -2.5, 3.0]), torch.tensor([-1.0, -3.0, 2.0])]
    seen = (n @ blocks.SUN > 0.5) & torch.stack(
        [((eye - x) * n).sum(-1) > 0.2 for eye in eyes]
    ).all(0)
    colors = []
    for eye in eyes:
        to = torch.nn.functional.normalize(eye - x[seen], dim=-1)
        colors.append(blocks.shade(x[seen] + 0.05 * to, -to)[:, :3])
    assert float((colors[0] - colors[1]).abs().max()) > 0.2


def test_the_cached_blocks_are_an_ordinary_scene_of_blenders_format(embedded, tmp_path):
    blocks.make_blocks(tmp_path / "b", size=8, train_views=2)
    scene = load_scene(tmp_path / "b", split="test")
    assert scene.format == "blender" and scene.count == 25 and bool(scene.depth.isfinite().any())
    assert not list(tmp_path.glob(".b-*"))


# --- depth beside a scene


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
    assert bool((plain.depth == 2.5).all())
    origin, direction = plain.cameras.world_rays(view, yx)
    z = (origin + 2.5 * direction)[..., 2]
    rays = warped.cameras.rays(view, yx)
    assert torch.allclose(
        (rays.origin + warped.depth[..., None] * rays.direction)[..., 2], 1 + 2 / z, atol=1e-4
    )


def test_nearest_takes_the_pixel_at_the_centre():
    values = torch.arange(36.0).view(6, 6)
    assert torch.equal(nearest(values, 2, 2), values[[[1], [4]], [[1, 4]]]) and torch.equal(
        nearest(values, 6, 6), values
    )
    assert nearest(values, 12, 12).shape == (12, 12)


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


# --- the pre-flight check


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
            for fact in report(load_scene(root)).facts
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


# --- data get, data check


def archive_of(root, name, path, *, inside="nerf_example_data/nerf_synthetic"):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"__MACOSX/{inside}/{name}/transforms_train.json", "junk")
        for member in sorted(root.rglob("*")):
            if member.is_file():
                file.write(member, f"{inside}/{name}/{member.relative_to(root)}")
    return path


@pytest.fixture
def served(tmp_path):
    """A folder that a server on this machine offers: the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_get_unpacks_a_scene_and_records_where_it_came_from(example, served, tmp_path, capsys):
    folder, address = served
    packed = archive_of(example("blender"), "lego", folder / "lego.zip")
    into = tmp_path / "data"
    assert (
        cli.main(["data", "get", "lego", "--into", str(into), "--url", f"{address}/lego.zip"]) == 0
    )
    out, err = capsys.readouterr()
    target = into / "nerf_synthetic" / "lego"
    assert out.splitlines()[-1] == str(target) and "SHA-256" in err
    assert load_scene(target).count == 2
    recorded = json.loads((into / "nerf_synthetic" / "lego.source.json").read_text())
    assert (
        recorded["sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
        and recorded["bytes"] == packed.stat().st_size
    )
    assert sorted(p.name for p in into.rglob("*") if p.name.startswith(".")) == []
    packed.unlink()
    # it is there: nothing is asked
    assert archives.get_scene("lego", into=into, url="http://127.0.0.1:1/none") == target


def test_get_brings_all_scenes_of_an_archive(example, tmp_path):
    root, packed = example("nsvf"), tmp_path / "all.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for scene in ("Bike", "Toad", "Unheard"):
            for member in sorted(p for p in root.rglob("*") if p.is_file()):
                file.write(member, f"Synthetic_NSVF/{scene}/{member.relative_to(root)}")
    target = archives.get_scene("Toad", into=tmp_path / "data", url=str(packed))  # a plain path
    assert target == tmp_path / "data" / "Synthetic_NSVF" / "Toad" and load_scene(target).count == 2
    assert sorted(p.name for p in target.parent.iterdir() if p.is_dir()) == ["Bike", "Toad"]


def test_get_says_when_an_archive_has_changed(example, tmp_path):
    packed = archive_of(example("blender"), "lego", tmp_path / "lego.zip")
    into, said = tmp_path / "data", []
    shutil.rmtree(archives.get_scene("lego", into=into, url=packed.as_uri()))
    (tmp_path / "blender" / "more.txt").write_text("x")
    archive_of(tmp_path / "blender", "lego", packed)
    archives.get_scene("lego", into=into, url=packed.as_uri(), say=said.append)
    assert any("has changed" in line for line in said)


def test_get_leaves_nothing_of_a_damaged_archive(example, tmp_path):
    packed = archive_of(example("blender"), "lego", tmp_path / "lego.zip")
    bad = bytearray(packed.read_bytes())
    start = bad.find(b"IDAT")
    bad[start + 8] ^= 0xFF
    packed.write_bytes(bad)
    with pytest.raises(RunError, match="damaged.*CRC"):
        archives.get_scene("lego", into=tmp_path / "data", url=packed.as_uri())
    assert not list((tmp_path / "data" / "nerf_synthetic").iterdir())
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("lego/transforms_train.json", "[1, 2, 3] " * 50)
    bad = bytearray(packed.read_bytes())
    start = 30 + len("lego/transforms_train.json")  # behind the entry's header
    bad[start : start + 4] = b"\xff" * 4
    packed.write_bytes(bad)
    # not by its CRC: the deflated data cannot be unpacked
    with pytest.raises(RunError, match="damaged"):
        archives.get_scene("lego", into=tmp_path / "data", url=str(packed))
    assert not list((tmp_path / "data" / "nerf_synthetic").iterdir())
    packed.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(RunError, match="damaged"):
        archives.get_scene("lego", into=tmp_path / "data", url=packed.as_uri())


def test_get_without_a_network_says_what_to_put_where(tmp_path, capsys):
    code = cli.main(
        ["data", "get", "fern", "--into", str(tmp_path), "--url", "http://127.0.0.1:1/x.zip"]
    )
    err = capsys.readouterr().err
    assert (
        code == 1
        and err.count("\n") == 1
        and "nerf_llff_data/fern/poses_bounds.npy" in err
        and "unpack" in err
    )


def test_get_knows_its_names(capsys):
    assert cli.main(["data", "get", "lgo"]) == 2
    assert "did you mean 'lego'" in capsys.readouterr().err
    assert cli.main(["data", "get", "?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        any(line.startswith("nerf_synthetic/lego ") for line in lines)
        and len(lines) == len(archives.known_scenes()) == 29
    )
    assert all(line.split()[-1].startswith("https://") for line in lines)


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


def test_photos_of_colmap_in_folders_and_with_any_suffix(example):
    root = example("colmap")
    flat = load_scene(root, split="all")
    for v, name in enumerate(("cam0/x.Jpg", "images_of_cam1/x.TIF")):
        (root / "images" / name).parent.mkdir()
        Image.open(root / "images" / f"photo_{v}.png").save(root / "images" / name, quality=95)
        (root / "images" / f"photo_{v}.png").unlink()
        listed = root / "sparse" / "0" / "images.txt"
        listed.write_text(listed.read_text().replace(f"photo_{v}.png", name))
    toy.write_toy_picture(root / "images" / "cam0" / "lost.png", TOY, 0)
    scene = load_scene(root, split="all")
    assert (
        scene.stems == ("cam0/x", "images_of_cam1/x")
        and float((scene.images - flat.images).abs().mean()) < 0.05
    )
    assert torch.equal(scene.cameras.c2w, flat.cameras.c2w)
    assert any("1 pictures have no pose" in note for note in scene.notes)
    shutil.rmtree(root / "images")
    refused("*.png, *.jpg", "*.webp in images/", root=root)


def test_suffixes_of_frames_may_be_spelled_in_any_case(example):
    root = example("blender")
    (root / "train" / "r_0.png").rename(root / "train" / "r_0.Png")
    (root / "train" / "r_0.bak.png").write_bytes(b"")
    assert load_scene(root).count == 2


def test_a_model_with_a_quaternion_is_read_like_its_matrix():
    turn = TOY.c2w[0, :, :3]
    q = colmap.quaternion(turn)
    assert torch.allclose(
        colmap.pose_of(q, [0.0, 0, 0])[:, :3], turn.T * torch.tensor([1.0, -1, -1]), atol=1e-6
    )
