"""Scenes as people have them: turned photographs, masks, lists, units, far-off worlds."""

import shutil
import struct

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scene_files import TOY, changed, edited, frames_of, lying, refused

from mednerf_kit import cli
from mednerf_kit.data.posed import colmap, colmap_model, toy
from mednerf_kit.data.posed.linear import srgb
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.data.posed.transforms import write_transforms
from mednerf_kit.data.posed.world import own_poses, world_points, world_poses
from mednerf_kit.engine import session


@pytest.mark.parametrize(
    "key",
    [
        *("rolling_shutter", "latlong", "ftheta_p0", "ftheta_p5", "transform_matrix_start"),
        *("s1", "distortion", "dist_coeffs", "orthographic"),
    ],
)
def test_a_lens_that_is_not_read_is_refused_by_its_key(photos, key):
    edited(photos, **{key: [0.1, 0.0]})
    refused(key, "undistort", root=photos)
    edited(photos, **{key: [0.0, 0.0]}, is_fisheye=False, equirectangular="false")
    assert load_scene(photos).cameras.lenses is None


def test_fisheyes_keep_their_pictures_and_bend_their_rays(photos):
    plain = load_scene(photos)
    edited(photos, is_fisheye=True, k1=-0.05, k2=0.01)
    scene = load_scene(photos)
    assert torch.equal(scene.images, plain.images) and scene.cameras.lenses.name(0) == "fisheye"
    # a point 0.35 focal lengths off the axis: θ (1 − 0.05 θ² + 0.01 θ⁴) = 0.35
    theta = float(np.roots([0.01, 0, -0.05, 0, 1, -0.35])[-1].real)
    toward = scene.cameras.toward(torch.tensor(0), torch.tensor([5.5, 14.5]))
    assert float(torch.rad2deg(torch.acos(toward[2]))) == pytest.approx(np.rad2deg(theta), abs=1e-3)
    edited(photos, is_fisheye=None, camera_model="OPENCV_FISHEYE")
    assert load_scene(photos).cameras.lenses.coefficients[0, :2].tolist() == [-0.05, 0.01]
    write_transforms([load_scene(photos)], photos.parent / "back")
    back = load_scene(photos.parent / "back")
    assert torch.equal(
        back.cameras.lenses.coefficients, load_scene(photos).cameras.lenses.coefficients
    )


def test_a_lens_has_several_spellings(photos):
    edited(photos, k1=0.1, k2=-0.02, p2=0.01)
    named = load_scene(photos, undistort=False).cameras.lenses.coefficients
    edited(photos, k1=None, k2=None, p2=None, distortion_params=[0.1, -0.02, 0, 0, 0, 0.01])
    listed = load_scene(photos, undistort=False).cameras.lenses.coefficients
    assert torch.equal(listed, named)
    edited(photos, distortion_params=[0.1, 0, 0, 0, 0, 0, 0.5])
    refused("distortion_params", root=photos)
    edited(photos, distortion_params=None, lens_model="fisheye", k1=0.1)
    assert load_scene(photos).cameras.lenses.name(0) == "fisheye"
    edited(photos, lens_model="THIN_PRISM_FISHEYE")
    refused("THIN_PRISM_FISHEYE", root=photos)


@pytest.mark.parametrize(
    ("key", "name", "model"),
    [
        ("camera_type", "fisheye", "fisheye"),
        ("camera_type", "PERSP", None),
        ("lens_mode", "OpenCVFisheye", "fisheye"),
        ("lens_mode", "Equirectangular", "16×12"),
        ("lens_mode", "FTheta", "FTHETA"),
        ("lens_mode", "LatLong", "LATLONG"),
        ("camera_type", "omnidirectional", "OMNIDIRECTIONAL"),
        ("camera_type", "ORTHO", "ORTHO"),
        ("camera_type", 2, "model '2'"),
        ("projection", "opencv-fisheye", "fisheye"),
    ],
)
def test_models_under_the_keys_of_other_programs(photos, key, name, model):
    edited(photos, **{key: name})
    if model in ("fisheye", None):
        lenses = load_scene(photos).cameras.lenses
        assert (lenses and lenses.name(0)) == model
        edited(photos, camera_model="OPENCV", **{key: name})  # what programs write by default
        assert (load_scene(photos).cameras.lenses is None) == (model is None)
        edited(photos, camera_model="EQUIRECTANGULAR", is_fisheye=True)
        refused("several lenses", "is_fisheye", root=photos)
    else:
        refused(model, root=photos)


