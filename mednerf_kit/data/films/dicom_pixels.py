"""The pixels of a DICOM radiograph as stored, from every transfer syntax a decoder exists for.

Each syntax has one decoder, by name: left to itself pydicom tries whichever is installed, and two
decoders of lossy JPEG differ by a grey level. What a compressed stream says of its own size is
compared with the header before it is decoded, so that a small file cannot claim a huge picture.
A header that names too few bits, or the wrong sign, makes values jump from one end of the range to
the other where a film is smooth: such pixels are read as they run on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...imaging.dicom_header import Header
from .checks import check_size
from .dicom_header import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, damaged

PLAIN = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
JPEG_2000 = (
    "1.2.840.10008.1.2.4.90",  # lossless
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201",  # high throughput, lossless
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
)
#: Transfer syntax -> the decoder that pydicom is told to use.
DECODERS = {
    **dict.fromkeys(PLAIN, ""),  # pydicom itself
    "1.2.840.10008.1.2.5": "pydicom",  # RLE
    "1.2.840.10008.1.2.4.50": "pylibjpeg",  # JPEG baseline
    "1.2.840.10008.1.2.4.51": "pylibjpeg",  # extended, 8 and 12 bit
    "1.2.840.10008.1.2.4.57": "pylibjpeg",  # lossless, process 14
    "1.2.840.10008.1.2.4.70": "pylibjpeg",  # lossless, process 14, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # near-lossless
    **dict.fromkeys(JPEG_2000, "pylibjpeg"),
}
RLE = "1.2.840.10008.1.2.5"
JPEG_START, JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
ITEM = b"\xfe\xff\x00\xe0"  # begins a compressed picture
STREAM_END = b"\xff\xd9"
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # 0xF7 is JPEG-LS
ROUGHNESS_ROWS = 256  # by which it is judged whether the values of a film run on smoothly
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # markers that stand alone


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """How the header says pixels are stored."""

    rows: int
    cols: int
    bits_allocated: int
    bits: int  # stored
    high_bit: int
    signed: bool


def pixel_layout(path: Path, header: Header) -> PixelLayout:
    """The layout, checked; raises UserError where it is missing, impossible or beyond bounds."""
    numbers = [header.whole(k) for k in ("Rows", "Columns", "BitsAllocated", "BitsStored")]
    rows, cols, allocated, bits = numbers
    if rows is None or cols is None or allocated is None or rows < 1 or cols < 1:
        raise damaged(path, "Rows, Columns or BitsAllocated is missing or no number of pixels")
    check_size(path, rows, cols)
    if allocated not in (8, 16, 32):
        raise UserError(
            f"got '{path}' with {allocated} bits allocated for a pixel",
            "wanted 8, 16 or 32",
            "export it again with 16 bits",
        )
    bits = allocated if bits is None else bits
    high_bit = header.whole("HighBit")
    high_bit = bits - 1 if high_bit is None else high_bit
    if not 1 <= bits <= high_bit + 1 <= allocated:
        raise damaged(path, "BitsStored and HighBit do not fit into BitsAllocated")
    return PixelLayout(
        rows=rows,
        cols=cols,
        bits_allocated=allocated,
        bits=bits,
        high_bit=high_bit,
        signed=header.whole("PixelRepresentation") == 1,
    )


@dataclass(frozen=True)
class StoredPixels:
    """The pixels of a file and what was found of how they are stored."""

    values: np.ndarray  # [rows, cols] uint8, uint16, int8 or int16
    bits: int  # a value has
    words: np.ndarray  # [rows, cols], unsigned: the values with the bits around them
    notes: tuple[str, ...] = ()


def stored_pixels(path: Path, header: Header, syntax: str, layout: PixelLayout) -> StoredPixels:
    """Pixels as stored, in the smallest integer type that holds them.

    The bits are those the header says are stored, those of a compressed stream that goes beyond, or
    those that the values need where they contradict the header.
    Raises UserError for a syntax without decoder, for more than 16 bits that are used, and for data
    that are cut short or damaged.
    """
    if syntax not in DECODERS:
        raise _no_decoder(path, syntax)
    content = header.binary("PixelData")
    if not content:
        what = "floats in place of pixels" if _has_floats(header) else "no pixels"
        raise damaged(path, f"it holds {what}")
    allocated, precision = layout.bits_allocated, layout.bits
    if syntax in PLAIN:
        wanted = layout.rows * layout.cols * allocated // 8
        if len(content) < wanted:
            raise damaged(path, f"{len(content)} bytes of pixels where {wanted} were announced")
        if content.startswith(ITEM) and len(content) > wanted + 1:
            raise damaged(path, "compressed pixels that it calls uncompressed")
        content = content[: wanted + wanted % 2]
    elif syntax != RLE:
        precision = _stream_precision(path, layout, content)
        allocated = 8 if precision <= 8 else 16
    # 8-bit pixels in big-endian words change places
    representation = header.representation("PixelData")
    pixels = _decoded(path, content, syntax, layout, allocated, representation)
    words = pixels.view(f"u{pixels.dtype.itemsize}")
    # JPEG 2000 and JPEG-LS streams know their depth; anywhere else the bits around the stored ones
    # may hold an overlay
    if syntax in PLAIN or syntax == RLE:
        pixels = _stored_bits(pixels, layout)
    if layout.bits > 16:
        return StoredPixels(_narrowed(path, pixels), 16, words)
    if pixels.dtype.itemsize > 2:
        pixels = pixels.astype(np.int16 if layout.signed else np.uint16)
    low, high = (
        (-(2 ** (layout.bits - 1)), 2 ** (layout.bits - 1))
        if layout.signed
        else (0, 2**layout.bits)
    )
    fits = low <= int(pixels.min()) and int(pixels.max()) < high
    found = StoredPixels(pixels, layout.bits if fits else precision, words)
    return _as_they_run(found) if words.dtype.itemsize <= 2 else found


def _has_floats(header: Header) -> bool:
    return header.has("FloatPixelData") or header.has("DoubleFloatPixelData")


def _as_they_run(found: StoredPixels) -> StoredPixels:
    """The pixels with the bits and sign by which they run on smoothly, where the header's do not.

    What lies beyond the stored bits is an overlay, or the header names too few: an overlay makes
    the whole words rougher than the stored bits, too few bits make them smoother. The other sign is
    taken where it takes 30 % of the roughness away from pixels that are not about the ends of
    the range alone, as white blades and letters beside black air are.
    """
    rows = slice(None, None, max(1, len(found.values) // ROUGHNESS_ROWS))
    few = _readings(replace(found, values=found.values[rows], words=found.words[rows]))
    best = "as stored"
    for name, pixels in few.items():
        least = 0.7 if name == "other sign" else 0.99
        if _roughness(pixels, few[best]) < least * _roughness(few[best], pixels) and (
            name != "other sign" or _is_broad(few["as stored"], pixels, found.bits)
        ):
            best = name
    if best == "as stored":
        return found
    pixels = _readings(found)[best]
    low, high = int(pixels.min()), int(pixels.max())
    bits = max(high.bit_length(), (-1 - low).bit_length() if low < 0 else 0) + (low < 0)
    sign = "signed" if low < 0 else "unsigned"
    note = "Bits Stored or Pixel Representation contradicts the pixels, which run on smoothly as "
    note += f"{sign} values of {bits} bits and are read so"
    kind = "i" if low < 0 else "u"
    return StoredPixels(pixels.astype(f"{kind}{1 if bits <= 8 else 2}"), bits, found.words, (note,))


def _readings(found: StoredPixels) -> dict[str, np.ndarray]:
    """Pixels [H, W] as the header has them, and in the other ways that their words can be read."""
    values, words, half = found.values, found.words, 2 ** (found.bits - 1)
    ways = {"as stored": values}
    if found.bits < 8 * words.dtype.itemsize:
        ways |= {"unsigned": words, "signed": words.view(f"i{words.dtype.itemsize}")}
    other = values.astype(np.int32) & (2 * half - 1)
    ways["other sign"] = other if values.dtype.kind == "i" else (other ^ half) - half
    return ways


def _is_broad(values: np.ndarray, other: np.ndarray, bits: int) -> bool:
    """Whether values [H, W] on either side of a sign lie off the ends of their range, in general.

    ``other`` [H, W] are the same pixels with the other sign.
    """
    lowest = -(2 ** (bits - 1)) if values.dtype.kind == "i" else 0
    above = values.astype(np.int32) - lowest
    to_end = np.minimum(above, 2**bits - 1 - above)
    same = values == other
    halves = (to_end[same], to_end[~same])
    return all(half.size and float(np.median(half)) > np.ptp(other) / 20 for half in halves)


def _roughness(pixels: np.ndarray, other: np.ndarray) -> float:
    """The mean step between neighbours in the rows of ``pixels`` [H, W].

    Left out are steps to the lowest and highest value of it and of ``other`` [H, W], another
    reading of the same pixels: padding, letters and what is saturated.
    """
    inner = np.logical_and.reduce([(v > v.min()) & (v < v.max()) for v in (pixels, other)])
    steps = abs(np.diff(pixels.astype(np.int32), axis=1))[inner[:, 1:] & inner[:, :-1]]
    return float(steps.mean()) if steps.size else 0.0


def _no_decoder(path: Path, syntax: str) -> UserError:
    from pydicom.uid import UID_dictionary

    known = UID_dictionary.get(syntax)  # an unknown one may name whoever made it
    name = f"the transfer syntax {known[0]}" if known else "an unknown transfer syntax"
    return UserError(
        f"got '{path}' in {name}",
        "wanted uncompressed pixels, RLE, JPEG, JPEG-LS or JPEG 2000",
        "export it uncompressed (Explicit VR Little Endian)",
    )


def _decoded(
    path: Path, content: bytes, syntax: str, layout: PixelLayout, allocated: int, words: str
) -> np.ndarray:
    from pydicom.pixels import get_decoder

    options: dict[str, Any] = {
        "pixel_keyword": "PixelData",
        "pixel_vr": words,
        "rows": layout.rows,
        "columns": layout.cols,
        "samples_per_pixel": 1,
        "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": allocated,
        "bits_stored": min(layout.bits, allocated),
        "pixel_representation": int(layout.signed),
    }
    if syntax in PLAIN or syntax == RLE:
        options["correct_unused_bits"] = False  # done by the caller, who knows the high bit
    plugin = DECODERS[syntax]
    try:
        decoder = get_decoder(syntax)
        pixels, _ = decoder.as_array(content, index=0, raw=True, decoding_plugin=plugin, **options)
    except Exception:  # whatever a decoder stumbles over
        raise damaged(path, "its pixels cannot be decoded") from None
    return pixels


def _narrowed(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Pixels of more than 16 bits that hold values of 16; raises UserError for others."""
    low, high = int(pixels.min()), int(pixels.max())
    for kind in (np.uint16, np.int16):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return pixels.astype(kind)
    raise UserError(
        f"got '{path}' with pixels that use more than 16 bits",
        "wanted values of 16 bits at most",
        "export it again with 16 bits",
    )


