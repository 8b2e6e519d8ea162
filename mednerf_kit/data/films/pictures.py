"""Radiographs as JPEG, BMP, PGM and PNG: what Pillow decodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core.errors import UserError
from ..pictures import decode
from .checks import check_size, damaged, grey_of_colours, one_of_several
from .levels import levels
from .orientation import square_pixels, upright
from .stored import StoredFilm

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 274  # tag of EXIF


def read_picture(path: Path) -> StoredFilm:
    """A grey JPEG, BMP, PGM or PNG as its file means it: palette, orientation and aspect applied.

    Three equal colour channels are read as grey. Where part of the picture is fully transparent,
    that part is not exposed.

    Raises UserError for a damaged file, several pages and colour.
    """
    return decode(path, partial(film_of, path), damaged=partial(damaged, path))


def film_of(path: Path, picture: Image) -> StoredFilm:
    """The film in a picture opened by Pillow."""
    check_size(path, picture.height, picture.width)
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # its further frames are previews
        raise one_of_several(path, frames, picture.mode)
    known, exposed = _grey(path, picture), None
    notes, bands = list(known.pop("notes")), picture.getbands()
    if {"A", "a"} & set(bands):
        exposed, note = exposed_by(np.asarray(picture.getchannel("A" if "A" in bands else "a")))
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


def _grey(path: Path, picture: Image) -> dict[str, Any]:
    """The grey levels of a picture and what was done to have them."""
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
