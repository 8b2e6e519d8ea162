"""Bounds on what people ask a chest for: lung volume, heart width, depth of the thorax.

Every member is measured by the same thresholds (:func:`~mednerf_kit.metrics.anatomy.
chest_measures`). Over calibration patients the distance of the true measure from the members'
mean, in members' spreads, has a conformal quantile q; for nine new patients out of ten the true
measure lies in mean ± q · spread (after Cheung et al. 2024, on samples of a reconstruction).
"""

from __future__ import annotations

from typing import Any

import torch

from ..metrics.anatomy import chest_measures
from ..recon.field_volume import FieldVolume
from .intervals import Calibration

FLOOR = 0.02  # of the mean: what all members agree on is not known better than this
UNITS = {
    "lung_volume_ml": "ml",
    "heart_width_mm": "mm",
    "thorax_width_mm": "mm",
    "cardiothoracic_ratio": "",
    "thorax_depth_mm": "mm",
}


def measured(members: FieldVolume) -> dict[str, tuple[float, float]]:
    """Mean and floored spread over members [M, D, H, W] of each measure; none without lungs, or
    without a scale.
    """
    if members.scale is None:
        return {}
    rows = [
        chest_measures(members.with_values(v).to_volume().values, members.spacing_mm)
        for v in members.values
    ]
    found = {}
    for name in UNITS:
        values = torch.tensor([row[name] for row in rows])
        if not bool(values.isnan().any()):
            centre = float(values.mean())
            spread = float(values.std()) if len(values) > 1 else 0.0
            found[name] = (centre, spread + FLOOR * centre)
    return found


def distance_in_spreads(members: FieldVolume, truth: FieldVolume) -> dict[str, float]:
    """|mean − truth| of each measure, in members' floored spreads; none where one has no lungs."""
    true = chest_measures(truth.to_volume().values, truth.spacing_mm)
    return {
        name: abs(centre - true[name]) / spread
        for name, (centre, spread) in measured(members).items()
        if true[name] == true[name]
    }


def bounds(members: FieldVolume, known: Calibration) -> dict[str, dict[str, Any]]:
    """Each measure with its unit, members' mean and, where it was calibrated, its 90 % bounds."""
    return {
        name: {
            "mean": round(centre, 3),
            "unit": UNITS[name],
            "bounds_90": [
                round(max(0.0, centre - known.measures[name] * spread), 3),
                round(centre + known.measures[name] * spread, 3),
            ]
            if name in known.measures
            else None,
        }
        for name, (centre, spread) in measured(members).items()
    }