def test_keys_in_another_spelling_and_keys_that_nothing_reads(photos):
    wanted = load_scene(photos)
    edited(photos, fl_x=None, fl_y=None, w=None, h=None, fx=40.0, fy=40.0, width=32, height=24)
    edited(photos, cx=16.0, cy=12.0)
    found = load_scene(photos)
    assert torch.equal(found.cameras.focal_px, wanted.cameras.focal_px)
    assert torch.equal(found.cameras.centre_px, wanted.cameras.centre_px)
    said = "keys of the transforms file that are not read: "
    assert not any(said in note for note in found.notes)
    edited(photos, aabb_scale=16, fisheye_crop_radius=5.0, mask_color="FF00FF", is_hdr=False)
    assert any(
        f"{said}fisheye_crop_radius, mask_color" == note for note in load_scene(photos).notes
    )


def test_what_only_the_full_model_has_is_refused_without_its_name(photos):
    edited(photos, k1=0.1, k5=0.01)
    refused("k5", root=photos)


def test_fuller_lenses_bend_rays_and_undistorting_can_be_left_out(photos):
    edited(photos, camera_model="OPENCV", k1=0.1, k3=0.02)
    scene = load_scene(photos)
    assert scene.cameras.lenses.name(0) == "brown"
    edited(photos, k3=None)
    assert load_scene(photos).cameras.lenses is None  # taken out of the pictures
    bent = load_scene(photos, undistort=False)
    assert bent.cameras.lenses.coefficients[0, 0] == 0.1 and torch.equal(bent.images, scene.images)


def test_panoramas_show_the_whole_sphere(photos):
    edited(photos, equirectangular=True)
    refused("equirectangular", "twice as wide", root=photos)
    for path in (photos / "images").iterdir():
        Image.open(path).resize((16, 8)).save(path)
    edited(photos, w=16, h=8)
    scene = load_scene(photos)
    left, right = scene.cameras.toward(
        torch.tensor([0, 0]), torch.tensor([[3.5, 3.5], [3.5, 11.5]])
    )
    assert torch.allclose(left, torch.tensor([-1.0, 0, 0]), atol=1e-6)
    assert torch.allclose(right, torch.tensor([1.0, 0, 0]), atol=1e-6)


@pytest.mark.parametrize("number", [7, 10, 11, 12, 13, 16, 99])
def test_models_of_colmap_that_are_not_read_are_refused_by_name(example, number):
    root = example("colmap")
    where = root / "sparse" / "0"
    (where / "cameras.bin").write_bytes(struct.pack("<QiiQQ20d", 1, 1, number, 16, 12, *[1.0] * 20))
    (where / "images.bin").write_bytes(struct.pack("<Q", 0))
    names = {7: "FOV", 10: "THIN_PRISM_FISHEYE", 11: "RAD_TAN_THIN_PRISM_FISHEYE"}
    names |= {12: "SIMPLE_DIVISION", 13: "DIVISION", 16: "EUCM", 99: "number 99"}
    shutil.copy(where / "images.txt", root / "kept.txt")
    text = (where / "cameras.txt").read_text()
    if number == 99:
        refused("number 99", root=root)
        return
    (where / "cameras.bin").unlink()
    (where / "images.bin").unlink()
    (where / "cameras.txt").write_text(text.replace("PINHOLE", names[number]))
    refused(names[number], "image_undistorter", root=root)


