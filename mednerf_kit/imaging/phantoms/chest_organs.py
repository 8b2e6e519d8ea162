"""Organs of the chest phantom: lungs, heart, great vessels, airways and the upper abdomen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .chest_patient import Chest
from .painter import Layer
from .solids import (
    Array,
    Column,
    Cut,
    Profile,
    Region,
    Segment,
    Solid,
    Union,
    axes_along,
    blob,
    smooth_path,
    tube,
)
from .trees import scattered, vessel_tree


def dome(c: Chest, side: int) -> Callable[[Array, Array], Array]:
    """Height of the diaphragm on one side (+1 left, −1 right) as a function of x and y.

    It falls to the side and to the back, and less to the front.
    """
    top = -68 + c.dome_mm - (c.dome_gap_mm if side > 0 else 0)
    middle = 62.0 * side

    def height(x: Array, y: Array) -> Array:
        across = (x - np.float32(middle)) * np.float32(side / 68)  # + to the side, − to the heart
        along = (y + 8) * np.float32(1 / 90)
        fall = across * across * np.where(across > 0, np.float32(46), np.float32(5))
        fall = fall + along * along * np.where(along > 0, np.float32(58), np.float32(26))
        return np.float32(top) - fall * np.float32(c.flatness)

    return height


def lung(c: Chest, cavity: Column, side: int) -> Cut:
    """One lung: the cavity above the diaphragm, under the apical dome, beside the mediastinum."""
    height = dome(c, side)
    waist = Profile([-95, -62, -32, 0, 30, 60, 95], [4, 6, 16, 25, 20, 16, 15])

    def floor(x: Array, y: Array, z: Array) -> Array:
        return (height(x, y) - z) * np.float32(0.8)

    def cap(x: Array, y: Array, z: Array) -> Array:
        u, v = (x - np.float32(40 * side)) * np.float32(1 / 40), (y - 40) * np.float32(1 / 50)
        return (z - (125 - (u * u * 20 + v * v * 20))) * np.float32(0.75)

    def beside(x: Array, y: Array, z: Array) -> Array:
        wide = waist(y) * (1 + np.float32(0.3) * np.exp(-(((z - 78) / 32) ** 2)))
        return wide + 16 * np.clip((-52 - z) / 36, 0, 1.3) - np.float32(side) * x

    solid = Cut(cavity, keep=[Region(floor), Region(cap), Region(beside)])
    solid.lo[2], solid.hi[2] = -185, 128
    solid.lo[0], solid.hi[0] = (5, solid.hi[0]) if side > 0 else (solid.lo[0], -5)
    return solid


def fissures(c: Chest, side: int, rng: np.random.Generator) -> Layer:
    """The oblique fissure of a lung, and the horizontal one of the right lung.

    They are curved sheets of tissue one or two millimetres thick.
    """
    tilt = rng.normal(size=2) * 6
    centre = np.array([60 * side, 0, 5 + tilt[0]])
    normal = (0.12 * side, 0.62, 0.78)  # from high behind to low in front
    sheets: list[Solid] = [blob(centre, (75, 130, 1.0), axes_along(normal), 2)]
    if side < 0:
        sheets.append(blob((-65, -50, 18 + tilt[1]), (65, 45, 0.8), axes_along((0.1, -0.05, 1)), 2))
    return Layer(
        f"fissure {'left' if side > 0 else 'right'}",
        sheets,
        -300,
        opacity=0.7,
        within=f"lung {side}",
    )


def fluid(depth_mm: float) -> Region:
    """What lies behind a level that is deeper towards the base: the patient lies on the back."""
    return Region(lambda x, y, z: np.float32(92 - depth_mm) - y + (z + 90) * np.float32(0.28))


def lungs(c: Chest, cavity: Column, rng: np.random.Generator) -> list[Layer]:
    """Both lungs with everything in them."""
    result: list[Layer] = []
    for side, effusion in zip((1, -1), c.effusion_mm, strict=True):
        name, mask = "left" if side > 0 else "right", f"lung {side}"
        solid = lung(c, cavity, side)
        result.append(Layer(f"lung {name}", [solid], c.lung_hu, keep=mask))
        back = blob((60 * side, 92, -20), (90, 42, 150))
        result.append(
            Layer(f"lung {name}", [back], c.lung_hu + 70, blur_mm=60, opacity=0.6, within=mask)
        )  # blood settles to the back
        result.append(fissures(c, side, rng))
        hilum = np.array([40 * side, 8, 22 if side > 0 else 14])
        for n, tip, lift in ((80, 1.5, 0), (50, 1.3, -16)):  # arteries, then veins from lower down
            ends = scattered(solid, n, rng, margin_mm=4)
            result.append(
                Layer(
                    f"vessels {name}",
                    vessel_tree(hilum + (0, -6 * (lift < 0), lift), ends, tip_mm=tip),
                    40,
                    within=mask,
                )
            )
        result += opacities(c, solid, mask, rng)
        if effusion:
            result.append(Layer("effusion", [Cut(solid, keep=[fluid(effusion)])], 12, blur_mm=5))
        place = scattered(solid, 2, rng, margin_mm=8)
        for k in range(c.nodules):
            if rng.random() < 0.5:
                r = float(rng.uniform(4, 13))
                result.append(
                    Layer("nodule", [blob(place[k], (r, r * 0.9, r * 1.1))], 35, within=mask)
                )
    return result


def opacities(c: Chest, solid: Solid, mask: str, rng: np.random.Generator) -> list[Layer]:
    """Patches of consolidation and ground glass, more often low and to the back."""
    places = scattered(solid, 8, rng, margin_mm=2)
    places = places[np.argsort(places[:, 2] - 0.7 * places[:, 1])]
    result: list[Layer] = []
    for place in places[: c.opacities]:
        r = rng.uniform(12, 38, 3)
        result.append(
            Layer(
                "opacity",
                [blob(place, r)],
                float(rng.uniform(-500, 0)),
                blur_mm=float(1.2 * r.min()),
                opacity=float(rng.uniform(0.4, 0.9)),
                within=mask,
            )
        )
    return result


def mediastinum(c: Chest) -> list[Layer]:
    """Fat, heart, great vessels and oesophagus between the lungs."""
    h, a, low = c.heart, c.aorta, 0.5 * c.dome_mm
    turn = np.deg2rad(c.heart_turn_deg)
    down, out = 0.52 * np.cos(turn) + 0.75 * np.sin(turn), 0.75 * np.cos(turn) - 0.52 * np.sin(turn)
    axis = axes_along((out, -0.42, -down))
    heart = Union(
        [
            blob((20, -36, -46 + low), np.array([44, 46, 60]) * h, axis),
            blob((-18, -26, -36 + low), np.array([34, 36, 42]) * h),
            blob((4, 2, -20 + low), np.array([37, 27, 36]) * h),
            blob((8, -42, -8 + low), np.array([30, 28, 34]) * h),
        ],
        14,
    )
    pads = [blob((62, -56, -74 + low), (30, 24, 18)), blob((-40, -54, -72 + low), (24, 22, 18))]
    far, high = c.unfold_mm, c.unfold_mm
    ascending = smooth_path(
        [
            (2, -22, -2),
            (-10 - 0.4 * far, -34, 26),
            (-12 - 0.5 * far, -26, 52 + 0.5 * high),
            (2, -4, 74 + high),
            (25 + 0.6 * far, 18, 68 + high),
            (31 + far, 37, 42),
            (29 + far, 44, 0),
            (20 + 0.6 * far, 40, -60),
            (8, 28, -120),
            (5, 16, -190),
        ],
        26,
    )
    radii = np.interp(np.arange(26), [0, 6, 12, 25], [16, 16, 14.5, 11]) * a
    trunk = smooth_path([(10, -46, -6), (20, -38, 18), (26, -16, 34), (44, 6, 28)], 8)
    right = smooth_path([(22, -26, 30), (2, -12, 24), (-24, 2, 20), (-44, 8, 12)], 7)
    cava = smooth_path([(-24, -12, -6), (-28, -14, 40), (-24, -8, 82), (-30, -20, 104)], 8)
    neck = [
        Segment(np.array(p, np.float32), np.array(q, np.float32), r, r)
        for p, q, r in (
            ((-6, -18, 70), (-22, -6, 120), 6),
            ((6, -6, 76), (14, 4, 125), 5),
            ((16, 10, 76), (26, 16, 128), 6),
            ((-24, -14, 92), (28, -32, 104), 6),
        )
    ]
    folds = Union(
        [
            blob((-2, -18, 56), (37, 36, 56)),
            blob((0, 40, 0), (27, 26, 140)),
            blob((16, -4, 40), (26, 26, 26)),
        ],
        10,
    )
    vessels = [
        *tube(trunk, [15, 15, 13, 10, 10, 9, 9, 8]),
        *tube(right, [13, 12, 11, 11, 10, 9, 8]),
        *tube(cava, 10),
    ]
    gullet = tube(
        smooth_path([(4, 32, 170), (2, 34, 90), (6, 40, 20), (10, 34, -60), (24, 10, -88)], 10), 6
    )
    return [
        Layer("mediastinum", [folds], -10),
        Layer("mediastinum", pads, -80, blur_mm=8),
        Layer("heart", [heart], 42),
        Layer("aorta", tube(ascending, radii), 45),
        Layer("great vessels", [*vessels, *neck], 45),
        Layer("oesophagus", gullet, 30),
    ]


def airways(c: Chest) -> list[Layer]:
    """Trachea and main bronchi: air in a thin wall."""
    pipe = smooth_path([(0, 4, 190), (0, 14, 130), (-2, 22, 80), (-3, 28, 48)], 8)
    left = smooth_path([(-3, 28, 50), (16, 28, 34), (40, 26, 18), (52, 30, -6)], 6)
    right = smooth_path([(-3, 28, 50), (-18, 28, 34), (-34, 26, 16), (-46, 28, -12)], 6)
    taper = [6.5, 6.2, 5.8, 5, 4.2, 3.2]
    walls = [*tube(pipe, 10.5), *tube(left, np.add(taper, 2)), *tube(right, np.add(taper, 2.4))]
    holes = [*tube(pipe, 8.5), *tube(left, taper), *tube(right, np.add(taper, 0.4))]
    return [Layer("airway wall", walls, 25), Layer("trachea", holes, -960)]


def abdomen(c: Chest, cavity: Column, rng: np.random.Generator) -> list[Layer]:
    """Fat, liver, spleen, stomach with its bubble, and gas in the bowel.

    Gas lies in front, for the patient lies on the back.
    """
    under = Column(cavity.width, cavity.front, cavity.back, -240, 60, (2, -6, 2))
    right, left = dome(c, -1), dome(c, 1)
    fat = Cut(
        under,
        keep=[
            Region(lambda x, y, z: (z + 3 - np.maximum(left(x, y), right(x, y))) * np.float32(0.8))
        ],
    )
    wedge = Region(
        lambda x, y, z: (
            (x - np.float32(18) + (y + 30) * np.float32(0.5) - (z + 110) * np.float32(0.35))
            * np.float32(0.8)
        )
    )
    liver = Cut(
        under, keep=[Region(lambda x, y, z: (z + 4 - right(x, y)) * np.float32(0.8)), wedge]
    )
    top = float(left(np.array(55.0), np.array(-10.0)))
    stomach = blob((52, -18, top - 42), (44, 50, 38), axes_along((0.3, 0.2, 1)))
    level = float(rng.uniform(-34, -10))
    gas = Cut(
        blob(
            (54, -20, top - 10 - 26 * c.gas),
            np.array([36, 42, 26]) * c.gas,
            axes_along((0.3, 0.2, 1)),
        ),
        keep=[
            Region(lambda x, y, z: y - np.float32(level)),
            Region(lambda x, y, z: (z + 6 - left(x, y)) * np.float32(0.8)),
        ],
    )
    spleen = blob((92, 46, top - 48), (30, 40, 44), axes_along((0.2, 0.3, 1)))
    bubbles = []
    for _ in range(c.bowel):
        place = (rng.uniform(-20, 95), rng.uniform(-80, -45), top - rng.uniform(45, 110))
        bubbles.append(blob(place, rng.uniform(6, 17, 3)))
    return [
        Layer("abdominal fat", [fat], -70, opacity=0.3),
        Layer("liver", [liver], 60),
        Layer("spleen", [spleen], 52),
        Layer("stomach", [stomach], 32),
        Layer("stomach bubble", [gas], -940),
        *([Layer("bowel gas", bubbles, -850)] if bubbles else []),
    ]
