"""A patient of an evaluation as a result folder, with the truth beside the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .. import DISCLAIMER
from ..core import files
from ..imaging.geometry import Geometry
from ..imaging.volume import write_volumes
from ..metrics.image import METRICS
from ..prior.load import Prior
from ..recon.field_volume import FieldVolume
from ..viz.figures import write_views
from .outputs import provenance, write_orbit
from .scoring import Scored


def write_patient(
    folder: Path,
    prior: Prior,
    result: Scored,
    truth: Tensor,
    views: Geometry,
    inputs_deg: Sequence[float],
    ct: str | None,
) -> None:
    """Write ``orbit/``, ``orbit_spread/`` and ``truth/`` (views [V, rows, cols], 16 bits),
    ``volume.nii.gz``, ``uncertainty.nii.gz`` and, where the CT is at hand, ``truth.nii.gz`` on the
    same grid, and ``metrics.json`` with the scores of every view.
    """
    assert result.posterior is not None
    predicted = result.predicted
    write_orbit(folder, predicted.views, views, result.posterior, predicted.spread)
    write_views(folder / "truth", truth)
    volume = predicted.volume.to_volume()
    spread = predicted.volume_spread.to_volume("Std dev.", difference=True)
    volumes = {"volume": volume, "uncertainty": spread}
    if ct is not None and prior.scale is not None:
        known = FieldVolume.from_ct(ct, views, size=predicted.volume.values.shape[-1])
        volumes["truth"] = known.to_volume("Truth.")
    write_volumes(volumes, folder)
    scores = {name: result.scores[name] for name in METRICS.entries if name in result.scores}
    rows: list[dict[str, float | None]] = [
        {"angle_deg": angle, **{k: _finite(float(v[i])) for k, v in scores.items()}}
        for i, angle in enumerate(views.angles_deg)
    ]
    values = {
        "patient": result.name,
        **{k: _finite(float(v.nanmean())) for k, v in scores.items()},
        "input_angles_deg": list(inputs_deg),
        "per_angle": rows,
        "volume": {"quantity": volume.quantity, "shape": list(volume.shape)},
        "data_range": 1.0,
        "provenance": provenance(prior),
        "note": DISCLAIMER,
    }
    files.write_json(folder / "metrics.json", values)


def _finite(value: float) -> float | None:
    return value if value - value == 0 else None
