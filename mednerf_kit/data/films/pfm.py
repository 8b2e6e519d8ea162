"""The portable float map: what plastimatch and renderers write."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .checks import check_size, damaged, grey_of_colours
from .levels import levels
from .stored import StoredFilm

HEADER_BYTES = 200


def read_pfm(path: Path) -> StoredFilm:
    """A portable float map, grey (``Pf``) or of three equal channels (``PF``).

    Its rows run from the bottom to the top, and the sign of its scale says the byte order: negative
    is little-endian (Paul Debevec's format).

    Raises UserError for a damaged file.
    """
    data = path.read_bytes()
    try:
        magic, cols, rows, scale = data[:HEADER_BYTES].split(None, 4)[:4]
        # one white space byte ends the header
        start = data.index(scale, data.index(rows, data.index(cols, 2) + len(cols)) + len(rows))
        start += len(scale) + 1
        shape = int(rows), int(cols), 3 if magic == b"PF" else 1
        order = "<" if float(scale) < 0 else ">"
        check_size(path, *shape[:2])
        count = shape[0] * shape[1] * shape[2]
        values = np.frombuffer(data, order + "f4", count, offset=start).reshape(shape)[::-1]
    except (ValueError, OverflowError) as error:
        raise damaged(path, error) from None
    grey = values[..., 0] if shape[2] == 1 else grey_of_colours(path, values, float(values.max()))
    return StoredFilm(**levels(path, grey, 32))
