"""How time and memory grow: of the projector, of a cohort that is read, and of `project`.

    python scripts/bench/growth.py [--what projector|cohort|films|size] [--before COMMIT]

Every cell is a process of its own in one thread; prints Markdown tables.

- projector: a random volume is projected by `project_volume`: processor time of the projection
  alone, and peak memory beyond what torch's import takes. One of volume side, number of views and
  picture size grows, the others stay.
- cohort: what a training reads before its first step: the pictures of all patients and their
  volumes of 64³, then 64 look-ups of random patients as its steps make them. The cohort is four
  phantoms under as many names as it takes, 12 views of 32². Anonymous memory is what the process
  keeps; what is mapped lies in a file, of which the system keeps in memory what there is room for.
- films: `project` with 1 to 8 views of a phantom at once, as whole processes, `--fast`.
- size: `project` with `--size` 64 to 256, likewise.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from sides import HERE, checkout, kit, ran

from mednerf_kit.data.cohort import make_cohort

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


COHORT = """
import sys, time, re, torch
from pathlib import Path
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.prior.training_volumes import make_training_volumes
def held(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
root, patients, before = sys.argv[1], int(sys.argv[2]), held("RssAnon")
begun = time.process_time()
orbits = load_orbits(root, split="all", limit=patients)
pictures = time.process_time() - begun
volumes = make_training_volumes(orbits, size=64, progress=False)
made = time.process_time() - begun - pictures
rng = torch.Generator().manual_seed(0)
begun = time.process_time()
for _ in range(8):
    ids = torch.randint(patients, (8,), generator=rng)
    volumes.values_at(ids, 2 * torch.rand(8, 4096, 3, generator=rng) - 1)
looked = time.process_time() - begun
print(pictures, made, looked / 64, held("RssAnon") - before)
"""
PATIENTS, FILMS, SIZES = (16, 64, 256, 1024), (1, 2, 4, 8), (64, 128, 256)
PRIOR = "bundled:phantom-chest"
ORIGINALS = 4  # phantoms that a cohort repeats


def cohort(build: Path, home: Path) -> None:
    """What a training reads of a growing cohort."""
    root = home / "chest"
    make_cohort("chest", patients=ORIGINALS, out=root, views=12, size=32, progress=False)
    (root / "split.json").unlink()
    originals = sorted(path for path in root.iterdir() if path.is_dir())
    for k in range(ORIGINALS, max(PATIENTS)):
        copy = root / f"chest-{k:05d}"
        copy.mkdir()
        for file in originals[k % ORIGINALS].iterdir():
            os.link(file, copy / file.name)
    print(
        "| patients | pictures (s) | volumes (s) | s a patient | a look-up (ms) | anonymous (MiB) |"
    )
    print("|---|---|---|---|---|---|")
    for patients in PATIENTS:
        words = [sys.executable, "-c", COHORT, str(root), str(patients)]
        found = ran(words, cwd=home, build=build)
        assert found.exit_code == 0, found.said
        pictures, volumes, look, anonymous = map(float, found.said.split())
        print(
            f"| {patients} | {pictures:.1f} | {volumes:.1f} | {(pictures + volumes) / patients:.3f}"
            f" | {1e3 * look:.2f} | {anonymous:.0f} |",
            flush=True,
        )


def projected(build: Path, home: Path, name: str, cells: Iterable[tuple[str, list[str]]]) -> None:
    """`project` as a whole process, by what grows."""
    print(f"| {name} | processor time (s) | peak (MiB) |\n|---|---|---|")
    for title, words in cells:
        base = ["project", "--run", PRIOR, "--fast", "--samples", "2"]
        found = kit(build, *base, *words, "--out", home / f"{name}-{title}", cwd=home)
        assert found.exit_code == 0, found.said
        print(f"| {title} | {found.seconds:.1f} | {found.peak_mib:.0f} |", flush=True)


def phantom_films(home: Path, views: int) -> list[list[str]]:
    """Options of so many films of one phantom, all around it."""
    home.mkdir(exist_ok=True)
    words = ["--ct", "phantom:chest:20000", "--size", "64", "--views", str(max(FILMS))]
    made = kit(HERE, "drr", *words, "--start", "270", "--out", home / "films", cwd=home)
    assert made.exit_code == 0, made.said
    files = sorted((home / "films" / "chest-20000").glob("xray_*.png"))
    step = max(FILMS) // views
    return [
        ["--xray", str(file), "--view", f"{(270 + 360 * k / max(FILMS)) % 360:g}"]
        for k, file in enumerate(files)
        if k % step == 0
    ]


def films(build: Path, home: Path) -> None:
    """`project` with more and more X-rays of one patient."""
    cells = ((str(n), sum(phantom_films(home / str(n), n), [])) for n in FILMS)
    projected(build, home, "films", cells)


def size(build: Path, home: Path) -> None:
    """`project` with larger and larger views."""
    film = phantom_films(home, 1)[0]
    cells = ((f"{side}²", [*film, "--size", str(side)]) for side in SIZES)
    projected(build, home, "size", cells)


def projector(build: Path, home: Path) -> None:
    """The projector, by the size of its volume, its views and its pictures."""
    print(
        "| grows | volume, views, pictures | s | ns an interpolation | peak (MiB) | volume (MiB) |"
    )
    print("|---|---|---|---|---|---|")
    for name, cells in SERIES.items():
        for side, views, cols in cells:
            words = [str(number) for number in (side, views, cols)]
            found = ran([sys.executable, "-c", CELL, *words], cwd=home, build=build)
            assert found.exit_code == 0, found.said
            seconds, mib = map(float, found.said.split())
            each = 1e9 * seconds / (side * views * cols**2)
            print(
                f"| {name} | {side}³, {views} × {cols}² | {seconds:.2f} | {each:.1f} | {mib:.0f} | "
                f"{side**3 / 2**18:.0f} |",
                flush=True,
            )


GROWING: dict[str, Callable[[Path, Path], None]] = {
    "projector": projector,
    "cohort": cohort,
    "films": films,
    "size": size,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", action="append", choices=GROWING)
    parser.add_argument("--before", metavar="COMMIT", help="measure that commit's build instead")
    options = parser.parse_args()
    with ExitStack() as stack:
        build = stack.enter_context(checkout(options.before)) if options.before else HERE
        for what in options.what or GROWING:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            GROWING[what](build, home)
            print()


if __name__ == "__main__":
    main()
