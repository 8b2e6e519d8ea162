#!/usr/bin/env python3
"""Writes the spectra and attenuation coefficients of mednerf_kit/imaging/film/beam_table.py.

    python scripts/make_beam_table.py

Needs spekpy 2.5.4 (`pip install spekpy==2.5.4`), which computes the spectra and brings the mass
attenuation coefficients of NIST (Hubbell and Seltzer) with it. The package itself does not need it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

TABLE = Path(__file__).resolve().parent.parent / "mednerf_kit/imaging/film/beam_table.py"
TUBE_KV = (70, 100, 120)
FILTER_MM = 2.5
ANODE_DEG = 12.0
STEP_KEV, BIN_KEV = 0.5, 5.0
LOWEST_KEV = 15.0  # below it 2.5 mm of aluminium leave one photon in a million
MATERIALS = {
    "water": "Water, Liquid",
    "bone": "Bone, Cortical (ICRU)",
    "titanium": "Ti",
    "iron": "Fe",
}
HEADER = """\"\"\"Spectra behind {filter_mm} mm of aluminium, and attenuation coefficients.

Written by scripts/make_beam_table.py. The spectra are those of spekpy {version} (tungsten, anode at
{anode:g}°), the coefficients NIST's (Hubbell and Seltzer) for liquid water, cortical bone (ICRU,
1.92 g/cm³), titanium and iron. A row is a bin of {bin_kev:g} keV: energy and coefficients are
means over its photons, of the spectrum at the highest voltage.
\"\"\"

#: Mean energy in keV; share of the photons at {tubes} kV; attenuation in 1/mm of
#: {materials}.
ROWS = (
"""


def spectra() -> tuple[np.ndarray, dict[int, np.ndarray], str]:
    """Energies in keV [N], photons per energy by tube voltage [N], spekpy's version."""
    import spekpy

    found = {}
    energy_kev = np.arange(LOWEST_KEV, max(TUBE_KV), STEP_KEV) + STEP_KEV / 2
    for kv in TUBE_KV:
        tube = spekpy.Spek(kvp=kv, th=ANODE_DEG, dk=STEP_KEV, mu_data_source="nist")
        tube.filter("Al", FILTER_MM)
        energies, photons = tube.get_spectrum()
        found[kv] = np.interp(energy_kev, energies, photons, right=0.0)
    return energy_kev, found, spekpy.__version__


def coefficients(energy_kev: np.ndarray) -> dict[str, np.ndarray]:
    """Attenuation coefficients in 1/mm by material, [N]."""
    from spekpy.DataTables import MuData

    table = MuData("nist_mu.dat")
    return {
        name: table.get_mu_composition(known_as, energy_kev) / 10
        for name, known_as in MATERIALS.items()
    }


def table() -> str:
    """The module's source."""
    energy_kev, photons, version = spectra()
    mu_per_mm = coefficients(energy_kev)
    weight = photons[max(TUBE_KV)]
    columns = [energy_kev, *mu_per_mm.values()]
    lines = []
    for start in range(0, len(energy_kev), round(BIN_KEV / STEP_KEV)):
        part = slice(start, start + round(BIN_KEV / STEP_KEV))
        shares = [photons[kv][part].sum() / photons[kv].sum() for kv in TUBE_KV]
        energy, *mu = (np.average(column[part], weights=weight[part]) for column in columns)
        numbers = [f"{energy:.2f}", *(f"{v:.5f}" for v in shares), *(f"{v:.5f}" for v in mu)]
        lines.append(f"    ({', '.join(numbers)}),\n")
    header = HEADER.format(
        filter_mm=FILTER_MM,
        version=version,
        anode=ANODE_DEG,
        bin_kev=BIN_KEV,
        tubes=", ".join(map(str, TUBE_KV)),
        materials=", ".join(MATERIALS),
    )
    return header + "".join(lines) + ")\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    print(TABLE)
