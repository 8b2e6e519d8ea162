"""What :func:`~mednerf_kit.imaging.volume.write_volume` noted in a file about its values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args

from ... import DISCLAIMER
from ..voxels import Quantity

DEFAULT_MU = 0.0205  # of water per mm, where a file does not say


def label_of(said: Mapping[str, str]) -> tuple[Quantity | None, float, str]:
    """Quantity, attenuation of water and note, from key-value pairs or from a ``description``.

    >>> label_of({"description": "hu mu_water_per_mm=0.02 Estimate."})
    ('hu', 0.02, 'Estimate.')
    """
    found = re.match(r"(\w+) mu_water_per_mm=(\S+) (.*)", said.get("description", ""))
    if "quantity" in said:
        name, mu, note = (said.get(key, "") for key in ("quantity", "mu_water_per_mm", "note"))
    else:
        name, mu, note = found.groups() if found else ("", "", "")
    quantity = next((known for known in get_args(Quantity) if known == name), None)
    try:
        return quantity, float(mu or DEFAULT_MU), note or DISCLAIMER
    except ValueError:
        return quantity, DEFAULT_MU, DISCLAIMER
