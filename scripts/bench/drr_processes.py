"""`mednerf-kit drr` as a whole process: against the commit before, and against plastimatch.

    python scripts/bench/drr_processes.py --before COMMIT [--plastimatch PROGRAM] [--rounds 2]

The chest CT LIDC-IDRI-0001 of `$MEDNERF_KIT_DATA/ct` as it is (160²×133) at 72 views of 128², and
resampled to 512²×266 at 8 views of 512² and at 72 views of 128². Every side runs in one thread, in
turn; the least processor time counts, the peak memory is the median. plastimatch computes by
`exact` (Siddon) with the same attenuation of water and the same threshold of air; it writes PFM
pictures alone, the kit 16-bit PNGs, the volume and the geometry. The error is the rms difference of
the pictures over the brightest pixel: of the commit before and of plastimatch. Beside today's
processor time stands the part that `import torch` takes alone. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sides import HERE, alternating, checkout, least, peak, ran

# in a process of its own: what this one has in memory counts as the peak of those it starts
MAKE_CTS = """
import sys
from dataclasses import replace
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import write_volume
small = read_volume(sys.argv[1])
for volume, name in ((small, "small"), (small.resampled(size=(266, 512, 512)), "full")):
    write_volume(replace(volume, values=volume.values.round()), f"{name}.nii.gz")
print(*small.centre_mm)
"""
CT = "ct/chest_LIDC-IDRI-0001.nii.gz"
SCALE, MU_WATER, AIR_HU, SIDE_MM = 12.0, 0.022, -800, 512
JOBS = ("small", 72, 128), ("full", 8, 512), ("full", 72, 128)


def kit_command(ct: Path, views: int, size: int, out: str) -> list[str]:
    """The command of the kit; it writes into ``out``."""
    return [
        *(sys.executable, "-m", "mednerf_kit", "drr", "--ct", str(ct), "--out", out),
        *("--views", str(views), "--size", str(size), "--scale", str(SCALE)),
        *("--mu-water", str(MU_WATER), "--air-below-hu", str(AIR_HU), "--patient", "p"),
    ]


def plastimatch_command(program: str, ct: Path, centre: str, views: int, size: int) -> list[str]:
    """The same orbit by plastimatch, about the middle of the scan."""
    return [
        *(program, "drr", "-i", "exact", "-t", "pfm", "--sad", "1120", "--sid", "1600"),
        *("-r", f"{size} {size}", "-z", f"{SIDE_MM} {SIDE_MM}", "-o", centre),
        *("-N", f"{360 / views:g}", "-a", str(views), "-I", str(ct), "-O", "plastimatch"),
    ]


def kit_pictures(place: Path) -> np.ndarray:
    """Line integrals [V, rows, cols]."""
    files = sorted((place / "p").glob("xray_*.png"))
    return np.stack([np.asarray(Image.open(path), np.float64) for path in files]) / 65535 * SCALE


def plastimatch_pictures(place: Path, size: int) -> np.ndarray:
    """Line integrals [V, rows, cols] as the kit has them: stored as a tenth, seen from the source,
    and turning the other way round.
    """
    found = [
        np.frombuffer(path.read_bytes()[-4 * size * size :], "<f4").reshape(size, size)[:, ::-1]
        for path in sorted(place.glob("plastimatch*.pfm"))
    ]
    return 10 * np.stack(found).astype(np.float64)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The rms difference over the largest value."""
    return float(np.sqrt(((a - b) ** 2).mean()) / a.max())


def matched(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The difference from plastimatch, whichever way it turned."""
    return min(difference(ours, theirs), difference(ours, np.roll(theirs[::-1], 1, 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="HEAD~1")
    parser.add_argument("--plastimatch", help="the program of `pip install plastimatch`")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--jobs", type=int, nargs="*", default=range(len(JOBS)))
    options = parser.parse_args()
    source = Path(os.environ["MEDNERF_KIT_DATA"]) / CT
    heads = ("job", "before (s)", "today (s)", "ratio", "import torch (s)", "plastimatch (s)")
    heads += ("ratio", "without torch", "peak before, today (MiB)", "changed by", "off plastimatch")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    with checkout(options.before) as before, tempfile.TemporaryDirectory() as home:
        place = Path(home)
        cts = {"small": place / "small.nii.gz", "full": place / "full.nii.gz"}
        made = ran([sys.executable, "-c", MAKE_CTS, source], cwd=place, build=HERE)
        assert made.exit_code == 0, made.said
        for number in options.jobs:
            name, views, size = JOBS[number]
            sides = {
                side: kit_command(cts[name], views, size, side) for side in ("before", "today")
            }
            if options.plastimatch:
                sides["plastimatch"] = plastimatch_command(
                    options.plastimatch, cts[name], made.said.strip(), views, size
                )
            runs: dict[str, list] = {side: [] for side in sides}
            for _ in range(options.rounds):
                for side in ("before", "today"):
                    shutil.rmtree(place / side, ignore_errors=True)
                once = alternating(sides, 1, cwd=place, builds={"before": before, "today": HERE})
                for side, found in once.items():
                    assert found[0].exit_code == 0, found[0].said
                    runs[side] += found
            torch = least([ran([sys.executable, "-c", "import torch"], cwd=place)])
            old, new = least(runs["before"]), least(runs["today"])
            ours = kit_pictures(place / "today")
            row = [f"{name}, {views} × {size}²", f"{old:.1f}", f"{new:.1f}", f"{new / old:.2f}"]
            row.append(f"{torch:.1f}")
            off = "–"
            if "plastimatch" in runs:
                other = least(runs["plastimatch"])
                row += [f"{other:.1f}", f"{new / other:.2f}", f"{(new - torch) / other:.2f}"]
                off = f"{matched(ours, plastimatch_pictures(place, size)):.2%}"
            else:
                row += ["–"] * 3
            row.append(f"{peak(runs['before']):.0f}, {peak(runs['today']):.0f}")
            row += [f"{difference(kit_pictures(place / 'before'), ours):.1e}", off]
            print(f"| {' | '.join(row)} |", flush=True)
            for path in place.glob("plastimatch*"):
                path.unlink()


if __name__ == "__main__":
    main()
