"""Checks the geometry on real data: does the knee CT, projected, give its 72 published views?

    MEDNERF_KIT_DATA=... python scripts/bench/geometry_check.py

Projects ``ct/knee_DU03.nii.gz`` with the set-up that plastimatch noted beside the published set
(isocentre, SAD, SID, pixels) and its attenuation law, and correlates every view with
``mednerf_drr/knee_xrays/03_xrayKKKK.png`` (correlation, because the published views have an unknown
gain each). Prints a table and one JSON line; exits 1 if the goal is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import numpy as np

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.imaging.scans.read import read_volume

# LPS, from knee_03_xray0000_geometry.txt, as are the distances
ISOCENTRE_MM = (-11.0, -123.0, -465.0)
KNEE = Geometry(
    source_to_isocentre_mm=570, source_to_detector_mm=1040, rows=128, cols=128, pixel_mm=350 / 128
).orbit(72)
GOAL_MEAN, GOAL_WORST = 0.999, 0.998


def published_views(folder: Path) -> np.ndarray:
    """The 72 views of knee instance 03, [72, 128, 128] in [0, 1]."""
    import imageio.v3 as imageio

    paths = [folder / f"03_xray{k:04d}.png" for k in range(72)]
    absent = [path for path in paths if not path.exists()]
    if absent:
        raise UserError(
            f"got no '{absent[0]}'",
            "wanted the published knee set",
            "set MEDNERF_KIT_DATA to the folder of real data",
        )
    return np.stack([imageio.imread(path) for path in paths]) / 255.0


def projected_views(
    ct: Path, geometry: Geometry = KNEE, isocentre_mm: tuple[float, ...] = ISOCENTRE_MM
) -> np.ndarray:
    """Line integrals of a CT under plastimatch's law of attenuation.

    Water has 0.022 per mm, and −800 HU or less count as nothing.
    """
    volume = dataclasses.replace(read_volume(ct).aligned(), mu_water_per_mm=0.022).to_mu(
        air_below_hu=-800
    )
    centre_mm = np.subtract(volume.centre_mm, isocentre_mm)
    return project_volume(volume.values, volume.spacing_mm, geometry, centre_mm=centre_mm).numpy()


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each pair of views [V, rows, cols]."""
    a, b = ((v - v.mean((1, 2), keepdims=True)).reshape(len(v), -1) for v in (a, b))
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("MEDNERF_KIT_DATA"),
        help="folder of real data [$MEDNERF_KIT_DATA]",
    )
    data = parser.parse_args().data
    if data is None:
        parser.error("set MEDNERF_KIT_DATA or pass --data")
    published = published_views(data / "mednerf_drr" / "knee_xrays")
    began = time.perf_counter()
    projected = projected_views(data / "ct" / "knee_DU03.nii.gz")
    seconds = time.perf_counter() - began
    found = correlations(projected, published)
    mirrored = correlations(projected[:, :, ::-1], published)
    print(f"{'views':>12} {'mean':>9} {'worst':>9} at")
    for name, values in (("as stated", found), ("mirrored", mirrored)):
        print(
            f"{name:>12} {values.mean():9.5f} {values.min():9.5f} "
            f"{KNEE.angles_deg[values.argmin()]:g}°"
        )
    passed = bool(found.mean() >= GOAL_MEAN and found.min() >= GOAL_WORST)
    print(
        json.dumps(
            {
                "bench": "geometry_check",
                "views": len(found),
                "mean": round(float(found.mean()), 5),
                "worst": round(float(found.min()), 5),
                "worst_deg": KNEE.angles_deg[found.argmin()],
                "mirrored_mean": round(float(mirrored.mean()), 5),
                "read_and_project_s": round(seconds, 2),
                "passed": passed,
            }
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        raise SystemExit(str(error)) from None
