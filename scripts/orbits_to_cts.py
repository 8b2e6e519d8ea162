#!/usr/bin/env python3
"""Reconstructs published orbits into volumes a prior can learn from beside real CTs.

    python scripts/orbits_to_cts.py "$MEDNERF_KIT_DATA/mednerf_drr/chest_xrays" --out CTS

Such an orbit has no scale: every view was stretched to its own maximum. Each patient is
reconstructed (`mednerf_kit/prior/training_volumes.py`), the most frequent attenuation of what is
dense is taken for soft tissue (SOFT_TISSUE_HU), and what lies outside the body becomes air, and so
do slices that the cone saw in part. The size follows from --half-width-mm, half the detector's
width at the isocentre: 192 mm is a detector of 700 mm, 1040 mm from a source 570 mm away, twice the
side of the set-up that the published knees were verified with, as the chests' opening angle of 37°
says. HU are good to some 50, and bone is paler than in a CT.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mednerf_kit.engine.session import resolve
from mednerf_kit.imaging.body import body_only, find_body
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import make_training_volumes
from mednerf_kit.recon.field_volume import FieldVolume

SOFT_TISSUE_HU = 40.0  # muscle, blood and liver lie within some 30 HU of it
DENSE = 0.4  # of the densest thousandth: what is above is tissue or bone
BINS = 120
MARGIN = 0.3  # of each side of the cube, where rays of some views are missing
WHOLE = 0.6  # share of the median slice's body that a slice must hold


def soft_tissue(values: Tensor) -> float:
    """The most frequent value [D, H, W] among what is dense, in the middle that every view saw."""
    middle = (slice(int(MARGIN * n), n - int(MARGIN * n)) for n in values.shape)
    values = values[tuple(middle)]
    top = values.flatten().sort().values[int(0.999 * values.numel())]
    counts = torch.histc(values, BINS, float(DENSE * top), float(top))
    smooth = torch.nn.functional.avg_pool1d(counts[None], 5, 1, 2)[0]
    width = (1 - DENSE) * float(top) / BINS
    return float(DENSE * top) + (int(smooth.argmax()) + 0.5) * width


def as_ct(values: Tensor, geometry: Geometry, half_width_mm: float) -> Volume:
    """Reconstructed voxels [D, H, W] in HU, with air around the body."""
    mu = Volume.mu_water_per_mm * (1 + SOFT_TISSUE_HU / 1000)
    found = FieldVolume.of(values, geometry)
    found = replace(found, unit_mm=half_width_mm, scale=mu * half_width_mm / soft_tissue(values))
    volume = found.to_volume("Reconstructed from a published orbit.")
    body = find_body(volume)
    volume = body_only(volume, body)
    areas = body.expanded(volume.shape).flatten(1).sum(1).float()
    partial = areas < WHOLE * areas[areas > 0].median()
    hu = volume.values.clone()
    hu[partial] = -1000.0
    return replace(volume, values=hu)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", help="published orbits of chests")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--half-width-mm", type=float, default=192.0)
    parser.add_argument("--size", type=int, default=88, help="voxels along a side")
    parser.add_argument("--anatomy", default="chest")
    args = parser.parse_args()
    recipe = resolve(args.set, args.anatomy, "default", ["dataset.size=128"])
    orbits = read_set(args.set, recipe["dataset"], split="all")
    learned = make_training_volumes(orbits, size=args.size)
    for name, values in zip(orbits.patients, learned.volumes, strict=True):
        volume = as_ct(values.float(), orbits.geometry, args.half_width_mm)
        write_volume(volume, args.out / f"published_{args.anatomy}_{name}.nii.gz")
        print(f"{name}: {', '.join(f'{mm:.2f}' for mm in volume.spacing_mm)} mm")


if __name__ == "__main__":
    main()
