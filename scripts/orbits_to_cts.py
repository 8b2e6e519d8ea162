#!/usr/bin/env python3
"""Reconstructs published orbits into volumes a prior can learn from beside real CTs.

    python scripts/orbits_to_cts.py "$MEDNERF_KIT_DATA/mednerf_drr/chest_xrays" --out CTS

Such an orbit has no scale: every view was stretched to its own maximum. Each patient is
reconstructed (`mednerf_kit/prior/training_volumes.py`), the most frequent attenuation of what is
dense is taken for soft tissue, and what lies outside the body becomes air, and so
do slices that the cone saw in part. The size follows from --half-width-mm, half the detector's
width at the isocentre: 192 mm is a detector of 700 mm, 1040 mm from a source 570 mm away, twice the
side of the set-up that the published knees were verified with, as the chests' opening angle of 37°
says. HU are good to some 50, and bone is paler than in a CT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mednerf_kit import DISCLAIMER
from mednerf_kit.core.types import SUPPORT
from mednerf_kit.engine.session import resolve
from mednerf_kit.imaging.volume import Volume, write_volume
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import body_alone, make_training_volumes


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
        hu = 1000 * body_alone(values, orbits.geometry) - 1000
        spacing_mm = 2 * SUPPORT * args.half_width_mm / args.size
        note = f"Reconstructed from a published orbit. {DISCLAIMER}"
        volume = Volume.centred(hu, (spacing_mm,) * 3, "hu", note=note)
        write_volume(volume, args.out / f"published_{args.anatomy}_{name}.nii.gz")
        print(f"{name}: {args.size}³ voxels of {spacing_mm:.2f} mm")


if __name__ == "__main__":
    main()