@pytest.mark.parametrize(
    "spelling",
    [
        "./images/{}.png",
        "images/{}",
        "images\\{}.png",
        "{}.png",
        "//images//{}.png",
        "C:\\scene\\images\\{}.png",
        "/elsewhere/scene/images/{}.png",
        "../photos/images/{}.png",
    ],
)
def test_lists_in_every_spelling(photos, spelling):
    edited(photos, train_filenames=[spelling.format(1).replace("//", "./", 1)], val_filenames=None)
    scene = load_scene(photos)
    assert scene.stems == ("1",)
    assert any("1 of 2 frames are in none" in note for note in scene.notes)


def test_lists_of_other_pictures_and_scenes_without_a_test_split(photos):
    test = load_scene(photos, split="test")
    assert test.stems == ("0",) and any("val views are the test" in note for note in test.notes)
    edited(photos, train_filenames=["images/7.png"])
    refused("train_filenames", "'images/7.png'", root=photos)
    edited(photos, train_filenames=None, val_filenames=["images/0.png"])
    assert cli.main(["data", "check", str(photos)]) == 2  # nothing to fit


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("start", ["images\\\\", "D:\\\\scan\\\\images\\\\", "/media/card/images/"])
def test_windows_paths_and_byte_order_marks(photos, start, encoding):
    path = photos / "transforms.json"
    path.write_text(path.read_text().replace("images/", start), encoding=encoding)
    assert load_scene(photos).stems == ("0", "1")


def test_a_scene_whose_box_no_ray_meets_cannot_be_fitted(photos, capsys):
    assert cli.main(["data", "check", str(photos)]) == 0
    edited(photos, near=2.0, far=6.0, box=[[90, 90, 90], [91, 91, 91]])
    assert cli.main(["data", "check", str(photos)]) == 2
    assert "no ray meets the box" in capsys.readouterr().out
    arguments = ["--set", "steps=1", "--outdir", str(photos.parent / "runs")]
    assert cli.main(["train", "--dataset", str(photos), "--config", "tensorf", *arguments]) == 2
    assert "none of whose train rays meets the box" in capsys.readouterr().err


def test_frames_of_other_lists_and_times_are_said(photos):
    frames = frames_of(photos)
    edited(photos, test_frames=frames[:1])
    assert any("test_frames are not read" in note for note in load_scene(photos).notes)
    assert not any("times" in note for note in load_scene(photos).notes)
    edited(photos, frames=[{**frame, "time": float(k)} for k, frame in enumerate(frames)])
    assert any("as if it stood still" in note for note in load_scene(photos).notes)


def test_names_of_lists_that_are_no_frames_are_said(photos):
    edited(photos, train_filenames=["images/0.png", "images/7.png"])
    notes = load_scene(photos).notes
    assert any("1 of 2 train_filenames are no frames" in note for note in notes)


@pytest.mark.parametrize("folder", ["depth", "depths"])
def test_depth_that_frames_name_is_in_millimetres(photos, folder):
    (photos / folder).mkdir()
    for v in range(2):
        levels = np.full((12, 16), 4000, np.uint16)
        levels[0] = 0
        Image.fromarray(levels).save(photos / folder / f"{v}.png")
    changed(
        photos / "transforms.json",
        lambda v: {
            **v,
            "frames": [
                {**f, "depth_file_path": f"{folder}/{k}.png"} for k, f in enumerate(v["frames"])
            ],
        },
    )
    scene = load_scene(photos)
    Image.fromarray(np.full((16, 12), 4000, np.uint16)).save(photos / folder / "turned.png")
    x, y = (np.array([0, 11]) - 7.5) / 20, (6 - 5.5) / 20
    wanted = 4 * np.sqrt(1 + x**2 + y**2)
    assert scene.depth[0, 6, [0, 11]].tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    assert bool(scene.depth[:, 0].isnan().all())
    assert float(load_scene(photos, depth_unit=1e-2).depth.nanmean()) > 40
    (photos / folder / "turned.png").rename(photos / folder / "1.png")
    refused("1.png", "12×16", "same shape", root=photos)
    (photos / folder / "1.png").unlink()
    refused("got no depth", "1.png", root=photos)


def test_depth_of_pictures_stored_lying(photos):
    (photos / "depth").mkdir()
    levels = np.arange(1, 193, dtype=np.uint16).reshape(12, 16)
    for v in range(2):
        Image.fromarray(levels if v else np.rot90(levels).copy()).save(photos / f"depth/{v}.png")
    frames = [{**f, "depth_file_path": f"depth/{k}.png"} for k, f in enumerate(frames_of(photos))]
    edited(photos, frames=frames)
    lying(photos, 6)
    depth = load_scene(photos).depth
    assert torch.equal(depth[0], depth[1])


def test_the_reconstruction_with_the_most_pictures_is_read(example):
    root = example("colmap")
    shutil.copytree(root / "sparse" / "0", root / "sparse" / "1")
    small = root / "sparse" / "0" / "images.txt"
    small.write_text("\n".join(small.read_text().splitlines()[:2]) + "\n")
    scene = load_scene(root, split="all")
    assert scene.count == 2 and any("sparse/1 is read" in note for note in scene.notes)
    assert load_scene(root, split="all", model="sparse/0").count == 1
    refused("sparse/7", root=root, model="sparse/7")


def test_pictures_converted_since_and_pictures_lost(example):
    root = example("colmap")
    for path in (root / "images").iterdir():
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    scene = load_scene(root, split="all")
    assert scene.count == 2 and any("another suffix" in note for note in scene.notes)
    for path in (root / "images").iterdir():
        path.unlink()
    toy.write_toy_picture(root / "images" / "other.png", TOY, 0)
    refused("photo_0.png", "1 more", root=root)


SHIFT = torch.tensor([500000.0, 5300000.0, 300.0], dtype=torch.float64)


def test_a_scene_far_off_is_read_in_full_precision_and_goes_back(photos):
    near = load_scene(photos, box=[[-1.2] * 3, [1.2] * 3])

    def moved(values):
        for frame in values["frames"]:
            for row, shift in zip(frame["transform_matrix"], SHIFT.tolist(), strict=False):
                row[3] += shift
        return values

    changed(photos / "transforms.json", moved)
    box = (torch.tensor([[-1.2] * 3, [1.2] * 3], dtype=torch.float64) + SHIFT).tolist()
    far = load_scene(photos, box=box)
    assert torch.allclose(far.cameras.c2w, near.cameras.c2w, atol=1e-6)
    assert torch.allclose(far.box, near.box, atol=1e-6) and far.to_world is not None
    world = world_poses(far.cameras.c2w, far.to_world)
    assert float((world[:, :, 3] - SHIFT - TOY.position).abs().max()) < 1e-5
    assert torch.allclose(own_poses(world, far.to_world), far.cameras.c2w, atol=1e-6)
    write_transforms([far], photos.parent / "back", to_world=far.to_world)
    again = load_scene(photos.parent / "back")
    assert torch.allclose(world_poses(again.cameras.c2w, again.to_world), world, atol=1e-5)


