"""The polychromatic beam: what is transmitted by water, bone and metal, energy by energy.

Behind an object of thicknesses t_m [..., H, W] in mm the detector sees

    T = Σ_E w_E exp(−Σ_m mu_m(E) t_m),    Σ_E w_E = 1,

with w the spectrum of the tube behind 2.5 mm of aluminium, by photons or by energy. Soft photons
are lost first, so that −ln T grows less than linearly with thickness (beam hardening).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ...core.errors import UserError, unknown_name
from .beam_table import ROWS

TUBE_KV = (70, 100, 120)
Detector = Literal["energy", "photons"]
#: mu in 1/mm at 60 keV, where water has the attenuation that HU are relative to here: what turns
#: line integrals into thicknesses, and what a beam of one energy sees.
MU_60_KEV_PER_MM = {"water": 0.0205, "bone": 0.0604, "titanium": 0.348, "iron": 0.949}


@dataclass(frozen=True, kw_only=True)
class Beam:
    """The beam of an X-ray tube behind 2.5 mm of aluminium, and what the detector weighs.

    Options:
        tube_kv: tube voltage: 70, 100 or 120.
        detector: ``energy`` weighs a photon by its energy, as scintillators do; ``photons`` counts.
    """

    tube_kv: int = 100
    detector: Detector = "energy"

    def __post_init__(self) -> None:
        if self.tube_kv not in TUBE_KV:
            raise UserError(
                f"got a tube voltage of {self.tube_kv} kV",
                f"wanted one of {', '.join(map(str, TUBE_KV))} kV",
                "choose the nearest",
            )
        if self.detector not in get_args(Detector):
            raise unknown_name("detector", self.detector, get_args(Detector))

    def transmission(self, thickness_mm: Mapping[str, Tensor]) -> Tensor:
        """T in (0, 1] behind thicknesses in mm [..., H, W] of materials, by name.

        >>> behind = Beam().transmission({"water": torch.tensor([0.0, 100.0])})
        >>> [round(float(share), 3) for share in behind]
        [1.0, 0.105]
        """
        for name in thickness_mm:
            if name not in MU_60_KEV_PER_MM:
                raise unknown_name("material", name, MU_60_KEV_PER_MM)
        like = next(iter(thickness_mm.values()))
        total = torch.zeros_like(like)
        for weight, mu in zip(self._weights(), _MU_PER_MM, strict=True):
            depth = sum(mu[_COLUMN[name]] * t for name, t in thickness_mm.items())
            total = total + weight * torch.exp(-torch.as_tensor(depth))
        return total

    def effective_mu_per_mm(self, material: str, thickness_mm: float) -> float:
        """−ln T / t of one material: the constant coefficient that attenuates as much.

        >>> beam = Beam(tube_kv=100, detector="photons")
        >>> [round(beam.effective_mu_per_mm("water", t), 3) for t in (1.0, 200.0)]
        [0.028, 0.023]
        """
        thickness = torch.tensor(thickness_mm, dtype=torch.float64)
        return float(-self.transmission({material: thickness}).log() / thickness)

    def _weights(self) -> list[float]:
        """w_E, a share for each row of the table."""
        shares = [row[1 + TUBE_KV.index(self.tube_kv)] for row in ROWS]
        if self.detector == "energy":
            shares = [share * row[0] for share, row in zip(shares, ROWS, strict=True)]
        return [share / sum(shares) for share in shares]


_MU_PER_MM = [row[1 + len(TUBE_KV) :] for row in ROWS]
_COLUMN = {name: column for column, name in enumerate(MU_60_KEV_PER_MM)}
