"""LLFF, NSVF, DTU and COLMAP: what each format does beside the contract of all."""

import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import TOY, refused

from mednerf_kit.data.posed import colmap, toy
from mednerf_kit.data.posed.colmap_model import pose_of
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.llff import spherified
from mednerf_kit.data.posed.nsvf import read_intrinsics
from mednerf_kit.data.posed.scene import load_scene


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
    cameras.write_text("1 FOV 16 12 20 20 8 6 0.1\n")
    refused("FOV", "image_undistorter", root=root)


def test_a_picture_colmap_could_not_place_is_left_out(example):
    root = example("colmap")
    toy.write_toy_picture(root / "images" / "lost.png", TOY, 0)
    assert any("1 pictures have no pose" in note for note in load_scene(root).notes)


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


def test_a_model_with_a_quaternion_is_read_like_its_matrix():
    turn = TOY.c2w[0, :, :3]
    q = colmap.quaternion(turn)
    assert torch.allclose(
        pose_of(q, [0.0, 0, 0])[:, :3].float(), turn.T * torch.tensor([1.0, -1, -1]), atol=1e-6
    )
