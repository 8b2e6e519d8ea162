"""Films made from line integrals: tone curves, scatter, beam, noise, and what lies on a film."""

from __future__ import annotations

from .bank import FILMS, film_options
from .beam import Beam
from .curves import CURVES, Curve
from .exposure import Film, FilmOptions, make_film
from .overlays import IMPLANTS

__all__ = [
    "CURVES",
    "FILMS",
    "IMPLANTS",
    "Beam",
    "Curve",
    "Film",
    "FilmOptions",
    "film_options",
    "make_film",
]
