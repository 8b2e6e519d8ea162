"""The chest phantom: its body, and the order in which it is painted.

Own frame, mm, of an average adult lying on the back with the arms up: x to the left, y to the back,
z up, lung apex near z = 125, right dome of the diaphragm near −68. Pose and three scales turn it
into a patient.
"""

from __future__ import annotations

import numpy as np

from .chest_bones import bones
from .chest_organs import abdomen, airways, lungs, mediastinum
from .chest_patient import Chest, draw
from .painter import PHANTOMS, Layer, Phantom, Pose
from .solids import Column, Profile, Union, blob, tube


def body(c: Chest) -> tuple[Column, Column, Column]:
    """Skin, flesh under the fat, and thoracic cavity."""
    s = c.shoulders_mm
    z = [-230, -150, -100, -50, 0, 40, 80, 110 + s, 130 + s, 150 + s, 172 + s, 195 + s, 240 + s]
    fat = c.fat_mm - 11
    width = Profile(
        z,
        np.array([152, 152, 152, 154, 156, 154, 150, 144, 130, 100, 72, 62, 60])
        + fat * np.linspace(1, 0.3, 13),
    )
    front = Profile(
        z,
        np.array([-112, -112, -112, -111, -108, -101, -86, -68, -55, -44, -38, -38, -44])
        - 0.6 * fat
        - c.belly_mm * np.array([1, 0.9, 0.45, 0.1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    )
    back = Profile(
        z, np.array([102, 104, 108, 113, 117, 117, 113, 107, 99, 90, 78, 66, 60]) + 0.4 * fat
    )
    skin = Column(width, front, back, -260, 260)
    flesh = Column(
        width, front, back, -260, 260, (c.fat_mm, 0.5 * c.fat_mm + 2, 0.4 * c.fat_mm + 3)
    )
    z = [-200, -120, -80, -40, 0, 40, 75, 100, 120, 140]
    cavity = Column(
        Profile(z, [120, 128, 130, 128, 123, 113, 99, 86, 74, 62]),
        Profile(z, [-86, -90, -91, -90, -86, -75, -55, -34, -14, 2]),
        Profile(z, [76, 84, 88, 89, 89, 86, 81, 75, 68, 60]),
        -240,
        150,
    )
    return skin, flesh, cavity


def _outside(c: Chest, skin: Column, flesh: Column) -> list[Layer]:
    s, out = c.shoulders_mm, c.arms_out_mm
    arms = {
        side: [
            (side * 102, 30, 96 + s),
            (side * (119 + 0.5 * out), 20, 132 + s),
            (side * (134 + out), 4, 176 + s),
            (side * (148 + 1.8 * out), -16, 290),
        ]
        for side in (1, -1)
    }
    whole = Union(
        [
            skin,
            *(
                p
                for side in (1, -1)
                for p in tube(arms[side], [46, 46, 42 + 0.3 * c.fat_mm, 38 + 0.3 * c.fat_mm])
            ),
        ],
        36,
    )
    meat = Union([flesh, *(p for side in (1, -1) for p in tube(arms[side], [38, 37, 33, 28]))], 36)
    whole.lo[2] = meat.lo[2] = 20 + s
    breasts = []
    if c.breast > 0.1:
        for side in (1, -1):
            middle = np.array([side * (72 + 10 * c.breast), -74 - 0.5 * c.fat_mm, -8])
            breasts.append(
                (
                    blob(middle, np.array([62, 36, 62]) * c.breast**0.5),
                    blob(middle, np.array([34, 26, 36]) * c.breast**0.5),
                )
            )
    result = [Layer("skin", [skin, whole], -95)]
    for outer, _ in breasts:
        chest_wall = Union([skin, outer], 25)
        chest_wall.lo, chest_wall.hi = outer.lo - 15, outer.hi + 15
        result.append(Layer("breast", [chest_wall], -95))
    if c.female:
        result.append(Layer("breast", [b[1] for b in breasts], 5, blur_mm=14, opacity=0.8))
    return [*result, Layer("muscle", [flesh, meat], 42, keep="flesh")]


@PHANTOMS.register("chest")
def chest(*, seed: int) -> Phantom:
    """A thorax with the arms up, as scanned for a chest CT.

    Options:
        seed: which patient; the same seed gives the same one.
    """
    rng = np.random.default_rng([7001, seed])
    c, build = draw(rng)
    size = float(np.clip(1.045 + 0.075 * rng.normal() - 0.03 * c.female, 0.85, 1.2))
    wide = size * float(np.clip(1 + 0.055 * build + 0.03 * rng.normal(), 0.85, 1.18))
    deep = size * float(np.clip(1.06 + 0.065 * build + 0.06 * rng.normal(), 0.84, 1.3))
    tall = size * float(np.clip(1 - 0.015 * build + 0.075 * rng.normal(), 0.82, 1.18))
    top = 125 + float(rng.uniform(4, 42))
    bottom = -70 + min(c.dome_mm, 5) - float(rng.uniform(30, 130))
    shift = (
        rng.normal() * 6,
        rng.normal() * 8 - 4,
        -0.5 * (top + bottom) * tall + rng.normal() * 3,
    )
    turn = np.clip(rng.normal(size=3), -2, 2) * (3.0, 2.5, 5.0)
    pose = Pose.draw(rng, scale=(wide, deep, tall), angles_deg=turn, shift_mm=shift, wobble_mm=7.0)
    half = 0.5 * (top - bottom) * tall
    skin, flesh, cavity = body(c)
    strokes = [
        *_outside(c, skin, flesh),
        *abdomen(c, cavity, rng),
        *lungs(c, cavity, rng),
        *mediastinum(c),
        *airways(c),
        *bones(c, cavity),
    ]
    return Phantom("chest", seed, tuple(strokes), pose, (-half, half))
