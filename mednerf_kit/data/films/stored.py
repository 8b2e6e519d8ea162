"""What every reader of radiograph files answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

#: What the grey values of a radiograph mean.
GreyKind = Literal["line-integral", "transmission", "display"]


@dataclass(frozen=True, kw_only=True)
class StoredFilm:
    """A radiograph as its file means it.

    Every table of the file is applied, orientation tags too: rows run from the top, columns from
    the left, pixels are square. Polarity is not turned: ``bone_dark`` says what the file says.
    """

    pixels: np.ndarray  # [H, W] uint8, uint16 or float32
    full_scale: float  # the value of a pixel at the end of its range; 1 for floats
    bits: int  # a pixel, as stored
    kind: GreyKind | None = None  # None: the file does not say
    bone_dark: bool | None = None  # None: the file does not say
    exposed: np.ndarray | None = None  # [H, W] bool, False under padding, shutter and collimator
    spacing_mm: float | None = None  # between pixels on the detector
    view: str | None = None  # one of radiograph.VIEWS
    angle_deg: float | None = None  # the view angle, where the file gives one that has no name
    other_view: bool = False  # the file names a view that has neither a name nor an angle here
    mirrored: bool = False  # patient's left and right changed places against ``view``
    body_part: str | None = None  # "chest", "knee", or another in lower case
    source_detector_mm: float | None = None
    source_patient_mm: float | None = None
    notes: tuple[str, ...] = ()  # what was taken from where, and what was assumed: a sentence each


def bone_bright(film: StoredFilm) -> np.ndarray:
    """The pixels of a film in their own type, turned over where the file says that bone is dark."""
    pixels = film.pixels
    return (film.full_scale - pixels).astype(pixels.dtype) if film.bone_dark else pixels
