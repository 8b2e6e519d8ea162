"""How far a spread is widened, so that it holds what it says: a prior's calibration, read.

A prior's ``calibration`` metadata has an entry for each number of input views that was calibrated,
``"1"`` and ``"2"`` (two or more): either one number, by which every spread is multiplied, or what
:func:`.calibrate.fitted` found over patients (:class:`Calibration`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..gan.generator import HyperGenerator
from ..imaging.geometry import angle_difference_deg
from ..metrics.anatomy import REGIONS, region_labels
from ..prior.load import Prior
from ..recon.field_volume import FieldVolume
from .members import Posterior
from .spread import PLACE_MM

Z_90 = 1.645  # standard deviations on either side that hold 90 % of a normal distribution
#: Fewer patients cannot promise nine tenths of anything to the next: ⌈10 · 0.9⌉ = 9.
LEAST_PATIENTS = 9
#: Upper edges of the classes of a view's angle off the nearest input, in degrees; a view from
#: behind is as near as one from the front.
ANGLE_CLASSES_DEG = (30.0, 60.0, 90.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What patients whom the prior had not seen told of its spread.

    Every factor is that on ±1.645 spreads; those of views and volume make the mean over patients of
    the share that is covered nine tenths.
    """

    factor: float | None  # of views; None: too few patients
    patients: int | None = None  # None: not recorded
    # with it, 90 % of further patients have 90 % of their pixels inside: the promise of a patient
    patient_factor: float | None = None
    by_angle: Sequence[float] = ()  # for each of ANGLE_CLASSES_DEG, in place of ``factor``
    volume: dict[str, float] = field(default_factory=dict)  # by region, and ``all``
    measures: dict[str, float] = field(default_factory=dict)  # see :func:`.measures.bounds`
    code_distances: Sequence[float] = ()  # of the patients' codes, ascending
    disagreement: dict[str, Any] | None = (
        None  # what films told beyond members, see :class:`.Misfit`
    )
    misfits: Sequence[float] = ()  # of held-out pixels of their own X-rays, RMS, ascending
    place_mm: float = 0.0  # of :mod:`.spread`, as these factors were fitted with it
    share: dict[str, Any] | None = None  # what films determine of patients, see :class:`.Claim`


def calibration_of(prior: Prior, views: int) -> Calibration:
    """The prior's calibration for so many input views, or for the next fewer that has one."""
    entries: dict[str, Any] = prior.meta.get("calibration", {})
    fewer = [int(count) for count in entries if int(count) <= views]
    entry = entries[str(max(fewer))] if fewer else None
    if entry is None:
        return Calibration(factor=None, place_mm=PLACE_MM)
    return Calibration(**entry) if isinstance(entry, dict) else Calibration(factor=entry)


def calibration(prior: Prior, views: int) -> float:
    """The factor on the spread of views for so many input views; 1 where it was never fitted."""
    return calibration_of(prior, views).factor or 1.0


def angle_classes(angles_deg: Sequence[float], inputs_deg: Sequence[float]) -> Tensor:
    """Index into :data:`ANGLE_CLASSES_DEG` of every view: [V].

    >>> angle_classes([270.0, 310.0, 0.0, 90.0], [270.0]).tolist()
    [0, 1, 2, 0]
    """
    angles, inputs = torch.tensor(angles_deg)[:, None], torch.tensor(inputs_deg)
    off = torch.as_tensor(angle_difference_deg(angles, inputs)).abs()
    nearest = torch.minimum(off, 180 - off).amin(1)
    edges = torch.tensor(ANGLE_CLASSES_DEG[:-1])
    return torch.bucketize(nearest.contiguous(), edges)


def view_factors(
    known: Calibration, angles_deg: Sequence[float], inputs_deg: Sequence[float]
) -> Tensor:
    """What the spread of each view is multiplied by: [V]."""
    if not known.by_angle:
        return torch.full((len(angles_deg),), known.factor or 1.0)
    return torch.tensor(known.by_angle)[angle_classes(angles_deg, inputs_deg)]