def moved_model(root, rotations):
    """Move the toy's COLMAP model to UTM, its shifts made by rotations of this precision."""
    images = root / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    for v in range(2):
        words = lines[2 * v].split()
        x, y, z = (TOY.c2w[v, :, :3] * torch.tensor([1.0, -1, -1])).double().unbind(-1)
        turn = torch.stack([x, y, z])  # world to camera, no more exact than the toy's poses
        q = colmap.quaternion(turn)
        exact = colmap_model.pose_of(q, (0.0, 0.0, 0.0))[:, :3] * torch.tensor([1.0, -1, -1])
        place = TOY.position[v].double() + SHIFT
        shift = -(turn if rotations == "single" else exact.mT) @ place
        words[1:8] = [repr(float(n)) for n in (*q, *shift)]
        lines[2 * v] = " ".join(words)
    images.write_text("\n".join(lines) + "\n")
    points = root / "sparse" / "0" / "points3D.txt"
    rows = [line.split() for line in points.read_text().splitlines()]
    for row in rows:
        row[1:4] = [repr(float(n) + s) for n, s in zip(row[1:4], SHIFT.tolist(), strict=True)]
    points.write_text("".join(" ".join(row) + "\n" for row in rows))


@pytest.mark.parametrize("rotations", ["single", "double"])
def test_positions_rounded_by_single_precision_are_found_from_the_points(example, rotations):
    root = example("colmap")
    moved_model(root, rotations)
    scene = load_scene(root, split="all")
    world = world_poses(scene.cameras.c2w, scene.to_world)
    assert float((world[:, :, 3] - SHIFT - TOY.position).abs().max()) < 1e-3
    assert any("were rounded" in note for note in scene.notes) == (rotations == "single")


def test_points_that_are_not_where_they_were_seen_are_said(example):
    root = example("colmap")
    images = root / "sparse" / "0" / "images.txt"
    lines = images.read_text().splitlines()
    words = lines[1].split()
    words[::3] = [str(float(x) + 4) for x in words[::3]]
    lines[1] = " ".join(words)
    images.write_text("\n".join(lines) + "\n")
    scene = load_scene(root, split="all")
    assert any("1 views lie up to 4 px from their keypoints" in note for note in scene.notes)
    assert torch.allclose(scene.cameras.c2w, TOY.c2w, atol=1e-5)


@pytest.mark.parametrize("name", ["dtu", "llff"])
def test_spaces_of_their_own_go_back_to_the_file_s_world(example, name):
    root = example(name)
    for options in ({"spherify": True}, {"ndc": False}) if name == "llff" else ({},):
        scene = load_scene(root, split="all", **options)
        world = world_poses(scene.cameras.c2w, scene.to_world)
        assert float((world - TOY.c2w).abs().max()) < 1e-4
    origin = world_points(scene.cameras.position, scene.to_world)
    assert float((origin - TOY.position).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_dtu_cameras_far_off_in_single_precision_are_said(example, kind):
    root = example("dtu")
    move = np.eye(4)
    move[:3, 3] = SHIFT.numpy()
    with np.load(root / "cameras_sphere.npz") as file:
        arrays = {
            key: (file[key] @ np.linalg.inv(move) if "world" in key else move @ file[key])
            for key in file.files
        }
    arrays = {key: values.astype(kind) for key, values in arrays.items()}
    np.savez(root / "cameras_sphere.npz", **arrays)
    scene = load_scene(root, split="all")
    off = world_poses(scene.cameras.c2w, scene.to_world)[:, :, 3] - SHIFT - TOY.position
    single = kind == np.float32
    assert (float(off.abs().max()) > 1e-2) == single
    assert any("single precision" in note for note in scene.notes) == single


def all_round(root, count=12):
    """LLFF's file of cameras on a circle that look at its middle, and white pictures."""
    rows = []
    (root / "images").mkdir(parents=True)
    for v in range(count):
        angle = 2 * np.pi * v / count
        back = np.array([np.cos(angle), np.sin(angle), 0.0])
        up = np.array([0.0, 0, 1])
        pose = np.zeros((3, 5))
        pose[:, 0], pose[:, 1], pose[:, 2] = -up, np.cross(up, back), back
        pose[:, 3], pose[:, 4] = 4 * back, [12, 16, 20]
        rows.append([*pose.ravel(), 2.0, 6.0])
        picture = Image.new("RGB", (16, 12), "white")
        picture.paste((90, 40, 40), (5, 4, 10, 9))
        picture.save(root / "images" / f"{v:02d}.png")
    np.save(root / "poses_bounds.npy", np.array(rows))


def test_llff_all_round_is_no_view_from_the_front(tmp_path):
    all_round(tmp_path / "turn")
    scene = load_scene(tmp_path / "turn")
    assert not scene.cameras.ndc and any("spherify is true" in note for note in scene.notes)
    assert torch.allclose(scene.cameras.position.norm(dim=-1), torch.tensor(1.0), atol=1e-5)
    assert scene.background == 1 and any("white backdrop" in note for note in scene.notes)
    assert load_scene(tmp_path / "turn", background="black").background == 1
    assert load_scene(tmp_path / "turn", backdrop=False).background == 0
    assert load_scene(tmp_path / "turn", ndc=True).cameras.ndc


def test_rooms_are_told_from_other_axes(photos):
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)

    def looking_out(flip):
        frames = []
        for angle in angles:
            ahead = np.array([np.cos(angle), np.sin(angle), 0.0])
            right, up = np.cross(ahead, [0, 0, 1]), np.array([0.0, 0, 1])
            pose = np.stack([right, flip * up, -flip * ahead * flip, 0.3 * ahead], -1)
            matrix = np.vstack([pose * [1, 1, 1, 1], [0, 0, 0, 1]])
            frames.append({"file_path": "images/0.png", "transform_matrix": matrix.tolist()})
        return frames

    edited(photos, frames=looking_out(1), train_filenames=None, val_filenames=None)
    assert any("room" in note for note in load_scene(photos).notes)
    known = load_scene(photos, near=0.1, far=5.0, box=[[-3] * 3, [3] * 3])
    assert not any("look away" in note for note in known.notes)


