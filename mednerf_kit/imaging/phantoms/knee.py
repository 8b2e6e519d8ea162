"""The knee phantom: one leg, lying on its back, more or less bent.

Own frame of a right knee, mm: x to the left (so to the inside of the leg), y to the back, z up, joint line at z = 0. A left knee is
its mirror image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .painter import PHANTOMS, Layer, Phantom, Pose, layers
from .solids import Array, Blob, Column, Cut, Profile, Segment, Solid, Union, axes_along, smooth_path, tube


@dataclass(frozen=True)
class Knee:
    """What a knee is drawn from; lengths in mm of the own frame."""

    bend: float  # flexion, radians
    fat_mm: float
    thigh: float  # girth of the thigh, 1 usual
    calf: float
    joint_mm: float  # gap between the bones
    patella_mm: float  # height of the middle of the kneecap above the joint line
    patella_side_mm: float
    bone: float  # density, 1 usual
    cortex_mm: float  # of the shafts
    valgus: float  # outward lean of the femur, radians
    fibula_mm: float  # further out or in
    condyles: float  # width, 1 usual

    def femoral(self, points: Sequence[Sequence[float]]) -> Array:
        """Points of the straight leg, leaned back and out with the femur."""
        p = np.array(points, np.float32).reshape(-1, 3)
        above = np.maximum(p[:, 2] - 20, 0)
        p[:, 1] += np.tan(0.45 * self.bend) * (p[:, 2] - 20)
        p[:, 0] -= np.tan(self.valgus) * above
        return p

    def tibial(self, points: Sequence[Sequence[float]]) -> Array:
        """Points of the straight leg, leaned back with the shin."""
        p = np.array(points, np.float32).reshape(-1, 3)
        p[:, 1] -= np.tan(0.55 * self.bend) * p[:, 2]
        return p


def draw(rng: np.random.Generator) -> tuple[Knee, float]:
    """A knee, and the build (0 average, + heavy)."""
    build = float(np.clip(rng.normal(), -1.8, 2.2))
    return Knee(
        bend=float(np.deg2rad(np.clip(12 + 9 * rng.normal(), -2, 34))),
        fat_mm=float(np.clip(8 + 4 * build + 1.5 * rng.normal(), 2.5, 20)),
        thigh=float(np.clip(1 + 0.09 * build + 0.06 * rng.normal(), 0.8, 1.3)),
        calf=float(np.clip(1 + 0.07 * build + 0.07 * rng.normal(), 0.8, 1.25)),
        joint_mm=float(np.clip(4.8 + 1.2 * rng.normal(), 2, 7.5)),
        patella_mm=float(np.clip(30 + 6 * rng.normal(), 17, 45)),
        patella_side_mm=float(-2 + 3 * rng.normal()),
        bone=float(np.clip(1 + 0.12 * rng.normal(), 0.7, 1.3)),
        cortex_mm=float(np.clip(5 + 1.2 * rng.normal(), 2.5, 7.5)),
        valgus=float(np.deg2rad(np.clip(5 + 2.5 * rng.normal(), -1, 11))),
        fibula_mm=float(2 * rng.normal()),
        condyles=float(np.clip(1 + 0.04 * rng.normal(), 0.9, 1.1)),
    ), build


def blob(move: Array, axes: Sequence[float], rotation: Array | None = None, flat: int = 2) -> Blob:
    """A blob at the first of some moved points."""
    return Blob(move[0], axes, np.eye(3, dtype=np.float32) if rotation is None else rotation, flat)


def kneecap(k: Knee) -> Array:
    """Middle of the patella."""
    return np.array([k.patella_side_mm, -44 + 0.1 * (k.patella_mm - 20), k.patella_mm], np.float32)


def flesh(k: Knee) -> list[Layer]:
    """Skin and fat, then the muscle groups of thigh and calf; fat fills the hollow of the knee."""
    z = np.array([-170, -120, -75, -35, 0, 35, 75, 120, 170])
    lean = np.where(z > 0, np.tan(0.45 * k.bend) * (z - 20.0), -np.tan(0.55 * k.bend) * z)
    girth = np.where(z > 0, 1 + (k.thigh - 1) * np.clip(z / 70, 0, 1), 1 + (k.calf - 1) * np.clip(-z / 70, 0, 1))
    girth *= 1 + 0.5 * ((k.thigh - 1) + (k.calf - 1)) * np.exp(-((z / 50) ** 2))
    half = np.array([50, 56, 58, 57, 58, 60, 64, 69, 73]) * girth + 0.7 * (k.fat_mm - 8)
    front = np.array([-32, -35, -39, -44, -53, -57, -54, -57, -61]) * np.maximum(girth, 0.95) + lean - 0.4 * (k.fat_mm - 8)
    back = np.array([70, 75, 72, 65, 60, 63, 71, 80, 86]) * girth + lean + 0.7 * (k.fat_mm - 8)
    lateral = Profile(z, half), Profile(z, front), Profile(z, back)
    skin = Union([Column(*lateral, -230, 230), Blob(kneecap(k), (28, 17, 28))], 16)
    inner = Column(*lateral, -230, 230, (k.fat_mm, 0.45 * k.fat_mm + 1, k.fat_mm))
    g, t = k.calf, k.thigh
    calf = [*tube(k.tibial([(17, 34, 20), (19, 36, -40), (18, 40, -90), (14, 40, -190)]), [8, 17 * g, 23 * g, 22 * g]),
            *tube(k.tibial([(-17, 34, 18), (-17, 36, -40), (-17, 38, -90), (-14, 38, -190)]), [8, 16 * g, 21 * g, 21 * g]),
            *tube(k.tibial([(-30, -4, -30), (-30, -4, -80), (-26, -4, -190)]), [9, 17 * g, 18 * g]),
            *tube(k.tibial([(0, 22, -15), (0, 22, -60), (0, 22, -190)]), [10, 20, 24])]
    thigh = [*tube(k.femoral([(30, -14, 30), (28, -16, 80), (24, -14, 190)]), [8, 22 * t, 30 * t]),
             *tube(k.femoral([(-28, -16, 45), (-28, -14, 90), (-26, -10, 190)]), [8, 22 * t, 32 * t]),
             *tube(k.femoral([(0, -38, 62), (0, -36, 110), (0, -34, 190)]), [6, 15 * t, 24 * t]),
             *tube(k.femoral([(34, 34, -10), (34, 34, 40), (26, 44, 100), (18, 46, 190)]), [6, 11, 20 * t, 32 * t]),
             *tube(k.femoral([(-36, 28, -8), (-34, 32, 40), (-26, 42, 100), (-18, 44, 190)]), [6, 10, 19 * t, 30 * t])]
    joint = Blob((0, 2, 8), (44, 40, 34))
    muscle = Cut(Union([*calf, *thigh, joint], 14), keep=[inner])
    vein = tube(np.concatenate([k.femoral([(2, 30, 150), (0, 38, 60)]), k.tibial([(0, 40, 0), (0, 36, -60), (-2, 26, -190)])]), 4.5)
    return [*layers("skin", skin, -98), *layers("muscle", muscle, 52), *layers("vessels", vein, 48)]


def femur(k: Knee) -> list[Layer]:
    """Shaft with a marrow canal, flare, and two condyles with the notch between them."""
    w, lift = k.condyles, k.joint_mm / 2
    tilt = axes_along((0, 0.25, 1))
    up = (0, 0, lift)
    condyles: list[Solid] = []
    for x, r in ((-21.5, 1.0), (21.5, 1.03)):
        condyles += [blob(k.femoral([(x * w, 1, 18.5)]) + up, (17 * w * r, 29 * r, 18), tilt),
                     blob(k.femoral([(x * w * 1.03, 16, 20.5)]) + up, (13.5 * w, 19 * r, 20 * r)),
                     blob(k.femoral([(x * w * 1.25, 0, 23)]) + up, (11, 15, 13))]
    groove = [blob(k.femoral([(x * w, -18, 24)]) + up, (13, 13, 19)) for x in (-15, 14)]
    line = k.femoral([(0, -6, 28), (0, -8, 44), (1, -9, 62), (1, -9, 84), (1, -8, 110), (0, -4, 200)])
    flare = [*tube(line[:2], [18.5, 16], wide=(1, 0, 0), ratio=1.6), *tube(line[1:3], [16.5, 15.5], wide=(1, 0, 0), ratio=1.4),
             *tube(line[2:4], [15.8, 15.3], wide=(1, 0, 0), ratio=1.2), *tube(line[3:], [16.2, 15.6, 15.6])]
    notch = Blob(k.femoral([(0, 26, 4)])[0] + up, (8 * w, 26, 15))
    canal = tube(line[1:], [13, 12, 15.5 - 0.8 * k.cortex_mm, 15.6 - k.cortex_mm, 15.6 - k.cortex_mm])
    end = Cut(Union([*condyles, *groove, *flare[:2], *canal[:2]], 12), away=[notch])
    whole = Cut(Union([*condyles, *groove, *flare], 12), away=[notch])
    return [*layers("femur", whole, 1150 * k.bone), *layers("femur", end, 240 * k.bone, inset_mm=1.5),
            *layers("femur", canal[2:], 10, blur_mm=4),
            *layers("femur", blob(k.femoral([(0, -2, 40)]), (20, 12, 20)), 90 * k.bone, blur_mm=14, opacity=0.8)]


def tibia(k: Knee) -> list[Layer]:
    """Plateau with its two spines, tuberosity, shaft with a marrow canal."""
    w, drop = k.condyles, (0, 0, -k.joint_mm / 2)
    slope = axes_along((0, 0.1, 1))
    plateau: list[Solid] = [blob(k.tibial([(x * w, y, -11)]) + drop, (20 * w, 24, 11), slope, 4) for x, y in ((-18.5, 3), (18.5, 4))]
    spines = [Segment(k.tibial([(x, 3, -6)])[0], k.tibial([(0.7 * x, 3, k.joint_mm / 2 + 2)])[0], 5.5, 1.6) for x in (-6, 6)]
    line = k.tibial([(0, 4, -14), (0, 3, -30), (-1, 2, -48), (-1, 2, -72), (-1, 2, -100), (0, 4, -200)])
    flare = [*tube(line[:2], [23, 20], wide=(1, 0, 0), ratio=1.5), *tube(line[1:3], [20, 17.5], wide=(1, 0, 0), ratio=1.4),
             *tube(line[2:4], [18, 15], wide=(1, 0, 0), ratio=1.2), *tube(line[3:], [15, 13.2, 12.4])]
    bump = blob(k.tibial([(-4, -21, -40)]), (9, 8, 19))
    canal = tube(line[1:], [17, 15, 14.6 - 0.8 * k.cortex_mm, 13.2 - k.cortex_mm, 12.4 - k.cortex_mm])
    end = Union([*plateau, *spines, *flare[:2], *canal[:2], bump], 10)
    whole = Union([*plateau, *spines, *flare, bump], 10)
    under = Blob(k.tibial([(0, 3, -5)])[0] + drop, (34 * w, 19, 3.5), slope)
    return [*layers("tibia", whole, 1100 * k.bone), *layers("tibia", end, 220 * k.bone, inset_mm=1.4),
            *layers("tibia", under, 420 * k.bone, blur_mm=4, opacity=0.8), *layers("tibia", canal[2:], 10, blur_mm=4),
            *layers("tibia", blob(k.tibial([(0, 3, -40)]), (18, 12, 22)), 80 * k.bone, blur_mm=16, opacity=0.8)]


def fibula(k: Knee) -> list[Layer]:
    """On the outer side, behind the tibia."""
    out = -k.fibula_mm
    head = blob(k.tibial([(-35 + out, 22, -24)]), (9.5, 10, 13), axes_along((0.15, 0, 1)))
    path = smooth_path(k.tibial([(-35 + out, 22, -28), (-36 + out, 21, -52), (-33 + out, 19, -100), (-30 + out, 18, -200)]), 8)
    return [*layers("fibula", [head], 900 * k.bone), *layers("fibula", tube(path, [7.5, 5.6, 5.6, 5.8, 6, 6, 6, 6]), 1050 * k.bone),
            *layers("fibula", [head], 230 * k.bone, inset_mm=1.3), *layers("fibula", tube(path, [5.5, 3.4, 3, 3, 3, 3, 3, 3]), 60)]


def front(k: Knee) -> list[Layer]:
    """Kneecap with its tendons and the fat pad behind them, cartilage and menisci."""
    place = kneecap(k)
    cap = Union([Blob(place, (21, 9.5, 20), axes_along((0, 0.12, 1))), Blob(place + (0, 4, 4), (17, 8, 14))], 6)
    low, high = place + (0, -3, -17), place + (0, -3, 17)
    foot = k.tibial([(-4, -27, -42)])[0]
    tendons = [*tube([low, foot], [4, 3.5], wide=(1, 0, 0), ratio=3), *tube([high, k.femoral([(0, -30, 110)])[0]], 4, wide=(1, 0, 0), ratio=3)]
    pad = Blob(0.5 * (low + foot) + (0, 9, 0), (18, 8, 18))
    gristle = Union([Blob((-20, 2, 0), (20, 24, 0.5 * k.joint_mm + 1.5)), Blob((20, 2, 0), (20, 25, 0.5 * k.joint_mm + 1.5))], 2)
    return [*layers("fat pad", pad, -85, blur_mm=4), *layers("cartilage", gristle, 95), *layers("tendon", tendons, 75),
            *layers("patella", cap, 950 * k.bone), *layers("patella", cap, 380 * k.bone, inset_mm=1.6)]


@PHANTOMS.register("knee")
def knee(*, seed: int) -> Phantom:
    """A left or a right knee, as scanned for a knee CT."""
    rng = np.random.default_rng([7002, seed])
    k, _ = draw(rng)
    size = float(np.clip(1 + 0.075 * rng.normal(), 0.83, 1.18))
    wide, deep, tall = size * (1 + np.clip(rng.normal(size=3), -2, 2) * (0.03, 0.03, 0.04))
    half = float(np.clip(rng.normal(84, 14), 58, 118))
    shift = (rng.normal() * 7, rng.normal() * 5 - 6, float(np.clip(-12 + 17 * rng.normal(), -0.55 * half, 0.35 * half)))
    turn = np.clip(rng.normal(size=3), -2, 2) * (4.0, 3.0, 10.0)
    left = bool(rng.random() < 0.5)
    pose = Pose.draw(rng, scale=(wide, deep, tall), angles_deg=turn, shift_mm=shift, wobble_mm=2.5, wavelength_mm=(70, 160), mirrored=left)
    strokes = [*flesh(k), *front(k), *femur(k), *tibia(k), *fibula(k)]
    return Phantom("knee", seed, tuple(strokes), pose, (-half, half))
