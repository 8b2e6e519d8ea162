"""The knee phantom: one leg, lying on its back, more or less bent.

Own frame of a right knee, mm: x to the left (so to the inside of the leg), y to the back, z up,
joint line at z = 0. A left knee is its mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .painter import PHANTOMS, Layer, Phantom, Pose
from .solids import (
    Array,
    Column,
    Cut,
    Profile,
    Segment,
    Union,
    axes_along,
    blob,
    smooth_path,
    tube,
)


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

    def femoral(self, points: ArrayLike) -> Array:
        """Points of the straight leg, leaned back and out with the femur."""
        p = np.array(points, np.float32).reshape(-1, 3)
        above = np.maximum(p[:, 2] - 20, 0)
        p[:, 1] += np.tan(0.45 * self.bend) * (p[:, 2] - 20)
        p[:, 0] -= np.tan(self.valgus) * above
        return p

    def tibial(self, points: ArrayLike) -> Array:
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
        cortex_mm=float(np.clip(4.3 + 1.1 * rng.normal(), 2.2, 7)),
        valgus=float(np.deg2rad(np.clip(5 + 2.5 * rng.normal(), -1, 11))),
        fibula_mm=float(2 * rng.normal()),
        condyles=float(np.clip(1 + 0.04 * rng.normal(), 0.9, 1.1)),
    ), build


def kneecap(k: Knee) -> Array:
    """Middle of the patella."""
    return np.array([k.patella_side_mm, -44 + 0.1 * (k.patella_mm - 20), k.patella_mm], np.float32)


def flesh(k: Knee) -> list[Layer]:
    """Skin and fat, then the muscle groups of thigh and calf; fat fills the hollow of the knee."""
    z = np.array([-170, -120, -75, -35, 0, 35, 75, 120, 170], float)
    lean = np.where(z > 0, np.tan(0.45 * k.bend) * (z - 20.0), -np.tan(0.55 * k.bend) * z)
    girth = np.where(
        z > 0, 1 + (k.thigh - 1) * np.clip(z / 70, 0, 1), 1 + (k.calf - 1) * np.clip(-z / 70, 0, 1)
    )
    girth *= 1 + 0.5 * ((k.thigh - 1) + (k.calf - 1)) * np.exp(-((z / 50) ** 2))
    half = np.array([50, 56, 58, 57, 58, 60, 64, 69, 73]) * girth + 0.7 * (k.fat_mm - 8)
    front = (
        np.array([-32, -35, -38, -43, -50, -53, -53, -57, -61]) * np.where(np.abs(z) < 50, 1, girth)
        + lean
        - 0.4 * (k.fat_mm - 8)
    )
    front -= 9 * np.exp(-(((z - k.patella_mm) / 26) ** 2))
    back = np.array([70, 75, 72, 65, 60, 63, 71, 80, 86]) * girth + lean + 0.7 * (k.fat_mm - 8)
    lateral = Profile(z, half), Profile(z, front), Profile(z, back)
    skin = Column(*lateral, -230, 230)
    inner = Column(*lateral, -230, 230, (k.fat_mm, 0.45 * k.fat_mm + 1, k.fat_mm))
    g, t = k.calf, k.thigh
    calf = [
        *tube(
            k.tibial([(17, 34, 20), (19, 36, -40), (18, 40, -90), (14, 40, -190)]),
            [8, 17 * g, 23 * g, 22 * g],
        ),
        *tube(
            k.tibial([(-17, 34, 18), (-17, 36, -40), (-17, 38, -90), (-14, 38, -190)]),
            [8, 16 * g, 21 * g, 21 * g],
        ),
        *tube(k.tibial([(-30, -4, -30), (-30, -4, -80), (-26, -4, -190)]), [9, 17 * g, 18 * g]),
        *tube(k.tibial([(0, 22, -15), (0, 22, -60), (0, 22, -190)]), [10, 20, 24]),
    ]
    thigh = [
        *tube(k.femoral([(30, -14, 30), (28, -16, 80), (24, -14, 190)]), [8, 22 * t, 30 * t]),
        *tube(k.femoral([(-28, -16, 45), (-28, -14, 90), (-26, -10, 190)]), [8, 22 * t, 32 * t]),
        *tube(k.femoral([(0, -38, 62), (0, -36, 110), (0, -34, 190)]), [6, 15 * t, 24 * t]),
        *tube(
            k.femoral([(34, 34, -10), (34, 34, 40), (26, 44, 100), (18, 46, 190)]),
            [6, 11, 20 * t, 32 * t],
        ),
        *tube(
            k.femoral([(-36, 28, -8), (-34, 32, 40), (-26, 42, 100), (-18, 44, 190)]),
            [6, 10, 19 * t, 30 * t],
        ),
    ]
    joint = blob((0, 2, 8), (44, 40, 34))
    muscle = Cut(Union([*calf, *thigh, joint], 14), keep=[inner])
    vein = tube(
        np.concatenate(
            [
                k.femoral([(2, 30, 150), (0, 38, 60)]),
                k.tibial([(0, 40, 0), (0, 36, -60), (-2, 26, -190)]),
            ]
        ),
        4.5,
    )
    return [Layer("skin", [skin], -98), Layer("muscle", [muscle], 52), Layer("vessels", vein, 48)]


def bone(
    z: Array, half: Array, front: Array, back: Array, wall: Array, centre: Array
) -> tuple[Column, Column]:
    """A long bone and its inside.

    Its outline is given at heights z, with the thickness of its wall and its centre line [n, 3], in
    mm.
    """
    low, high = float(z.min()), float(z.max())
    thin = float(wall.min())

    def column(inset: Array, bottom: float, top: float) -> Column:
        w, f, b = half - inset, front + inset + centre[:, 1], back - inset + centre[:, 1]
        return Column(
            Profile(z, w),
            Profile(z, f),
            Profile(z, b),
            bottom,
            top,
            middle=Profile(z, centre[:, 0]),
        )

    return column(0 * wall, low, high), column(wall, low + thin, high - thin)


def femur(k: Knee) -> list[Layer]:
    """Shaft with a marrow canal, flare, and two condyles with the notch between them."""
    w, lift = k.condyles, k.joint_mm / 2
    z = np.array([0, 3, 8, 16, 26, 36, 46, 58, 74, 96, 130, 210], float)
    half = np.array([20, 29, 35, 38.5, 39.5, 37.5, 32.5, 27, 22, 18.5, 16.5, 16]) * np.where(
        z < 60, w, 1
    )
    front = np.array([-8, -16, -23, -28.5, -31, -30.5, -28.5, -26.5, -25, -24, -23.5, -22])
    back = np.array([12, 26, 33, 37.5, 38, 33, 20, 11.5, 8.5, 8, 9, 11])
    wall = np.interp(z, [0, 40, 100], [1.5, 1.8, k.cortex_mm])
    outer, inner = bone(
        z + lift, half, front, back, wall, k.femoral(np.stack([0 * z, 0 * z, z], 1))
    )
    path = [(0, -14, lift - 7), (0, 10, lift - 2), (0, 26, lift + 9), (0, 48, lift + 18)]
    arch = tube(path, [9, 10.5 * w, 10.5 * w, 12 * w])
    groove = tube([(0, -42, lift + 34), (0, -36, lift + 14), (0, -20, lift - 6)], [10, 10, 8])
    wide_arch = tube(path, [10.5, 10.5 * w + 1.5, 10.5 * w + 1.5, 12 * w + 1.5])
    canal = tube(
        k.femoral([(0, -8, 66), (0, -8, 96), (0, -7, 130), (0, -5, 210)]),
        [5, 15.5 - k.cortex_mm, 16 - k.cortex_mm, 16 - k.cortex_mm],
    )
    return [
        Layer("femur", [Cut(outer, away=[*arch, *groove])], 1100 * k.bone),
        Layer(
            "femur", [Cut(inner, away=[*wide_arch, *groove])], 215 * k.bone, onto_hu=1100 * k.bone
        ),
        Layer("femur", canal, 10, blur_mm=5),
        Layer(
            "femur",
            [blob(k.femoral([(0, -6, 50)])[0], (18, 11, 22))],
            120 * k.bone,
            blur_mm=18,
            opacity=0.6,
        ),
    ]


def tibia(k: Knee) -> list[Layer]:
    """Plateau with its two spines, tuberosity, shaft with a marrow canal."""
    w, drop = k.condyles, k.joint_mm / 2
    z = -np.array([0, 2.5, 7, 14, 24, 36, 50, 70, 100, 210], float)
    half = np.array([32, 36, 38.5, 37.5, 33.5, 27.5, 22.5, 18, 15, 13.5]) * np.where(z > -45, w, 1)
    front = np.array([-14, -18.5, -21.5, -22.5, -22.5, -24, -22, -17.5, -14, -10])
    back = np.array([20, 25, 27.5, 26.5, 22.5, 18.5, 16.5, 16, 15, 16])
    wall = np.interp(-z, [0, 40, 100], [1.5, 1.8, 0.9 * k.cortex_mm])
    outer, inner = bone(z - drop, half, front, back, wall, k.tibial(np.stack([0 * z, 0 * z, z], 1)))
    spines = [
        Segment(k.tibial([(x, 4, -6)])[0], k.tibial([(0.6 * x, 4, drop + 1.5)])[0], 8, 2.2)
        for x in (-7, 7)
    ]
    canal = tube(
        k.tibial([(0, 0, -56), (0, 0, -84), (0, 1, -110), (0, 3, -210)]),
        [4, 14.5 - 0.9 * k.cortex_mm, 13.5 - 0.9 * k.cortex_mm, 12.5 - 0.9 * k.cortex_mm],
    )
    under = blob(k.tibial([(0, 3, -3)])[0] - (0, 0, drop), (34 * w, 20, 3))
    return [
        Layer("tibia", [outer, *spines], 1100 * k.bone),
        Layer("tibia", [inner], 195 * k.bone, onto_hu=1100 * k.bone),
        Layer("tibia", spines, 300 * k.bone, inset_mm=1.3),
        Layer("tibia", [under], 420 * k.bone, blur_mm=4, opacity=0.7),
        Layer("tibia", canal, 10, blur_mm=5),
        Layer(
            "tibia",
            [blob(k.tibial([(0, 1, -40)])[0], (18, 12, 22))],
            90 * k.bone,
            blur_mm=18,
            opacity=0.7,
        ),
    ]


def fibula(k: Knee) -> list[Layer]:
    """On the outer side, behind the tibia."""
    out = -k.fibula_mm
    head = blob(k.tibial([(-35 + out, 22, -24)])[0], (9.5, 10, 13), axes_along((0.15, 0, 1)))
    path = smooth_path(
        k.tibial(
            [
                (-35 + out, 22, -28),
                (-36 + out, 21, -52),
                (-33 + out, 19, -100),
                (-30 + out, 18, -200),
            ]
        ),
        8,
    )
    return [
        Layer("fibula", [head, *tube(path, [7.5, 5.6, 5.6, 5.8, 6, 6, 6, 6])], 1000 * k.bone),
        Layer("fibula", [head], 230 * k.bone, inset_mm=1.3, onto_hu=1000 * k.bone),
        Layer("fibula", tube(path, [5.5, 3.4, 3, 3, 3, 3, 3, 3]), 60),
    ]


def front(k: Knee) -> list[Layer]:
    """Kneecap with its tendons and the fat pad behind them, cartilage and menisci."""
    place = kneecap(k)
    cap = Union(
        [
            blob(place + (0, 0, 2), (22, 20, 9.5), axes_along((0, 1, -0.1))),
            blob(place + (0, 0, -12), (12, 7, 11)),
            blob(place + (0, 6, 3), (16, 7, 13)),
        ],
        10,
    )
    low, high = place + (0, -3, -17), place + (0, -3, 17)
    foot = k.tibial([(-4, -27, -42)])[0]
    tendons = [
        *tube([low, foot], [4, 3.5], wide=(1, 0, 0), ratio=3),
        *tube([high, k.femoral([(0, -30, 110)])[0]], 4, wide=(1, 0, 0), ratio=3),
    ]
    pad = blob(0.5 * (low + foot) + (0, 9, 0), (18, 8, 18))
    gristle = Union(
        [
            blob((-20, 2, 0), (20, 24, 0.5 * k.joint_mm + 1.5)),
            blob((20, 2, 0), (20, 25, 0.5 * k.joint_mm + 1.5)),
        ],
        2,
    )
    return [
        Layer("fat pad", [pad], -85, blur_mm=4),
        Layer("cartilage", [gristle], 95),
        Layer("tendon", tendons, 75),
        Layer("patella", [cap], 850 * k.bone),
        Layer("patella", [cap], 270 * k.bone, inset_mm=1.6, onto_hu=850 * k.bone),
    ]


@PHANTOMS.register("knee")
def knee(*, seed: int) -> Phantom:
    """A left or a right knee, as scanned for a knee CT.

    Options:
        seed: which patient; the same seed gives the same one.
    """
    rng = np.random.default_rng([7002, seed])
    k, _ = draw(rng)
    size = float(np.clip(1 + 0.075 * rng.normal(), 0.83, 1.18))
    wide, deep, tall = size * (1 + np.clip(rng.normal(size=3), -2, 2) * (0.03, 0.03, 0.04))
    half = float(np.clip(rng.normal(84, 14), 58, 118))
    shift = (
        rng.normal() * 7,
        rng.normal() * 5 - 6,
        float(np.clip(-12 + 17 * rng.normal(), -0.55 * half, 0.35 * half)),
    )
    turn = np.clip(rng.normal(size=3), -2, 2) * (4.0, 3.0, 10.0)
    left = bool(rng.random() < 0.5)
    pose = Pose.draw(
        rng,
        scale=(wide, deep, tall),
        angles_deg=turn,
        shift_mm=shift,
        wobble_mm=2.5,
        wavelength_mm=(70, 160),
        mirrored=left,
    )
    strokes = [*flesh(k), *front(k), *femur(k), *tibia(k), *fibula(k)]
    return Phantom("knee", seed, tuple(strokes), pose, (-half, half))
