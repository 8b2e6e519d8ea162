"""Where cameras stand: anywhere on a sphere, or on the one circle that an X-ray set-up turns on."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ...imaging.geometry import Geometry
from ...prior.cameras import CameraDistribution


def standing_places(geometry: Geometry, *, spherical: int, seed: int = 0) -> dict[str, Tensor]:
    """Positions in source distances: ``spherical`` [N, 3] at random, ``single_axis`` [V, 3].

    >>> from mednerf_kit.imaging.geometry import DEFAULTS
    >>> places = standing_places(DEFAULTS["chest"].orbit(8), spherical=5)
    >>> [round(float(p.norm(dim=-1).mean()), 4) for p in places.values()]
    [1.0, 1.0]
    >>> float(places["single_axis"][:, 2].abs().max())
    0.0
    """
    everywhere = CameraDistribution(elevation_deg=(-90.0, 90.0))
    drawn = everywhere.draw(spherical, Generator().manual_seed(seed))
    middle = torch.tensor([[(geometry.rows - 1) / 2, (geometry.cols - 1) / 2]])
    sphere = everywhere.rays(geometry, drawn, middle.expand(spherical, 1, 2), 1.0).origin[:, 0]
    circle = geometry.frames(torch.tensor(geometry.angles_deg))[0]
    return {
        "spherical": sphere / geometry.distance,
        "single_axis": circle / geometry.source_to_isocentre_mm,
    }
