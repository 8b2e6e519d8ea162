"""Which reader a radiograph file gets: by its first bytes, then by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError
from ...imaging.dicom_header import is_dicom_element
from .dicom import read_dicom_film
from .npy import read_npy
from .pfm import read_pfm
from .pictures import read_picture
from .stored import StoredFilm
from .tiff import read_tiff


@dataclass(frozen=True)
class Format:
    """A kind of file: how it begins, how it is called, and who reads it."""

    begins: tuple[bytes, ...]
    suffixes: tuple[str, ...]
    read: Callable[[Path], StoredFilm]


FORMATS = {
    "BMP": Format((b"BM",), (".bmp", ".dib"), read_picture),
    "DICOM": Format((), (".dcm", ".dicom", ".ima"), read_dicom_film),
    "JPEG": Format((b"\xff\xd8\xff",), (".jpg", ".jpeg", ".jfif"), read_picture),
    "NPY": Format((b"\x93NUMPY",), (".npy",), read_npy),
    "PFM": Format((b"Pf\n", b"Pf\r", b"Pf ", b"PF\n", b"PF\r", b"PF "), (".pfm",), read_pfm),
    "PGM": Format(
        tuple(b"P%d%c" % (n, end) for n in range(1, 7) for end in b"\n\r\t #"),
        (".pgm", ".pbm", ".pnm"),
        read_picture,
    ),
    "PNG": Format((b"\x89PNG\r\n\x1a\n",), (".png",), read_picture),
    "TIFF": Format(
        (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), (".tif", ".tiff"), read_tiff
    ),  # "+": files beyond 4 GiB
}


def read_film(path: str | Path) -> StoredFilm:
    """A radiograph as its file means it, whatever the file's name.

    Raises UserError for a file that is missing, empty, of an unknown kind, or that its reader
    refuses.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "which does not exist"
        raise UserError(f"got X-ray '{path}', {what}", "wanted a picture file", "check the path")
    if path.stat().st_size == 0:
        raise UserError(f"got '{path}', which is empty", "wanted a picture", "copy the file again")
    with open(path, "rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return FORMATS["DICOM"].read(path)
    for known in FORMATS.values():
        if start.startswith(known.begins):
            return known.read(path)
    suffix = path.suffix.lower()
    for known in FORMATS.values():
        if suffix in known.suffixes:
            return known.read(path)
    if is_dicom_element(start):
        return FORMATS["DICOM"].read(path)
    raise UserError(
        f"got '{path}' with suffix '{suffix}'",
        f"wanted one of {', '.join(FORMATS)}",
        "convert it to PNG",
    )
