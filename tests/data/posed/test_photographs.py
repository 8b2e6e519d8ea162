"""Photographs as cameras store them, and masks of what does not count in them."""

import numpy as np
import pytest
import torch
from PIL import Image
from scene_files import LIES, TOY, changed, edited, frames_of, lying, refused

from mednerf_kit.data.posed import toy
from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.data.posed.transforms import write_transforms


@pytest.mark.parametrize("orientation", LIES)
def test_photographs_stored_lying_are_turned_to_their_intrinsics(photos, orientation):
    upright = load_scene(photos)
    lying(photos, orientation)
    scene = load_scene(photos)
    assert torch.equal(scene.images, upright.images)
    assert torch.equal(scene.cameras.focal_px, upright.cameras.focal_px)
    assert any("2 pictures were turned upright" in note for note in scene.notes)


def test_photographs_measured_as_they_are_stored_stay_so(photos):
    lying(photos, 6)
    edited(photos, w=12, h=16, cx=6.0, cy=8.0)
    scene = load_scene(photos)
    assert scene.images.shape[1:3] == (16, 12)
    assert any("read as they are stored" in note for note in scene.notes)


def test_a_plain_scale_is_corrected_and_another_shape_refused(photos):
    edited(photos, w=160, h=120, fl_x=200.0, fl_y=200.0, cx=80.0, cy=60.0)
    scene = load_scene(photos)
    assert torch.allclose(scene.cameras.focal_px, torch.tensor(20.0))
    assert torch.allclose(scene.cameras.centre_px, torch.tensor([7.5, 5.5]))
    assert any("scaled by 0.1" in note for note in scene.notes)
    edited(photos, w=160, h=160)
    refused("16×12", "160×160", "same shape", root=photos)
    edited(photos, w=None, h=None)
    refused("principal point at (80, 60)", '"w" and "h"', root=photos)


@pytest.mark.parametrize("place", ["mask_path", "masks", "dynamic"])
def test_masked_pixels_do_not_count(photos, place):
    mask = np.full((12, 16), 255, np.uint8)
    mask[3:9, 4:10] = 0
    if place == "dynamic":  # instant-ngp's: what is not black is left out
        path, mask = photos / "images" / "dynamic_mask_1.png", 255 - mask
    else:
        path = photos / "masks" / "1.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(mask).save(path)
    if place == "mask_path":
        path.rename(photos / "second.png")
        changed(
            photos / "transforms.json",
            lambda v: {
                **v,
                "frames": [v["frames"][0], {**v["frames"][1], "mask_path": "second.png"}],
            },
        )
    scene = load_scene(photos)
    assert bool(scene.valid[0].all()) and int((~scene.valid[1]).sum()) == 36
    assert not bool(scene.valid[1, 3:9, 4:10].any()) and scene.alpha is None
    assert any("neither supervised nor scored" in note for note in scene.notes)
    half = load_scene(photos, downscale=2)
    assert int((~half.valid[1]).sum()) == 4 * 3  # a pixel that a mask touches does not count
    assert load_scene(photos, masks="off").valid is None
    empty = load_scene(photos, masks="background")
    assert empty.valid is None and float(empty.alpha[1].float().mean()) == pytest.approx(
        1 - 36 / 192
    )
    back = photos.parent / "back"
    write_transforms([scene], back)
    assert torch.equal(load_scene(back).valid, scene.valid)


def test_a_mask_of_everything_and_one_of_another_shape(photos):
    (photos / "masks").mkdir()
    for v in range(2):
        Image.new("L", (16, 12)).save(photos / "masks" / f"{v}.png")
    refused("cover every pixel", root=photos)
    Image.new("L", (16, 16), 255).save(photos / "masks" / "0.png")
    refused("0.png", "16×16", "same shape", root=photos)


def test_transparent_holes_in_photographs_do_not_count(example):
    root = example("colmap")
    for v in range(2):
        path = root / "images" / f"photo_{v}.png"
        pixels = np.asarray(Image.open(path).convert("RGBA")).copy()
        pixels[4:6, 5:9, 3] = 0
        Image.fromarray(pixels).save(path)
    scene = load_scene(root, split="all")
    assert scene.alpha is None and int((~scene.valid).sum()) == 2 * 8
    for v in range(2):  # an object cut out of its picture
        toy.write_toy_picture(root / "images" / f"photo_{v}.png", TOY, v)
    cut = load_scene(root, split="all")
    assert cut.valid is None and cut.alpha is not None
    ignored = load_scene(root, split="all", masks="ignore")
    assert torch.equal(ignored.valid, cut.alpha > 0.5)


