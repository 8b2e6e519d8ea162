"""DICOM files opened within bounds: small ones that would grow end in an error."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

#: Every element costs a read or two; a slice has a few hundred, a frame of many fewer.
MOST_READS, BYTES_A_READ = 50_000, 100
DEFLATED = b"1.2.840.10008.1.2.1.99"
#: Bytes of a deflated file once inflated, and how many times its own size more.
MOST_INFLATED, INFLATED = 64 * 2**20, 4


class BoundedReader(io.BufferedReader):
    """A file that gives out after more reads than a scan of its size needs."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.left = MOST_READS + path.stat().st_size // BYTES_A_READ

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ValueError("more elements than a scan has")
        return super().read(size)


def opened(path: Path) -> BoundedReader:
    """A DICOM file to be read within bounds; raises ValueError for one that inflates beyond."""
    file = BoundedReader(path)
    start = file.peek(1024)[:1024]
    if DEFLATED in start:
        end_of_meta = 144 + struct.unpack_from("<I", start, 140)[0]
        file.seek(end_of_meta)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data = file.read()
        inflater.decompress(data, MOST_INFLATED + INFLATED * len(data))
        if inflater.unconsumed_tail:
            raise ValueError("it inflates beyond what a scan needs")
    file.seek(0)
    return file
