"""What the grey values of a radiograph mean, where nobody says: decided from the file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...imaging.geometry import Geometry
from .stored import GreyKind, StoredFilm

SMALLEST_FILM_PX = 48
#: Views of sets: ours, and the published ones.
VIEW_OF_A_SET = re.compile(r"(.+_)?xray_?\d+|view_-?\d+(deg)?", re.IGNORECASE)


def kind_of(film: StoredFilm, path: Path, geometry: Geometry | None) -> tuple[GreyKind, str]:
    """The input kind of a film, and the reason: what the file says, else how it looks."""
    if film.kind is not None:
        return (
            film.kind,
            "its file says so" if film.kind != "display" else "files like it hold films",
        )
    if geometry is not None and geometry.line_integral_scale is not None:
        return "line-integral", "the geometry beside it has a line_integral_scale"
    if VIEW_OF_A_SET.fullmatch(path.stem):
        return "line-integral", "it is named like a view of a set"
    return looks(film)


def looks(film: StoredFilm) -> tuple[GreyKind, str]:
    """Film or DRR by the pixels alone, and the reason."""
    if min(film.pixels.shape) < SMALLEST_FILM_PX:
        return "line-integral", "it is too small for a film"
    low = film.full_scale if film.bone_dark else 0.0
    air = float(np.mean(film.pixels == low))
    if air > 0.02:
        return "line-integral", f"{air:.0%} of it is air of exactly zero"
    return "display", "none of it is air of exactly zero"
