#!/usr/bin/env python3
"""Makes mednerf_kit/invert/film_checks.safetensors, by which `project` checks what a film shows.

    python scripts/make_film_checks.py "$MEDNERF_KIT_DATA/ct_cohort"

It holds the views of the bundled priors as a Gaussian in few dimensions, and a small network that
is trained on films made of procedural phantoms and of the CTs in COHORT/{chest,knee,limb}: random
tone curves, crops, letters, collimators, metal. Some patients are left out (HELD_OUT), so that
scripts/bench/film_bank.py can be tried on them; the file names those it was trained on.
Seeds are fixed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator as Random
from torch import Tensor, nn
from torch.nn import functional as nnf
from tqdm import trange

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.drr import phantom_volume
from mednerf_kit.imaging.body import body_only
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.imaging.scans.read import read_volume
from mednerf_kit.imaging.volume import Volume
from mednerf_kit.invert.film_looks import (
    FILE,
    POSES,
    VIEWS,
    FilmClassifier,
    FilmKnowledge,
    Pose,
    ViewSpace,
    equalised,
    posed,
    save_knowledge,
)
from mednerf_kit.invert.film_views import VIEW_DEG, prior_views, varied
from mednerf_kit.invert.outputs import fingerprint
from mednerf_kit.prior.load import load_prior

# every fourth or so of each kind; the last one's terms allow no training
HELD_OUT = (
    "LIDC-IDRI-0003",
    "QIN-LSC-0028",
    "NLST_101287",
    "ACRIN-NSCLC-FDG-PET-042",
    "Soft-tissue-Sarcoma_STS_042",
    "Soft-tissue-Sarcoma_STS_051",
    "Soft-tissue-Sarcoma_STS_009",
    "Soft-tissue-Sarcoma_STS_023",
    "Soft-tissue-Sarcoma_STS_035",
    "Soft-tissue-Sarcoma_STS_043",
    "VisibleHuman-Female_lower-legs",
)
# of the CTs trained on, all CC BY 3.0
COLLECTIONS = ("4D-Lung", "LIDC-IDRI", "LungCT-Diagnosis", "QIN LUNG CT", "Soft-tissue-Sarcoma")
PHANTOMS = 40  # of each anatomy, seeds from 0
ANGLES_DEG = (270.0, 90.0, 0.0, 180.0)  # frontal and lateral, from either side
REPEATS = 6  # of each angle, turned, tilted and shifted at random
MARGIN_MM, CHEST_MM = 150.0, 280.0
WIDE_PX, WIDE = 96, 1.5  # of the views that films are cut from, in default fields
FILM_PX = 64
BATCH, PEAK_RATE, KEEP = 32, 4e-3, 0.995
UPRIGHT, MIRRORED = POSES.index(Pose()), POSES.index(Pose(mirrored=True))
DRAWN_POSES = 4  # of the other poses, at each step
# share of films made of CTs; the knees are few and of tumour patients, in parts cut at the sides
REAL_SHARE = {"chest": 0.65, "knee": 0.3}
# share of films: the four VIEWS, then none of them
SHARES = (0.28, 0.17, 0.16, 0.17, 0.22)


def ct_views(volume: Volume, anatomy: str, rng: Random) -> tuple[Tensor, Tensor]:
    """Line integrals [4 · REPEATS, WIDE_PX, WIDE_PX] of a patient, and [8, …] of its ends alone.

    A CT ends where a film goes on: its end slices are repeated, but in the last view of each angle.
    What lies low enough, a sixth at least, and the highest sixth are an abdomen and shoulders.
    """
    with suppress(UserError):  # raised where there is nothing but the patient
        volume = body_only(volume)
    volume = volume.aligned().to_mu()
    values, spacing_mm = volume.values.float(), volume.spacing_mm
    level = values.mean((1, 2))
    full = (level > 0.5 * level.median()).nonzero()
    first, last = int(full.min()) + 1, int(full.max())
    inner = continued(values[first:last], spacing_mm)
    middle_mm = ((first + last) / 2 - len(values) / 2) * spacing_mm[2]
    views = []
    for angle_deg in ANGLES_DEG:
        for k in range(REPEATS):
            seen, up_mm = (values, 0.0) if k == REPEATS - 1 else (inner, middle_mm)
            views.append(one_view(seen, spacing_mm, anatomy, angle_deg, up_mm, rng))
    sixth = (last - first) // 6
    low = max(sixth, last - first - int(CHEST_MM / spacing_mm[2]))
    ends = [
        one_view(continued(some, spacing_mm), spacing_mm, anatomy, angle_deg, 0.0, rng)
        for some in (values[first : first + low], values[last - sixth : last])
        for angle_deg in ANGLES_DEG
    ]
    return torch.stack(views), torch.stack(ends)


def continued(values: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """The slices with the first and the last repeated over MARGIN_MM."""
    ends = int(MARGIN_MM / spacing_mm[2])
    return torch.cat([values[:1].expand(ends, -1, -1), values, values[-1:].expand(ends, -1, -1)])


def one_view(
    values: Tensor,
    spacing_mm: Sequence[float],
    anatomy: str,
    angle_deg: float,
    up_mm: float,
    rng: Random,
) -> Tensor:
    """A wide view of a patient who stands about as he should."""
    geometry = DEFAULTS[anatomy].resized(WIDE_PX)
    placed = replace(
        geometry,
        pixel_mm=geometry.pixel_mm * WIDE,
        angles_deg=(angle_deg + rng.uniform(-14, 14),),
        tilt_deg=rng.uniform(-6, 6),
    )
    centre_mm = (0.0, 0.0, up_mm + rng.uniform(-15, 15))
    return project_volume(values, spacing_mm, placed, centre_mm=centre_mm)[0]


@dataclass(frozen=True)
class Pool:
    """Views of the patients that films are made of, by kind."""

    real: dict[str, list[Tensor]]  # chest, knee, limb
    phantoms: dict[str, list[Tensor]]  # chest, knee
    ends: list[Tensor]  # of the chests
    slices: list[Tensor]  # across the real ones

    def film(self, rng: Random) -> tuple[Tensor, Tensor, int]:
        """A film in canonical pose, its mask, and which of VIEWS it shows (their number: none)."""
        which = int(rng.choice(len(SHARES), p=SHARES))
        if which < len(VIEWS):
            part, name = VIEWS[which]
            real = rng.random() < REAL_SHARE[part]
            patients = (self.real if real else self.phantoms)[part]
            views = patients[rng.integers(len(patients))]
            behind = int(rng.integers(2))
            first = REPEATS * (behind + 2 * (name == "lateral"))
            wide = views[first + rng.integers(REPEATS)]
            wide = wide.flip(-1) if behind else wide
            if (part, name) == ("knee", "frontal") and rng.random() < 0.5:  # the other knee
                wide = wide.flip(-1)
            zoom = (0.5, 0.88) if part == "chest" else (0.4, 0.85)
        else:
            kind = int(rng.choice(4, p=(0.4, 0.3, 0.15, 0.15)))
            if kind == 3:
                wide = shapes(rng)
            else:
                others = (self.real["limb"], self.ends, self.slices)[kind]
                several = others[rng.integers(len(others))]
                wide = several[rng.integers(len(several))]
            zoom = (0.4, 0.95)
        return *developed(*cut(wide, zoom, rng), rng), which


def read_pool(cohort: Path, rng: Random) -> tuple[Pool, list[str]]:
    """The views of all patients that may be trained on, and the names of the real ones."""
    real: dict[str, list[Tensor]] = {"chest": [], "knee": [], "limb": []}
    phantoms: dict[str, list[Tensor]] = {anatomy: [] for anatomy in DEFAULTS}
    names, slices, ends = [], [], []
    for kind, views in real.items():
        for path in sorted((cohort / kind).glob("*.nii.gz")):
            if (name := path.name.removesuffix(".nii.gz")) not in HELD_OUT:
                volume = read_volume(path)
                whole, its_ends = ct_views(volume, "chest" if kind == "chest" else "knee", rng)
                views.append(whole)
                ends += [its_ends] * (kind == "chest")
                slices.append(axial_slices(volume, rng))
                names.append(name)
    for anatomy, views in phantoms.items():
        for seed in range(PHANTOMS):
            whole, its_ends = ct_views(phantom_volume(anatomy, seed, 64), anatomy, rng)
            views.append(whole)
            ends += [its_ends] * (anatomy == "chest")
    return Pool(real, phantoms, ends, slices), names


def axial_slices(volume: Volume, rng: Random) -> Tensor:
    """Eight slices across the patient, [8, WIDE_PX, WIDE_PX], in a soft or a wide window."""
    values = volume.aligned().values.float()
    chosen = values[torch.from_numpy(rng.integers(len(values), size=8))]
    low = torch.from_numpy(rng.choice([-1000.0, -160.0], size=(8, 1, 1))).float()
    shown = ((chosen - low) / 600).clamp(0, 1)
    return nnf.interpolate(shown[None], size=(WIDE_PX, WIDE_PX), mode="bilinear")[0]


def shapes(rng: Random) -> Tensor:
    """Balls, plates and clouds, [WIDE_PX, WIDE_PX]: pictures of nothing in particular."""
    place = torch.linspace(-1, 1, WIDE_PX)
    y, x = torch.meshgrid(place, place, indexing="ij")
    picture = torch.zeros(WIDE_PX, WIDE_PX)
    for _ in range(rng.integers(1, 8)):
        (cx, cy), (a, b) = rng.uniform(-0.6, 0.6, 2), rng.uniform(0.05, 0.7, 2)
        turn, height = rng.uniform(0, math.pi), rng.uniform(-0.4, 1)
        u = ((x - cx) * math.cos(turn) + (y - cy) * math.sin(turn)) / a
        v = ((y - cy) * math.cos(turn) - (x - cx) * math.sin(turn)) / b
        r2 = u**2 + v**2 if rng.random() < 0.6 else torch.maximum(u.abs(), v.abs()) ** 2
        picture += height * ((1 - r2).clamp_min(0).sqrt() if rng.random() < 0.7 else (r2 < 1))
    if rng.random() < 0.3:
        cloud = blurred(noise(picture, rng), rng.uniform(1, 8))
        picture = picture * (rng.random() < 0.5) + 0.3 * cloud / cloud.std()
    return picture - picture.min() + 1e-3


def cut(wide: Tensor, zoom: tuple[float, float], rng: Random) -> tuple[Tensor, Tensor]:
    """A film cut from a wide view: ``zoom`` is its share of it. A film that is no square is padded,
    where the mask is 0.
    """
    size = rng.uniform(*zoom)
    aspect = math.exp(rng.normal(0, 0.2)) if rng.random() < 0.7 else 1.0
    stretch = math.exp(rng.uniform(-0.12, 0.12))  # patients are broad and narrow
    turn, (dx, dy) = math.radians(3.5 * rng.normal()), size * rng.uniform(-0.12, 0.12, 2)
    place = (torch.arange(FILM_PX) + 0.5) / FILM_PX * 2 - 1
    y, x = torch.meshgrid(place, place, indexing="ij")
    at = torch.stack(
        [
            size * (math.cos(turn) * x - math.sin(turn) * y) + dx,
            size * (math.sin(turn) * x + math.cos(turn) * y) + dy,
        ],
        -1,
    )
    bend = torch.from_numpy(rng.normal(size=(1, 2, 4, 4))).float() * rng.uniform(0, 0.05)
    bend = nnf.interpolate(bend, size=(FILM_PX, FILM_PX), mode="bicubic", align_corners=True)
    at = at * torch.tensor([stretch, 1 / stretch]) + size * bend[0].permute(1, 2, 0)
    film = nnf.grid_sample(
        wide[None, None].float(), at[None], align_corners=False, padding_mode="border"
    )
    film = film[0, 0]
    if rng.random() < 0.25:  # the scan ends within the film
        top, bottom = (FILM_PX * rng.uniform(0, 0.25, 2)).astype(int)
        film[:top], film[FILM_PX - bottom :] = 0, 0
    return film, ((x.abs() <= aspect) & (y.abs() <= 1 / aspect)).float()


def developed(p: Tensor, mask: Tensor, rng: Random) -> tuple[Tensor, Tensor]:
    """A film of line integrals [FILM_PX, FILM_PX]: metal, scatter, a tone curve, local contrast,
    noise, a collimator and letters, each at random and sometimes unknown to the mask.
    """
    if rng.random() < 0.12:
        (cy, cx), r = rng.integers(8, FILM_PX - 8, 2), rng.integers(1, 5)
        p = p.clone()
        p[cy - r : cy + r, cx - r : cx + r] += rng.uniform(1, 6)
    x = p / p[mask > 0.5].max().clamp_min(1e-6)
    if rng.random() < 0.5:
        direct, share = torch.exp(-x * rng.uniform(2, 5)), rng.uniform(0.05, 0.5)
        behind = torch.lerp(direct, blurred(direct, rng.uniform(4, 10)), share)
        x = -behind.clamp_min(1e-4).log()
    x = toned(x / x.max().clamp_min(1e-6), mask, rng)
    if rng.random() < 0.35:
        x = x - rng.uniform(0.2, 0.7) * blurred(x, rng.uniform(4, 12))
    x = stretched(x, mask, 0.5, 99.5)
    if rng.random() < 0.7:
        x = (x + rng.uniform(0, 0.05) * noise(x, rng)).clamp(0, 1)
    mask = mask.clone()
    if rng.random() < 0.3:
        left, right, top, bottom = rng.integers(0, FILM_PX // 8, 4)
        covered = torch.ones(FILM_PX, FILM_PX, dtype=torch.bool)
        covered[top : FILM_PX - bottom, left : FILM_PX - right] = False
        x = x.masked_fill(covered, float(rng.random() < 0.7))
        mask = mask.masked_fill(covered & (rng.random() < 0.6), 0.0)
    for _ in range(rng.integers(0, 3)):
        height, width = rng.integers(2, 6), rng.integers(2, 12)
        top = rng.integers(1, FILM_PX // 4) if rng.random() < 0.7 else FILM_PX - height - 2
        left = rng.integers(1, FILM_PX // 3) if rng.random() < 0.5 else FILM_PX - width - 2
        letters = (slice(top, top + height), slice(left, left + width))
        x[letters] = float(rng.random() < 0.8)
        mask[letters] *= float(rng.random() < 0.4)
    return x * (mask > 0.5), mask


def toned(x: Tensor, mask: Tensor, rng: Random) -> Tensor:
    """A random tone curve of pictures in [0, 1]: none, gamma, sigmoid, window or exponential."""
    curve = rng.integers(5)
    if curve == 1:
        return x.clamp_min(0) ** math.exp(rng.uniform(-0.8, 0.8))
    if curve == 2:
        return torch.sigmoid(rng.uniform(4, 12) * (x - rng.uniform(0.25, 0.7)))
    if curve == 3:
        return stretched(x, mask, rng.uniform(0, 25), rng.uniform(80, 100))
    return 1 - torch.exp(-x * rng.uniform(0.5, 4)) if curve == 4 else x


def stretched(x: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """The picture between two percentiles of what the mask shows, clipped to [0, 1]."""
    bottom, top = np.percentile(x[mask > 0.5].numpy(), [low, high])
    return ((x - bottom) / max(top - bottom, 1e-4)).clamp(0, 1)


def noise(like: Tensor, rng: Random) -> Tensor:
    """White noise of standard deviation 1."""
    return torch.from_numpy(rng.normal(size=like.shape)).float()


def blurred(picture: Tensor, sigma_px: float) -> Tensor:
    """A picture under a Gaussian, its border repeated."""
    reach = int(3 * sigma_px)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma_px) ** 2)
    weights = weights / weights.sum()
    padded = nnf.pad(picture[None, None], (reach,) * 4, mode="replicate")
    across = nnf.conv2d(padded, weights.view(1, 1, 1, -1))
    return nnf.conv2d(across, weights.view(1, 1, -1, 1))[0, 0]


def right_answers(which: Sequence[int], poses: Sequence[int]) -> Tensor:
    """Which of the answers are right for films in canonical pose: [B, 4·P + 1] bool."""
    right = torch.zeros(len(which), len(poses) * len(VIEWS) + 1, dtype=torch.bool)
    for row, view in zip(right, which, strict=True):
        row[poses.index(UPRIGHT) * len(VIEWS) + view if view < len(VIEWS) else -1] = True
        if view < len(VIEWS) and VIEWS[view] == ("knee", "frontal"):  # the other knee
            row[poses.index(MIRRORED) * len(VIEWS) + view] = True
    return right


def log_probabilities(
    classifier: FilmClassifier, spaces: Sequence[ViewSpace], held: Tensor, poses: list[int]
) -> Tensor:
    """[B, 4·P + 1] of posed films [B, 16, 2, S, S]; drawn poses stand for all the others."""
    some = held[:, poses]
    db = torch.stack([space.explained_db(some) for space in spaces], -1)
    known, none = classifier(some, db)
    drawn = torch.tensor([float(pose not in (UPRIGHT, MIRRORED)) for pose in poses])
    known = known + (drawn * math.log((len(POSES) - 2) / DRAWN_POSES))[:, None]
    return torch.cat([known.flatten(1), none[:, None]], 1).log_softmax(1)


def train(pool: Pool, spaces: Sequence[ViewSpace], steps: int, rng: Random) -> FilmClassifier:
    """The classifier, as the running mean of its weights: cross-entropy over right answers."""
    classifier = FilmClassifier()
    adam = torch.optim.AdamW(classifier.parameters(), lr=PEAK_RATE, weight_decay=2e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, PEAK_RATE, total_steps=steps, pct_start=0.1)
    mean = torch.optim.swa_utils.AveragedModel(
        classifier, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(KEEP)
    )
    others = [pose for pose in range(len(POSES)) if pose not in (UPRIGHT, MIRRORED)]
    share_right, progress = 0.0, trange(steps, mininterval=10)
    for _ in progress:
        films, masks, which = zip(*(pool.film(rng) for _ in range(BATCH)), strict=True)
        held = posed(*equalised(torch.stack(films), torch.stack(masks)))
        poses = [UPRIGHT, MIRRORED, *rng.choice(others, DRAWN_POSES, replace=False).tolist()]
        log_p = log_probabilities(classifier, spaces, held, poses)
        right = right_answers(which, poses)
        wrong = -log_p.masked_fill(~right, -torch.inf).logsumexp(1)
        loss = 0.97 * wrong.mean() - 0.03 * log_p.mean()
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(classifier.parameters(), 2.0)
        adam.step()
        rate.step()
        mean.update_parameters(classifier)
        hit = right.gather(1, log_p.argmax(1, keepdim=True)).float().mean()
        share_right += 0.02 * (float(hit) - share_right)
        progress.set_description(f"right {share_right:.3f}")
    return mean.module.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    torch.manual_seed(0)
    rng, draws = np.random.default_rng(0), torch.Generator().manual_seed(0)
    spaces, priors = [], {}
    for part, name in VIEWS:
        prior = load_prior(f"bundled:phantom-{part}", precision="fp32")
        known = (prior, load_prior(f"bundled:{part}", precision="fp32"))
        priors |= {fingerprint(one): part for one in known}
        views = prior_views(prior, VIEW_DEG[name], patients=96, grid=40, rng=draws)
        spaces.append(ViewSpace.of(varied(views, 1600, draws)))
    pool, names = read_pool(args.cohort, rng)
    classifier = train(pool, spaces, args.steps, rng)
    notes = {
        "trained_on": names,
        "phantoms": f"{PHANTOMS} chests and as many knees, seeds from 0",
        "collections": list(COLLECTIONS),
        "made_by": "scripts/make_film_checks.py",
        "steps": args.steps,
    }
    save_knowledge(args.out, FilmKnowledge(classifier, tuple(spaces), priors), notes)
    print(f"{args.out}, {args.out.stat().st_size / 1024:.0f} KiB; trained on {len(names)} CTs")


if __name__ == "__main__":
    main()
