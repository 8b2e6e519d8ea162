"""Blender's and nerfstudio's files: written, read back, lenses, depth pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import TOY, changed, refused

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.lens import Lens, least_zoom, undistorted
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.data.posed.transforms import write_transforms


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
    changed(root / "transforms_train.json", lambda v: {**v, "camera_model": "FISHEYE624"})
    refused("FISHEYE624", "image_undistorter", root=root)


def test_undistorting_undoes_the_lens():
    """Photograph a smooth pattern through the lens by Brown's formula; the pinhole picture must
    show the pattern straight.
    """
    rows, cols = 60, 80
    for radial, tangential in (((0.15, -0.05), (0.002, -0.003)), ((-0.25, 0.08), (0.0, 0.0))):
        lens = Lens((70.0, 72.0), (39.0, 30.5), radial, tangential)

        def pattern(x, y):
            return 0.5 + 0.25 * torch.sin(9 * x) + 0.25 * torch.cos(7 * y)

        def bend(x, y, k1=radial[0], k2=radial[1], p1=tangential[0], p2=tangential[1]):
            r2 = x * x + y * y
            factor = 1 + k1 * r2 + k2 * r2 * r2
            across = x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
            return across, y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y

        y, x = torch.meshgrid(
            torch.arange(rows).double(), torch.arange(cols).double(), indexing="ij"
        )
        seen_x, seen_y = (x - 39.0) / 70, (y - 30.5) / 72
        true_x, true_y = seen_x.clone(), seen_y.clone()
        # invert the lens by fixed point: an oracle that the code itself does without
        for _ in range(50):
            bent_x, bent_y = bend(true_x, true_y)
            true_x, true_y = true_x + seen_x - bent_x, true_y + seen_y - bent_y
        photo = pattern(true_x, true_y).float()[..., None]
        f = least_zoom(lens, rows, cols)
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


def test_suffixes_of_frames_may_be_spelled_in_any_case(example):
    root = example("blender")
    (root / "train" / "r_0.png").rename(root / "train" / "r_0.Png")
    (root / "train" / "r_0.bak.png").write_bytes(b"")
    assert load_scene(root).count == 2


def test_transforms_files_that_are_not_read_are_said(example):
    root = example("blender")
    assert not any("are not read" in note for note in load_scene(root).notes)
    (root / "transforms_test.json").rename(root / "transforms_valid.json")
    (root / "transforms.json").write_text("{}")
    wanted = "transforms.json, transforms_valid.json beside transforms_train.json are not read"
    assert wanted in load_scene(root).notes
