"""What looks wrong with a set of DRRs: by its pictures, and by how well one volume explains them.

A coarse SART of a patient's views tells two things that no picture tells alone: whether columns
run the way the geometry says (mirroring every view and turning the other way are the same to the
views), and whether tissue has the density of tissue.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..core.resampling import area_resized
from ..data.orbits import OrbitSet
from ..data.posed.check import Report
from ..data.set_checks import picture_warnings
from ..imaging.geometry import Geometry
from ..imaging.geometry_files.base import turned_over
from .field_volume import FieldVolume, cylinder
from .sart import Reconstruction, sart

#: Columns of the pictures, voxels along a side, views at most and passes of a consistency check.
COLS, VOXELS, VIEWS, EPOCHS = 32, 24, 36, 6
#: Views below which any handedness explains the pictures.
FEWEST = 6
#: dB by which the other handedness has to explain the views better.
CLEARLY_DB = 1.5
#: Attenuation of water in 1/mm, and how far tissue's may be from it, as factors.
WATER_PER_MM, THIN, THICK = 0.0205, 0.3, 4.0
#: Densest share of a volume that is bone or metal, and share of the rest's top that is no lung.
BONE, SOFT = 0.02, 0.4


def set_warnings(orbits: OrbitSet) -> list[str]:
    """What looks wrong with a set, a sentence each."""
    found = picture_warnings(orbits)
    views = orbits.images[0].float()
    if float(views.max()) <= 0 or orbits.geometry.views < FEWEST:
        return found
    told, other = explained(views, orbits.geometry)
    gain = other.fit_db - told.fit_db
    if gain >= CLEARLY_DB:
        found.append(
            f"the views explain each other {gain:.1f} dB better mirrored ({other.fit_db:.1f} "
            f"against {told.fit_db:.1f} dB): set columns_flipped to "
            f"{str(not orbits.geometry.columns_flipped).lower()} in geometry.json, or count the "
            "angles the other way round, which is the same to the views and mirrors the patient"
        )
    best = told if gain < CLEARLY_DB else other
    return found + density_faults(best.volume, orbits.geometry)


def explained(views: Tensor, geometry: Geometry) -> tuple[Reconstruction, Reconstruction]:
    """Coarse volumes of views [V, rows, cols] as the geometry says, and with mirrored columns.

    The fit is on the pictures' own scale: their densest ray is 1. Each view has a factor of its
    own where the set has no scale.
    """
    chosen = torch.linspace(0, len(views) - 1, min(VIEWS, len(views))).round().long().unique()
    # the orbit's axis is of no account to the views
    some = replace(geometry.subset(chosen.tolist()), axis="z").resized(min(COLS, geometry.cols))
    small = area_resized(views[chosen], some.rows, some.cols)
    small = small / small.max().clamp_min(1e-9)
    by_view = geometry.line_integral_scale is None
    told, other = (
        sart(small, setup, size=VOXELS, epochs=EPOCHS, subset_views=4, fit_gains=by_view)
        for setup in (some, turned_over(some))
    )
    return _scaled(told, views), _scaled(other, views)


def _scaled(found: Reconstruction, views: Tensor) -> Reconstruction:
    """A reconstruction of pictures that were divided by their maximum, as of the pictures."""
    volume = found.volume.with_values(found.volume.values * float(views.max()))
    return replace(found, volume=volume)


def density_faults(volume: FieldVolume, geometry: Geometry) -> list[str]:
    """Whether the tissue of a coarse volume is far from water, where the set has a scale."""
    if geometry.line_integral_scale is None:
        return []
    inside = volume.per_mm[cylinder(len(volume.values))]
    dense = inside[inside <= inside.quantile(1 - BONE)]
    tissue = float(dense[dense >= SOFT * dense.max()].median())
    ratio = tissue / WATER_PER_MM
    if THIN <= ratio <= THICK:
        return []
    return [
        f"tissue is {tissue:.2g} per mm, {ratio:.2g} of water's {WATER_PER_MM}: check "
        "line_integral_scale (plastimatch writes a tenth of the line integral) and whether all "
        "lengths are in mm"
    ]


def examine_set(orbits: OrbitSet) -> Report:
    """Facts about a set, and what looks wrong with it or was assumed."""
    geometry, images = orbits.geometry, orbits.images
    scale = geometry.line_integral_scale
    angles = geometry.angles_deg
    facts = [
        f"{len(orbits.patients)} patients, {geometry.views} views of {geometry.cols}×"
        f"{geometry.rows} pixels, layout {orbits.layout}",
        "every view has a frame of its own"
        if geometry.view_frames
        else f"angles from {angles[0]:g}° to {angles[-1]:g}° about {geometry.axis}, columns "
        + (
            "mirrored, as on a radiograph"
            if geometry.columns_flipped
            else "as the source sees them"
        ),
        f"source to isocentre {geometry.source_to_isocentre_mm:g} mm, to detector "
        f"{geometry.source_to_detector_mm:g} mm; the detector sees ±{geometry.half_width_mm:.0f} "
        "mm at the isocentre",
        f"white is a line integral of {scale:g}" if scale else "the scale is unknown",
        f"grey values reach {float(images.max()):.1%} of the range",
    ]
    return Report(tuple(facts), (*orbits.notes, *set_warnings(orbits)))
