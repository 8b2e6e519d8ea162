"""What varies between the patients of the chest phantom, and how one is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chest:
    """What a chest patient is drawn from; lengths in mm of the own frame."""

    female: bool
    fat_mm: float  # under the skin, at the side
    breast: float  # size, 0 for none
    belly_mm: float  # how far the abdomen stands out
    dome_mm: float  # diaphragm above its usual height
    dome_gap_mm: float  # right dome above the left
    flatness: float  # of the domes: emphysema flattens them
    heart: float  # size of the heart, 1 usual
    heart_turn_deg: float
    aorta: float  # width of the aorta, 1 usual
    unfold_mm: float  # an elongated arch reaches further left and up
    lung_hu: float
    kyphosis: float
    scoliosis_mm: float
    age: float  # 0 young … 1 old: bone density, calcified cartilage
    shoulders_mm: float  # how high the shoulders and arms are drawn up
    arms_out_mm: float
    gas: float  # size of the stomach bubble
    bowel: int  # gas-filled loops under the diaphragm
    opacities: int  # patches of consolidation
    effusion_mm: tuple[float, float]  # depth of fluid behind the left and the right lung
    nodules: int


def draw(rng: np.random.Generator) -> tuple[Chest, float]:
    """A patient, and the build they share with their pose (0 average, + broad and heavy)."""
    build = float(np.clip(rng.normal(), -2, 2.2))
    female = bool(rng.random() < 0.5)
    old = float(rng.uniform())
    effusion = [float(rng.uniform(8, 45)) if rng.random() < 0.18 else 0.0 for _ in range(2)]
    return Chest(
        female=female,
        fat_mm=float(np.clip(11 + 7 * build + rng.normal() * 3 + 3 * female, 3, 32)),
        breast=float(np.clip(0.8 + 0.3 * build + 0.25 * rng.normal(), 0.3, 1.6))
        if female
        else float(max(0, 0.15 * build)),
        belly_mm=float(np.clip(6 + 12 * build + 6 * rng.normal(), -8, 40)),
        dome_mm=float(np.clip(rng.normal() * 14 + 4 * build, -30, 34)),
        dome_gap_mm=float(np.clip(11 + 7 * rng.normal(), -8, 28)),
        flatness=float(np.clip(1 + 0.22 * rng.normal(), 0.5, 1.5)),
        heart=float(np.clip(1 + 0.1 * rng.normal() + 0.06 * old, 0.78, 1.3)),
        heart_turn_deg=float(np.clip(9 * rng.normal(), -18, 18)),
        aorta=float(np.clip(0.92 + 0.25 * old + 0.06 * rng.normal(), 0.8, 1.35)),
        unfold_mm=float(np.clip(10 * old + 3 * rng.normal(), -2, 16)),
        lung_hu=float(-870 + 180 * rng.beta(1.2, 2.6)),
        kyphosis=float(np.clip(1 + 0.25 * rng.normal() + 0.3 * (old - 0.5), 0.5, 1.6)),
        scoliosis_mm=float(np.clip(4 * rng.normal(), -10, 10)),
        age=old,
        shoulders_mm=float(np.clip(9 * rng.normal(), -18, 20)),
        arms_out_mm=float(np.clip(13 * rng.normal(), -18, 32)),
        gas=float(np.clip(0.9 + 0.35 * rng.normal(), 0.3, 1.6)),
        bowel=int(rng.integers(0, 9)),
        opacities=int(rng.choice([0, 1, 2, 4, 7], p=[0.45, 0.2, 0.15, 0.1, 0.1])),
        effusion_mm=(effusion[0], effusion[1]),
        nodules=int(rng.choice([0, 1, 2], p=[0.65, 0.27, 0.08])),
    ), build
