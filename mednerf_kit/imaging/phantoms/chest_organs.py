"""Organs of the chest phantom: lungs with fissures and vessels, heart and great vessels, airways, what lies under the diaphragm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .painter import Layer, layers
from .solids import Array, Below, Blob, Column, Cut, Profile, Segment, Solid, Union, axes_along, smooth_path, tube
from .trees import scattered, vessel_tree

if TYPE_CHECKING:
    from .chest import Chest

FAR = 400.0


def half_space(inside: Callable[[Array, Array, Array], Array]) -> Solid:
    """A solid from any signed distance, without bounds of its own."""

    class _Half(Solid):
        lo = np.full(3, -FAR, np.float32)
        hi = np.full(3, FAR, np.float32)

        def distance(self, x: Array, y: Array, z: Array) -> Array:
            return inside(x, y, z)

    return _Half()


def dome(c: Chest, side: int) -> Callable[[Array, Array], Array]:
    """Height of the diaphragm on one side (+1 left, −1 right), falling to the side, the back and less to the front."""
    top = -68 + c.dome_mm - (c.dome_gap_mm if side > 0 else 0)
    middle = 62.0 * side

    def height(x: Array, y: Array) -> Array:
        across = (x - np.float32(middle)) * np.float32(side / 68)  # + to the side, − to the heart
        along = (y + 8) * np.float32(1 / 90)
        fall = across * across * np.where(across > 0, np.float32(46), np.float32(9))
        fall = fall + along * along * np.where(along > 0, np.float32(58), np.float32(26))
        return np.float32(top) - fall * np.float32(c.flatness)

    return height


def lung(c: Chest, cavity: Column, side: int) -> Cut:
    """One lung: the cavity above the diaphragm, under the apical dome and beside the mediastinum."""
    height = dome(c, side)
    waist = Profile([-90, -55, -20, 20, 95], [5, 9, 23, 22, 21])

    def floor(x: Array, y: Array, z: Array) -> Array:
        return (height(x, y) - z) * np.float32(0.8)

    def cap(x: Array, y: Array, z: Array) -> Array:
        u, v = (x - np.float32(40 * side)) * np.float32(1 / 40), (y - 40) * np.float32(1 / 50)
        return (z - (125 - (u * u * 20 + v * v * 20))) * np.float32(0.75)

    def beside(x: Array, y: Array, z: Array) -> Array:
        return waist(y) * (1 + np.float32(0.3) * np.exp(-(((z - 78) / 32) ** 2))) - np.float32(side) * x

    solid = Cut(cavity, keep=[half_space(floor), half_space(cap), half_space(beside)])
    solid.lo[2], solid.hi[2] = -185, 128
    solid.lo[0], solid.hi[0] = (5, solid.hi[0]) if side > 0 else (solid.lo[0], -5)
    return solid


def fissures(c: Chest, side: int, rng: np.random.Generator) -> list[Layer]:
    """Oblique fissure of a lung, and the horizontal one of the right: curved sheets of tissue one or two mm thick."""
    tilt = rng.normal(size=2) * 6
    centre = np.array([60 * side, 0, 5 + tilt[0]])
    normal = (0.12 * side, 0.62, 0.78)  # from high behind to low in front
    sheets: list[Solid] = [Blob(centre, (75, 130, 1.0), axes_along(normal), 2)]
    if side < 0:
        sheets.append(Blob((-65, -50, 18 + tilt[1]), (65, 45, 0.8), axes_along((0.1, -0.05, 1)), 2))
    return layers(f"fissure {'left' if side > 0 else 'right'}", sheets, -300, opacity=0.7, within=f"lung {side}")


def lungs(c: Chest, cavity: Column, rng: np.random.Generator) -> list[Layer]:
    """Both lungs with everything in them."""
    result: list[Layer] = []
    for side, effusion in zip((1, -1), c.effusion_mm):
        name, mask = "left" if side > 0 else "right", f"lung {side}"
        solid = lung(c, cavity, side)
        result += layers(f"lung {name}", solid, c.lung_hu, keep=mask)
        back = Blob((60 * side, 92, -20), (90, 42, 150))
        result += layers(f"lung {name}", back, c.lung_hu + 90, blur_mm=60, opacity=0.6, within=mask)  # blood settles to the back
        result += fissures(c, side, rng)
        hilum = np.array([40 * side, 8, 22 if side > 0 else 14])
        for n, tip, lift in ((90, 1.0, 0), (55, 0.9, -16)):  # arteries, then veins from lower down
            ends = scattered(solid, n, rng, margin_mm=4)
            result += layers(f"vessels {name}", vessel_tree(hilum + (0, -6 * (lift < 0), lift), ends, tip_mm=tip), 40, within=mask)
        result += opacities(c, solid, mask, rng)
        if effusion:
            fluid = half_space(lambda x, y, z, depth=effusion: np.float32(92 - depth) - y + (z + 90) * np.float32(0.28))
            result += layers("effusion", Cut(solid, keep=[fluid]), 12, blur_mm=5)
        place = scattered(solid, 2, rng, margin_mm=8)
        for k in range(c.nodules):
            if rng.random() < 0.5:
                r = float(rng.uniform(4, 13))
                result += layers("nodule", Blob(place[k], (r, r * 0.9, r * 1.1)), 35, within=mask)
    return result


def opacities(c: Chest, solid: Solid, mask: str, rng: np.random.Generator) -> list[Layer]:
    """Patches of consolidation and ground glass, more often low and to the back."""
    places = scattered(solid, 8, rng, margin_mm=2)
    places = places[np.argsort(places[:, 2] - 0.7 * places[:, 1])]
    result: list[Layer] = []
    for place in places[: c.opacities]:
        r = rng.uniform(12, 38, 3)
        result += layers("opacity", Blob(place, r), float(rng.uniform(-500, 0)), blur_mm=float(1.2 * r.min()),
                         opacity=float(rng.uniform(0.4, 0.9)), within=mask)
    return result


def mediastinum(c: Chest) -> list[Layer]:
    """Fat, heart, great vessels and oesophagus between the lungs."""
    h, a, low = c.heart, c.aorta, 0.5 * c.dome_mm
    turn = np.deg2rad(c.heart_turn_deg)
    down, out = 0.52 * np.cos(turn) + 0.75 * np.sin(turn), 0.75 * np.cos(turn) - 0.52 * np.sin(turn)
    axis = axes_along((out, -0.42, -down))
    heart = Union([Blob((20, -36, -46 + low), np.array([44, 46, 60]) * h, axis),
                   Blob((-18, -26, -36 + low), np.array([34, 36, 42]) * h),
                   Blob((4, 2, -20 + low), np.array([37, 27, 36]) * h),
                   Blob((8, -42, -8 + low), np.array([30, 28, 34]) * h)], 14)
    pads = [Blob((62, -56, -74 + low), (30, 24, 18)), Blob((-40, -54, -72 + low), (24, 22, 18))]
    far, high = c.unfold_mm, c.unfold_mm
    ascending = smooth_path([(2, -22, -2), (-10 - 0.4 * far, -34, 26), (-12 - 0.5 * far, -26, 52 + 0.5 * high), (2, -4, 74 + high),
                             (22 + 0.6 * far, 20, 68 + high), (28 + far, 38, 42), (27 + far, 44, 0), (20 + 0.6 * far, 40, -60),
                             (8, 28, -120), (5, 16, -190)], 26)
    radii = np.interp(np.arange(26), [0, 6, 12, 25], [16, 16, 13.5, 11]) * a
    trunk = smooth_path([(10, -46, -6), (20, -38, 18), (26, -16, 34), (44, 6, 28)], 8)
    right = smooth_path([(22, -26, 30), (2, -12, 24), (-24, 2, 20), (-44, 8, 12)], 7)
    cava = smooth_path([(-24, -12, -6), (-28, -14, 40), (-24, -8, 82), (-30, -20, 104)], 8)
    neck = [Segment(np.array(p, np.float32), np.array(q, np.float32), r, r) for p, q, r in (
        ((-6, -18, 70), (-22, -6, 120), 6), ((6, -6, 76), (14, 4, 125), 5), ((16, 10, 76), (26, 16, 128), 6),
        ((-24, -14, 92), (28, -32, 104), 6))]
    folds = Union([Blob((-2, -18, 56), (37, 36, 56)), Blob((0, 40, 0), (28, 26, 140))], 10)
    vessels = [*tube(trunk, [15, 15, 13, 10, 10, 9, 9, 8]), *tube(right, [13, 12, 11, 11, 10, 9, 8]), *tube(cava, 10)]
    gullet = tube(smooth_path([(4, 32, 170), (2, 34, 90), (6, 40, 20), (10, 34, -60), (24, 10, -88)], 10), 6)
    return [*layers("mediastinum", folds, -10), *layers("mediastinum", pads, -80, blur_mm=8), *layers("heart", heart, 42), *layers("aorta", tube(ascending, radii), 45),
            *layers("great vessels", [*vessels, *neck], 45), *layers("oesophagus", gullet, 30)]


def airways(c: Chest) -> list[Layer]:
    """Trachea and main bronchi: air in a thin wall."""
    pipe = smooth_path([(0, 4, 190), (0, 14, 130), (-2, 22, 80), (-3, 28, 48)], 8)
    left = smooth_path([(-3, 28, 50), (16, 28, 34), (40, 26, 18), (52, 30, -6)], 6)
    right = smooth_path([(-3, 28, 50), (-18, 28, 34), (-34, 26, 16), (-46, 28, -12)], 6)
    taper = [6.5, 6.2, 5.8, 5, 4.2, 3.2]
    walls = [*tube(pipe, 10.5), *tube(left, np.add(taper, 2)), *tube(right, np.add(taper, 2.4))]
    holes = [*tube(pipe, 8.5), *tube(left, taper), *tube(right, np.add(taper, 0.4))]
    return [*layers("airway wall", walls, 25), *layers("trachea", holes, -960)]


def abdomen(c: Chest, cavity: Column, rng: np.random.Generator) -> list[Layer]:
    """Fat, liver, spleen, stomach with its bubble (gas lies in front: the patient is on the back) and gas in the bowel."""
    under = Column(cavity.width, cavity.front, cavity.back, -240, 60, (2, -6, 2))
    fat = Cut(under, keep=[Below(lambda x, y: np.maximum(dome(c, 1)(x, y), dome(c, -1)(x, y)) - 3, under.lo, under.hi)])
    right, left = dome(c, -1), dome(c, 1)
    wedge = half_space(lambda x, y, z: (x - np.float32(18) + (y + 30) * np.float32(0.5) - (z + 110) * np.float32(0.35)) * np.float32(0.8))
    liver = Cut(under, keep=[Below(lambda x, y: right(x, y) - 4, under.lo, under.hi), wedge])
    top = float(left(np.float32(55), np.float32(-10)))
    stomach = Blob((52, -18, top - 42), (44, 50, 38), axes_along((0.3, 0.2, 1)))
    level = float(rng.uniform(-34, -10))
    gas = Cut(Blob((54, -20, top - 10 - 26 * c.gas), np.array([36, 42, 26]) * c.gas, axes_along((0.3, 0.2, 1))), keep=[
        half_space(lambda x, y, z: y - np.float32(level)), Below(lambda x, y: left(x, y) - 6, under.lo, under.hi)])
    spleen = Blob((92, 46, top - 48), (30, 40, 44), axes_along((0.2, 0.3, 1)))
    bubbles = []
    for _ in range(c.bowel):
        place = (rng.uniform(-20, 95), rng.uniform(-80, -45), top - rng.uniform(45, 110))
        bubbles.append(Blob(place, rng.uniform(6, 17, 3)))
    return [*layers("abdominal fat", fat, -70, opacity=0.55), *layers("liver", liver, 60), *layers("spleen", spleen, 52),
            *layers("stomach", stomach, 32), *layers("stomach bubble", gas, -940), *layers("bowel gas", bubbles, -850)]
