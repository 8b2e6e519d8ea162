"""Radiographs as JPEG, BMP, PGM and PNG: what Pillow decodes."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from ..pictures import decode
from .checks import check_size, damaged, grey_of_colours, one_of_several
from .dicom_pixels import stream_shape
from .levels import levels
from .orientation import square_pixels, upright
from .stored import StoredFilm

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 274  # tag of EXIF
#: PNG of 16 bits in several channels, which Pillow cuts to the high bytes: how it is asked for them
#: and for the low ones.
HALVED = {"RGB;16B": ("RGB;16B", "RGB;16L"), "RGBA;16B": ("RGBA;16B", "RGBA;16L")}
#: The same of grey with alpha, whose four bytes are asked for as four channels.
HALVED_GREY = {"LA;16B": ("RGBA",)}


def read_picture(path: Path) -> StoredFilm:
    """A grey JPEG, BMP, PGM or PNG as its file means it: palette, orientation and aspect applied.

    Three equal colour channels are read as grey. Where part of the picture is fully transparent,
    that part is not exposed.

    Raises UserError for a damaged file, several pages, colour and a JPEG of more than 8 bits.
    """
    return decode(path, partial(film_of, path), damaged=partial(_unreadable, path))


def _unreadable(path: Path, error: Exception) -> UserError:
    """The error for what Pillow cannot read: damaged, or a JPEG of a kind that it does not know."""
    try:
        bits = stream_shape(path.read_bytes())[-1]
    except (ValueError, IndexError, struct.error):
        bits = 8
    if bits <= 8:
        return damaged(path, error)
    return UserError(
        f"got '{path}', a JPEG of {bits} bits",
        "wanted one of 8 bits",
        "save it as a grey PNG of 16 bits, or give the DICOM file that it comes from",
    )


def film_of(path: Path, picture: Image) -> StoredFilm:
    """The film in a picture opened by Pillow."""
    raw = _raw_mode(path, picture)
    channels = len(picture.getbands()) if raw in HALVED else 1
    check_size(path, picture.height, picture.width * channels)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # its further frames are previews
        raise one_of_several(path, frames, picture.mode)
    known, exposed = _grey(path, picture, raw), None
    notes, alpha = list(known.pop("notes")), _alpha(picture, raw)
    if alpha is not None:
        exposed, note = exposed_by(alpha)
        notes.append(note)
    kind: Any = "display" if picture.format in ("JPEG", "MPO") else None
    film = StoredFilm(**known, exposed=exposed, kind=kind, notes=tuple(notes))
    film = square_pixels(film, *_pixel_size(picture))
    return upright(film, picture.getexif().get(ORIENTATION, 1))


def exposed_by(alpha: np.ndarray) -> tuple[np.ndarray | None, str]:
    """What an alpha channel [H, W] says of the exposed part, and the note."""
    clear = alpha == 0
    if clear.any() and not clear.all():
        return ~clear, "transparent pixels are left out of the fit, other alpha is dropped"
    return None, "the alpha channel was dropped"


def _raw_mode(path: Path, picture: Image) -> str:
    """How the file packs its pixels, in Pillow's words; "" where it does not say.

    Raises UserError for a PPM in which Pillow would keep 8 of more bits.
    """
    tiles = getattr(picture, "tile", None)
    how = tiles[0][3] if tiles else ""
    maps = picture.format == "PPM" and isinstance(how, tuple)
    if maps and how[0] == "RGB" and isinstance(how[-1], int) and how[-1] > 255:
        raise UserError(
            f"got '{path}' with three channels of more than 8 bits",
            "wanted a grey X-ray",
            "save it as PGM, or as a grey PNG of 16 bits",
        )
    return how if isinstance(how, str) else ""


def _alpha(picture: Image, raw: str) -> np.ndarray | None:
    """What covers each pixel [H, W], 0 where it is transparent; None of a picture without alpha."""
    bands = picture.getbands()
    if {"A", "a"} & set(bands):
        return np.asarray(picture.getchannel("A" if "A" in bands else "a"))
    key = picture.info.get("transparency")
    if key is None:
        return None
    if picture.mode in ("P", "RGB"):
        return np.asarray(picture.convert("RGBA").getchannel("A"))
    # the clear grey of a PNG counts in the file's own levels
    step = {"L;2": 85, "L;4": 17}.get(raw, 1)
    return np.asarray(picture) != key * step


def _whole_channels(path: Path, raw: str) -> np.ndarray:
    """The channels [H, W, C] of a PNG of 16 bits each: grey alone, or three colours."""
    from PIL import Image

    parts = []
    for wanted in (HALVED | HALVED_GREY)[raw]:
        again: Any
        with Image.open(path) as again:
            again.tile = [(*again.tile[0][:3], wanted)]
            parts.append(np.asarray(again).astype(np.uint16))
    if raw in HALVED_GREY:
        return 256 * parts[0][..., :1] + parts[0][..., 1:2]
    return 256 * parts[0][..., :3] + parts[1][..., :3]


def _grey(path: Path, picture: Image, raw: str) -> dict[str, Any]:
    """The grey levels of a picture and what was done to have them."""
    if raw in HALVED_GREY:
        return levels(path, _whole_channels(path, raw)[..., 0], 16)
    if raw in HALVED:
        grey = grey_of_colours(path, _whole_channels(path, raw), 65535)
        return levels(path, grey, 16) | {
            "notes": ("three equal colour channels were read as grey",)
        }
    if picture.mode in ("L", "1", "LA", "La"):
        return levels(path, np.asarray(picture.convert("L")), 1 if picture.mode == "1" else 8) | (
            {"full_scale": 255.0} if picture.mode == "1" else {}
        )
    if picture.mode.startswith("I;16"):
        return levels(path, np.asarray(picture).astype(np.uint16), 16)
    if picture.mode == "F":
        return levels(path, np.asarray(picture), 32)
    if picture.mode == "I":
        values = np.asarray(picture)
        if values.min() >= 0 and values.max() <= 65535:
            return levels(path, values.astype(np.uint16), 16)
        return levels(path, values, 32)
    if picture.mode not in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        raise UserError(
            f"got '{path}' with {picture.mode} pixels", "wanted a grey X-ray", "save it as grey"
        )
    grey = grey_of_colours(path, np.asarray(picture.convert("RGB")), 255)
    return levels(path, grey, 8) | {"notes": ("three equal colour channels were read as grey",)}


def _pixel_size(picture: Image) -> tuple[float, float]:
    """Width and height of a pixel in any unit; (1, 1) where the file does not say."""
    if picture.info.get("jfif_unit") == 0:
        across, down = picture.info["jfif_density"]
    else:
        across, down = picture.info.get("dpi") or picture.info.get("aspect") or (1, 1)
    if not across or not down:
        return 1.0, 1.0
    return 1 / float(across), 1 / float(down)
