"""How time and memory of the projector grow: with the volume, the views and the pictures.

    python scripts/bench/growth.py

Each cell is a process of its own in one thread that projects a random volume by `project_volume`:
processor time of the projection alone, and the peak memory beyond what torch's import takes. One
of volume side, number of views and picture size grows, the others stay. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys

from sides import HERE, ran

CELL = """
import sys, time, resource, torch
from dataclasses import replace
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.projector import project_volume
side, views, cols = map(int, sys.argv[1:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
volume = torch.rand(side, side, side)
geometry = DEFAULTS["chest"].resized(cols).orbit(views)
begun = time.process_time()
project_volume(volume, (360 / side,) * 3, geometry)
seconds = time.process_time() - begun
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
SIDE, VIEWS, COLS = 128, 72, 128
SERIES = {
    "volume side": [(side, VIEWS, COLS) for side in (64, 128, 256, 512)],
    "views": [(SIDE, views, COLS) for views in (9, 18, 36, 72, 144, 288)],
    "picture side": [(SIDE, VIEWS, cols) for cols in (64, 128, 256, 512)],
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(
        "| grows | volume, views, pictures | s | ns an interpolation | peak (MiB) | volume (MiB) |"
    )
    print("|---|---|---|---|---|---|")
    for name, cells in SERIES.items():
        for side, views, cols in cells:
            words = [str(number) for number in (side, views, cols)]
            found = ran([sys.executable, "-c", CELL, *words], cwd=HERE, build=HERE)
            assert found.exit_code == 0, found.said
            seconds, mib = map(float, found.said.split())
            each = 1e9 * seconds / (side * views * cols**2)
            size = side**3 / 2**18
            print(
                f"| {name} | {side}³, {views} × {cols}² | {seconds:.2f} | {each:.1f} | {mib:.0f} | "
                f"{size:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
