"""JPEG streams that Pillow does not write: lossless ones, and lossy ones of 12 bits (ITU-T T.81).

Every Huffman code has the same length, which wastes bits and keeps the encoders short.
"""

from __future__ import annotations

import struct

import numpy as np
from scipy.fft import dctn

DC_SYMBOLS = list(range(17))  # sizes of a difference, in bits
AC_SYMBOLS = [0x00, 0xF0] + [run << 4 | size for run in range(16) for size in range(1, 15)]


def _segment(marker: int, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _huffman(kind: int, symbols: list[int], length: int) -> bytes:
    counts = bytes(len(symbols) if n == length else 0 for n in range(1, 17))
    return _segment(0xC4, bytes([kind]), counts, bytes(symbols))


def _sized(value: int) -> tuple[int, str]:
    """The size of a number in bits, and those bits (T.81 F.1.2.1)."""
    size = abs(value).bit_length()
    bits = value if value > 0 else value + 2**size - 1
    return size, f"{bits:0{size}b}" if 0 < size < 16 else ""


def _scan(bits: list[str]) -> bytes:
    joined = "".join(bits)
    joined += "1" * (-len(joined) % 8)
    content = int(joined, 2).to_bytes(len(joined) // 8, "big")
    return content.replace(b"\xff", b"\xff\x00")


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """Process 14, selection value 1: every pixel differs from its left neighbour."""
    before = np.empty(pixels.shape, dtype=np.int64)
    before[:, 1:] = pixels[:, :-1]
    before[1:, 0] = pixels[:-1, 0]
    before[0, 0] = 2 ** (bits - 1)
    difference = (pixels.astype(np.int64) - before + 32767) % 65536 - 32767  # −32767 … 32768
    coded = []
    for value in difference.ravel().tolist():
        size, extra = _sized(value)
        coded.append(f"{size:05b}{extra}")
    rows, cols = pixels.shape
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHB", bits, rows, cols, 1), b"\x01\x11\x00"),
            _huffman(0x00, DC_SYMBOLS, 5),
            _segment(0xDA, b"\x01\x01\x00\x01\x00\x00"),
            _scan(coded),
            b"\xff\xd9",
        )
    )


def sequential_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """Extended sequential DCT (process 4), quantised by 1; sides are multiples of 8."""
    rows, cols = pixels.shape
    blocks = pixels.reshape(rows // 8, 8, cols // 8, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    coefficients = dctn(blocks - 2.0 ** (bits - 1), axes=(1, 2), norm="ortho").round().astype(int)
    zigzag = sorted(
        range(64), key=lambda n: (n // 8 + n % 8, n // 8 if (n // 8 + n % 8) % 2 else n % 8)
    )
    coded, last = [], 0
    for block in coefficients.reshape(-1, 64)[:, zigzag].tolist():
        size, extra = _sized(block[0] - last)
        last = block[0]
        coded.append(f"{size:05b}{extra}")
        run = 0
        for value in block[1:]:
            if value == 0:
                run += 1
                continue
            while run > 15:
                coded.append(f"{AC_SYMBOLS.index(0xF0):08b}")
                run -= 16
            size, extra = _sized(value)
            coded.append(f"{AC_SYMBOLS.index(run << 4 | size):08b}{extra}")
            run = 0
        if run:
            coded.append(f"{AC_SYMBOLS.index(0x00):08b}")
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, b"\x00", b"\x01" * 64),
            _segment(0xC1, struct.pack(">BHHB", bits, rows, cols, 1), b"\x01\x11\x00"),
            _huffman(0x00, DC_SYMBOLS, 5),
            _huffman(0x10, AC_SYMBOLS, 8),
            _segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"),
            _scan(coded),
            b"\xff\xd9",
        )
    )
