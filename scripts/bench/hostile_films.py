#!/usr/bin/env python3
"""Damaged and hostile radiograph files, each read in a process of its own.

    python scripts/bench/hostile_films.py

A file has to be refused in one sentence, within 2 s of processor time and 1 GiB of memory. Files
whose pixels alone are damaged (bits turned over where nothing can tell) may be read as well; they
are counted apart. The same seed makes the same files. Exits with 1 where one misses.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
import zlib
from collections.abc import Iterator

import numpy as np
import tifffile
from hostile import Case, run
from hostile_dicom import cases as dicom_cases
from PIL import Image

from mednerf_kit.data.radiograph import read_radiograph

#: What one tag says is impossible, and the others say all the same.
REDUNDANT = ("count beyond the end.tif",)


def picture(rng: np.random.Generator, rows: int = 96, cols: int = 80) -> np.ndarray:
    """A smooth picture with noise, [rows, cols] in [0, 1]."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    values = np.exp(-(x**2) - y**2) + 0.02 * rng.standard_normal((rows, cols))
    return (values - values.min()) / np.ptp(values)


def whole_files(rng: np.random.Generator) -> dict[str, bytes]:
    """A good file of every kind, by file name."""
    unit = picture(rng)
    grey8, grey16 = (unit * 255).astype(np.uint8), (unit * 65535).astype(np.uint16)
    found = {}
    for name, values, options in (
        ("8.png", grey8, {}),
        ("16.png", grey16, {}),
        ("a.jpg", grey8, {"quality": 90}),
        ("progressive.jpg", grey8, {"quality": 90, "progressive": True}),
        ("a.bmp", grey8, {}),
        ("8.pgm", grey8, {}),
        ("16.pgm", grey16, {}),
        ("lzw.tif", grey16, {"compression": "tiff_lzw"}),
        ("jpeg.tif", grey8, {"compression": "jpeg"}),
    ):
        file = io.BytesIO()
        form = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(name[-4:], name[-3:].upper())
        Image.fromarray(values).save(file, form, **options)
        found[name] = file.getvalue()
    for name, values, options in (
        ("strips.tif", grey16, {"rowsperstrip": 8}),
        ("tiles.tif", grey16, {"tile": (16, 16), "compression": "zlib"}),
        ("float.tif", unit, {}),
        ("big.tif", grey8, {"bigtiff": True}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="minisblack", **options)
        found[name] = file.getvalue()
    for name, values in (("u2.npy", grey16), ("f8.npy", unit)):
        file = io.BytesIO()
        np.save(file, values)
        found[name] = file.getvalue()
    found["a.pfm"] = b"Pf\n80 96\n-1\n" + unit.astype("<f4").tobytes()
    return found


def damaged(rng: np.random.Generator) -> Iterator[Case]:
    """Good files cut, scrambled and with bits turned over."""
    for name, data in whole_files(rng).items():
        for share in (0.02, 0.5, 0.97):
            yield Case("cut", f"cut at {share:.0%} {name}", data[: int(share * len(data))])
        for k in range(4):  # in the header, where a reader looks first
            bad = bytearray(data)
            for at in rng.integers(4, min(len(bad), 120), 4):
                bad[at] ^= 1 << rng.integers(8)
            yield Case("header", f"header {k} {name}", bytes(bad), must_refuse=False)
        bad = bytearray(data)
        start = int(rng.integers(len(bad) // 4, len(bad) // 2))
        bad[start : start + len(bad) // 8] = rng.bytes(len(bad) // 8)
        yield Case("scrambled", f"scrambled {name}", bytes(bad), must_refuse=False)


def png(cols: int, rows: int, bits: int, data: bytes) -> bytes:
    """A grey PNG with a header of one's choice."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", cols, rows, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def tiff(tags: dict[int, tuple[int, int, int]], data: bytes = b"", follow: int = 0) -> bytes:
    """A TIFF whose tags (type, count, value) are of one's choice; its data begin at byte 512."""
    entries = [struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items())]
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return (head + b"".join(entries) + struct.pack("<I", follow)).ljust(512, b"\0") + data


def npy(header: str, data: bytes = b"") -> bytes:
    """An NPY file with a header of one's choice."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + data


def liars() -> Iterator[tuple[str, bytes]]:
    """Files that claim what they do not hold."""
    for cols, rows in ((10**6, 10**6), (2**31 - 1, 1), (40000, 40000), (0, 10), (10, 0)):
        yield f"{cols}x{rows}.png", png(cols, rows, 16, bytes(1000))
        yield f"{cols}x{rows}.pgm", b"P5 %d %d 65535\n" % (cols, rows) + bytes(1000)
        yield f"{cols}x{rows}.pfm", b"Pf\n%d %d\n-1\n" % (cols, rows) + bytes(1000)
        shape = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({rows}, {cols})}}"
        yield f"{cols}x{rows}.npy", npy(shape, bytes(1000))
    page = {
        256: (4, 1, 96),
        257: (4, 1, 80),
        258: (3, 1, 16),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 512),
        277: (3, 1, 1),
        278: (4, 1, 80),
        279: (4, 1, 96 * 80 * 2),
    }
    data = bytes(range(256)) * 60
    changes = {
        "wide": {256: (4, 1, 10**6)},
        "high": {257: (4, 1, 2**31), 278: (4, 1, 2**31)},
        "empty": {256: (4, 1, 0)},
        "33 bits": {258: (3, 1, 33)},
        "0 bits": {258: (3, 1, 0)},
        "complex": {339: (3, 1, 6), 258: (3, 1, 64)},
        "unknown compression": {259: (3, 1, 4711)},
        "unknown photometric": {262: (3, 1, 4711)},
        "data beyond the end": {273: (4, 1, 10**8)},
        "too little data": {279: (4, 1, 10)},
        "too much data": {279: (4, 1, 2**31)},
        "count beyond the end": {279: (4, 2**30, 512)},
        "no rows a strip": {278: (4, 1, 0)},
        "60000 samples": {277: (3, 1, 60000)},
        "no deflate": {259: (3, 1, 8)},
        "no LZW": {259: (3, 1, 5)},
        "no fax": {259: (3, 1, 4), 258: (3, 1, 1)},
        "no JPEG": {259: (3, 1, 7), 258: (3, 1, 8)},
        "tiles of nothing": {322: (3, 1, 0), 323: (3, 1, 0), 324: (4, 1, 512), 325: (4, 1, 1)},
        "huge tiles": {322: (4, 1, 2**30), 323: (4, 1, 2**30), 324: (4, 1, 512), 325: (4, 1, 9)},
        "a palette without colours": {262: (3, 1, 3), 258: (3, 1, 8)},
    }
    for name, change in changes.items():
        yield f"{name}.tif", tiff(page | change, data)
    yield "its own successor.tif", tiff(page, data, follow=8)
    yield "without tags.tif", tiff({}, data)
    yield "without data.tif", tiff({k: v for k, v in page.items() if k not in (273, 279)}, data)
    # small files that unfold
    yield "unfolding.png", png(60000, 60000, 8, bytes(10**7))
    flat = zlib.compress(bytes(2 * 10**8), 9)
    bomb = page | {256: (4, 1, 90), 257: (4, 1, 90), 259: (3, 1, 8), 279: (4, 1, len(flat))}
    yield "unfolding.tif", tiff(bomb, flat)


def no_films() -> Iterator[tuple[str, bytes]]:
    """What is no radiograph at all, and arrays of other things."""
    yield "empty.png", b""
    for suffix in ("png", "jpg", "tif", "bmp", "pgm", "pfm", "npy", "dcm", "txt"):
        yield f"text.{suffix}", b"<html><body>Not found</body></html>\n" * 20
        yield f"zeros.{suffix}", bytes(3000)
    yield "archive.png", b"PK\x03\x04" + bytes(500)
    yield "document.jpg", b"%PDF-1.7\n" + bytes(500)
    yield "one byte.tif", b"I"
    for descr, name in (
        ("|O", "objects"),
        ("<c16", "complex"),
        ("<U8", "text"),
        ("<M8[s]", "time"),
    ):
        shape = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (20, 20)}}"
        yield f"{name}.npy", npy(shape, bytes(20 * 20 * 32))
    yield (
        "records.npy",
        npy(
            "{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (20, 20)}",
            bytes(3200),
        ),
    )
    yield "brackets.npy", npy("(" * 9000)
    yield "code.npy", npy("{'descr': __import__('os').getcwd(), 'shape': (9, 9)}")
    yield (
        "negative.npy",
        npy("{'descr': '<u2', 'fortran_order': False, 'shape': (-9, 9)}", bytes(99)),
    )
    yield (
        "one axis.npy",
        npy("{'descr': '<u2', 'fortran_order': False, 'shape': (400,)}", bytes(800)),
    )
    for value, name in ((np.nan, "nan"), (np.inf, "infinite"), (1e300, "large"), (0.5, "flat")):
        for kind in ("npy", "tif"):
            values = np.full((20, 20), value)
            file = io.BytesIO()
            if kind == "npy":
                np.save(file, values)
            else:
                tifffile.imwrite(file, values, photometric="minisblack")
            yield f"{name}.{kind}", file.getvalue()
    file = io.BytesIO()
    rng = np.random.default_rng(1)
    Image.fromarray((rng.random((64, 64, 3)) * 255).astype(np.uint8)).save(file, "PNG")
    yield "colours.png", file.getvalue()
    file = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.uint8)).save(file, "PNG")
    yield "4x4.png", file.getvalue()
    for text in (
        b"Pf\n",
        b"Pf\n80 96\nzero\n",
        b"Pf\n80 -96\n-1\n",
        b"Pf\n80 96\nnan\n" + bytes(99),
    ):
        yield f"{len(text)} bytes.pfm", text
    for text in (
        b"P5\n",
        b"P5 9 9 0\n" + bytes(81),
        b"P2 9 9 255\nx y z",
        b"P5 9 9 99999\n" + bytes(81),
    ):
        yield f"{len(text)} bytes.pgm", text


def cases(seed: int) -> Iterator[Case]:
    """All files, in a fixed order."""
    rng = np.random.default_rng(seed)
    yield from damaged(rng)
    for kind, files in (("liar", liars()), ("no film", no_films())):
        for name, data in files:
            yield Case(kind, name, data, must_refuse=name not in REDUNDANT)
    for name, data in dicom_cases(rng):
        yield Case("DICOM", name, data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=6, help="files given to the whole command")
    parser.add_argument("--verbose", action="store_true", help="print what each file leads to")
    args = parser.parse_args()
    good = whole_files(np.random.default_rng(0)).items()
    missed = run(
        cases(args.seed),
        [Case("good", name, data) for name, data in good],
        read=lambda _, path: read_radiograph(path, size=64),
        command=lambda _, path: ["project", "--xray", str(path), "--device", "cpu"],
        commands=args.commands,
        verbose=args.verbose,
    )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
