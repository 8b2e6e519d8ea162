"""How the pictures of a scene are read: what every format's ``load`` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What becomes of masked pixels: neither supervised nor scored, empty space, or as they are.
Masks = Literal["ignore", "background", "off"]
#: What makes pictures of linear light visible: sRGB's curve, or nothing.
ToneMap = Literal["srgb", "none"]


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Options:
        downscale: divides their sides (area filter).
        background: level of what transparent pixels stand on; None is the format's default.
        views: keeps that many of the training views.
        masks: what becomes of masked pixels; None is ``ignore`` for mask files and ``background``
            for transparency.
        tone_map: of linear pictures; None is ``srgb`` for OpenEXR and ``none`` for float TIFF.
    """

    downscale: int = 1
    background: float | None = None
    views: int | None = None
    masks: Masks | None = None
    tone_map: ToneMap | None = None
