"""The elements of a DICOM file, asked for one by one, by keyword.

:class:`Header` hands out numbers, and words that the caller compares with the standard's terms; no
text of a file is printed.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pydicom


def is_dicom_element(start: bytes) -> bool:
    """Whether a file begins as DICOM without a preamble does, with an element of group 2 or 8.

    >>> is_dicom_element(bytes.fromhex("0800 0500 4353 0a00")), is_dicom_element(b"text")
    (True, False)
    """
    return start[:2] in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08") and len(start) >= 8


class Header:
    """The elements of one data set by keyword; what is missing or unreadable is absent.

    Numbers of the repeating groups, which have no keyword, are asked for by tag.

    >>> import pydicom
    >>> tags = pydicom.Dataset()
    >>> tags.ViewPosition, tags.ImagerPixelSpacing = "pa", [0.2, 0.1]
    >>> header = Header(tags)
    >>> header.word("ViewPosition"), header.numbers("ImagerPixelSpacing"), header.number("Rows")
    ('PA', [0.2, 0.1], None)
    """

    def __init__(self, tags: pydicom.Dataset) -> None:
        self._tags = tags

    def _values(self, keyword: str | int) -> list:
        try:
            value = self._tags[keyword].value
        except Exception:  # absent, or whatever pydicom stumbles over in a damaged element
            return []
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            return [] if value is None else [value]
        return list(value)

    def has(self, keyword: str) -> bool:
        """Whether the file holds the element with a value, readable or not."""
        try:
            return not self._tags[keyword].is_empty
        except KeyError:
            return False
        except Exception:  # as in _values
            return True

    def words(self, keyword: str) -> list[str]:
        """Text in capitals, to be compared with the standard's terms and never to be printed."""
        return [str(value).strip().upper() for value in self._values(keyword)]

    def word(self, keyword: str) -> str:
        """The first word, "" where there is none."""
        return (self.words(keyword) or [""])[0]

    def numbers(self, keyword: str | int) -> list[float]:
        """Finite numbers; none at all where one of them is not."""
        try:
            numbers = [float(value) for value in self._values(keyword)]
        except (TypeError, ValueError, OverflowError):
            return []
        return numbers if all(map(math.isfinite, numbers)) else []

    def number(self, keyword: str | int) -> float | None:
        """The first number."""
        numbers = self.numbers(keyword)
        return numbers[0] if numbers else None

    def whole(self, keyword: str | int) -> int | None:
        """The first number, where it is whole."""
        number = self.number(keyword)
        return int(number) if number is not None and number == int(number) else None

    def items(self, keyword: str) -> list[Header]:
        """The items of a sequence."""
        import pydicom

        return [Header(v) for v in self._values(keyword) if isinstance(v, pydicom.Dataset)]

    def binary(self, keyword: str | int) -> bytes:
        """The bytes of an element, as stored."""
        value = (self._values(keyword) or [b""])[0]
        return value if isinstance(value, bytes) else b""

    def representation(self, keyword: str) -> str:
        """The value representation of an element that is there, such as "OW"."""
        return str(self._tags[keyword].VR)

    def integers(self, keyword: str | int) -> np.ndarray:
        """The 16-bit words [N] of a look-up table, however its type is called."""
        content = self.binary(keyword)
        if content:
            order = "<" if self._tags.original_encoding[1] in (True, None) else ">"
            return np.frombuffer(content[: len(content) // 2 * 2], f"{order}u2").astype(np.uint16)
        return np.array([int(number) % 65536 for number in self.numbers(keyword)], dtype=np.uint16)


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Neither warnings nor log lines of pydicom and the decoders: they quote the file's values."""
    import pydicom

    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg", "jpeg_ls")]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.disabled = True
        try:
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled
