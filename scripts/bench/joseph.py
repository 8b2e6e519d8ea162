"""Joseph's projector beside RTK's: one oblique view of a cube, forward, and with a gradient.

    python scripts/bench/joseph.py [--python PYTHON] [--rounds 3]

PYTHON is one in which `itk-rtk` is installed. Each size is a process of each side in turn, with one
thread; a view is projected five times in it, and the least processor time counts, without start-up.
RTK's projector has no gradient. The memory is the peak beyond what stood there before the first
projection, over the volume's. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sides import HERE, ran

SIZES = ((128, 128), (256, 200), (512, 512))
OURS = """
import resource, sys, time, torch
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.projector import project_volume
side, cols = map(int, sys.argv[1:])
geometry = DEFAULTS["chest"].resized(cols).at([30.0])
volume = torch.rand(side, side, side)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def least(work):
    found = []
    for _ in range(5):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)
before = peak()
forward = least(lambda: project_volume(volume, (360 / side,) * 3, geometry))
memory = peak() - before
volume.requires_grad_()
both = least(lambda: project_volume(volume, (360 / side,) * 3, geometry).sum().backward())
print(forward, both, memory / (side**3 / 2**18))
"""
RTK = """
import sys, time, itk, numpy as np
from itk import RTK as rtk
itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(1)
side, cols = map(int, sys.argv[1:])
kind = itk.Image[itk.F, 3]
geometry = rtk.ThreeDCircularProjectionGeometry.New()
geometry.AddProjection(1120.0, 1600.0, 30.0)
def image(values, spacing):
    made = itk.image_from_array(values)
    made.SetSpacing(spacing)
    made.SetOrigin([-(n - 1) / 2 * s for n, s in zip(values.shape[::-1], spacing)])
    return made
volume = image(np.random.default_rng(0).random((side,) * 3, np.float32), [360 / side] * 3)
found = []
for _ in range(5):
    empty = image(np.zeros((1, cols, cols), np.float32), [512 / cols, 512 / cols, 1.0])
    joseph = rtk.JosephForwardProjectionImageFilter[kind, kind].New()
    joseph.SetInput(0, empty)
    joseph.SetInput(1, volume)
    joseph.SetGeometry(geometry)
    begun = time.process_time()
    joseph.Update()
    found.append(time.process_time() - begun)
print(min(found))
"""


def numbers(python: str, code: str, size: tuple[int, int], build: Path | None) -> list[float]:
    """What one side's process printed."""
    done = ran([python, "-c", code, *map(str, size)], cwd=HERE, build=build)
    assert done.exit_code == 0, done.said
    return [float(word) for word in done.said.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="that has itk-rtk")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    heads = (
        "volume, picture",
        "forward (ms)",
        "RTK (ms)",
        "over RTK",
        "with gradient over forward",
    )
    print(f"| {' | '.join(heads)} | memory over the volume |\n|{'---|' * (len(heads) + 1)}")
    for size in SIZES:
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(numbers(sys.executable, OURS, size, HERE))
            theirs += numbers(options.python, RTK, size, None)
        forward, both, memory = (min(column) for column in zip(*ours, strict=True))
        row = [f"{size[0]}³, {size[1]}²", f"{1000 * forward:.0f}", f"{1000 * min(theirs):.0f}"]
        row += [f"{forward / min(theirs):.2f}", f"{both / forward:.2f}", f"{memory:.2f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
