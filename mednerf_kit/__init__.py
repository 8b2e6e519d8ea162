"""mednerf-kit: from one X-ray to a 3-D attenuation volume and every view on the orbit.

The names below are imported when they are asked for, so that ``import mednerf_kit`` costs nothing:

>>> import mednerf_kit as mk
>>> distances_mm = {"source_to_isocentre_mm": 1000, "source_to_detector_mm": 1500}
>>> geometry = mk.Geometry(**distances_mm, rows=4, cols=4, pixel_mm=9)
>>> values, spacing_mm = mk.phantom("knee", 3).voxelise(16)
>>> knee = mk.Volume.centred(values, spacing_mm, "hu").to_mu()
>>> mk.project_volume(knee.values, knee.spacing_mm, geometry.orbit(6)).shape
torch.Size([6, 4, 4])

Research use only, not for diagnosis.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
DISCLAIMER = "Research use only, not for diagnosis."

#: The public names: where each lives, and what it is called there.
PUBLIC = {
    "Geometry": "imaging.geometry:Geometry",
    "ViewFrame": "imaging.view_frames:ViewFrame",
    "Volume": "imaging.volume:Volume",
    "read_volume": "imaging.scans.read:read_volume",
    "write_volume": "imaging.volume:write_volume",
    "Projector": "imaging.projector:Projector",
    "project_volume": "imaging.projector:project_volume",
    "phantom": "imaging.phantoms:phantom",
    "load_orbits": "data.orbits:load_orbits",
    "read_radiograph": "data.radiograph:read_radiograph",
    "Prior": "prior.load:Prior",
    "load_prior": "prior.load:load_prior",
    "Inversion": "invert.posterior:Inversion",
    "predict": "invert.predict:predict",
    "project": "invert.reconstruct:project",
    "evaluate": "invert.evaluate:evaluate",
    "render": "invert.render:render",
    "sample": "invert.render:sample",
}
__all__ = ["DISCLAIMER", "__version__", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, _, attribute = PUBLIC[name].partition(":")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
