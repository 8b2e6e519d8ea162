"""The same radiograph in every transfer syntax, and the files that are refused."""

import io
from pathlib import Path

import jpeg_ls
import numpy as np
import openjpeg.utils
import pydicom
import pytest
from dicom_films import (
    CR,
    RF,
    SECONDARY_CAPTURE,
    XA,
    compressed,
    film_tags,
    ramp,
    written,
)
from jpeg_streams import lossless_jpeg, sequential_jpeg
from PIL import Image

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.films.dicom import read_dicom_film
from mednerf_kit.data.films.formats import read_film

SYNTAX = "1.2.840.10008.1.2"


def baseline(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=100)
    return stream.getvalue()


def jpeg_2000(pixels: np.ndarray, bits: int) -> bytes:
    return openjpeg.utils.encode_array(pixels, bits_stored=bits, photometric_interpretation=2)


#: Lossless encoders of pixels with so many bits, by transfer syntax.
LOSSLESS = {
    ".4.57": lossless_jpeg,
    ".4.70": lossless_jpeg,
    ".4.80": lambda pixels, bits: jpeg_ls.encode_array(pixels),
    ".4.90": jpeg_2000,
    ".4.91": jpeg_2000,
}


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("end", ["", ".1", ".2", ".1.99", ".5", *LOSSLESS])
def test_a_lossless_syntax_keeps_every_pixel(tmp_path: Path, end: str, bits: int) -> None:
    pixels = ramp(top=2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)
    film = film_tags(pixels, BitsStored=bits, HighBit=bits - 1)
    if end in LOSSLESS:
        compressed(film, LOSSLESS[end](pixels, bits), SYNTAX + end)
    elif end == ".5":
        film.compress(pydicom.uid.RLELossless)
    elif end == ".2":
        film.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        if bits == 8:  # bytes of 16-bit words change places
            film.PixelData = pixels.view("<u2").astype(">u2").tobytes()
        film.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
    else:
        film.file_meta.TransferSyntaxUID = pydicom.uid.UID(SYNTAX + end)
    read = read_dicom_film(written(tmp_path, film))
    assert np.array_equal(read.pixels, pixels)
    assert (read.pixels.dtype, read.full_scale, read.bits) == (pixels.dtype, 2**bits - 1, bits)


@pytest.mark.parametrize("end", ["", ".4.70", ".4.80", ".4.90"])
def test_signed_pixels_count_from_the_lowest(tmp_path: Path, end: str) -> None:
    pixels = ramp().astype(np.int16) - 2048
    film = film_tags(pixels)
    if end == ".4.90":
        compressed(film, jpeg_2000(pixels, 12), SYNTAX + end)
    elif end:  # these streams know no sign
        compressed(film, LOSSLESS[end](pixels.view(np.uint16) & 0xFFF, 12), SYNTAX + end)
    read = read_dicom_film(written(tmp_path, film))
    assert np.array_equal(read.pixels, ramp())


@pytest.mark.parametrize("end", [".4.50", ".4.51", ".4.81", ".4.91"])
def test_a_lossy_syntax_is_right_to_a_grey_level(tmp_path: Path, end: str) -> None:
    bits = 8 if end == ".4.50" else 12
    y, x = np.mgrid[:40, :48]
    pixels = ((1 + np.sin(x / 7) * np.cos(y / 5)) / 2 * (2**bits - 1)).round()
    pixels = pixels.astype(np.uint8 if bits == 8 else np.uint16)
    stream = {
        ".4.50": lambda: baseline(pixels),
        ".4.51": lambda: sequential_jpeg(pixels, 12),
        ".4.81": lambda: jpeg_ls.encode_array(pixels, lossy_error=1),
        ".4.91": lambda: openjpeg.utils.encode_array(
            pixels, bits_stored=12, photometric_interpretation=2, signal_noise_ratios=[90]
        ),
    }[end]()
    read = read_dicom_film(written(tmp_path, compressed(film_tags(pixels), stream, SYNTAX + end)))
    assert np.abs(read.pixels.astype(int) - pixels).max() <= 1


def test_pillow_and_dicom_decode_one_jpeg_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 48)).astype(np.uint8)
    (tmp_path / "film.jpg").write_bytes(baseline(pixels))
    film = compressed(film_tags(pixels), baseline(pixels), SYNTAX + ".4.50")
    one, other = read_film(written(tmp_path, film)), read_film(tmp_path / "film.jpg")
    assert np.abs(one.pixels.astype(int) - other.pixels).max() <= 1


