"""Single X-rays: every kind and format in, closed-form conversions, and one sentence for what
cannot be used.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.radiograph import find_geometry, read_radiograph, view_angle_deg
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry

SIDE = 16


@pytest.fixture
def unit():
    """A picture in [0, 1], its corner bright, symmetric under nothing."""
    values = np.random.default_rng(0).random((SIDE, SIDE)) * 0.8
    values[0, :3] = 1
    return values


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


@pytest.mark.parametrize(
    "name",
    ["a8.png", "a16.png", "a8.tif", "a16.tiff", "afloat.tif", "a8.npy", "a16.npy", "afloat.npy"],
)
def test_every_format_reads_to_the_same_picture(tmp_path, unit, name):
    stored = {
        "8": (unit * 255).round().astype(np.uint8),
        "6": (unit * 65535).round().astype(np.uint16),
        "t": unit.astype("f4"),
    }[name.split(".")[0][-1]]
    path = tmp_path / name
    np.save(path, stored) if path.suffix == ".npy" else save(path, stored)
    found = read_radiograph(path, size=SIDE)
    assert (
        found.image.dtype == torch.float32 and found.shape == (SIDE, SIDE) and found.warnings == ()
    )
    assert found.bits == 8 * stored.dtype.itemsize
    assert torch.allclose(found.image, torch.from_numpy(unit).float(), atol=0.5 / 255)


def test_invert_turns_the_stored_polarity(tmp_path, unit):
    path = save(tmp_path / "a.png", (65535 - (unit * 65535).round()).astype(np.uint16))
    assert torch.allclose(
        read_radiograph(path, size=SIDE, invert=True).image,
        torch.from_numpy(unit).float(),
        atol=1e-4,
    )


def test_transmission_becomes_the_line_integral(tmp_path, unit):
    integral = 5 * unit / unit.max()
    np.save(tmp_path / "t.npy", np.exp(-integral))
    found = read_radiograph(tmp_path / "t.npy", size=SIDE, input_kind="transmission")
    assert torch.allclose(found.image, torch.from_numpy(integral / 5).float(), atol=1e-5)
    assert any("densest ray" in warning for warning in found.notes)
    # integers: half the range stands for the open field, which the bright background tells
    integral[-4:] = 0
    save(tmp_path / "t.png", (np.exp(-integral) * 30000).round().astype(np.uint16))
    DEFAULTS["knee"].resized(SIDE).at([270]).save(tmp_path / "t.json")
    found = read_radiograph(tmp_path / "t.png", size=SIDE, input_kind="transmission")
    assert torch.allclose(
        found.image, torch.from_numpy(integral / 3.7).clamp(max=1).float(), atol=2e-3
    )


def test_a_stored_zero_is_a_finite_line_integral(tmp_path):
    values = np.full((SIDE, SIDE), 255, np.uint8)
    values[4:8] = 0
    image = read_radiograph(
        save(tmp_path / "t.png", values), size=SIDE, input_kind="transmission"
    ).image
    assert image.isfinite().all() and image[5, 5] == 1 and image[0, 0] == 0


def test_display_is_stretched_and_says_so(tmp_path, unit):
    path = save(tmp_path / "film.png", (100 + 50 * unit).astype(np.uint8))
    found = read_radiograph(path, size=SIDE, input_kind="display")
    assert found.image.min() == 0 and found.image.max() == 1 and "qualitative" in found.notes[-1]
    assert np.corrcoef(found.image.numpy().ravel(), unit.ravel())[0, 1] > 0.99


def test_float_line_integrals_need_their_scale(tmp_path, unit):
    (tmp_path / "set" / "p0").mkdir(parents=True)
    path = tmp_path / "set" / "p0" / "xray_001.npy"
    np.save(path, 7.5 * unit)
    with pytest.raises(UserError, match="line_integral_scale"):
        read_radiograph(path, size=SIDE)
    DEFAULTS["chest"].resized(SIDE).orbit(4).save(tmp_path / "set" / "geometry.json")
    found = read_radiograph(path, size=SIDE)
    assert torch.allclose(found.image, torch.from_numpy(unit).float(), atol=1e-6)
    assert found.geometry.angles_deg == (90.0,) and "divided by 7.5" in found.notes[-1]
    with pytest.raises(UserError, match="--invert"):
        read_radiograph(path, size=SIDE, invert=True)


def test_crop_and_pad_keep_the_centre_and_the_millimetres(tmp_path):
    values = np.zeros((24, 40), np.uint8)
    values[10:14, 18:22] = 255  # 4×4 in the centre
    path = save(tmp_path / "a.png", values)
    Geometry(
        source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=24, cols=40, pixel_mm=2.0
    ).at([270]).save(tmp_path / "a.json")
    pad, crop = (read_radiograph(path, size=80, fit=fit) for fit in ("pad", "crop"))
    assert pad.geometry.pixel_mm == 1.0 and crop.geometry.pixel_mm == pytest.approx(24 * 2 / 80)
    for found, side in ((pad, 40), (crop, 24)):
        y, x = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
        mass = found.image.sum()
        assert float((found.image * y).sum() / mass) == pytest.approx(39.5, abs=1e-3)
        assert float((found.image * x).sum() / mass) == pytest.approx(39.5, abs=1e-3)
        assert float(mass) * (side / 80) ** 2 == pytest.approx(16, rel=1e-2)
        assert (found.geometry.rows, found.geometry.cols) == (80, 80)
    assert pad.image[:16].max() == 0 and pad.image[-16:].max() == 0


def test_enlarging_interpolates_and_never_darkens_the_edge(tmp_path):
    values = np.full((SIDE, SIDE), 200, np.uint8)
    values[5, 5] = 100
    image = read_radiograph(save(tmp_path / "a.png", values), size=5 * SIDE).image
    assert torch.allclose(image[0], torch.full((5 * SIDE,), 200 / 255)) and float(
        image[27, 27]
    ) == pytest.approx(100 / 255)


def test_grey_in_colour_clothes_is_accepted_with_a_warning(tmp_path, unit):
    grey = (unit * 255).round().astype(np.uint8)
    wanted = torch.from_numpy(grey / np.float32(255))
    rgb = save(tmp_path / "rgb.png", np.repeat(grey[..., None], 3, -1))
    rgba = save(tmp_path / "rgba.png", np.dstack([grey, grey, grey, np.full_like(grey, 9)]))
    Image.fromarray(grey).convert("LA").save(tmp_path / "la.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    for path, said in [
        (rgb, "three equal"),
        (rgba, "alpha"),
        (tmp_path / "la.png", "alpha"),
        (tmp_path / "palette.png", "three equal"),
    ]:
        found = read_radiograph(path, size=SIDE)
        assert torch.allclose(found.image, wanted, atol=1e-5) and said in " ".join(found.notes)


def test_a_dim_picture_is_remarked(tmp_path, unit):
    found = read_radiograph(save(tmp_path / "a.png", (unit * 4095).astype(np.uint16)), size=SIDE)
    assert "12-bit" in found.warnings[0]


def test_views_by_name():
    """Film side against world axis, from the geometry: right on a PA and a (mirrored) AP film is
    the patient's left, +x.
    """
    for name in ("PA", "AP"):
        angle, mirrored = view_angle_deg(name)
        source, _, right, _ = DEFAULTS["chest"].frames(torch.tensor(angle))
        behind = 1 if name == "PA" else -1  # +y is posterior
        assert source[1] * behind > 0 and (-right[0] if mirrored else right[0]) == pytest.approx(1)
    assert view_angle_deg("Lateral") == (0.0, False)
    source, centre, right, _ = DEFAULTS["chest"].frames(
        torch.tensor(view_angle_deg("left-lateral")[0])
    )
    # detector on the left, chest to image left
    assert centre[0] > 0 and right[1] == pytest.approx(1)
    with pytest.raises(UserError, match="did you mean 'lateral'"):
        view_angle_deg("laterl")


def test_find_geometry_prefers_the_side_car(tmp_path):
    assert find_geometry(tmp_path / "x.png") is None
    DEFAULTS["chest"].at([0]).save(tmp_path / "geometry.json")
    assert find_geometry(tmp_path / "x.png").angles_deg == (0.0,)
    DEFAULTS["chest"].at([270]).save(tmp_path / "x.json")
    assert find_geometry(tmp_path / "x.png").angles_deg == (270.0,)
    (tmp_path / "y").mkdir()
    assert find_geometry(tmp_path / "y" / "x.png") is None, (
        "only a view of a set looks one folder up"
    )


def test_a_geometry_of_another_shape_is_refused(tmp_path, unit):
    path = save(tmp_path / "a.png", (unit[:12] * 255).astype(np.uint8))
    DEFAULTS["chest"].at([270]).save(tmp_path / "a.json")
    with pytest.raises(UserError, match="12×16.*128×128"):
        read_radiograph(path, size=SIDE)


def bad_pictures():
    rng = np.random.default_rng(1)
    grey = (rng.random((SIDE, SIDE)) * 255).astype(np.uint8)
    nan = grey / 255.0
    nan[3, 3] = math.nan

    def array(name, values):
        return lambda folder: (np.save(folder / name, values), folder / name)[1]

    def image(name, values, **options):
        return lambda folder: save(folder / name, values, **options)

    def raw(name, data):
        return lambda folder: ((folder / name).write_bytes(data), folder / name)[1]

    def cut(name):
        def make(folder):
            path = save(folder / name, (rng.random((64, 64)) * 65535).astype(np.uint16))
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            return path

        return make

    def cut_npy(folder):
        np.save(folder / "cut.npy", nan)
        (folder / "cut.npy").write_bytes((folder / "cut.npy").read_bytes()[:500])
        return folder / "cut.npy"

    def pages(folder):
        Image.fromarray(grey).save(
            folder / "a.tif", save_all=True, append_images=[Image.fromarray(grey)]
        )
        return folder / "a.tif"

    return {
        "missing": (lambda folder: folder / "none.png", "does not exist"),
        "folder": (lambda folder: folder, "a folder"),
        "empty": (raw("a.png", b""), "which is empty"),
        "constant": (image("a.png", np.full((SIDE, SIDE), 7, np.uint8)), "all hold 7"),
        "one pixel": (image("a.png", np.ones((1, 1), np.uint8)), "1×1"),
        "NaN": (array("a.npy", nan), "NaN"),
        "infinite tiff": (
            image("a.tif", np.where(np.isnan(nan), np.inf, nan).astype("f4")),
            "infinite",
        ),
        "photo": (image("a.png", (rng.random((SIDE, SIDE, 3)) * 255).astype(np.uint8)), "colour"),
        "truncated png": (cut("a.png"), "damaged"),
        "truncated tiff": (cut("a.tif"), "damaged"),
        "truncated npy": (cut_npy, "damaged"),
        "text": (raw("a.png", b"this is no picture at all"), "no picture can be recognised"),
        "unknown suffix": (raw("a.jpeg2", b"abc"), "suffix '.jpeg2'"),
        "dicom by suffix": (raw("a.dcm", b"abc"), "its header cannot be followed"),
        "dicom by content": (raw("a.png", b"\0" * 128 + b"DICM"), "its header cannot be followed"),
        "pages": (pages, "2 pages"),
        "3-D array": (array("a.npy", np.zeros((3, SIDE, SIDE))), "shape"),
        "pickled array": (array("a.npy", np.array([[None]], dtype=object)), "damaged"),
        "complex array": (array("a.npy", np.zeros((SIDE, SIDE), complex)), "complex"),
        "out of range": (array("a.npy", 3 * np.nan_to_num(nan)), r"\[0, 1\]"),
        "negative": (array("a.npy", np.nan_to_num(nan) - 0.5), r"\[0, 1\]"),
    }


@pytest.mark.parametrize("case", bad_pictures())
def test_unusable_pictures_get_one_sentence(tmp_path, case):
    make, said = bad_pictures()[case]
    with pytest.raises(UserError, match=said) as caught:
        read_radiograph(make(tmp_path), size=SIDE)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_unknown_options_offer_the_nearest(tmp_path, unit):
    path = save(tmp_path / "a.png", (unit * 255).astype(np.uint8))
    for options, said in [
        ({"input_kind": "transmision"}, "did you mean 'transmission'"),
        ({"fit": "padd"}, "did you mean 'pad'"),
        ({"size": 1}, "at least 8"),
        ({"crop": "middle"}, "auto, none or x, y, w, h"),
        ({"crop": (1, 2)}, "auto, none or x, y, w, h"),
    ]:
        with pytest.raises(UserError, match=said):
            read_radiograph(path, **{"size": SIDE, **options})


def test_a_side_car_that_is_no_geometry_is_named(tmp_path, unit):
    path = save(tmp_path / "a.png", (unit * 255).astype(np.uint8))
    (tmp_path / "a.json").write_text(json.dumps({"label": "pneumonia"}))
    with pytest.raises(UserError, match="label"):
        read_radiograph(path, size=SIDE)


def test_the_samples_are_small_and_bring_their_geometry():
    folder = Path(__file__).parents[2] / "data" / "samples"
    pictures = sorted(folder.glob("*.png"))
    assert pictures and sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    for path in pictures:
        found = read_radiograph(path, size=128)
        assert found.bits == 16 and found.warnings == () and found.image.max() > 0.3
        assert found.geometry.angles_deg == (view_angle_deg(path.stem.split("_")[-1])[0],)


def film_like(rows=120, cols=100):
    """Anatomy without symmetry, and no air of zero, [rows, cols] in [0, 1]."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    values = np.exp(-2 * (x - 0.3) ** 2 - 3 * (y + 0.2) ** 2) + 0.4 * np.exp(-8 * (x + 0.5) ** 2)
    return 0.1 + 0.9 * values / values.max()