def _stored_bits(pixels: np.ndarray, layout: PixelLayout) -> np.ndarray:
    above, spare = (
        layout.bits_allocated - 1 - layout.high_bit,
        layout.bits_allocated - layout.bits,
    )
    return (pixels << above) >> spare if spare else pixels


def _stream_precision(path: Path, layout: PixelLayout, content: bytes) -> int:
    """Bits of a compressed picture, once its own size was found to be that of the header."""
    from pydicom.encaps import get_frame

    try:
        stream = get_frame(content, 0, number_of_frames=1)
        rows, cols, channels, precision = stream_shape(stream)
    except Exception:  # as above
        raise damaged(path, "its pixels are no compressed picture") from None
    if STREAM_END not in stream[-16:]:  # decoders fill the rest of a picture that breaks off
        raise damaged(path, "its compressed picture breaks off")
    if channels != 1:
        raise UserError(
            f"got '{path}', whose compressed picture has {channels} channels",
            "wanted a grey radiograph",
            "export it as a grey picture",
        )
    if (rows, cols) != (layout.rows, layout.cols):
        raise damaged(
            path,
            f"{layout.rows}×{layout.cols} pixels announced, {rows}×{cols} compressed",
        )
    if not 2 <= precision <= 16:
        raise damaged(path, f"a compressed picture of {precision} bits")
    return precision


def stream_shape(stream: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, channels and bits of a JPEG, JPEG-LS or JPEG 2000 stream."""
    if JPEG_2000_START in stream[:512]:  # some files wrap the bare stream into a JP2 file
        start = stream.index(JPEG_2000_START) + 6
        _, right, bottom, left, top, *_, channels, depth = struct.unpack_from(
            ">H8IHB", stream, start
        )
        return max(0, bottom - top), max(0, right - left), channels, (depth & 0x7F) + 1
    at = stream.index(JPEG_START) + 2
    while True:
        at = stream.index(b"\xff", at)
        while stream[at] == 0xFF:  # fill bytes
            at += 1
        marker = stream[at]
        if marker in START_OF_FRAME:
            precision, rows, cols, channels = struct.unpack_from(">BHHB", stream, at + 3)
            return rows, cols, channels, precision
        at += 1 if marker in WITHOUT_LENGTH else 1 + struct.unpack_from(">H", stream, at + 1)[0]
