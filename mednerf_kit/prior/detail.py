"""The detail that a generator's patients lack, band by band of spatial frequency.

A network learns the coarse of a volume first and the fine last (spectral bias; Rahaman et al.
2019): wherever a training ends, its patients are blurred, all in the same way. By how much, the
training patients tell, whose DRRs are known. At their own codes the generator should show these;
the root of both powers' ratio is a gain for each band of frequencies. By the projection slice
theorem a volume's spectrum holds those of its views, so that volumes which are filtered by the
gains (:meth:`~mednerf_kit.recon.field_volume.FieldVolume.with_detail`) have views with the power
of DRRs.
"""

from __future__ import annotations

import torch

from ..fields.hyper import MlpWeights
from ..gan.generator import PatientGenerator
from ..imaging.geometry import Geometry
from ..metrics.spectrum import power_kept
from ..recon.field_volume import DETAIL_BAND, bake
from .training_volumes import TrainingVolumes

PATIENTS, VIEWS = 4, 8  # that are compared: more change no gain by more than some hundredths
FINENESS = 1.5  # voxels along a side of a baked patient, for one column of the pictures
LEAST, MOST = 0.5, 4.0  # gains; where more is missing, what there is has little to do with a DRR
CYCLES = round(2 * DETAIL_BAND)  # of a band in a picture, which is two field units wide


@torch.no_grad()
def detail_gains(
    generator: PatientGenerator, code: MlpWeights, training: TrainingVolumes, geometry: Geometry
) -> list[float]:
    """Gains of the bands of DETAIL_BAND cycles per field unit, from the lowest on.

    Compared are the first patients of the training as the generator has them, ``code`` [P], and
    their DRRs at VIEWS angles each. There are as many bands as the pictures can hold.

    >>> picture_bands(64)
    [(1, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24), (24, 28), (28, 32)]
    """
    shown, truth = [], []
    size = round(FINENESS * geometry.cols)
    for i in range(code.batch):
        views = spread_over(geometry.views, patient=i, patients=code.batch)
        volume = bake(generator, code.one(i), geometry, size=size).unblurred()
        seen = volume.project(geometry.subset(views), float(training.distance[i]))[0]
        shown.append(seen * training.log_gains[i, views].exp()[:, None, None])
        truth.append(training.images[i, views].float())
    bands = picture_bands(min(geometry.rows, geometry.cols))
    kept = power_kept(torch.cat(shown).clamp(0, 1), torch.cat(truth), bands)
    return kept.rsqrt().nan_to_num(1.0).clamp(LEAST, MOST).tolist()


def picture_bands(pixels: int) -> list[tuple[int, int]]:
    """The bands in cycles per picture of so many pixels, but for its mean."""
    edges = range(0, pixels // 2 + 1, CYCLES)
    return [(max(1, low), low + CYCLES) for low in edges[:-1]]


def spread_over(views: int, *, patient: int, patients: int) -> list[int]:
    """Which VIEWS of so many a patient is compared at: every patient at others.

    >>> spread_over(72, patient=1, patients=3)
    [3, 12, 21, 30, 39, 48, 57, 66]
    """
    step = views / VIEWS
    return [int(step * (k + patient / patients)) % views for k in range(VIEWS)]
