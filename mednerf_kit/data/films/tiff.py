"""Radiographs as TIFF: every photometric interpretation, depth, sign and byte order."""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...core.errors import UserError
from ..pictures import decode
from .checks import check_size, damaged, grey_of_colours, one_of_several, silence
from .levels import levels
from .orientation import square_pixels, upright
from .pictures import exposed_by, film_of
from .stored import StoredFilm

if TYPE_CHECKING:
    from tifffile import TiffPage

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = range(4)
UNSIGNED, SIGNED, FLOAT, VOID = range(1, 5)
# Compressions of whole bytes: none, CCITT (1 bit), LZW, Deflate (two numbers), PackBits, LZMA and
# Zstandard. Others code pictures of their own.
FAX = (2, 3, 4)
OF_BYTES = (1, *FAX, 5, 8, 32946, 32773, 34925, 50000)
JPEG = (6, 7)
MOST_SEGMENTS, MOST_PAGES = 100_000, 100
ALPHA = (1, 2)  # of ExtraSamples: multiplied into the colours or not
ASIDE = 1 | 4  # a page that is a smaller copy of another, or its transparency mask
ERRORS = (  # what a parser of tags meets in a damaged file
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Layout:
    """Where the pixels of a page lie: one strip or tile after another, row by row."""

    rows: int
    cols: int
    planes: int  # stored one after another
    samples: int  # a pixel in a plane
    bits: int  # a sample
    kind: str  # of number, as NumPy calls it: u, i or f
    block: tuple[int, int]  # rows and columns of a strip or tile
    tiled: bool

    @property
    def grid(self) -> tuple[int, int]:
        """How many blocks there are down and across."""
        return -(-self.rows // self.block[0]), -(-self.cols // self.block[1])

    @property
    def block_bytes(self) -> int:
        """Bytes a row of a block; a row ends with a whole byte."""
        return -(-self.block[1] * self.samples * self.bits // 8)


def read_tiff(path: Path) -> StoredFilm:
    """A grey TIFF as its tags mean it.

    White-is-zero is passed on as ``bone_dark``; integers of 1 to 32 bits, signed or not, floats of
    16 to 64; stripped or tiled, classic or big, with any of the compressions that keep bytes.
    Pictures that are coded as such (JPEG in TIFF, YCbCr, CMYK) are decoded by Pillow.

    Raises UserError for a damaged file, several pages, colour and complex numbers.
    """
    import tifffile

    try:
        with silence("tifffile"), tifffile.TiffFile(path) as file:
            first = itertools.islice(file.pages, MOST_PAGES)
            pages = [page for page in first if not _number(page, "NewSubfileType", 0) & ASIDE]
            if not pages:
                raise ValueError("no page holds a picture")
            if len(pages) > 1:
                raise one_of_several(path, len(pages), "TIFF")
            page = cast("TiffPage", pages[0])
            check_size(path, page.imagelength, page.imagewidth)
            if is_coded(path, page):
                return decode(path, partial(film_of, path), damaged=partial(damaged, path))
            film = film_of_page(path, page)
            orientation = int(_number(page, "Orientation", 1))
            densities = [_number(page, f"{axis}Resolution", 1.0) for axis in "XY"]
    except ERRORS as error:
        raise damaged(path, error) from None
    if all(densities):
        film = square_pixels(film, 1 / densities[0], 1 / densities[1])
    return upright(film, orientation)


def _number(page: Any, name: str, default: Any) -> Any:
    """A tag's number; a rational one as a float, 0 where it is none."""
    tag = page.tags.get(name)
    value = default if tag is None else tag.value
    if isinstance(value, tuple) and len(value) == 2 and name.endswith("Resolution"):
        return value[0] / value[1] if value[1] else 0.0
    return value[0] if isinstance(value, tuple) else value


def is_coded(path: Path, page: TiffPage) -> bool:
    """Whether a page holds a picture coded by JPEG or in colours of its own, not rows of samples.

    Raises UserError for other codes.
    """
    compression = int(page.compression)
    if compression not in (*OF_BYTES, *JPEG):
        name = getattr(page.compression, "name", str(compression))
        raise UserError(
            f"got '{path}', a TIFF compressed by {name}",
            "wanted one without compression, or with LZW, Deflate, PackBits or JPEG",
            "save it as a 16-bit PNG",
        )
    return compression in JPEG or int(page.photometric) > PALETTE


def film_of_page(path: Path, page: TiffPage) -> StoredFilm:
    """The samples of a page as a film, neither turned nor resampled."""
    photometric = int(page.photometric)
    samples, bits = stored_samples(path, page), int(_number(page, "BitsPerSample", 1))
    if photometric == PALETTE:
        colours = np.asarray(page.colormap).T
        if colours.max() <= 255:  # some writers fill the 16-bit entries with 8-bit ones
            colours = 257 * colours
        used = np.unique(samples)  # others may be the colours of what could be drawn on it
        shades = np.zeros(len(colours), colours.dtype)
        shades[used] = grey_of_colours(path, colours[used], 65535)
        known = levels(path, shades[samples[..., 0]], 16)
        known["notes"] = ("a palette of grey levels was looked up",)
    elif photometric == RGB:
        full = 1.0 if samples.dtype.kind == "f" else float(2**bits - 1)
        known = levels(path, grey_of_colours(path, samples[..., :3], full), bits)
        known["notes"] += ("three equal colour channels were read as grey",)
    else:
        known = levels(path, samples[..., 0], bits)
    exposed, alpha = None, samples[..., 3 if photometric == RGB else 1 :]
    if alpha.shape[-1]:
        note = "a further channel whose meaning is not said was dropped"
        if _number(page, "ExtraSamples", 0) in ALPHA:
            exposed, note = exposed_by(alpha[..., 0])
        known["notes"] += (note,)
    bone_dark = True if photometric == WHITE_IS_ZERO else None
    return StoredFilm(**known, exposed=exposed, bone_dark=bone_dark)


def layout_of(path: Path, page: TiffPage) -> Layout:
    """How a page stores its samples; raises UserError for numbers of other kinds."""
    rows, cols = page.imagelength, page.imagewidth
    bits, number = int(_number(page, "BitsPerSample", 1)), int(_number(page, "SampleFormat", 1))
    block = (min(page.rowsperstrip, rows), cols)
    if page.is_tiled:
        block = page.tilelength, page.tilewidth
    is_whole = bits in (8, 16, 32, 64)
    if (
        min(block) < 1
        or number not in (UNSIGNED, SIGNED, FLOAT, VOID)
        or (not is_whole and (bits > 16 or number in (SIGNED, FLOAT)))
    ):
        raise UserError(
            f"got '{path}' with samples of {bits} bits (sample format {number})",
            "wanted integers of 1 to 16 or 32 bits, or floats of 16, 32 or 64",
            "save it as a 16-bit PNG",
        )
    planes = page.samplesperpixel if int(page.planarconfig) == 2 else 1
    samples = page.samplesperpixel // planes
    kind = {SIGNED: "i", FLOAT: "f"}.get(number, "u")
    layout = Layout(rows, cols, planes, samples, bits, kind, block, page.is_tiled)
    check_size(path, layout.grid[0] * block[0], layout.grid[1] * block[1] * planes * samples)
    return layout


def stored_samples(path: Path, page: TiffPage) -> np.ndarray:
    """The samples of a page as stored, [H, W, samples], of any depth and number type."""
    layout = layout_of(path, page)
    segments = _segments(page, layout.planes * layout.grid[0] * layout.grid[1])
    size = len(segments) // layout.planes
    planes = [
        _plane(_blocks(path, page, layout, segments[k * size : (k + 1) * size]), page, layout)
        for k in range(layout.planes)
    ]
    return planes[0] if len(planes) == 1 else np.concatenate(planes, -1)


def _plane(blocks: np.ndarray, page: TiffPage, layout: Layout) -> np.ndarray:
    """Samples [H, W, samples] from the bytes [blocks down, rows, blocks across, bytes]."""
    order, predictor = page.parent.byteorder, int(_number(page, "Predictor", 1))
    is_whole, size = layout.bits % 8 == 0, layout.bits // 8
    if not is_whole:
        values = _unpacked(blocks, layout)
    elif predictor == 3:
        values = _undifferenced_floats(blocks, layout)
    else:
        values = blocks.view(f"{order}{layout.kind}{size}")
    values = values.reshape(*values.shape[:3], -1, layout.samples)
    if predictor == 2 and is_whole:
        integers = values.view(f"{order}u{size}")
        values = np.cumsum(integers, axis=3, dtype=f"u{size}").view(f"{layout.kind}{size}")
    down, height, across, width, samples = values.shape
    values = values.reshape(down * height, across * width, samples)
    return values[: layout.rows, : layout.cols]


def _unpacked(blocks: np.ndarray, layout: Layout) -> np.ndarray:
    """Samples of 1 to 16 bits, packed with the highest bit first, as uint16 [..., n]."""
    count = layout.block[1] * layout.samples
    values = np.empty((*blocks.shape[:3], count), np.uint16)
    for packed, slot in zip(blocks, values, strict=True):
        bits = np.unpackbits(packed, axis=-1, count=count * layout.bits)
        bits = bits.reshape(*slot.shape, layout.bits)
        slot[...] = 0
        for k in range(layout.bits):
            slot <<= 1
            slot |= bits[..., k]
    return values


def _undifferenced_floats(blocks: np.ndarray, layout: Layout) -> np.ndarray:
    """Floats of predictor 3 (TIFF Technical Note 3): differences of bytes, highest bytes first."""
    size = layout.bits // 8
    count = layout.block[1] * layout.samples
    planes = blocks.reshape(*blocks.shape[:3], size * layout.block[1], layout.samples)
    summed = np.cumsum(planes, axis=3, dtype=np.uint8).reshape(*blocks.shape[:3], size, count)
    return np.ascontiguousarray(summed.swapaxes(-1, -2)).view(f">f{size}")[..., 0]


def _blocks(path: Path, page: TiffPage, layout: Layout, segments: list[bytes]) -> np.ndarray:
    """The decompressed bytes of a plane, [blocks down, rows, blocks across, bytes].

    Its strips or tiles are handed to Pillow under a header that calls every byte a grey pixel, so
    that one decoder of each compression serves every depth.
    """
    fax = int(page.compression) in FAX
    if fax and (layout.bits != 1 or layout.samples != 1 or layout.tiled):
        raise ValueError("a fax of other than one bit in strips")
    down, across = layout.grid
    tags = {
        256: layout.cols if fax else across * layout.block_bytes,
        257: down * layout.block[0] if layout.tiled else layout.rows,
        258: 1 if fax else 8,
        259: int(page.compression),
        262: BLACK_IS_ZERO,
        266: int(_number(page, "FillOrder", 1)),
        277: 1,
    }
    if fax:
        tags |= {292: int(_number(page, "T4Options", 0)), 293: int(_number(page, "T6Options", 0))}
    if layout.tiled:
        tags |= {322: layout.block_bytes, 323: layout.block[0]}
    else:
        tags[278] = layout.block[0]
    data = _written(tags, segments, layout.tiled)
    rows = decode(io.BytesIO(data), np.array, damaged=partial(damaged, path))
    if fax:
        rows = np.packbits(rows, axis=1)
    rows = np.pad(rows, ((0, down * layout.block[0] - len(rows)), (0, 0)))
    return rows.reshape(down, layout.block[0], across, layout.block_bytes)


def _segments(page: TiffPage, count: int) -> list[bytes]:
    """The strips or tiles of a page as stored."""
    offsets, sizes = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(sizes) == count <= MOST_SEGMENTS:
        raise ValueError(f"{len(offsets)} strips or tiles where there should be {count}")
    file, found = page.parent.filehandle, []
    for offset, size in zip(offsets, sizes, strict=True):
        if not 0 <= offset <= offset + size <= file.size:
            raise ValueError("a strip or tile lies beyond the end of the file")
        file.seek(offset)
        found.append(file.read(size))
    return found


def _written(tags: dict[int, int], segments: list[bytes], tiled: bool) -> bytes:
    """A little-endian TIFF of one page with these numbers as tags and these strips or tiles."""
    n = len(segments)
    offsets_tag, sizes_tag = (324, 325) if tiled else (273, 279)
    start = 8 + 2 + 12 * (len(tags) + 2) + 4  # of what the directory points to
    sizes = [len(segment) for segment in segments]
    first = start + 8 * n
    offsets = [first + sum_ for sum_ in itertools.accumulate([0, *sizes[:-1]])]
    entries = {tag: (1, value) for tag, value in tags.items()}
    entries[offsets_tag] = (n, offsets[0] if n == 1 else start)
    entries[sizes_tag] = (n, sizes[0] if n == 1 else start + 4 * n)
    directory = b"".join(
        struct.pack("<HHII", tag, 4, *entry) for tag, entry in sorted(entries.items())
    )
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + bytes(4)
    return b"".join([head, struct.pack(f"<{2 * n}I", *offsets, *sizes), *segments])
