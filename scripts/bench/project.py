"""`mednerf-kit project` as a whole process: today's build beside a commit before.

    python scripts/bench/project.py --before COMMIT [--rounds 2]

One X-ray of a phantom in, everything written, by the bundled phantom prior (64²), by
`bundled:chest` (128²) and with `--fast`; each beside the bundled 64² prior of the commit before.
Every side runs in one thread, in turn; the least processor time counts, the peak memory is the
median. How accurate the searches are is said by `mednerf-kit evaluate`. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from sides import HERE, alternating, checkout, least, peak

XRAY = HERE / "data" / "samples" / "chest_20000_PA.png"
TODAY = {
    "phantom prior, 64²": ["--run", "bundled:phantom-chest"],
    "phantom prior, 64², `--fast`": ["--run", "bundled:phantom-chest", "--fast"],
    "chest prior, 128²": ["--run", "bundled:chest"],
    "chest prior, 128², `--fast`": ["--run", "bundled:chest", "--fast"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="HEAD~1")
    parser.add_argument("--before-run", default="bundled:phantom-chest", help="its 64² prior")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with checkout(options.before) as before, tempfile.TemporaryDirectory() as home:
        words = {"before": ["--run", options.before_run], **TODAY}
        sides = {
            name: [sys.executable, "-m", "mednerf_kit", "project", "--xray", XRAY, *chosen]
            + ["--out", f"out-{k}"]
            for k, (name, chosen) in enumerate(words.items())
        }
        builds = {name: before if name == "before" else HERE for name in sides}
        runs = alternating(sides, options.rounds, cwd=Path(home), builds=builds)
    print("| project | processor time (s) | of the time before | peak (MiB) |\n|---|---|---|---|")
    for name, found in runs.items():
        assert found[0].exit_code == 0, found[0].said
        share = least(found) / least(runs["before"])
        print(f"| {name} | {least(found):.1f} | {share:.2f} | {peak(found):.0f} |")


if __name__ == "__main__":
    main()
