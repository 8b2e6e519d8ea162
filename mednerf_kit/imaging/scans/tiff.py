"""TIFF stacks: values, a page each slice; TIFF places nothing in millimetres."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .stored import UNPLACED, StoredScan, no_scan, reason, unplaced, unreadable

SUFFIXES = (".tif", ".tiff")
ERRORS = (  # what a parser of tags meets in a damaged file
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def read_tiff_stack(path: Path) -> StoredScan:
    """Read a stack of pages, or an ImageJ stack, of one number a pixel.

    Values are taken as stored, whichever end of them is shown white, but for ImageJ's calibration
    by a straight line, which is applied. Raises UserError for a damaged file, a single page, colour
    and another calibration.
    """
    import tifffile

    try:
        with _complaints("tifffile") as said, tifffile.TiffFile(path) as file:
            series = file.series[0]
            size, others = series.shape, len(file.series) - 1
            held = path.stat().st_size
            stored = sum(sum(page.databytecounts) for page in series.pages if page is not None)
            if stored > held:
                raise ValueError(f"it ends after {held} of {stored} bytes")
            values = series.asarray()
            header = file.imagej_metadata or {}
    except ERRORS as error:
        raise unreadable(path, reason(error)) from None
    if said:
        raise unreadable(path, "it breaks off")
    if others or values.ndim != 3 or values.dtype.kind not in "iuf":
        raise no_scan(path, size[::-1], 1)
    real, remarks = _calibrated(path, values, header)
    return StoredScan(
        values=real,
        dtype=values.dtype,
        affine=unplaced(values.shape),
        has_size=False,
        remarks=(UNPLACED, *remarks),
    )


def _calibrated(
    path: Path, stored: np.ndarray, header: Mapping[str, Any]
) -> tuple[np.ndarray, list[str]]:
    """Values by ImageJ's calibration, as of a DICOM series that it saved, and a remark."""
    if "cf" not in header:
        return stored.astype(np.float32), []
    try:
        kind, offset, slope = (float(header[name]) for name in ("cf", "c0", "c1"))
    except (KeyError, TypeError, ValueError):
        raise unreadable(path, "a calibration of ImageJ without its numbers") from None
    if kind != 0:
        raise unreadable(path, "a calibration of ImageJ that is no straight line")
    said = f"values were calibrated to {slope:g}·stored {offset:+g} by ImageJ's header"
    return (stored.astype(np.float64) * slope + offset).astype(np.float32), [said]


@contextmanager
def _complaints(name: str) -> Iterator[list[str]]:
    """What a library's logger calls errors, none of which reaches the terminal."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.msg)

    logger, listener = logging.getLogger(name), Listener(logging.ERROR)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(listener)
    try:
        yield said
    finally:
        logger.removeHandler(listener)
        logger.propagate = before