def test_pictures_of_floating_point(photos):
    import OpenEXR

    edited(photos, frames=[{**f, "file_path": f["file_path"][:-4]} for f in frames_of(photos)])
    edited(photos, train_filenames=None, val_filenames=None)
    levels = {}
    for v in range(2):
        path = photos / "images" / f"{v}.png"
        levels[v] = np.asarray(Image.open(path)).astype(np.float32) / 255
        tifffile.imwrite(path.with_suffix(".tiff"), levels[v], photometric="rgb")
        path.unlink()
    plain = load_scene(photos, split="all")
    assert float((plain.images[0] - torch.from_numpy(levels[0])).abs().max()) < 1e-3
    assert any("taken as they are" in note for note in plain.notes)
    for v in range(2):
        (photos / "images" / f"{v}.tiff").unlink()
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        file = OpenEXR.File(header, {"RGB": levels[v] * 2})
        file.write(str(photos / "images" / f"{v}.exr"))
    bright = load_scene(photos, split="all")
    wanted = srgb(torch.from_numpy(levels[1] * 2).clamp(0, 1))
    assert float((bright.images[1] - wanted).abs().max()) < 1e-3
    assert any("sRGB" in note for note in bright.notes)
    flat = load_scene(photos, split="all", tone_map="none")
    assert float((flat.images[1] - torch.from_numpy(levels[1] * 2).clamp(0, 1)).abs().max()) < 1e-3
    (photos / "images" / "0.exr").write_bytes(b"v/1\x01 not")
    refused("0.exr", "damaged", root=photos, split="all")


def test_an_unrelated_folder_does_not_hide_an_embedded_scene(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blocks").mkdir()
    (tmp_path / "chest").mkdir()
    (tmp_path / "chest" / "notes.md").touch()
    assert session.lasting_name("blocks") == "blocks" and session.lasting_name("chest") == "chest"
    assert "embedded" in capsys.readouterr().err
    (tmp_path / "chest" / "anna").mkdir()
    (tmp_path / "chest" / "anna" / "0.png").touch()
    assert session.lasting_name("chest") == str(tmp_path / "chest")
