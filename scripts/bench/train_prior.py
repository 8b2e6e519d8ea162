"""What a prior's training reaches in how much processor time: today's recipe beside a build before.

    python scripts/bench/train_prior.py --before COMMIT [--steps 2000 ALL] [--before-steps ALL]
    python scripts/bench/train_prior.py --before COMMIT --steps 1 300 --before-steps 1 300 --limit 0

Every training is `mednerf-kit train --dataset chest --preset quick` as a whole process in one
thread, with phantoms that are in the cache already and without the calibration, which comes after
the training and is the same on both sides. Each is as long as its recipe says (ALL) or as long as
named, on a schedule of that length. Both builds' priors are scored by today's `mednerf-kit
evaluate` on the test phantoms, with the same searches. The second form tells what a step takes: the
difference of the long and the short one. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from sides import HERE, Ran, checkout, kit


def checked(done: Ran) -> Ran:
    assert done.exit_code == 0, done.said
    return done


def trained(build: Path, steps: str, seed: int, options: argparse.Namespace, home: Path) -> Ran:
    """A training of one build into ``home``."""
    words = ["train", "--dataset", options.dataset, "--preset", options.preset]
    words += ["--set", "calibration_patients=0", "--seed", str(seed), "--outdir", str(home)]
    words += [] if steps == "ALL" else ["--set", f"steps={steps}"]
    return checked(kit(build, *words, cwd=home))


def scored(home: Path, options: argparse.Namespace) -> dict:
    """The scores on test phantoms of the prior that was trained into ``home``."""
    (run,) = home.glob("0*")
    words = ["evaluate", "--run", str(run), "--split", "test", "--limit", str(options.limit)]
    checked(kit(HERE, *words, "--out", home / "scores", cwd=home))
    return json.loads((home / "scores" / "metrics.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default="HEAD~1")
    parser.add_argument("--before-steps", nargs="*", default=["ALL"], metavar="N")
    parser.add_argument("--steps", nargs="*", default=["ALL"], metavar="N")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--dataset", default="chest")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--limit", type=int, default=8, help="test phantoms; 0: none")
    options = parser.parse_args()
    print("| build | seed | steps | processor time (s) | PSNR (dB) | SSIM |")
    print("|---|---|---|---|---|---|")
    with checkout(options.before) as before, tempfile.TemporaryDirectory() as home:
        builds = [("before", before, n) for n in options.before_steps]
        builds += [("today", HERE, n) for n in options.steps]
        for seed in options.seeds:
            for name, build, steps in builds:
                place = Path(home) / f"{name}-{seed}-{steps}"
                place.mkdir()
                seconds = trained(build, steps, seed, options, place).seconds
                shown = "– | –"
                if options.limit:
                    found = scored(place, options)
                    shown = f"{found['psnr_db']:.2f} | {found['ssim']:.3f}"
                print(f"| {name} | {seed} | {steps} | {seconds:.1f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
