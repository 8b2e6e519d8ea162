"""Scenes that cannot be read are refused in one sentence."""

import math
import struct

import numpy as np
import pytest
from PIL import Image
from scene_files import TOY, changed, refused

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed import toy
from mednerf_kit.data.posed.scene import find_format, load_scene
from mednerf_kit.engine import session


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
        and session.default_recipe(str(root), ["scene.format=nsvf"]) == "tensorf_nsvf"
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


def dtu_with(root, **arrays):
    """Rewrite arrays of a DTU scene."""
    path = root / "cameras_sphere.npz"
    with np.load(path) as file:
        old = dict(file)
    np.savez(path, **{**old, **arrays})
    return root


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.eye(3),
        np.array([["a"] * 4] * 4),
        np.diag([1.0, 1, 0, 1]),
    ],
)
def test_damaged_cameras_of_dtu(example, matrix):
    refused(
        "cameras_sphere.npz", "cannot be read", root=dtu_with(example("dtu"), world_mat_1=matrix)
    )


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: v.astype(str),
        lambda v: v.astype(complex),
        lambda v: v * np.r_[np.zeros(15), 1, 1],
        lambda v: np.where(np.arange(17) % 5 == 4, -v, v),
        lambda v: v[:, :16],
    ],
)
def test_damaged_poses_of_llff(example, edit):
    root = example("llff")
    np.save(root / "poses_bounds.npy", edit(np.load(root / "poses_bounds.npy")))
    refused("poses_bounds.npy", root=root)


def test_an_array_larger_than_its_file_is_not_allocated(example):
    root = example("llff")
    with open(root / "poses_bounds.npy", "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (200_000, 200_000)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)
    refused("poses_bounds.npy", "cannot be read", root=root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cameras.txt", ""),
        ("cameras.txt", "1 PINHOLE 16 12 20 20 8\n"),
        ("cameras.txt", "1 PINHOLE 16 12 20 20 8 6 1 2\n"),
        ("cameras.txt", "1 PINHOLE 16 12 nan 20 8 6\n"),
        ("cameras.txt", "1 PINHOLE 0 0 20 20 8 6\n"),
        ("images.txt", "1 0 0 0 0 0 0 0 1 photo_0.png\n\n"),
        ("images.txt", "1 1 0 0 0 nan 0 0 1 photo_0.png\n\n"),
        ("points3D.txt", "1 0 0 inf 1 1 1 0.5\n"),
    ],
)
def test_damaged_models_of_colmap(example, name, text):
    root = example("colmap")
    (root / "sparse" / "0" / name).write_text(text)
    refused("wanted", root=root, split="all")


def test_a_count_of_points_beyond_the_file(example):
    root = example("colmap")
    where = root / "sparse" / "0"
    cameras = struct.pack("<QiiQQ4d", 1, 1, 1, 16, 12, 20, 20, 8, 6)
    (where / "cameras.bin").write_bytes(cameras)
    for count in (7, 2**60, 2**64 - 1):
        image = struct.pack("<i7di", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"photo_0.png\0"
        (where / "images.bin").write_bytes(struct.pack("<Q", 1) + image + struct.pack("<Q", count))
        refused(f"{count} points in 0 bytes", root=root)


def test_numbers_of_transforms_that_are_not_finite(example):
    root = example("blender")

    def endless(values):
        values["frames"][0]["transform_matrix"][0][3] = math.inf
        return values

    refused("box", root=root, split="test", box=[[-math.inf] * 3, [1.0] * 3])
    changed(root / "transforms_train.json", endless)
    refused("not finite", root=root)


def test_a_lens_that_folds_its_picture_over(example):
    root = example("blender")
    lens = {"camera_model": "OPENCV_FISHEYE", "k1": -9.0, "k2": 0.0}
    changed(root / "transforms_train.json", lambda v: {**v, **lens})
    refused("fisheye", "each pixel on one ray", root=root)
