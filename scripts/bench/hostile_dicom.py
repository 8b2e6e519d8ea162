"""DICOM files that are no radiograph, damaged, or made to exhaust their reader; one by one.

Every one of them has to be refused in a sentence. They are made from a film of 64×64 pixels by
pydicom; none is meant to reach a fault in other software.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import UID

SYNTAX = "1.2.840.10008.1.2"
CLASS = "1.2.840.10008.5.1.4.1.1"
EXPLICIT, DEFLATED, RLE = f"{SYNTAX}.1", f"{SYNTAX}.1.99", f"{SYNTAX}.5"
COMPRESSED = [f"{SYNTAX}.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91)]
Cases = Iterator[tuple[str, bytes]]


def film(rng: np.random.Generator, **tags: Any) -> pydicom.Dataset:
    """A good film, changed by tags; None leaves one out."""
    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.SOPClassUID, content.SOPInstanceUID, content.Modality = f"{CLASS}.1", "1.2.3", "CR"
    content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
    content.Rows = content.Columns = 64
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 12, 11
    content.PixelRepresentation = 0
    content.PixelData = rng.integers(0, 4096, (64, 64)).astype("<u2").tobytes()
    for keyword, value in tags.items():
        if value is None:
            del content[keyword]
        else:
            setattr(content, keyword, value)
    return content


def as_file(content: pydicom.Dataset, syntax: str = EXPLICIT) -> bytes:
    """The file of a film under a transfer syntax, which need not be its own."""
    content["PixelData"].VR = "OW" if syntax == EXPLICIT else "OB"
    content["PixelData"].is_undefined_length = syntax.startswith(f"{SYNTAX}.4") or syntax == RLE
    content.file_meta.TransferSyntaxUID = UID(syntax)
    content.file_meta.MediaStorageSOPClassUID = content.get("SOPClassUID", f"{CLASS}.1")
    content.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    pydicom.dcmwrite(
        buffer, content, implicit_vr=False, little_endian=True, enforce_file_format=True
    )
    return buffer.getvalue()


def pieces(rng: np.random.Generator, **tags: Any) -> tuple[bytes, bytes]:
    """A good file before and from its pixel data."""
    content = as_file(film(rng, **tags))
    at = content.index(b"\xe0\x7f\x10\x00")
    return content[:at], content[at:]


def streams(rng: np.random.Generator) -> dict[str, bytes]:
    """A compressed picture of 64×64 pixels for some transfer syntaxes."""
    import jpeg_ls
    from PIL import Image

    pixels = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    jpeg, jpeg_2000 = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG")
    Image.fromarray(pixels).save(jpeg_2000, "JPEG2000", no_jp2=True)
    return {
        f"{SYNTAX}.4.50": jpeg.getvalue(),
        f"{SYNTAX}.4.80": bytes(jpeg_ls.encode_array(pixels)),
        f"{SYNTAX}.4.90": jpeg_2000.getvalue(),
    }


def compressed(rng: np.random.Generator, stream: bytes, syntax: str, **tags: Any) -> bytes:
    """The file of a film whose pixels are one compressed stream."""
    narrow = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    return as_file(film(rng, **(narrow | tags), PixelData=encapsulate([stream])), syntax)


def wrong_kinds(rng: np.random.Generator) -> Cases:
    """Files that are whole, and no radiograph."""
    for end in ("2", "4", "6.1", "1.2", "1.3", "20", "128", "88.11", "104.1", "11.1", "481.1"):
        yield f"class {end}", as_file(film(rng, SOPClassUID=f"{CLASS}.{end}"))
    yield "class directory", as_file(film(rng, SOPClassUID="1.2.840.10008.1.3.10"))
    yield "class unknown", as_file(film(rng, SOPClassUID="1.2.3.4.5"))
    for modality in ("MG", "CT", "MR", "US", "SR", "DOC"):
        yield f"modality {modality}", as_file(film(rng, Modality=modality))
    for frames in (2, 300, 2**31 - 1):
        yield f"{frames} frames", as_file(film(rng, NumberOfFrames=frames))
    for photometric in ("RGB", "YBR_FULL", "PALETTE COLOR"):
        yield photometric, as_file(film(rng, PhotometricInterpretation=photometric))


def wrong_sizes(rng: np.random.Generator) -> Cases:
    """Claims that no detector makes, and pixels that are not there."""
    for rows, cols in ((65535, 65535), (65535, 1024), (9000, 9000), (0, 64), (64, 0), (65, 64)):
        yield f"{rows}×{cols}", as_file(film(rng, Rows=rows, Columns=cols))
    for bits in (0, 1, 7, 12, 24, 32, 64, 65535):
        yield f"{bits} bits allocated", as_file(film(rng, BitsAllocated=bits))
    for stored, high in ((0, 0), (17, 16), (200, 199), (12, 16), (12, 3)):
        yield f"{stored} bits up to {high}", as_file(film(rng, BitsStored=stored, HighBit=high))
    for keyword in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"):
        yield f"no {keyword}", as_file(film(rng, **{keyword: None}))
    for n in (0, 2, 100, 4096, 8190):
        yield f"{n} bytes of pixels", as_file(film(rng, PixelData=bytes(n)))
    yield "all padding", as_file(film(rng, PixelPaddingValue=0, PixelPaddingRangeLimit=4095))


def wrong_values(rng: np.random.Generator) -> Cases:
    """Tables and slopes that make no picture."""
    for slope in ("0", "-0.0", "1e300", "nan", "inf", "1e-300", "abc"):
        yield (
            f"slope {slope}",
            as_file(film(rng, RescaleSlope="99999")).replace(b"99999 ", slope.ljust(6).encode()),
        )
    for sequence in ("ModalityLUTSequence", "VOILUTSequence"):
        for entries, bits, data in (
            (0, 16, bytes(4)),
            (65535, 16, bytes(range(256))),
            (4096, 0, bytes(8192)),
            (4096, 99, bytes(8192)),
            (4096, 16, bytes(8192)),
            (9, 8, b""),
        ):
            item = pydicom.Dataset()
            item.add_new("LUTDescriptor", "US", [entries, 0, bits])
            item.add_new("LUTData", "OW", data)
            yield (
                f"{sequence} of {entries} entries, {bits} bits, {len(data)} bytes",
                as_file(film(rng, **{sequence: [item]})),
            )


def wrong_syntaxes(rng: np.random.Generator) -> Cases:
    """Pixels in another transfer syntax than the file says, and syntaxes without decoder."""
    for syntax in (RLE, *COMPRESSED):
        plain = film(rng)
        plain.PixelData = encapsulate([plain.PixelData])
        yield f"plain pixels as {syntax}", as_file(plain, syntax)
    good = streams(rng)
    jpegs = [f"{SYNTAX}.4.50", f"{SYNTAX}.4.80"]  # one decoder may well read both
    for own, stream in good.items():
        for syntax in (*good, EXPLICIT):
            if syntax != own and not (own in jpegs and syntax in jpegs):
                yield f"{own} as {syntax}", compressed(rng, stream, syntax)
    for syntax in (f"{SYNTAX}.4.100", f"{SYNTAX}.4.102", "1.2.3.4"):
        yield f"syntax {syntax}", compressed(rng, b"\0\0", syntax)


def broken_streams(rng: np.random.Generator) -> Cases:
    """Compressed pictures that break off, are absent, or claim another size than the header."""
    for syntax, stream in streams(rng).items():
        for share in rng.uniform(0.05, 0.95, 4):
            cut = stream[: int(share * len(stream))]
            yield f"{syntax} cut at {share:.0%}", compressed(rng, cut, syntax)
        yield f"{syntax} empty", compressed(rng, b"\0\0", syntax)
        for rows, cols in ((4000, 4000), (64, 63)):
            yield (
                f"{syntax} of {rows}×{cols}",
                compressed(rng, stream, syntax, Rows=rows, Columns=cols),
            )


def broken_files(rng: np.random.Generator) -> Cases:
    """Files cut short, lengths that lie, garbage."""
    header, pixels = pieces(rng)
    whole = header + pixels
    for share in rng.uniform(0.1, 1, 8):
        yield f"header cut at {share:.0%}", header[: 132 + int(share * (len(header) - 132))]
    for share in rng.uniform(0.05, 0.95, 6):
        yield f"pixels cut at {share:.0%}", header + pixels[: int(share * len(pixels))]
    for length in (0xFFFFFFFE, 0x7FFFFFFF, 10**8):
        yield f"pixels of {length} bytes", header + pixels[:8] + struct.pack("<I", length)
    yield "pixels of no length", header + pixels[:8] + b"\xff" * 4 + pixels[12:]
    for n in (0, 1, 4, 12, 1000, 10**6):
        yield f"{n} bytes of garbage", bytes(128) + b"DICM" + rng.bytes(n)
    yield "all header zero", whole[:132] + bytes(len(whole) - 132)


def exhausting(rng: np.random.Generator) -> Cases:
    """Small files that would grow: nested, of many elements, deflated."""
    header, pixels = pieces(rng)
    endless = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    for depth in (300, 5000, 50_000):
        yield f"{depth} sequences deep", header + endless * depth + pixels
    element = b"\x09\x00\x01\x10LO\0\0"
    yield "a million elements", header + element * 10**6 + pixels
    item = b"\xfe\xff\x00\xe0\0\0\0\0"
    yield "a million items", header + endless[:12] + item * 10**6 + pixels
    meta = as_file(film(rng), DEFLATED)
    end = 144 + struct.unpack_from("<I", meta, 140)[0]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = b"".join(deflate.compress(bytes(2**24)) for _ in range(20)) + deflate.flush()
    yield "320 MiB deflated", meta[:end] + zeros
    yield "deflated garbage", meta[:end] + rng.bytes(2000)


KINDS: tuple[Callable[[np.random.Generator], Cases], ...] = (
    wrong_kinds,
    wrong_sizes,
    wrong_values,
    wrong_syntaxes,
    broken_streams,
    broken_files,
    exhausting,
)


def cases(rng: np.random.Generator) -> Cases:
    """Every file as a name, unique and fit for people, and its bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom speaks of what is wrong on purpose
        for kind in KINDS:
            for name, content in kind(rng):
                yield f"{kind.__name__}: {name}", content