def volume_factors(known: Calibration, volume: FieldVolume) -> Tensor:
    """What the spread of each voxel is multiplied by, [D, H, W], or one number for all.

    Regions are those of the volume itself, the best guess, where its units are known.
    """
    whole = torch.tensor(known.volume.get("all", known.factor or 1.0))
    if volume.scale is None or not known.volume.keys() & set(REGIONS):
        return whole
    table = torch.tensor([known.volume.get(name, float(whole)) for name in REGIONS])
    return table[region_labels(volume.to_volume().values).long()]


def code_distance(prior: Prior, posterior: Posterior) -> float | None:
    """Mahalanobis distance of the best guess's style and pose from the training patients'.

    d² = (u − m)ᵀ C⁻¹ (u − m) / dim, with C the covariance of the training codes, half of it shrunk
    to its diagonal, which P patients in more than P dimensions need. Near 1 for one of them. None
    for a prior without a code for each patient.
    """
    generator = prior.generator
    if not isinstance(generator, HyperGenerator) or len(prior.codes) < 2:
        return None
    with torch.no_grad():
        codes = prior.codes.to(prior.device)
        style, pose = codes[:, : generator.code_dim], codes[:, generator.code_dim :]
        known = torch.cat([generator.map(style), pose], 1).double().cpu()
    latent = posterior.latent
    u = torch.cat([latent.w[0], latent.pose[0]]).double().cpu() - known.mean(0)
    c = known.T.cov()
    c = 0.5 * c + torch.diag(0.5 * c.diagonal() + 1e-6)
    return float((u @ torch.linalg.solve(c, u) / len(u)).sqrt())


def outside(prior: Prior, posterior: Posterior) -> tuple[float, list[str]]:
    """How far an X-ray lies outside what the prior was calibrated on: a factor, and why.

    Where its code is farther from the training patients' than that of every calibration patient, or
    its held-out pixels fit worse, the spread is widened by the larger of the two ratios. (One new
    patient in n + 1 does so by chance.)
    """
    known = calibration_of(prior, len(posterior.angles_deg))
    beyond: list[tuple[float, str]] = []
    patients = 0
    for value, others, what in (
        (code_distance(prior, posterior), known.code_distances, "its code lies"),
        (posterior.held_out_mse**0.5, known.misfits, "its own pixels are missed by"),
    ):
        if value is not None and len(others) >= LEAST_PATIENTS and value > max(others):
            ratio, patients = value / max(others), len(others)
            beyond.append((ratio, f"{what} {ratio:.1f} times"))
    if not beyond:
        return 1.0, []
    widening = max(ratio for ratio, _ in beyond)
    reasons = " and ".join(text for _, text in beyond)
    sentence = (
        f"this X-ray is unlike the patients the prior was calibrated on: {reasons} as far as the "
        f"farthest of {patients}; the spread is widened {widening:.1f} times"
    )
    return widening, [sentence]


def calibration_text(prior: Prior, views: int) -> str:
    """Whether this spread was calibrated, on whom, and what it promises."""
    known = calibration_of(prior, views)
    if known.factor is None:
        few = f" ({known.patients} patients are too few)" if known.patients else ""
        return (
            f"This prior's spread was not calibrated{few}: read it as a ranking of places, not as "
            "an interval."
        )
    patients = f"{known.patients} " if known.patients else ""
    text = (
        f"The spread shown is the one found, times {known.factor:.2f}"
        f"{', more or less by angle and region' if known.by_angle else ''}, fitted on {patients}"
        "patients the prior had not seen so that ±1.645 spreads cover 90 % of the pixels, on "
        "average over patients; on other pictures it may cover less."
    )
    if known.patient_factor is not None:
        wide = known.patient_factor / known.factor
        text += (
            f" Single patients differ: {wide:.1f} times as wide, it covers 90 % of the pixels of "
            "nine patients in ten."
        )
    return text