def test_turns_are_clockwise_and_the_mirror_comes_after(tmp_path):
    values = film_like(100, 100)
    path = save(tmp_path / "a.png", (values * 65535).astype(np.uint16))

    def picture(**options):
        return read_radiograph(path, size=100, input_kind="line-integral", **options).image

    plain = picture()
    for rotate in (90, 180, 270):
        wanted = torch.rot90(plain, -rotate // 90)  # torch turns the other way
        assert torch.equal(picture(rotate=rotate), wanted)
        assert torch.equal(picture(rotate=rotate, flip=True), wanted.flip(-1))
    with pytest.raises(UserError, match="0, 90, 180 or 270"):
        picture(rotate=45)


def test_a_crop_is_in_pixels_of_the_upright_picture(tmp_path):
    values = (film_like() * 65535).astype(np.uint16)
    path = save(tmp_path / "a.png", values)
    found = read_radiograph(path, size=50, crop=(30, 20, 50, 50), input_kind="line-integral")
    wanted = torch.from_numpy(values[20:70, 30:80] / 65535).float()
    assert torch.allclose(found.image, wanted, atol=1e-6) and found.mask.min() == 1
    turned = read_radiograph(
        path, size=50, rotate=90, crop=(30, 20, 50, 50), input_kind="line-integral"
    )
    wanted = torch.from_numpy(np.rot90(values, -1)[20:70, 30:80] / 65535).float()
    assert torch.allclose(turned.image, wanted, atol=1e-6)
    for box in [(90, 0, 20, 20), (-1, 0, 20, 20), (0, 0, 4, 20)]:
        with pytest.raises(UserError, match="--crop"):
            read_radiograph(path, size=50, crop=box)


def test_a_crop_moves_the_detector_of_the_geometry(tmp_path):
    """The cropped picture of a geometry is what that geometry renders."""
    values = np.zeros((64, 64), np.uint8)
    path = save(tmp_path / "a.png", np.add(values, 9, where=np.eye(64) > 0, out=values))
    whole = DEFAULTS["chest"].resized(64).at([270.0])
    whole.save(tmp_path / "a.json")
    part = read_radiograph(path, size=32, crop=(24, 8, 32, 32)).geometry
    yx = torch.tensor([[3.0, 5.0], [20.0, 31.0]])
    angles = torch.full((2,), 270.0)
    ours = part.rays(angles, yx)
    theirs = whole.rays(angles, yx + torch.tensor([8.0, 24.0]))
    assert torch.allclose(ours.direction, theirs.direction, atol=1e-6)


def test_the_mask_leaves_letters_borders_and_bars_out_of_films_alone(tmp_path):
    values = film_like(200, 160) * 0.8
    values[:, :20] = 0  # a border that was painted
    values[20:40, 130:133] = values[37:40, 130:142] = 1  # an L
    path = save(tmp_path / "a.png", (values * 255).astype(np.uint8))
    film = read_radiograph(path, size=200, input_kind="display")
    assert film.mask[:, :20].max() == 0 and film.mask[:, -20:].max() == 0  # bars of the square
    assert film.mask[:, 20:40].max() == 0 and film.mask[100, 44:180].min() == 1
    assert film.mask[20:40, 150:153].max() == 0 and film.mask.mean() > 0.6
    assert any("letters" in note for note in film.notes)
    assert film.picture.shape == film.picture_mask.shape == (200, 160)
    whole = read_radiograph(path, size=200, input_kind="display", crop="none")
    assert whole.mask[:, 20:180].min() == 1
    drr = read_radiograph(path, size=200, input_kind="line-integral")
    assert torch.equal(drr.mask, whole.mask)


def test_what_is_masked_does_not_change_the_tone_or_its_neighbours(tmp_path):
    values = film_like(160, 160) * 0.7
    clean = read_radiograph(
        save(tmp_path / "a.png", (values * 65535).astype(np.uint16)), size=40, input_kind="display"
    )
    values[:24] = 1  # unexposed, white
    film = read_radiograph(
        save(tmp_path / "b.png", (values * 65535).astype(np.uint16)), size=40, input_kind="display"
    )
    rest = film.mask > 0
    assert rest[10:].all() and not rest[:5].any()
    assert torch.allclose(film.image[rest], clean.image[rest], atol=0.02)


def test_bone_dark_files_are_turned_over_and_invert_turns_them_back(tmp_path):
    import tifffile

    values = (film_like() * 65535).astype(np.uint16)
    save(tmp_path / "a.png", values)
    tifffile.imwrite(tmp_path / "a.tif", 65535 - values, photometric="miniswhite")
    png, tif = (
        read_radiograph(tmp_path / f"a.{end}", size=60, input_kind="display")
        for end in ("png", "tif")
    )
    assert torch.allclose(png.image, tif.image, atol=1e-4)
    assert any("bone is dark" in note for note in tif.notes)
    back = read_radiograph(tmp_path / "a.tif", size=60, input_kind="display", invert=True)
    inside = png.mask > 0.5
    assert torch.allclose(back.image[inside], 1 - png.image[inside], atol=1e-3)


def test_a_large_film_is_binned_before_work_and_means_stay(tmp_path):
    values = (film_like(2050, 1640) * 65535).astype(np.uint16)
    found = read_radiograph(save(tmp_path / "a.png", values), size=64, input_kind="line-integral")
    assert max(found.picture.shape) <= 1100
    assert float(found.picture.mean()) == pytest.approx(values.mean() / 65535, abs=1e-3)
    assert found.shape == (2050, 1640) and found.stored_picture().shape == found.picture.shape
