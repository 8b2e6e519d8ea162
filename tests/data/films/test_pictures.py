"""One picture in many coats: every format, depth, sign, byte order and orientation reads alike."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import picture_files
import pytest
import torch
from picture_files import counts, laid, unit_picture
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films.formats import read_film
from mednerf_kit.data.films.stored import StoredFilm, bone_bright
from mednerf_kit.data.radiograph import read_radiograph

UNIT = unit_picture()
ONE_LEVEL = 1 / 255


def shares(film: StoredFilm) -> np.ndarray:
    return bone_bright(film) / film.full_scale


def test_pictures_of_every_suffix_and_depth(tmp_path: Path) -> None:
    grey8, grey16 = counts(UNIT, np.uint8), counts(UNIT, np.uint16)
    for name, values in (
        ("a.png", grey8),
        ("b.png", grey16),
        ("a.bmp", grey8),
        ("a.pgm", grey8),
        ("b.pgm", grey16),
        ("a.tif", grey8),
        ("b.tif", grey16),
    ):
        Image.fromarray(values).save(tmp_path / name)
        film = read_film(tmp_path / name)
        assert film.bits == 8 * values.itemsize and film.bone_dark is None and film.kind is None
        assert np.array_equal(film.pixels, values), name
    Image.fromarray(grey8).save(tmp_path / "a.jpg", quality=95)
    film = read_film(tmp_path / "a.jpg")
    assert film.kind == "display" and np.allclose(shares(film), UNIT, atol=0.02)


def test_maps_of_text_and_of_twelve_bits(tmp_path: Path) -> None:
    values = (UNIT * 4095).round().astype(np.uint16)
    text = "\n".join(" ".join(map(str, row)) for row in values.tolist())
    (tmp_path / "a.pgm").write_text(f"P2\n# a remark\n52 40\n4095\n{text}\n")
    (tmp_path / "b.pgm").write_bytes(b"P5 52 40 4095\n" + values.astype(">u2").tobytes())
    for name in ("a.pgm", "b.pgm"):
        assert np.allclose(shares(read_film(tmp_path / name)), UNIT, atol=1 / 4095)


@pytest.mark.parametrize("scale, order", [("-1.0", "<"), ("2.5", ">")])
def test_float_maps_run_from_the_bottom_in_the_order_of_their_scale(
    tmp_path: Path, scale: str, order: str
) -> None:
    rows = UNIT[::-1].astype(f"{order}f4")
    (tmp_path / "a.pfm").write_bytes(f"Pf\n52 40\n{scale}\n".encode() + rows.tobytes())
    assert np.array_equal(read_film(tmp_path / "a.pfm").pixels, UNIT.astype(np.float32))
    colours = np.repeat(rows[..., None], 3, -1)
    (tmp_path / "a.pfm").write_bytes(f"PF\n52 40\n{scale}\n".encode() + colours.tobytes())
    assert np.allclose(read_film(tmp_path / "a.pfm").pixels, UNIT)


@pytest.mark.parametrize("code", ["u1", "<u2", ">u2", "<i2", ">i2", "<i4", ">u4", "<f2", ">f8"])
def test_arrays_in_either_order_and_sign(tmp_path: Path, code: str) -> None:
    kind = np.dtype(code)
    np.save(tmp_path / "a.npy", UNIT.astype(kind) if kind.kind == "f" else counts(UNIT, kind))
    film = read_film(tmp_path / "a.npy")
    assert film.bits == 8 * kind.itemsize and film.pixels.dtype.isnative
    assert np.allclose(shares(film), UNIT, atol=ONE_LEVEL / 2)


def test_true_is_white(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", UNIT > 0.5)
    assert np.array_equal(shares(read_film(tmp_path / "a.npy")), UNIT > 0.5)


def test_signed_pixels_below_zero(tmp_path: Path) -> None:
    whole = (UNIT * 65535 - 32768).round().astype(np.int16)
    np.save(tmp_path / "a.npy", whole)
    film = read_film(tmp_path / "a.npy")
    assert np.allclose(shares(film), UNIT, atol=1e-4) and "-32768" in film.notes[0]
    noise = counts(UNIT, np.int16)
    noise[0, 0] = -30
    np.save(tmp_path / "b.npy", noise)
    film = read_film(tmp_path / "b.npy")
    assert film.pixels[0, 0] == 0 and film.full_scale == 32767 and "below zero" in film.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_are_honoured_in_all_formats_alike(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    for values, names in (
        (counts(UNIT, np.uint8), ("a.png", "a.jpg", "a.tif")),
        (counts(UNIT, np.uint16), ("b.png", "b.tif")),
    ):
        stored = Image.fromarray(laid(values, orientation))
        for name in names:
            stored.save(tmp_path / name, exif=exif)
            film = read_film(tmp_path / name)
            assert np.allclose(shares(film), UNIT, atol=0.03), name
            assert len(film.notes) == (orientation != 1)


def test_oblong_pixels_become_square_and_keep_the_mean(tmp_path: Path) -> None:
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    disc = ((x**2 + y**2) < 0.5).astype(np.uint8) * 200
    squeezed = disc[:, ::2]  # half as many columns: pixels twice as wide as high
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp"):
        options = {"dpi": (100, 200)} if name != "a.jpg" else {}
        Image.fromarray(squeezed).save(tmp_path / name, **options)
        if name == "a.jpg":
            picture_files.with_jfif_density(tmp_path / name, 0, 1, 2)
        film = read_film(tmp_path / name)
        assert film.pixels.shape == (60, 60) and any("as high" in note for note in film.notes)
        wide, high = (np.ptp(np.nonzero(film.pixels > 100)[k]) for k in (1, 0))
        assert abs(int(wide) - int(high)) <= 2
        assert film.pixels.mean() == pytest.approx(disc.mean(), rel=0.02)
    path = tmp_path / "b.png"
    Image.fromarray(squeezed).save(path)
    picture_files.with_png_chunk(path, b"pHYs", struct.pack(">IIB", 1, 2, 0))
    assert read_film(path).pixels.shape == (60, 60)
    # turned as well: the tag speaks of the stored axes
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(squeezed)).save(path, exif=exif, dpi=(200, 100))
    assert read_film(path).pixels.shape == (60, 60)


def test_clear_pixels_are_not_exposed(tmp_path: Path) -> None:
    alpha = np.full((40, 52), 255, np.uint8)
    alpha[:, :12] = 0
    grey = counts(UNIT, np.uint8)
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(tmp_path / "a.png")
    film = read_film(tmp_path / "a.png")
    assert film.exposed is not None and np.array_equal(film.exposed, alpha > 0)
    found = read_radiograph(tmp_path / "a.png", size=52, input_kind="line-integral")
    assert found.mask[20, :12].max() == 0 and found.mask[20, 12:].min() == 1
    assert found.mask[:6].max() == 0, "the bars that make it square"


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bits_in_several_channels_of_a_png_stay_sixteen(
    tmp_path: Path, channels: int
) -> None:
    grey = (UNIT * 4095).round().astype(np.uint16)  # 16 levels, were they cut to 8 bits
    stack = np.stack([grey] * channels, -1)
    if channels in (2, 4):
        stack[..., -1] = 65535
        stack[:, :12, -1] = 0
    film = read_film(picture_files.png_of_16_bits(tmp_path / "a.png", stack))
    assert film.bits == 16 and np.array_equal(film.pixels, grey)
    clear = np.arange(grey.shape[1]) < 12
    assert film.exposed is None if channels == 3 else (film.exposed == ~clear).all()


def test_a_clear_grey_of_a_png_is_not_exposed(tmp_path: Path) -> None:
    for values, key in (
        (counts(UNIT, np.uint8), struct.pack(">H", 0)),
        (counts(UNIT, np.uint16), struct.pack(">H", 0)),
    ):
        values[:, :12] = 0
        path = tmp_path / "a.png"
        Image.fromarray(values).save(path)
        film = read_film(picture_files.with_png_chunk(path, b"tRNS", key))
        assert film.exposed is not None and np.array_equal(film.exposed, values > 0)
        assert np.array_equal(film.pixels, values)
    # four bits: the key counts in the file's own levels
    coarse = (UNIT * 15).round().astype(np.uint8)
    coarse[:, :12] = 5
    grey = Image.fromarray(coarse, "L").convert("P")
    grey.putpalette([17 * level for level in range(16) for _ in range(3)])
    grey.save(tmp_path / "p.png", bits=4, transparency=5)
    film = read_film(tmp_path / "p.png")
    assert film.exposed is not None and np.array_equal(film.exposed, coarse != 5)
    assert np.array_equal(film.pixels, 17 * coarse)


def test_chunks_that_say_how_to_show_a_png_change_no_level(tmp_path: Path) -> None:
    grey = counts(UNIT, np.uint16)
    for name, content in (
        (b"gAMA", struct.pack(">I", 45455)),
        (b"sRGB", b"\0"),
        (b"sBIT", b"\x0c"),
        (b"bKGD", struct.pack(">H", 7)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    ):
        path = tmp_path / "a.png"
        Image.fromarray(grey).save(path)
        picture_files.with_png_chunk(path, name, content)
        assert np.array_equal(read_film(path).pixels, grey), name


def test_grey_in_four_inks_is_grey_in_either_way_to_print_it(tmp_path: Path) -> None:
    grey = counts(UNIT, np.uint8)
    black = np.zeros((*grey.shape, 4), np.uint8)
    black[..., 3] = 255 - grey
    inks = Image.fromarray(grey).convert("RGB").convert("CMYK")
    for name, picture in (("k", Image.fromarray(black, "CMYK")), ("cmy", inks)):
        for suffix, limit in ((".jpg", 2), (".tif", 0)):
            path = tmp_path / (name + suffix)
            picture.save(path, quality=98)
            assert np.abs(read_film(path).pixels.astype(int) - grey).max() <= limit, path.name


def test_what_would_lose_its_depth_is_named(tmp_path: Path) -> None:
    from jpeg_streams import lossless_jpeg

    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n20 20\n4095\n" + bytes(20 * 20 * 6))
    with pytest.raises(UserError, match="more than 8 bits"):
        read_film(path)
    (tmp_path / "a.jpg").write_bytes(lossless_jpeg(np.arange(1600).reshape(40, 40), 12))
    with pytest.raises(UserError, match="a JPEG of 12 bits"):
        read_film(tmp_path / "a.jpg")


def test_content_decides_before_the_name(tmp_path: Path) -> None:
    Image.fromarray(counts(UNIT, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.dcm")
    assert np.array_equal(read_film(tmp_path / "a.dcm").pixels, counts(UNIT, np.uint8))


def test_a_radiograph_is_the_same_to_a_grey_level_in_every_coat(tmp_path: Path) -> None:
    import tifffile
    from dicom_films import film_tags, written

    unit = unit_picture(300, 260)
    grey = counts(unit, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "white.tif", 65535 - grey, photometric="miniswhite", tile=(64, 64))
    tifffile.imwrite(tmp_path / "float.tif", unit, photometric="minisblack")
    np.save(tmp_path / "a.npy", grey.astype(">u2"))
    tags = {"BitsStored": 16, "HighBit": 15}
    written(tmp_path, film_tags(grey, **tags), "two.dcm")
    dark = film_tags(65535 - grey, PhotometricInterpretation="MONOCHROME1", **tags)
    written(tmp_path, dark, "one.dcm")
    films = {
        path.name: read_radiograph(path, size=64, input_kind="display")
        for path in sorted(tmp_path.iterdir())
    }
    for name, film in films.items():
        assert torch.allclose(film.image, films["a.png"].image, atol=ONE_LEVEL), name
        assert torch.equal(film.mask, films["a.png"].mask), name


def test_pictures_in_colour_are_refused_in_every_format(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    for name in ("a.png", "a.bmp", "a.tif"):
        Image.fromarray(colours).save(tmp_path / name)
        with pytest.raises(UserError, match="a colour picture"):
            read_film(tmp_path / name)