def test_bits_around_the_stored_ones_are_left_out(tmp_path: Path) -> None:
    stored = ramp(top=1023)
    pixels = stored << 2 | 0x9003  # an overlay above, noise below
    film = film_tags(pixels, BitsStored=10, HighBit=11)
    assert np.array_equal(read_dicom_film(written(tmp_path, film)).pixels, stored)


BUMP = ((1 - np.hypot(*np.mgrid[-1:1:64j, -1:1:80j]) / 1.5) * 1000).round().astype(int)
TWELVE, ALL_16 = {"BitsStored": 12, "HighBit": 11}, {"BitsStored": 16, "HighBit": 15}


@pytest.mark.parametrize(
    ("pixels", "tags", "bits"),
    [
        ((16 * BUMP).astype(np.uint16), TWELVE, 14),
        ((16 * BUMP).astype(np.uint16), TWELVE | {"PixelRepresentation": 1}, 14),
        ((16 * BUMP - 9000).astype(np.int16), TWELVE, 14),
        ((64 * BUMP).astype(np.uint16), ALL_16 | {"PixelRepresentation": 1}, 16),
        ((BUMP // 4).astype(np.uint8), {"PixelRepresentation": 1}, 8),
        ((4 * BUMP).astype(np.uint16), TWELVE | {"PixelRepresentation": 1}, 12),
        ((4 * BUMP - 2000).astype(np.int16), TWELVE | {"PixelRepresentation": 0}, 12),
        ((4 * BUMP - 2000).astype(np.int16), ALL_16 | {"PixelRepresentation": 0}, 12),
        ((4 * BUMP << 4).astype(np.uint16), TWELVE, 16),
    ],
)
def test_values_that_contradict_the_header_are_read_as_they_run_on(
    tmp_path: Path, pixels: np.ndarray, tags: dict, bits: int
) -> None:
    film = read_dicom_film(written(tmp_path, film_tags(pixels, **tags)))
    lowest = -(2 ** (bits - 1)) if pixels.min() < 0 else 0
    assert np.array_equal(film.pixels, pixels.astype(int) - lowest) and film.bits == bits
    assert any("contradicts the pixels" in note for note in film.notes)


@pytest.mark.parametrize("covered", ["line", "half"])
def test_an_overlay_in_the_unused_bits_is_none_of_the_picture(tmp_path: Path, covered: str) -> None:
    pixels = (4 * BUMP).astype(np.uint16)
    part = (slice(20, 24), slice(10, 60, 3)) if covered == "line" else (slice(None), slice(40))
    written_over = pixels.copy()
    written_over[part] |= 0x8000
    film = read_dicom_film(written(tmp_path, film_tags(written_over)))
    assert np.array_equal(film.pixels, pixels) and film.bits == 12


def test_letters_at_an_end_of_the_range_do_not_turn_the_sign(tmp_path: Path) -> None:
    pixels = (BUMP // 12).astype(np.uint8)
    pixels[4:9, 10:70:3] = 250 + np.arange(20) % 6
    film = read_dicom_film(written(tmp_path, film_tags(pixels)))
    assert np.array_equal(film.pixels, pixels)
    pixels[:, :24] = pixels[:, -24:] = 250 + np.arange(24) % 6  # blades
    film = read_dicom_film(written(tmp_path, film_tags(pixels)))
    assert np.array_equal(film.pixels, pixels)


def test_a_capture_of_one_frame_is_read_in_any_class(tmp_path: Path) -> None:
    for end in (".2", ".3"):
        film = film_tags(ramp(), SOPClassUID=SECONDARY_CAPTURE + end, NumberOfFrames=1)
        assert np.array_equal(read_dicom_film(written(tmp_path, film)).pixels, ramp())
        film.NumberOfFrames = 2
        with pytest.raises(UserError, match="with 2 frames"):
            read_dicom_film(written(tmp_path, film))


@pytest.mark.parametrize("kind", [np.uint32, np.int32])
def test_32_bits_that_hold_values_of_16(tmp_path: Path, kind: type) -> None:
    pixels = ramp(top=60000).astype(kind)
    tags = {"BitsStored": 32, "HighBit": 31}
    film = read_dicom_film(written(tmp_path, film_tags(pixels, **tags)))
    assert np.array_equal(film.pixels, pixels) and film.full_scale == 65535
    twelve = ramp().astype(np.uint32)
    film = read_dicom_film(written(tmp_path, film_tags(twelve)))
    assert np.array_equal(film.pixels, twelve) and film.full_scale == 4095
    with pytest.raises(UserError, match="more than 16 bits"):
        read_dicom_film(written(tmp_path, film_tags(pixels * 2, **tags)))


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_opens(tmp_path: Path, implicit: bool) -> None:
    film = film_tags(ramp())
    del film.file_meta
    path = tmp_path / "film"
    film.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert np.array_equal(read_film(path).pixels, ramp())


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2", "Modality": "MG"}, "a mammogram"),
        ({"Modality": "MG"}, "a mammogram by its modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, "a CT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "an MR picture"),
        ({"SOPClassUID": SECONDARY_CAPTURE, "Modality": "MR"}, "an MR picture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "an encapsulated document"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "a report"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.1"}, "RT Image Storage"),
        ({"SOPClassUID": "1.2.3.4", "Modality": "CR"}, "an unknown class"),
        ({"SOPClassUID": XA, "Modality": "XA", "NumberOfFrames": 7}, "with 7 frames"),
        ({"SOPClassUID": RF, "Modality": "RF", "NumberOfFrames": 2}, "with 2 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "a colour picture"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a colour picture"),
        ({"PhotometricInterpretation": None}, "no Photometric Interpretation"),
        ({"PixelData": None}, "holds no pixels"),
        ({"PixelData": None, "FloatPixelData": bytes(7680)}, "floats in place of pixels"),
        ({"Rows": None}, "Rows, Columns or BitsAllocated is missing"),
        ({"Rows": 60000, "Columns": 60000}, "enormous"),
        ({"BitsAllocated": 64}, "64 bits allocated"),
        ({"BitsStored": 17}, "do not fit"),
        ({"Rows": 41}, "3840 bytes of pixels where 3936 were announced"),
    ],
)
def test_what_is_no_radiograph_is_named(tmp_path: Path, tags: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        read_dicom_film(written(tmp_path, film_tags(ramp(), **tags)))
    assert str(caught.value).count(";") == 1


def test_syntaxes_without_decoder_are_named(tmp_path: Path) -> None:
    film = compressed(film_tags(ramp()), b"\0\0\1\xb3", SYNTAX + ".4.100")
    with pytest.raises(UserError, match="MPEG2"):
        read_dicom_film(written(tmp_path, film))
    film = film_tags(ramp())
    film.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.826.0.1.77")
    path = tmp_path / "private.dcm"
    pydicom.dcmwrite(path, film, implicit_vr=False, little_endian=True, enforce_file_format=True)
    with pytest.raises(UserError, match="an unknown transfer syntax") as caught:
        read_dicom_film(path)
    assert "1.2.826" not in str(caught.value)


@pytest.mark.parametrize("signed", [False, True])
def test_a_stream_of_more_bits_than_are_stored(tmp_path: Path, signed: bool) -> None:
    pixels = ramp().astype(np.int16) - 2048 if signed else ramp()
    film = compressed(film_tags(pixels), jpeg_2000(pixels, 16), SYNTAX + ".4.90")
    read = read_dicom_film(written(tmp_path, film))
    assert np.array_equal(read.pixels, ramp()) and read.bits == 12
    film = compressed(film_tags(pixels), jpeg_2000(pixels * 8, 16), SYNTAX + ".4.90")
    read = read_dicom_film(written(tmp_path, film))  # the header is wrong
    assert np.array_equal(read.pixels, ramp() * 8 + (16384 if signed else 0)) and read.bits == 16


def test_a_stream_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    film = film_tags(ramp(), Rows=42)
    compressed(film, jpeg_2000(ramp(), 12), SYNTAX + ".4.90")
    with pytest.raises(UserError, match="42×48 pixels announced, 40×48 compressed"):
        read_dicom_film(written(tmp_path, film))


def test_radiographs_are_told_by_class_or_modality(tmp_path: Path) -> None:
    for sop_class, modality, says in (
        (CR, "CR", "a DICOM CR"),
        (XA, "XA", "a DICOM XA"),
        (RF, "RF", "a DICOM RF"),
        (SECONDARY_CAPTURE, "OT", "a Secondary Capture"),
        (None, "DX", "a DICOM DX"),
    ):
        film = film_tags(ramp(), SOPClassUID=sop_class, Modality=modality)
        if sop_class is None:
            del film.file_meta.MediaStorageSOPClassUID
        path = tmp_path / "film.dcm"
        pydicom.dcmwrite(path, film, enforce_file_format=False)
        assert says in read_dicom_film(path).notes[0]