HOLE = np.full((12, 16), 255, np.uint8)
HOLE[3:9, 4:10] = 0
MASKS = {
    "zeros and ones": ("1.png", HOLE // 255),
    "one bit": ("1.png", HOLE > 0),
    "sixteen bits": ("1.png", HOLE.astype(np.uint16) * 257),
    "transparent": ("1.png", np.dstack([np.full_like(HOLE, 255)] * 3 + [HOLE])),
    "another suffix": ("1.BMP", HOLE),
    "the picture's name": ("1.png.webp", HOLE),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_every_kind(photos, kind):
    name, pixels = MASKS[kind]
    (photos / "masks").mkdir()
    Image.fromarray(pixels).save(photos / "masks" / name, lossless=True)
    scene = load_scene(photos)
    assert torch.equal(scene.valid[1], torch.from_numpy(HOLE > 0)) and bool(scene.valid[0].all())


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_pictures_stored_lying(photos, orientation):
    (photos / "masks").mkdir()
    spot = HOLE.copy()
    spot[0, 0] = 0
    for name in ("0", "1"):
        pixels = Image.fromarray(spot)
        pixels = pixels if name == "0" else pixels.transpose(LIES[orientation])
        pixels.save(photos / "masks" / f"{name}.png")
    lying(photos, orientation)
    scene = load_scene(photos)
    assert torch.equal(scene.valid, torch.from_numpy(spot > 0).expand(2, -1, -1))


@pytest.mark.parametrize("folder", ["masks", "mask", "masks_2", "mask_4"])
def test_folders_of_masks(photos, folder):
    (photos / folder).mkdir()
    n = 1 if "_" not in folder else int(folder[-1])
    small = HOLE.reshape(12 // n, n, 16 // n, n)[:, n // 2, :, n // 2]
    Image.fromarray(small).save(photos / folder / "1.png")
    found = load_scene(photos).valid[1]
    assert torch.equal(
        found, torch.from_numpy(small > 0).repeat_interleave(n, 0).repeat_interleave(n, 1)
    )


@pytest.mark.parametrize(
    "place", ["alpha/{}.png", "images_masks/{}.jpg.png", "depths_/{}_depth.npy"]
)
def test_pictures_that_nothing_reads_are_said(photos, place):
    for v in range(2):
        path = photos / place.format(v)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"whatever")
    notes = load_scene(photos).notes
    assert any(f"{path.parent.name}/ bear" in note and "masks/NAME.png" in note for note in notes)
    assert not any("bear the names" in note for note in load_scene(photos, split="val").notes)


def test_masks_beside_their_pictures_are_said(photos):
    Image.fromarray(HOLE).save(photos / "images" / "1.mask.png")
    assert any("images/*.mask.png bear" in note for note in load_scene(photos).notes)


def test_masks_that_are_not_found_are_said(photos):
    (photos / "masks").mkdir()
    Image.fromarray(HOLE).save(photos / "masks" / "mask_0001.png")
    assert any("no mask of these pictures" in note for note in load_scene(photos).notes)
    changed(
        photos / "transforms.json",
        lambda v: {**v, "frames": [{**f, "mask_path": "m/lost.png"} for f in v["frames"]]},
    )
    refused("got no mask", "lost.png", "masks=off", root=photos)
    assert load_scene(photos, masks="off").valid is None


def test_holes_in_nerfstudio_s_photographs_do_not_count(photos):
    for v in range(2):
        path = photos / "images" / f"{v}.png"
        Image.fromarray(np.dstack([np.asarray(Image.open(path)), HOLE])).save(path)
    scene = load_scene(photos)
    assert scene.alpha is None and torch.equal(scene.valid[0], torch.from_numpy(HOLE > 0))


def test_intrinsics_without_a_size_tell_by_their_middle(photos):
    upright = load_scene(photos)
    lying(photos, 6)
    edited(photos, w=None, h=None)
    scene = load_scene(photos)
    assert torch.equal(scene.images, upright.images)
    assert torch.equal(scene.cameras.centre_px, upright.cameras.centre_px)


def test_a_principal_point_far_from_the_middle_is_said(photos):
    assert not any("principal point" in note for note in load_scene(photos).notes)
    edited(photos, w=None, h=None, cx=12.0, cy=9.0)  # of pictures half as large again
    assert any("principal point lies 25 %" in note for note in load_scene(photos).notes)


def test_tiff_turned_upright_by_its_reader_is_not_turned_again(photos):
    upright = load_scene(photos)
    lying(photos, 6)
    for path in (photos / "images").iterdir():
        with Image.open(path) as picture:
            picture.save(path.with_suffix(".tiff"), exif=picture.getexif())
        path.unlink()
    edited(photos, frames=[{**f, "file_path": f["file_path"][:-4]} for f in frames_of(photos)])
    edited(photos, train_filenames=None, val_filenames=None)
    scene = load_scene(photos, split="all")
    assert torch.equal(scene.images, upright.images)
    assert not any("EXIF" in note for note in scene.notes)
