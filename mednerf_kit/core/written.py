"""Whether a file that was just written is whole: each kind, known by its suffix, is read back.

Not every library says that the disk was full while it wrote: a cut NIfTI is read elsewhere with
slices of 0 HU, a cut video not at all. :func:`.files.atomic` asks here before a file gets its name.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

Check = Callable[[Path], int | None]
PIECE = 1 << 20  # bytes unpacked at a time


class NotWhole(OSError):
    """A file ends before its content does."""


def check_whole(path: Path, frames: int | None = None) -> None:
    """Raise :class:`NotWhole` where a file ends early, or holds another number of ``frames``.

    What a file holds is not judged, and of kinds without an entry in :data:`CHECKS` nothing: text
    that Python wrote has raised an error itself.
    """
    name = path.name.lower()
    check = next((check for suffix, check in CHECKS.items() if name.endswith(suffix)), None)
    try:
        found = check(path) if check is not None else None
    except NotWhole:
        raise
    except Exception as error:  # whatever a reader stumbles over, it is a file that nobody can read
        raise NotWhole(f"what was written cannot be read: {error}") from error
    if frames is not None and found is not None and found != frames:
        raise NotWhole(f"{found} of {frames} frames were written")


def nifti(path: Path) -> None:
    """The bytes that a NIfTI-1 header announces are there."""
    with open(path, "rb") as file:
        head = file.read(348)
    _at_least(path.stat().st_size, nifti_bytes(head))


def nifti_bytes(head: bytes) -> int:
    """Length of the NIfTI-1 file that begins with these 348 bytes."""
    axes, *sizes = struct.unpack_from("<8h", head, 40)
    (bits,) = struct.unpack_from("<h", head, 72)
    (start,) = struct.unpack_from("<f", head, 108)
    return int(start) + math.prod(sizes[:axes]) * bits // 8


def compressed_nifti(path: Path) -> None:
    """The gzip stream ends with its checksum, after as many bytes as the header announces."""
    head, length = unpacked(path)
    _at_least(length, nifti_bytes(head))


def compressed_behind(last_of_header: bytes) -> Check:
    """The check of a text header followed by one stream (zlib or gzip): MetaImage and NRRD."""

    def check(path: Path) -> None:
        with open(path, "rb") as file:
            head = file.read(1 << 16)
        start = head.index(last_of_header) + len(last_of_header)
        unpacked(path, start)

    return check


def unpacked(path: Path, start: int = 0) -> tuple[bytes, int]:
    """The first bytes and the length of the zlib or gzip stream at ``start``, checksum compared."""
    stream, first, length = zlib.decompressobj(wbits=47), b"", 0
    with open(path, "rb") as file:
        file.seek(start)
        while not stream.eof:
            piece = stream.unconsumed_tail or file.read(PIECE)
            if not piece:
                raise NotWhole(f"its compressed data end after {length} bytes")
            out = stream.decompress(piece, PIECE)
            first, length = first or out, length + len(out)
    return first, length


def mp4(path: Path) -> int:
    """Frames of an MP4, once its boxes are found to fill the file from end to end.

    A box is its length and name, then its content; ``stsz`` lists the frames.
    """
    content = path.read_bytes()
    names, at = set(), 0
    while at < len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if length == 1:
            (length,) = struct.unpack_from(">Q", content, at + 8)
        if length < 8 or at + length > len(content):
            raise NotWhole(f"its part {name.decode('ascii', 'replace')} is cut")
        names.add(name)
        at += length
    if not names >= {b"moov", b"mdat"}:
        raise NotWhole("it holds no video")
    table = content.index(b"stsz", content.index(b"moov"))
    return int(struct.unpack_from(">I", content, table + 12)[0])


def png(path: Path) -> None:
    """Every chunk of a PNG has its checksum, and the last one is there."""
    from PIL import Image

    _ends_with(path, b"IEND\xaeB`\x82")
    with Image.open(path) as image:
        image.verify()


def gif(path: Path) -> None:
    """Every frame of a GIF can be unpacked, and the semicolon after the last one is there."""
    from PIL import Image

    _ends_with(path, b";")
    with Image.open(path) as image:
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            image.load()


def _ends_with(path: Path, last: bytes) -> None:
    with open(path, "rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - len(last)))
        if file.read() != last:
            raise NotWhole("its end is not there")


def safetensors(path: Path) -> None:
    """The last tensor of the header ends where the file does."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    _at_least(path.stat().st_size, 8 + length + max(ends, default=0))


def arrays(path: Path) -> None:
    """Every member of an NPZ has its checksum."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise NotWhole(f"its array {bad} is damaged")


def dicom(path: Path) -> None:
    """Pixels of a DICOM file are as many as its frames take."""
    import pydicom

    with pydicom.dcmread(path, stop_before_pixels=True) as header:
        frames = int(header.get("NumberOfFrames", 1))
        pixels = frames * header.Rows * header.Columns * header.BitsAllocated // 8
    content = pydicom.dcmread(path, specific_tags=["PixelData"])
    _at_least(len(content.PixelData), pixels)


def json_text(path: Path) -> None:
    """JSON from its first to its last bracket."""
    json.loads(path.read_text(encoding="utf-8"))


def _at_least(found: int, wanted: int) -> None:
    if found < wanted:
        raise NotWhole(f"{found} of {wanted} bytes were written")


#: By the end of a file's name, the first that fits.
CHECKS: dict[str, Check] = {
    ".nii.gz": compressed_nifti,
    ".nii": nifti,
    ".mha": compressed_behind(b"ElementDataFile = LOCAL\n"),
    ".nrrd": compressed_behind(b"\n\n"),
    ".dcm": dicom,
    ".png": png,
    ".gif": gif,
    ".mp4": mp4,
    ".npz": arrays,
    ".safetensors": safetensors,
    ".json": json_text,
}
