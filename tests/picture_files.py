"""Pictures in any coat, for tests: TIFF tags, PNG chunks and JPEG headers of one's choice."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

#: For each EXIF orientation the way of Pillow that brings the stored picture upright.
TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACK = {6: 8, 8: 6}


def unit_picture(rows: int = 40, cols: int = 52, seed: int = 0) -> np.ndarray:
    """A picture [rows, cols] in [0.1, 1] that is symmetric under nothing and smooth enough for
    JPEG; its air is not zero, as that of films.
    """
    y, x = np.mgrid[0 : 1 : rows * 1j, 0 : 1 : cols * 1j]
    values = np.sin(3 * x + 5 * y**2) + 2 * x * y + 0.3 * (x > 0.7)
    values += 0.02 * np.random.default_rng(seed).random((rows, cols))
    return 0.1 + 0.9 * (values - values.min()) / np.ptp(values)


def counts(unit: np.ndarray, dtype: Any) -> np.ndarray:
    """A picture in [0, 1] as an integer type's full range of positive values."""
    return (unit * np.iinfo(dtype).max).round().astype(dtype)


def laid(stored: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels to store so that this orientation tag brings them to ``stored``."""
    if orientation == 1:
        return stored
    way = TO_UPRIGHT[BACK.get(orientation, orientation)]
    return np.asarray(Image.fromarray(stored).transpose(way))


def tiff_bytes(rows: list[bytes], width: int, bits: int, *, order: str = "<", **tags: int) -> bytes:
    """A TIFF of one strip a row whose samples are packed by the caller.

    ``tags`` change or add numbers, as ``t262`` the photometric interpretation.
    """
    numbers = {256: width, 257: len(rows), 258: bits, 259: 1, 262: 1, 277: 1, 278: 1}
    numbers |= {int(name[1:]): value for name, value in tags.items()}
    head = 8 + 2 + 12 * (len(numbers) + 2) + 4
    data = head + 8 * len(rows)
    offsets = [data + sum(map(len, rows[:k])) for k in range(len(rows))]
    sizes = [len(row) for row in rows]
    table = {tag: (1, value) for tag, value in numbers.items()}
    table |= {273: (len(rows), head), 279: (len(rows), head + 4 * len(rows))}
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, *entry) for tag, entry in sorted(table.items())
    )
    start = struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, len(table))
    arrays = struct.pack(f"{order}{2 * len(rows)}I", *offsets, *sizes)
    return start + entries + bytes(4) + arrays + b"".join(rows)


def packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Rows of integers with ``bits`` each, the highest first, every row ending on a byte."""
    rows = []
    for row in values.tolist():
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows.append(bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8)))
    return rows


def with_png_chunk(path: Path, name: bytes, content: bytes) -> Path:
    """A PNG with one more chunk behind its header."""
    data = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + name + content
    chunk += struct.pack(">I", zlib.crc32(name + content))
    path.write_bytes(data[:33] + chunk + data[33:])
    return path


def png_of_16_bits(path: Path, channels: np.ndarray) -> Path:
    """A PNG of [H, W, 2, 3 or 4] channels: grey and alpha, colours, colours and alpha."""
    rows, cols, count = channels.shape

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    kind = {2: 4, 3: 2, 4: 6}[count]
    head = struct.pack(">IIBBBBB", cols, rows, 16, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def with_jfif_density(path: Path, unit: int, across: int, down: int) -> Path:
    """A JPEG whose JFIF header says these densities."""
    data = bytearray(path.read_bytes())
    at = data.index(b"JFIF\0") + 7
    data[at : at + 5] = struct.pack(">BHH", unit, across, down)
    path.write_bytes(data)
    return path
