"""What the grey values of a radiograph mean, where nobody says: decided from the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...imaging.geometry import Geometry
from .regions import letters, stretched
from .stored import GreyKind, StoredFilm, bone_bright

#: A DRR is a square of at most this side, unless something beside it says what it is.
LARGEST_DRR_PX = 400
#: Below this a picture shows too little to be judged; such are DRRs.
SMALLEST_FILM_PX = 48
#: A DRR has air of exactly zero at its edge, at least on this share of it.
AIR_AT_EDGE = 0.02
OWN_VIEW = re.compile(r"(xray|view)_-?\d+(deg)?")
PUBLISHED_VIEW = re.compile(r".+_xray\d{4}", re.IGNORECASE)


def kind_of(
    film: StoredFilm, path: Path, geometry: Geometry | None, *, inverted: bool = False
) -> tuple[GreyKind, str]:
    """The input kind of a film and why: what lies beside it, the file, its name, its look.

    ``inverted`` where its polarity is to be turned over before it is looked at.
    """
    if geometry is not None and film.kind in (None, "display"):
        if geometry.line_integral_scale is not None:
            return "line-integral", "the geometry beside it has a line_integral_scale"
        if OWN_VIEW.fullmatch(path.stem):
            return "line-integral", "it is a view of a set"
    if film.kind is not None:
        reason = "files like it hold films" if film.kind == "display" else "its file says so"
        return film.kind, reason
    if PUBLISHED_VIEW.fullmatch(path.stem):
        return "line-integral", "it is named like a view of a published set"
    pixels = bone_bright(film)
    return looks_like(film.full_scale - pixels if inverted else pixels)


def looks_like(pixels: np.ndarray) -> tuple[GreyKind, str]:
    """Film or DRR by the pixels [H, W] alone, bone bright, and the reason.

    A film is large, or oblong, or has letters, or no air of exactly zero at its edges.
    """
    rows, cols = pixels.shape
    if min(rows, cols) < SMALLEST_FILM_PX:
        return "line-integral", "it is too small to be judged"
    if max(rows, cols) > LARGEST_DRR_PX:
        return "display", f"it has {rows}×{cols} pixels"
    if abs(rows - cols) > 0.02 * cols:
        return "display", f"it is oblong ({rows}×{cols} pixels)"
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    if float(np.mean(edge <= 0)) < AIR_AT_EDGE:
        return "display", "no air of exactly zero lies at its edges"
    if letters(stretched(pixels), np.ones(pixels.shape, bool)).any():
        return "display", "it has letters"
    return "line-integral", "it is a small square with air of exactly zero at its edges"
