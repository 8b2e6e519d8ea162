"""What looks wrong with a set of DRRs by its pictures and angles alone, a sentence each.

What only a reconstruction can tell is in ``recon/set_checks.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..imaging.geometry import Geometry, angle_difference_deg
from .grey import air_is_bright
from .orbits import OrbitSet

#: Patients that stand for a set, and the largest side of the pictures that are looked at.
PATIENTS, SIDE = 4, 96
#: Brightest pixel of a set below which its range is hardly used.
DARK = 0.1
#: Share of white pixels from which the scale is said to cut a set.
CUT = 0.002
#: Line integral, as a share of the densest ray, that is no air at the detector's edge …
EDGE = 0.1
#: … on this share of the edge, in this share of the views.
EDGE_ROWS, EDGE_VIEWS = 0.25, 0.25
#: Half-widths in mm at the isocentre between which a field of view is a body's.
FIELD_MM = (15.0, 600.0)


def picture_warnings(orbits: OrbitSet) -> list[str]:
    """What looks wrong with the pictures and the angles of a set."""
    some = orbits.subset(orbits.patients[:PATIENTS])
    images = some.images.float()
    found = angle_faults(orbits.geometry) + _doubled(images, some.patients)
    for check in (polarity_fault, range_fault, cut_fault, field_fault):
        found += _of_patients(check, images, some)
    low, high = FIELD_MM
    if not low <= orbits.geometry.half_width_mm <= high:
        found.append(
            f"the detector sees ±{orbits.geometry.half_width_mm:.3g} mm at the isocentre, which is "
            "no body's size: are the lengths of geometry.json in mm?"
        )
    return found


def angle_faults(geometry: Geometry) -> list[str]:
    """Angles that are there twice, and gaps that a missing view leaves.

    >>> distances = {"source_to_isocentre_mm": 1000, "source_to_detector_mm": 1500}
    >>> geometry = Geometry(**distances, rows=4, cols=4, pixel_mm=1).orbit(12)
    >>> angle_faults(geometry)
    []
    >>> angle_faults(geometry.at([a for a in geometry.angles_deg if a != 60]))
    ['a view seems to be missing between 30° and 90°: elsewhere they are 30° apart']
    """
    if geometry.view_frames or geometry.views < 3:
        return []
    turns = [abs(angle_difference_deg(a, geometry.angles_deg[0])) for a in geometry.angles_deg]
    if len(turns) > 3 and max(turns) <= 2 * math.pi + 0.01:
        return [f"the views lie within {max(turns):.3g}°: are their angles radians?"]
    angles = np.sort(np.round(np.array(geometry.angles_deg) % 360, 6))
    gaps = np.diff(np.append(angles, angles[0] + 360))
    found = []
    twice = np.unique(angles[np.isclose(gaps, 0)])
    if len(twice):
        found.append(f"{len(twice)} angles are there twice (the first is {twice[0]:g}°)")
    step = float(np.median(gaps))
    even = np.isclose(gaps, step, rtol=0.02).mean() > 0.75
    for k in np.flatnonzero((gaps > 1.5 * step) & (gaps < 3.5 * step)) if even else ():
        end = (angles[k] + gaps[k]) % 360
        found.append(
            f"a view seems to be missing between {angles[k]:g}° and {end:g}°: elsewhere they are "
            f"{step:g}° apart"
        )
    return found


def polarity_fault(views: Tensor, geometry: Geometry) -> str | None:
    """Whether air is bright in views [V, rows, cols]."""
    if not air_is_bright(_small(views)):
        return None
    return (
        "air is bright: these are transmission values or a film, and not line integrals; say "
        "--input-kind transmission, or --invert where only black and white are exchanged"
    )


def range_fault(views: Tensor, geometry: Geometry) -> str | None:
    """Whether views [V, rows, cols] use next to nothing of their range."""
    top = float(views.max())
    if top >= DARK:
        return None
    if top <= 0:
        return "the pictures are black"
    return (
        f"the pictures use {_percent(top)} of their range: PSNR and SSIM of such pictures say "
        "nothing (8- or 12-bit values in a 16-bit file look like this); write them again over the "
        "full range"
    )


def cut_fault(views: Tensor, geometry: Geometry) -> str | None:
    """Whether views [V, rows, cols] are cut at white, inside a patient."""
    if polarity_fault(views, geometry):
        return None
    white = float((views >= 1 - 1e-3).float().mean())
    if white < CUT:
        return None
    return (
        f"{_percent(white)} of the pixels are white: the scale cuts what is denser; make the set "
        "with a larger one"
    )


def field_fault(views: Tensor, geometry: Geometry) -> str | None:
    """Whether the patient reaches past the left or right edge of the detector.

    Views [V, rows, cols] of an orbit about the axis that their columns run across.
    """
    if polarity_fault(views, geometry):
        return None
    bright = views >= EDGE * views.max().clamp_min(1e-6)
    over = torch.maximum(bright[..., 0].float().mean(1), bright[..., -1].float().mean(1))
    count = int((over > EDGE_ROWS).sum())
    if count <= EDGE_VIEWS * len(views):
        return None
    return (
        f"the detector's edge cuts the patient at the side in {count} of {len(views)} views: "
        "densities near the edge of the field of view are not to be trusted"
    )


def _doubled(images: Tensor, patients: tuple[str, ...]) -> list[str]:
    """Views of a patient that are the same picture."""
    found = []
    for name, views in zip(patients, images, strict=True):
        flat = views.flatten(1)
        first: dict[bytes, int] = {}
        pairs = []
        for k, view in enumerate(flat.half().numpy()):
            if view.any():
                pairs += [(first[key], k)] if (key := view.tobytes()) in first else []
                first.setdefault(key, k)
        if pairs:
            found.append(
                f"{len(pairs)} views of '{name}' are the same picture as another (views "
                f"{pairs[0][0]} and {pairs[0][1]})"
            )
    return found[:1]


def _of_patients(
    check: Callable[[Tensor, Geometry], str | None], images: Tensor, orbits: OrbitSet
) -> list[str]:
    """What a check says of the first patient it finds fault with, who is named in a larger set."""
    for name, views in zip(orbits.patients, images, strict=True):
        fault = check(views, orbits.geometry)
        if fault is not None:
            return [fault if len(orbits.patients) == 1 else f"'{name}': {fault}"]
    return []


def _small(views: Tensor) -> np.ndarray:
    """Views thinned to a side of at most SIDE pixels."""
    step = max(1, -(-max(views.shape[1:]) // SIDE))
    return views[:, ::step, ::step].numpy()


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
