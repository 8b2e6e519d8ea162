#!/usr/bin/env python3
"""Are polarity, view, orientation, mirroring and body part of films named rightly?

    python scripts/bench/film_bank.py "$MEDNERF_KIT_DATA" [--show wrong.png]

200 films with fixed seeds of patients that the checks were not made from: phantoms, DRRs of CTs
(DATA/ct_cohort, DATA/ct), published DRRs (DATA/mednerf_drr) and real films (DATA/xray). DRRs
become films by mednerf_kit/imaging/film: tone curves, scatter, letters, metal. Half are inverted,
mirrored or turned, some are given as another view, or to the other prior. "Mirrored" is asked of
frontal chests and of laterals, which then face the other way; a knee from the front may be either
leg's. Limbs without a joint are neither chest nor knee; abdomens, a pelvis and a head phantom are
12 films more, in a row of their own. Each film is also given as it should be: a warning is then a
false alarm. Exits with 1 when fewer than 95 % of the 200 are named rightly in everything.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator as Random
from torch import Tensor

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.core.resampling import area_resized
from mednerf_kit.data.drr import phantom_volume, render_orbit
from mednerf_kit.data.pictures import read_png
from mednerf_kit.data.radiograph import VIEWS as STATED_DEG
from mednerf_kit.data.radiograph import read_radiograph
from mednerf_kit.imaging.body import body_only
from mednerf_kit.imaging.film import FILMS, make_film
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume
from mednerf_kit.invert.film_checks import PARTS, SURE, FilmChecks, FilmVerdict, Stated
from mednerf_kit.invert.film_looks import FILE, POSES, Pose
from mednerf_kit.prior.load import load_prior
from mednerf_kit.viz import figures

SIZE = 128
COUNTS = {"phantom": 48, "ct": 64, "published": 48, "film": 40, "stranger": 12}
UNSEEN_SEED = 20000
# bodies unlike everything that the checks were made from: counted in no total
STRANGERS = ("abdomen", "pelvis", "headphantom")
LYING_POLARITY = "fakeMONOCHROME1"  # a file whose tag turns a right picture over
GOAL = 0.95
QUESTIONS = ("body part", "polarity", "orientation", "view", "mirrored")


@dataclass(frozen=True)
class Case:
    """A film as it hangs and what is said of it."""

    kind: str
    name: str
    part: str | None  # None: neither chest nor knee
    view: str  # frontal, or lateral facing right
    image: Tensor
    mask: Tensor
    pose: Pose
    prior: str
    stated: str

    def shown(self) -> tuple[Tensor, Tensor]:
        """The film in its pose."""
        both = torch.stack([1 - self.image if self.pose.inverted else self.image, self.mask])
        both = both.flip(-1) if self.pose.mirrored else both
        image, mask = torch.rot90(both, self.pose.quarters, (-2, -1))
        return image * (mask > 0), mask

    def good(self) -> Case:
        """The same film in the right pose, given to the right prior as the right view."""
        stated = "PA" if self.view == "frontal" else "lateral"
        return replace(self, pose=Pose(), prior=self.part or self.prior, stated=stated)

    def differences(self) -> set[str]:
        """The questions in which the film is not what is said of it."""
        if self.part is None:
            return {"body part"}
        pose, lateral = self.pose, self.view == "lateral"
        asked = STATED_DEG[self.stated][0] in (0.0, 180.0)
        facing = self.stated == "left-lateral"
        found = {
            "body part": self.part != self.prior,
            "polarity": pose.inverted,
            "orientation": pose.quarters > 0,
            "view": lateral != asked or (lateral and pose.mirrored != facing),
            "mirrored": not lateral and self.part == "chest" and pose.mirrored,
        }
        return {question for question, differs in found.items() if differs}

    def right(self, verdict: FilmVerdict) -> dict[str, bool]:
        """For every question that can be asked of this film: was it answered rightly?"""
        answers = {"body part": verdict.body_part == self.part}
        if self.part is None:
            return answers
        answers |= {
            "polarity": verdict.inverted == self.pose.inverted,
            "orientation": verdict.rotated_deg == 90 * self.pose.quarters,
            "view": verdict.view == self.view,
        }
        if (self.part, self.view) != ("knee", "frontal"):
            answers["mirrored"] = verdict.mirrored == self.pose.mirrored
        return answers


def unseen_cts(data: Path, trained_on: Sequence[str]) -> list[tuple[str, str | None, Path]]:
    """Name, body part and path of the CTs that the checks were not made from."""
    found: list[tuple[str, str | None, Path]] = []
    for folder, part in (("chest", "chest"), ("measure_only", "chest"), ("knee", "knee")):
        paths = sorted((data / "ct_cohort" / folder).glob("*.nii.gz"))
        found += [(path.name[:-7], part, path) for path in paths]
    found += [(p.name[:-7], None, p) for p in sorted((data / "ct_cohort/limb").glob("*.nii.gz"))]
    for path in sorted((data / "ct").glob("*.nii.gz")):
        part = path.name.partition("_")[0]
        found.append((path.name[:-7], part if part in PARTS else None, path))
    return [ct for ct in found if ct[0] not in trained_on]


def line_integrals(volume: Volume, geometry: Geometry, view: str, rng: Random) -> Tensor:
    """One view of a volume as it hangs, from either side, cut to the rows that meet it."""
    behind = bool(rng.integers(2))
    angle_deg = (270.0 if view == "frontal" else 0.0) + 180 * behind + rng.uniform(-8, 8)
    wide = replace(geometry.resized(SIZE), pixel_mm=geometry.pixel_mm * 128 / SIZE * 1.15)
    (p,) = render_orbit(volume, wide.at([angle_deg]))
    p = p.flip(-1) if behind else p
    rows = (p.amax(1) > 0.25 * p.max()).nonzero()
    return p[int(rows.min()) : int(rows.max()) + 1]


def film_of(p: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    """A film and its mask, [SIZE, SIZE], of line integrals: framed by chance, padded."""
    rows, cols = p.shape
    top, bottom, left, right = (int(rng.uniform(0, 0.1) * n) for n in (rows, rows, cols, cols))
    p = p[top : rows - bottom, left : cols - right]
    scale = float(p.max()) * rng.uniform(1.0, 1.3)
    options = FILMS[list(FILMS)[rng.integers(len(FILMS))]]
    draws = torch.Generator().manual_seed(int(rng.integers(2**31)))
    film = make_film(p / scale, scale=scale, pixel_mm=400 / SIZE, options=options, rng=draws)
    both = torch.stack([film.pixels, film.mask.float()])
    rows, cols = p.shape
    side = max(rows, cols)
    square = torch.zeros(2, side, side)
    y, x = (side - rows) // 2, (side - cols) // 2
    square[:, y : y + rows, x : x + cols] = both
    image, mask = area_resized(square, SIZE, SIZE)
    return image.clamp(0, 1), mask


def phantoms(rng: Random) -> Iterator[tuple[str, str | None, str, Tensor, Tensor]]:
    seed = UNSEEN_SEED
    while True:
        for part in PARTS:
            for view in ("frontal", "lateral"):
                volume = phantom_volume(part, seed, 96)
                image, mask = film_of(line_integrals(volume, DEFAULTS[part], view, rng), rng)
                yield f"{part}-{seed}", part, view, image, mask
                seed += 1


def cts(
    unseen: Sequence[tuple[str, str | None, Path]], rng: Random
) -> Iterator[tuple[str, str | None, str, Tensor, Tensor]]:
    order = [unseen[k] for k in rng.permutation(len(unseen))]
    while True:
        for name, part, path in order:
            volume = read_volume(path)
            with suppress(UserError):  # raised where there is nothing but the patient
                volume = body_only(volume)
            view = "frontal" if rng.random() < 0.6 else "lateral"
            broad = part == "chest" or name.startswith(STRANGERS)
            geometry = DEFAULTS["chest" if broad else "knee"]
            yield name, part, view, *film_of(line_integrals(volume, geometry, view, rng), rng)


def published(data: Path, rng: Random) -> Iterator[tuple[str, str | None, str, Tensor, Tensor]]:
    """Views of the published orbits: view k stands at 5°·k."""
    while True:
        part = PARTS[int(rng.random() < 0.25)]
        patient = rng.integers(1, 17 if part == "chest" else 5)
        view = "frontal" if rng.random() < 0.6 else "lateral"
        behind = bool(rng.integers(2))
        k = ((54 if view == "frontal" else 0) + 36 * behind + rng.integers(-1, 2)) % 72
        (path,) = (data / "mednerf_drr" / f"{part}_xrays").glob(f"{patient:02d}_*xray{k:04d}.png")
        p = 6.0 * read_png(path)
        yield path.stem, part, view, *film_of(p.flip(-1) if behind else p, rng)


def real_films(data: Path) -> Iterator[tuple[str, str | None, str, Tensor, Tensor]]:
    """The frontal chest films at hand, read as `project` reads them."""
    read = {p.name: read_radiograph(p, size=SIZE) for p in sorted((data / "xray").iterdir())}
    while True:
        for name, film in read.items():
            lies = LYING_POLARITY in name
            image = (1 - film.image) * (film.mask > 0) if lies else film.image
            yield name, "chest", "frontal", image, film.mask


def bank(data: Path, rng: Random) -> Iterator[Case]:
    """The films, half of them in any pose, some given as another view or to the other prior."""
    _, meta = files.load_tensors(FILE)
    unseen = unseen_cts(data, meta["trained_on"])
    strange = [ct for ct in unseen if ct[0].startswith(STRANGERS)]
    sources = {
        "phantom": phantoms(rng),
        "ct": cts([ct for ct in unseen if ct not in strange], rng),
        "stranger": cts(strange, rng),
        "published": published(data, rng),
        "film": real_films(data),
    }
    for kind, count in COUNTS.items():
        for _ in range(count):
            name, part, view, image, mask = next(sources[kind])
            pose = POSES[rng.integers(len(POSES))] if rng.random() < 0.5 else Pose()
            prior = PARTS[rng.integers(2)] if part is None or rng.random() < 0.4 else part
            stated = "PA" if (view == "frontal") != (rng.random() < 0.2) else "lateral"
            yield Case(kind, name, part, view, image, mask, pose, prior, stated)


def asked(case: Case, checks: dict[str, FilmChecks]) -> FilmVerdict:
    """The verdict on a film given as the case says."""
    angle_deg, mirrored = STATED_DEG[case.stated]
    image, mask = case.shown()
    stated = Stated(angle_deg=angle_deg, view=case.stated, mirrored=mirrored)
    return checks[case.prior](image, mask, stated)


def judged(case: Case, verdict: FilmVerdict, good: FilmVerdict) -> dict[str, bool]:
    """Every column of the tables that this film says something about.

    ``good`` is the verdict on the film given as it should be.
    """
    answers = case.right(verdict)
    answers["everything"] = all(answers.values())
    differ, told = case.differences(), set(verdict.gains_db)
    if differ:
        answers["told something"] = bool(told)
        told -= {"statement"}
    if case.part is not None:
        answers["false alarm"] = bool(good.warnings)
    answers["told wrongly"] = bool(told - differ)
    return answers | {f"told {question}": question in told for question in differ}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=Path, help="where a sheet of the misjudged films goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    checks = {part: FilmChecks.of(load_prior(f"bundled:{part}")) for part in PARTS}
    rates: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    wrong, seconds = [], []
    for case in bank(args.data, np.random.default_rng(args.seed)):
        started = time.process_time()
        verdict, good = asked(case, checks), asked(case.good(), checks)
        seconds.append((time.process_time() - started) / 2)
        answers = judged(case, verdict, good)
        kinds = [case.kind]
        if case.kind != "stranger":
            kinds += [f"{case.part or 'other'} {case.view}", "all"]
        for kind in kinds:
            for question, answer in answers.items():
                rates[kind][question].append(answer)
        if not answers["everything"]:
            wrong.append(case)
            print(f"wrong: {case.kind} {case.name} {case.part} {case.view} {case.pose}: {verdict}")
    columns = (*QUESTIONS, "everything", "false alarm", "told wrongly")
    print_table(rates, columns)
    print(f"differences told from a probability of {SURE} on:")
    shown = {kind: rates[kind] for kind in ("all", "stranger")}
    print_table(shown, tuple(f"told {q}" for q in (*QUESTIONS, "something")))
    print(f"{1000 * np.mean(seconds):.0f} ms of processor time a film")
    if args.show and wrong:
        shown = torch.stack([area_resized(case.shown()[0], SIZE, SIZE) for case in wrong])
        figures.write_png8(args.show, figures.strip(shown, 8, [case.name for case in wrong]))
    return int(np.mean(rates["all"]["everything"]) < GOAL)


def print_table(rates: dict[str, dict[str, list[bool]]], columns: Sequence[str]) -> None:
    """A row a kind of film: how many, and the share of each column."""
    print(f"{'':16} films " + " ".join(f"{name:>16}" for name in columns))
    for kind, answers in rates.items():
        count = len(answers["body part"])
        cells = [
            f"{100 * np.mean(answers[name]):14.1f} %" if answers.get(name) else f"{'':>16}"
            for name in columns
        ]
        print(f"{kind:16} {count:5} " + " ".join(cells))


if __name__ == "__main__":
    sys.exit(main())
