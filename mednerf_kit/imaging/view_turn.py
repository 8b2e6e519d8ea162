"""How a picture of one set-up lies in another that puts its source in the same place."""

from __future__ import annotations

import dataclasses
import math

import torch

from .geometry import Geometry


def turn_between(
    found: Geometry, wanted: Geometry, angle_deg: float
) -> tuple[int, bool, float] | None:
    """How a picture taken with one geometry is turned to lie as another has its view at an angle.

    Answers with quarter turns clockwise, whether left and right change places after them, and the
    angle of ``found`` at which the source stands where ``wanted`` has it at ``angle_deg``. None
    where no angle of ``found`` puts it there (to 1°), or where more than quarter turns differ.

    >>> from mednerf_kit.imaging.geometry import DEFAULTS
    >>> chest = DEFAULTS["chest"]
    >>> turn_between(dataclasses.replace(chest, columns_flipped=False), chest, 270)
    (0, True, 270.0)
    >>> turn_between(dataclasses.replace(chest, axis="x"), chest, 270)
    (1, False, 0.0)
    >>> turn_between(dataclasses.replace(chest, axis="x"), chest, 0) is None
    True
    """
    close = math.cos(math.radians(1.0))
    source, _, right, up = wanted.frames(torch.tensor(float(angle_deg)))
    towards = source / source.norm()
    flat = dataclasses.replace(found, tilt_deg=0.0)
    starts = [flat.frames(torch.tensor(a))[0] for a in (0.0, 90.0)]
    along, across = (float(towards @ start) for start in starts)
    angle = round(math.degrees(math.atan2(across, along)) % 360, 3) % 360
    source, _, their_right, their_up = found.frames(torch.tensor(angle))
    if float(towards @ source) < close * found.source_to_isocentre_mm:
        return None
    for quarters in range(4):
        for mirrored in (False, True):
            turned = -their_right if mirrored else their_right
            if min(float(turned @ right), float(their_up @ up)) > close:
                return quarters, mirrored, angle
        # clockwise, what was up comes to lie on the right
        their_right, their_up = their_up, -their_right
    return None
