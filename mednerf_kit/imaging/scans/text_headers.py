"""A header of text lines, and voxels behind it or in files of their own, as in MetaImage and NRRD.

Both are read here and not by SimpleITK, whose readers hand out memory that nobody wrote where a
file is damaged, take 1 mm where a number is none, and end the process over some headers.
"""

from __future__ import annotations

import bz2
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from .stored import DEFLATE, check_voxels, unreadable

MOST_HEADER_BYTES = 1 << 20
MOST_FILES = 100_000
NUMBERED = re.compile(r"(%0?\d{0,2}d)")  # where the number stands in names of data files
MOST_WHOLE = 1e9
MILLIMETRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1.0),
    **dict.fromkeys(("um", "µm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    "nm": 1e-6,
}
UNKNOWN_UNITS = {"", "?", "???", "unknown", "none"}
UNPACKERS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "zlib": zlib.decompressobj,
    "bzip2": bz2.BZ2Decompressor,
}


@dataclass(frozen=True)
class TextHeader:
    """The fields of a header by their names in small letters, and where the voxels begin."""

    path: Path
    fields: Mapping[str, str]
    lines: Sequence[str]  # behind the field that names the data
    end: int  # bytes of the header

    def numbers(self, *names: str, count: int) -> np.ndarray | None:
        """``count`` numbers of the first of these fields that is there, None without any.

        Raises UserError for words and for another count.
        """
        name = next((name for name in names if self.fields.get(name)), None)
        if name is None:
            return None
        try:
            found = np.array([float(word) for word in self.fields[name].split()])
        except ValueError:
            raise unreadable(self.path, "a word where its header should have a number") from None
        if len(found) != count:
            raise unreadable(self.path, f"{len(found)} numbers for {count} under '{name}'")
        return found

    def wholes(self, name: str, count: int, default: int | None = None) -> list[int]:
        """``count`` whole numbers of a field, or ``default`` where it is not there."""
        found = self.numbers(name, count=count)
        if found is None and default is not None:
            return [default] * count
        if found is None or not (np.abs(found) < MOST_WHOLE).all() or (found % 1 != 0).any():
            raise unreadable(self.path, f"no {count} whole numbers under '{name}'")
        return [int(number) for number in found]

    def unit_mm(self, *names: str) -> tuple[float, list[str]]:
        """Millimetres of the header's unit of length, 1 where it gives none, and a remark."""
        text = next((self.fields[name] for name in names if self.fields.get(name)), "")
        units = {unit.strip(' "').lower() for unit in re.findall(r'"[^"]*"|[^\s"]+', text)}
        units -= UNKNOWN_UNITS
        lengths = {MILLIMETRES.get(unit, 0.0) for unit in units}
        if len(lengths) > 1 or 0.0 in lengths:
            raise UserError(
                f"got '{self.path}', whose lengths are not in one known unit",
                "wanted one of m, cm, mm, um, nm for all three axes",
                "correct the header",
            )
        unit_mm = lengths.pop() if lengths else 1.0
        if unit_mm == 1:
            return 1.0, []
        said = f"lengths in a unit of {unit_mm:g} mm, as the header says, became mm"
        return unit_mm, [said]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How voxels are stored: the kind of number, its coding, and where they begin."""

    dtype: np.dtype
    size: tuple[int, ...]  # i, j, k
    coding: str  # raw, gzip, zlib, bzip2, text or hex
    names: Sequence[str] = ()  # of data files; none: behind the header
    skip_lines: int = 0
    skip_bytes: int = 0  # -1: the voxels are the end of the file


def read_header(
    path: Path, last: str, parse: Callable[[str], tuple[str, str] | None]
) -> TextHeader:
    """The header of a file, up to an empty line or behind the field ``last``.

    ``parse`` answers the name and value of a line, or None for one without.
    """
    with open(path, "rb") as file:
        start = file.read(MOST_HEADER_BYTES)
    fields: dict[str, str] = {}
    end, at = len(start), 0
    while at < len(start):
        stop = start.find(b"\n", at) + 1 or len(start)
        text, at = start[at:stop].decode("utf-8", "replace").strip(), stop
        if not text:
            end = at
            break
        if (pair := parse(text)) is not None:
            fields.setdefault(pair[0].strip().lower(), pair[1].strip())
            if pair[0].strip().lower() == last:
                end = at
                break
    lines = start[end : end + MOST_HEADER_BYTES].decode("utf-8", "replace").splitlines()
    return TextHeader(path, fields, lines, end)


def data_files(header: TextHeader, said: str, listed: Sequence[str]) -> list[str]:
    """The names of data files that a field gives: one, a list in lines, or a pattern with numbers.

    Raises UserError for a list of none.
    """
    words = said.split()
    if words and words[0].upper() == "LIST":
        found = [line.strip() for line in listed if line.strip()]
    elif len(words) >= 4 and NUMBERED.search(words[0]):
        try:
            first, last, step = (int(word) for word in words[1:4])
            numbers = range(first, last + (1 if step > 0 else -1), step)[:MOST_FILES]
        except ValueError:
            raise unreadable(header.path, "no pattern of its data files") from None
        before, pattern, after = NUMBERED.split(words[0], maxsplit=1)
        found = [f"{before}{pattern % number}{after}" for number in numbers]
    else:
        found = [said]
    if not found or not found[0]:
        raise unreadable(header.path, "it names no data file")
    return found


def voxels(header: TextHeader, layout: Layout) -> np.ndarray:
    """The voxels [k, j, i] as stored.

    Raises UserError where there are fewer or more of them than the header says.
    """
    path = header.path
    if min(layout.size) < 1:
        raise unreadable(path, f"a size of {'×'.join(map(str, layout.size))} voxels")
    parts = max(1, len(layout.names))
    count, over = divmod(math.prod(layout.size), parts)
    if over:
        raise unreadable(path, f"{parts} data files for {layout.size[-1]} slices")
    found = []
    for name in layout.names or [""]:
        file = path.parent / name if name else path
        if not file.is_file():
            raise unreadable(path, f"its data file '{name}' is missing")
        try:
            found.append(_values(file, layout, count, header.end if not name else 0))
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise unreadable(file, str(error)) from None
    return np.concatenate(found).reshape(layout.size[::-1])


def _values(file: Path, layout: Layout, count: int, start: int) -> np.ndarray:
    """``count`` voxels of one file that begin at ``start``; raises ValueError for others."""
    held, itemsize = file.stat().st_size, layout.dtype.itemsize
    wanted = count * itemsize
    if layout.skip_bytes < -1 or layout.skip_lines < 0:
        raise ValueError("its header leaves out fewer than no bytes")
    most = {"raw": 1.0, "text": itemsize, "hex": 0.5, "bzip2": math.inf}
    if wanted > (held - start) * most.get(layout.coding, DEFLATE):
        raise ValueError(f"it ends after {held - start} bytes, for {count} voxels")
    check_voxels(file, layout.size)
    with open(file, "rb") as stream:
        stream.seek(start)
        for _ in range(min(layout.skip_lines, held)):
            stream.readline()
        if layout.coding == "raw":
            begin = held - wanted if layout.skip_bytes == -1 else stream.tell() + layout.skip_bytes
            if begin + wanted > held or (not start and begin + wanted < held):
                raise ValueError(f"it holds {held - begin} bytes, for {wanted} of its voxels")
            return np.fromfile(file, layout.dtype, count, offset=begin)
        data = stream.read()
    skip = max(0, layout.skip_bytes)
    if layout.coding == "text":
        words = data[skip:].split()
        if len(words) != count:
            raise ValueError(f"it holds {len(words)} numbers, for {count} voxels")
        return np.array(words, dtype=np.float64).astype(layout.dtype)
    if layout.coding == "hex":
        found = bytearray.fromhex(data.decode("ascii"))
    else:
        found = _unpacked(data, UNPACKERS[layout.coding], wanted + skip)
    return np.frombuffer(found, layout.dtype, count, offset=skip)


def _unpacked(data: bytes, unpacker: Callable[[], Any], wanted: int) -> bytearray:
    """``wanted`` bytes of compressed data; raises ValueError where there are fewer or more."""
    out = bytearray()
    while len(out) < wanted:
        one = unpacker()
        out += one.decompress(data, wanted + 1 - len(out))
        data = one.unused_data
        if not one.eof:
            break
    if len(out) != wanted or not one.eof:
        more = "more than " if len(out) > wanted else ""
        raise ValueError(
            f"its compressed data hold {more}{min(len(out), wanted)} of {wanted} bytes"
        )
    return out
