"""TIFF: every photometric interpretation, depth, sign, byte order, layout and compression of bytes.

The files are written by tifffile, Pillow, or byte by byte.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from picture_files import counts, packed, tiff_bytes, unit_picture
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films.formats import read_film
from mednerf_kit.data.films.stored import bone_bright

UNIT = unit_picture()


def shares(path: Path) -> np.ndarray:
    film = read_film(path)
    return bone_bright(film) / film.full_scale


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
def test_every_number_in_both_orders_and_polarities(tmp_path: Path, code: str, order: str) -> None:
    kind = np.dtype(code)
    for photometric, unit in (("minisblack", UNIT), ("miniswhite", 1 - UNIT)):
        values = unit.astype(kind) if kind.kind == "f" else counts(unit, kind)
        for options in ({"rowsperstrip": 7}, {"tile": (16, 32), "compression": "zlib"}):
            path = tmp_path / "a.tif"
            tifffile.imwrite(path, values, photometric=photometric, byteorder=order, **options)
            film = read_film(path)
            assert film.bone_dark is (True if photometric == "miniswhite" else None)
            assert film.bits == 8 * kind.itemsize
            level = 1 / 127 if code == "i1" else 1 / 255
            assert np.allclose(bone_bright(film) / film.full_scale, UNIT, atol=level / 1.9)


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_depth_to_sixteen_bits(tmp_path: Path, bits: int) -> None:
    values = (UNIT * (2**bits - 1)).round().astype(np.uint16)
    rows = [row.astype("<u2").tobytes() for row in values] if bits == 16 else packed(values, bits)
    (tmp_path / "a.tif").write_bytes(tiff_bytes(rows, 52, bits))
    film = read_film(tmp_path / "a.tif")
    assert film.bits == bits and film.full_scale == 2**bits - 1
    assert np.array_equal(film.pixels, values)
    if bits < 16:
        (tmp_path / "b.tif").write_bytes(tiff_bytes(rows, 52, bits, order=">", t262=0))
        assert np.array_equal(bone_bright(read_film(tmp_path / "b.tif")), 2**bits - 1 - values)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "tiff_deflate", "zstd"])
def test_compressions_of_bytes_at_every_depth(tmp_path: Path, compression: str) -> None:
    for values in (counts(UNIT, np.uint8), counts(UNIT, np.uint16), UNIT.astype(np.float32)):
        Image.fromarray(values).save(tmp_path / "a.tif", compression=compression)
        assert np.array_equal(read_film(tmp_path / "a.tif").pixels, values)


def test_jpeg_and_fax_in_tiff(tmp_path: Path) -> None:
    Image.fromarray(counts(UNIT, np.uint8)).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    assert np.allclose(shares(tmp_path / "a.tif"), UNIT, atol=0.03)
    for compression in ("group3", "group4"):
        Image.fromarray(UNIT > 0.5).save(tmp_path / "b.tif", compression=compression)
        assert np.array_equal(shares(tmp_path / "b.tif"), UNIT > 0.5)


def test_differences_of_integers_and_floats(tmp_path: Path) -> None:
    values = counts(UNIT, np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", compression="zlib", predictor=True
    )
    assert np.array_equal(read_film(tmp_path / "a.tif").pixels, values)
    # floats: bytes of a row sorted by weight, the highest first, then differenced
    rows = []
    for row in UNIT.astype(">f4"):
        weights = row.view(np.uint8).reshape(-1, 4).T.ravel()
        rows.append(np.diff(weights, prepend=np.uint8(0)).tobytes())
    (tmp_path / "b.tif").write_bytes(tiff_bytes(rows, 52, 32, t317=3, t339=3))
    assert np.array_equal(read_film(tmp_path / "b.tif").pixels, UNIT.astype(np.float32))


def test_palettes_colours_and_planes_of_grey(tmp_path: Path) -> None:
    grey8, grey16 = counts(UNIT, np.uint8), counts(UNIT, np.uint16)
    falling = np.tile(np.arange(255, -1, -1, dtype=np.uint16) * 257, (3, 1))
    tifffile.imwrite(tmp_path / "p.tif", 255 - grey8, photometric="palette", colormap=falling)
    tifffile.imwrite(tmp_path / "c.tif", np.stack([grey16] * 3, -1), photometric="rgb")
    rising = np.tile(np.arange(256, dtype=np.uint16), (3, 1))  # entries of 8 bits in 16
    tifffile.imwrite(tmp_path / "8.tif", grey8, photometric="palette", colormap=rising)
    some = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
    unused = np.setdiff1d(np.arange(256), grey8)[0]  # a colour that no pixel has
    some[:, unused] = 65535, 0, 0
    tifffile.imwrite(tmp_path / "u.tif", grey8, photometric="palette", colormap=some)
    planes = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "s.tif", np.stack([grey16] * 3), **planes)
    tifffile.imwrite(tmp_path / "big.tif", grey16, photometric="minisblack", bigtiff=True)
    for name in ("p.tif", "8.tif", "u.tif", "c.tif", "s.tif", "big.tif"):
        assert np.allclose(shares(tmp_path / name), UNIT, atol=0.5 / 255), name


def test_colours_that_jpeg_halves_are_grey(tmp_path: Path) -> None:
    grey = Image.fromarray(counts(UNIT, np.uint8)).convert("RGB")
    grey.save(tmp_path / "a.tif", compression="jpeg", quality=95)
    assert np.allclose(shares(tmp_path / "a.tif"), UNIT, atol=0.05)


def test_only_what_is_called_alpha_says_what_is_clear(tmp_path: Path) -> None:
    grey = counts(UNIT, np.uint8)
    other = np.where(np.arange(52) < 20, 0, 255).astype(np.uint8) + np.zeros_like(grey)
    for meaning, clear in (("unspecified", False), ("assocalpha", True), ("unassalpha", True)):
        tifffile.imwrite(
            tmp_path / "a.tif",
            np.stack([grey, other], -1),
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=[meaning],
        )
        film = read_film(tmp_path / "a.tif")
        assert np.array_equal(film.pixels, grey)
        assert (film.exposed is not None) == clear, meaning


def test_a_smaller_copy_is_no_second_page(tmp_path: Path) -> None:
    grey = counts(UNIT, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(grey, photometric="minisblack")
        file.write(grey[::2, ::2], photometric="minisblack", subfiletype=1)
    assert np.array_equal(read_film(tmp_path / "a.tif").pixels, grey)


def test_other_codes_are_named(tmp_path: Path) -> None:
    rows = packed(counts(UNIT, np.uint8), 8)
    (tmp_path / "a.tif").write_bytes(tiff_bytes(rows, 52, 8, t259=34712))
    with pytest.raises(UserError, match="compressed by JPEG2000"):
        read_film(tmp_path / "a.tif")


def test_a_damaged_file_says_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    Image.fromarray(counts(UNIT, np.uint16)).save(tmp_path / "a.tif", compression="tiff_lzw")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[:1000] + bytes(len(data) - 1000))
    with pytest.raises(UserError, match="damaged"):
        read_film(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""
