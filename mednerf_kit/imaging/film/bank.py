"""A bank of films by name: the tone curves, scatter, noise and letters that films come with."""

from __future__ import annotations

from dataclasses import replace

from ...core.errors import unknown_name
from .beam import Beam
from .curves import (
    Equalised,
    Gamma,
    Gsdf,
    LightBox,
    Sigmoid,
    ToeShoulder,
    Transmission,
    Window,
)
from .exposure import FilmOptions

_SCATTER = FilmOptions(scatter_ratio=0.5)
_BEAM = replace(_SCATTER, beam=Beam(tube_kv=120), photons=2e5)

#: Films by name. The first is a picture of line integrals.
FILMS: dict[str, FilmOptions] = {
    "linear": FilmOptions(),
    "gamma_0.6": FilmOptions(curve=Gamma(gamma=0.6)),
    "gamma_0.8": FilmOptions(curve=Gamma(gamma=0.8)),
    "gamma_1.6": FilmOptions(curve=Gamma(gamma=1.6)),
    "gamma_2.2": FilmOptions(curve=Gamma(gamma=2.2)),
    "sigmoid": FilmOptions(curve=Sigmoid()),
    "sigmoid_steep": FilmOptions(curve=Sigmoid(slope=10.0, centre=0.35)),
    "toe_shoulder": FilmOptions(curve=ToeShoulder()),
    "window": FilmOptions(curve=Window()),
    "transmission": FilmOptions(curve=Transmission()),
    "light_box": FilmOptions(curve=LightBox()),
    "gsdf": FilmOptions(curve=Gsdf()),
    "equalised": FilmOptions(curve=Equalised()),
    "local_contrast": FilmOptions(local_contrast=0.5),
    "scatter": _SCATTER,
    "scatter_sigmoid": replace(_SCATTER, curve=Sigmoid()),
    "scatter_gamma_0.6": replace(_SCATTER, curve=Gamma(gamma=0.6)),
    "chest_120_kv": replace(_BEAM, curve=ToeShoulder()),
    "bedside_70_kv": replace(
        _BEAM,
        beam=Beam(tube_kv=70),
        scatter_ratio=1.0,
        curve=Sigmoid(),
        marker="L",
        caption="SUPINE 12:30",
    ),
    "letters": FilmOptions(curve=Gamma(gamma=0.8), marker="L", caption="ROOM 2  PA ERECT"),
    "collimated": replace(
        _SCATTER, curve=Sigmoid(), blades=(0.06, 0.05, 0.06, 0.04), shutter=True, marker="L"
    ),
    "pacemaker": replace(_BEAM, curve=ToeShoulder(), implant="pacemaker", marker="L"),
}


def film_options(name: str) -> FilmOptions:
    """The film of this name; a UserError offers the nearest known one.

    >>> film_options("sigmoid").curve
    Sigmoid(slope=7.0, centre=0.4)
    """
    if name not in FILMS:
        raise unknown_name("film", name, FILMS)
    return FILMS[name]
