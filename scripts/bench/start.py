"""How long commands take that compute nothing: help, lists, and files that are refused.

    python scripts/bench/start.py [--before COMMIT] [--rounds 3]

Whole processes in one thread, today's build and the commit before in turn; the least processor
time of each, and whether both said the same. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from sides import HERE, alternating, checkout, least

COMMANDS = (
    "--help",
    "list",
    "project --xray none.png",
    "project --xray torn.png",
    "project --xray whole.png --run none",
    "project --xray whole.png --run torn.safetensors",
    "drr --ct none.nii.gz --out set",
    "drr --ct torn.nii.gz --out set",
    "drr --ct torn.mha --out set",
    "evaluate --run none",
    "render --latent torn.safetensors",
    "train --dataset none",
)


def write_inputs(place: Path) -> None:
    """A picture and a scan that are whole, and files that end too early."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)).save(place / "whole.png")
    scan = sitk.GetImageFromArray(rng.integers(-1000, 1000, (32, 32, 32), np.int16))
    for name in ("whole.nii.gz", "whole.mha"):
        sitk.WriteImage(scan, place / name)
    for name in ("whole.png", "whole.nii.gz", "whole.mha"):
        torn = (place / name).read_bytes()[:-60]
        (place / name.replace("whole", "torn")).write_bytes(torn)
    prior = (HERE / "mednerf_kit" / "bundled" / "phantom-knee.safetensors").read_bytes()
    (place / "torn.safetensors").write_bytes(prior[: len(prior) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="HEAD~1")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| command | before (s) | today (s) | ratio | same words |")
    print("|---|---|---|---|---|")
    with checkout(options.before) as before, tempfile.TemporaryDirectory() as home:
        place = Path(home)
        write_inputs(place)
        builds = {"before": before, "today": HERE}
        for words in COMMANDS:
            command = [sys.executable, "-m", "mednerf_kit", *words.split()]
            runs = alternating(
                dict.fromkeys(builds, command), options.rounds, cwd=place, builds=builds
            )
            old, new = (least(runs[name]) for name in builds)
            errors = [
                [line for line in runs[name][0].said.splitlines() if line.startswith("Error")]
                for name in builds
            ]
            same = "yes" if errors[0] == errors[1] else "no"
            print(f"| `{words}` | {old:.2f} | {new:.2f} | {new / old:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
