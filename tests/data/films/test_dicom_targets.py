"""One radiograph as PNG, TIFF and DICOM in every kind of compression: the same target."""

from pathlib import Path

import jpeg_ls
import numpy as np
import openjpeg.utils
import pydicom
import pytest
from dicom_films import compressed, film_tags, ramp, written
from jpeg_streams import lossless_jpeg, sequential_jpeg
from PIL import Image

from mednerf_kit.data.radiograph import read_radiograph

SYNTAX = "1.2.840.10008.1.2"
Y, X = np.mgrid[:96, :120]
#: A smooth film of 12 bits, bone bright, that is neither symmetric nor empty anywhere.
FILM = (300 + 3000 * np.exp(-(((X - 50) / 30) ** 2) - ((Y - 55) / 22) ** 2) + 5 * X).astype(
    np.uint16
)
STREAMS = {
    ".4.51": lambda: sequential_jpeg(FILM, 12),
    ".4.57": lambda: lossless_jpeg(FILM, 12),
    ".4.80": lambda: bytes(jpeg_ls.encode_array(FILM)),
    ".4.81": lambda: bytes(jpeg_ls.encode_array(FILM, lossy_error=1)),
    ".4.90": lambda: openjpeg.utils.encode_array(
        FILM, bits_stored=12, photometric_interpretation=2
    ),
}


@pytest.fixture
def target(tmp_path: Path) -> np.ndarray:
    path = tmp_path / "film.png"
    Image.fromarray(FILM * 16).save(path)
    return read_radiograph(path, size=48, input_kind="display").image.numpy()


@pytest.mark.parametrize("end", ["", ".1", ".2", ".1.99", ".5", *STREAMS])
def test_dicom_gives_the_pictures_target(tmp_path: Path, target: np.ndarray, end: str) -> None:
    film = film_tags(FILM)
    if end in STREAMS:
        compressed(film, STREAMS[end](), SYNTAX + end)
    elif end == ".5":
        film.compress(pydicom.uid.RLELossless)
    else:
        film.file_meta.TransferSyntaxUID = pydicom.uid.UID(SYNTAX + end)
        if end == ".2":
            film.PixelData = FILM.astype(">u2").tobytes()
    read = read_radiograph(written(tmp_path, film), size=48)
    assert read.kind == "display"
    assert np.abs(read.image.numpy() - target).max() <= 1 / 255


def test_polarity_hanging_and_window_do_not_change_the_target(
    tmp_path: Path, target: np.ndarray
) -> None:
    tags = {
        "PhotometricInterpretation": "MONOCHROME1",
        "PatientOrientation": ["R", "H"],
        "ViewPosition": "PA",
        "WindowCenter": 2047.5,
        "WindowWidth": 4096,
    }
    film = film_tags(np.ascontiguousarray((4095 - FILM)[::-1, ::-1]), **tags)
    read = read_radiograph(written(tmp_path, film), size=48)
    assert np.abs(read.image.numpy() - target).max() <= 1 / 255


def test_tiff_gives_the_target(tmp_path: Path, target: np.ndarray) -> None:
    path = tmp_path / "film.tif"
    Image.fromarray(FILM * 16).save(path)
    read = read_radiograph(path, size=48, input_kind="display")
    assert np.abs(read.image.numpy() - target).max() <= 1 / 255


@pytest.mark.parametrize("sign", [1, -1])
def test_transmission_becomes_its_logarithm(tmp_path: Path, sign: int) -> None:
    integral = 3 * (FILM - 300) / 3600
    intensity = (4095 * np.exp(-integral)).round().astype(np.uint16)
    film = film_tags(
        intensity if sign == 1 else 4095 - intensity,
        PixelIntensityRelationship="LIN",
        PixelIntensityRelationshipSign=sign,
    )
    read = read_radiograph(written(tmp_path, film), size=96, fit="crop")
    assert read.kind == "transmission"
    expected = integral[:, 12:-12] / integral[:, 12:-12].max()
    assert np.abs(read.image.numpy() - expected).max() < 0.02


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_is_called_a_transmission_is_dark_in_bone_as_stored(
    tmp_path: Path, photometric: str
) -> None:
    values = 0.02 + 0.9 * ramp() / 4095
    film = film_tags((values * 4095).astype(np.uint16), PhotometricInterpretation=photometric)
    read = read_radiograph(
        written(tmp_path, film), size=40, fit="crop", input_kind="transmission", crop="none"
    )
    assert read.image[0, 0] > 0.9 and read.image[-1, -1] < 0.1


@pytest.mark.parametrize("sign", [1, -1])
def test_a_logarithm_has_no_unit(tmp_path: Path, sign: int) -> None:
    """Twelve bits of values give the same target in a file of twelve bits and in one of sixteen."""
    integral = FILM - 300
    targets = []
    for bits in (12, 16):
        top = 2**bits - 1
        film = film_tags(
            (top - integral if sign == 1 else integral).astype(np.uint16),
            BitsStored=bits,
            HighBit=bits - 1,
            PixelIntensityRelationship="LOG",
            PixelIntensityRelationshipSign=sign,
        )
        read = read_radiograph(written(tmp_path, film), size=96, fit="crop")
        assert read.kind == "line-integral" and not read.warnings
        targets.append(read.image.numpy())
        expected = integral[:, 12:-12] / integral.max()
        assert np.abs(read.image.numpy() - expected).max() < 0.02
    assert np.abs(targets[0] - targets[1]).max() < 1e-3


@pytest.mark.parametrize("relation", ["LIN", "LOG"])
def test_blades_and_letters_of_a_film_for_processing_are_no_patient(
    tmp_path: Path, relation: str
) -> None:
    y, x = np.mgrid[-1:1:300j, -1:1:300j]
    integral = 3 * np.sqrt(np.clip(1 - (x / 0.9) ** 2 - 0.5 * y**2, 0, 1)) + 0.3
    integral = integral - 1.5 * sum(
        np.clip(1 - ((x - c) / 0.3) ** 2 - (y / 0.6) ** 2, 0, 1) for c in (-0.4, 0.4)
    )
    integral += 0.01 * np.random.default_rng(0).standard_normal(integral.shape)
    plain = integral.copy()
    integral[:, :30] = integral[:, -25:] = integral[-20:] = 9
    integral[20:24, 40:56] = integral[20:50, 40:44] = 8  # lead
    values = 60000 * (np.exp(-integral) if relation == "LIN" else 1 - integral / 12)
    film = film_tags(
        values.round().astype(np.uint16),
        BitsStored=16,
        HighBit=15,
        PixelIntensityRelationship=relation,
        PixelIntensityRelationshipSign=1,
    )
    read = read_radiograph(written(tmp_path, film), size=300)
    covered = integral > 7
    assert read.mask.numpy()[covered].max() < 0.5
    seen = read.mask.numpy() > 0.5
    assert seen[~covered].mean() > 0.93
    expected = (plain - np.percentile(plain[seen], 0.1))[seen]  # the thinnest is taken for air
    gain = (expected @ read.image.numpy()[seen]) / (expected @ expected)
    assert np.abs(read.image.numpy()[seen] / gain - expected).max() < 0.12
    assert read.image.numpy()[seen].max() > 0.97
