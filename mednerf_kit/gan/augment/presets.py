"""Augmentations by name: sets of transforms whose every option a recipe can change."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import replace

from ...core.config import Registry
from .parameters import Augment

AUGMENTATIONS: Registry[Augment] = Registry("augment")


def preset(about: str, **changed: float) -> Callable[..., Augment]:
    """:class:`Augment` with other defaults; every option stays open to a recipe."""

    def build(**options: float) -> Augment:
        return replace(Augment(**changed), **options)

    described = str(Augment.__doc__)
    build.__doc__ = f"{about}\n\n{described[described.index('    Options:') :]}"
    build.__annotations__ = typing.get_type_hints(Augment.__init__)
    signature = inspect.signature(functools.partial(Augment, **changed))
    build.__signature__ = signature  # type: ignore[attr-defined]
    return build


BLIT = {"xflip": 1.0, "rotate90": 1.0, "xint": 1.0}
GEOMETRY = {"scale": 1.0, "rotate": 1.0, "aniso": 1.0, "xfrac": 1.0}
COLOR = {"brightness": 1.0, "contrast": 1.0, "lumaflip": 1.0, "hue": 1.0, "saturation": 1.0}
CORRUPTION = {"filter": 1.0, "noise": 1.0, "cutout": 1.0}

AUGMENTATIONS.register("none")(preset("Nothing, until an option asks for it."))
AUGMENTATIONS.register("blit")(preset("Flips, quarter turns and whole-pixel shifts (ADA).", **BLIT))
AUGMENTATIONS.register("geom")(
    preset("Scale, rotation, stretch and fractional shifts (ADA).", **GEOMETRY)
)
AUGMENTATIONS.register("bgc")(
    preset("Blit, geometry and colour (ADA's default).", **BLIT, **GEOMETRY, **COLOR)
)
AUGMENTATIONS.register("bgcfnc")(
    preset(
        "Blit, geometry, colour, filter, noise and cutout (ADA's full set).",
        **BLIT,
        **GEOMETRY,
        **COLOR,
        **CORRUPTION,
    )
)
AUGMENTATIONS.register("crop")(
    preset("Mirroring and enlarged windows (HyperNeRFGAN's pipe).", xflip=1.0, crop=1.0)
)
AUGMENTATIONS.register("xray")(
    preset(
        "What leaves anatomy its side and its sign: mild shifts, scale, turns, exposure, filter, "
        "noise, cutout.",
        xint=1.0,
        scale=1.0,
        rotate=1.0,
        xfrac=1.0,
        brightness=1.0,
        contrast=1.0,
        **CORRUPTION,
        scale_octaves=0.1,
        rotate_max_deg=10.0,
        xfrac_share=0.03,
        brightness_std=0.03,
        contrast_octaves=0.25,
        contrast_pivot=0.0,
        filter_octaves=0.5,
        noise_std=0.03,
        cutout_share=0.35,
    )
)
