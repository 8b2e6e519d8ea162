"""Bones of the chest phantom: spine, ribs with their cartilage, sternum, shoulder girdle."""

from __future__ import annotations

import numpy as np

from .chest_patient import Chest
from .painter import Layer
from .solids import Column, Profile, Solid, axes_along, blob, smooth_path, tube

#: Height of the middle of each vertebra, mm.
LEVELS = {
    "C4": 193.0,
    "C5": 176.0,
    "C6": 159.0,
    "C7": 142.0,
    "T1": 124.0,
    "T2": 104.0,
    "T3": 84.0,
    "T4": 63.5,
    "T5": 42.5,
    "T6": 21.0,
    "T7": -1.0,
    "T8": -23.5,
    "T9": -47.0,
    "T10": -71.0,
    "T11": -96.0,
    "T12": -122.0,
    "L1": -150.0,
    "L2": -179.0,
    "L3": -209.0,
    "L4": -240.0,
}
# how far each rib falls from the spine to its front end, mm
DROPS = (30, 46, 58, 68, 77, 85, 92, 94, 90, 80, 52, 30)
# how far round the cavity each rib goes
ENDS_DEG = (148, 150, 152, 152, 150, 147, 142, 134, 126, 116, 84, 58)
CARTILAGE_Z = (78, 56, 36, 16, -2, -18, -30)  # where the cartilages of ribs 1–7 meet the sternum


def spine_line(c: Chest) -> tuple[Profile, Profile]:
    """Lateral shift and depth of the vertebral bodies at each height."""
    z = np.array([-250, -200, -150, -100, -40, 20, 75, 125, 150, 200])
    bend = np.array([-26, -22, -16, -6, 4, 8, 1, -18, -30, -42]) * c.kyphosis
    return Profile(z, c.scoliosis_mm * np.sin((z + 60) / 75)), Profile(z, 47 + bend)


def shell(
    name: str, solids: list[Solid], cortex_hu: float, marrow_hu: float, wall_mm: float
) -> list[Layer]:
    """Bone: the cortex, then the marrow inside it."""
    return [
        Layer(name, solids, cortex_hu),
        Layer(name, solids, marrow_hu, inset_mm=wall_mm, onto_hu=cortex_hu),
    ]


def spine(c: Chest, dense: float) -> list[Layer]:
    """Vertebral bodies with discs, arches, and transverse and spinous processes."""
    across, depth = spine_line(c)
    result: list[Layer] = []
    heights = list(LEVELS.values())
    for i, (name, z) in enumerate(LEVELS.items()):
        step = heights[i - 1] - z if i else 17.0
        x, y = across.at(z), depth.at(z)
        slope = (depth.at(z + 8) - depth.at(z - 8)) / 16
        along = axes_along((0, slope, 1))
        wide, deep = (
            np.interp(z, [-240, -120, 40, 124, 193], [24, 20, 15.5, 14.5, 11]),
            np.interp(z, [-240, -120, 124, 193], [17, 16, 10, 8]),
        )
        frame = np.stack(
            [
                np.array([1, 0, 0], np.float32),
                np.cross(along[2], [1, 0, 0]).astype(np.float32),
                along[2],
            ]
        )
        here = np.array([x, y, z])
        result.append(
            Layer(
                "disc",
                [blob(here + (0, slope * step / 2, step / 2), (wide, deep, 0.2 * step), frame, 4)],
                90,
            )
        )
        result += shell(
            f"vertebra {name}",
            [blob(here, (wide, deep, 0.41 * step), frame, 8)],
            400 * dense,
            155 * dense,
            1.3,
        )
        arch = [(x + s * 0.55 * wide, y + deep - 2, z + 3) for s in (1, -1)]
        back = (x, y + deep + 24, z - 3)
        for s, foot in zip((1, -1), arch, strict=True):
            corner = (x + s * 0.75 * wide, y + deep + 11, z + 1)
            tip = (x + s * (wide + 16 - 4 * (z < -110)), y + deep + 19, z + 4)
            result.append(
                Layer(
                    f"processes {name}",
                    [*tube([foot, corner, back], 4.0, wide=(0, 0, 1), ratio=1.7)],
                    300 * dense,
                )
            )
            result.append(
                Layer(f"processes {name}", [*tube([corner, tip], [4.5, 4.0])], 300 * dense)
            )
        fall = np.interp(z, [-200, -120, -20, 60, 124, 193], [4, 9, 24, 22, 12, 5])
        result.append(
            Layer(
                f"processes {name}",
                tube(
                    [back, (x, y + deep + 41 - 0.2 * fall, z - 3 - fall)],
                    [3.2, 2.8],
                    wide=(0, 0.4, 1),
                    ratio=2.0,
                ),
                230 * dense,
            )
        )
    return result


def rib_path(c: Chest, cavity: Column, number: int, side: int) -> np.ndarray:
    """Centre line of a rib from its head at the spine round the cavity to its front end, [n, 3]."""
    across, depth = spine_line(c)
    z0 = LEVELS[f"T{number}"] + 7
    x, y = across.at(z0), depth.at(z0)
    wide = float(np.interp(z0, [-120, 40, 124], [20, 15.5, 14.5]))
    angle = np.deg2rad(np.linspace(26, ENDS_DEG[number - 1], 15))
    fall = DROPS[number - 1] * ((1 - np.cos(angle)) / (1 - np.cos(angle[-1]))) ** 0.85
    ring = cavity.ring(angle, z0 - 2 - fall, 3.5) * (side, 1, 1)
    neck = np.array(
        [
            (x + side * (wide + 1), y + 9, z0),
            (x + side * (wide + 15), max(y + 24, ring[0, 1] - 6), z0 + 1),
        ]
    )
    return smooth_path(np.concatenate([neck, ring]), 30 if number < 11 else 18)


def ribs(c: Chest, cavity: Column, dense: float) -> list[Layer]:
    """Twelve pairs with their cartilages."""
    cortex: list[Layer] = []
    marrow: list[Layer] = []
    gristle: list[Layer] = []
    hu = 90 + 200 * max(0.0, c.age - 0.5)
    for side, name in ((1, "left"), (-1, "right")):
        previous = np.zeros((1, 3), np.float32)
        for number in range(1, 13):
            path = rib_path(c, cavity, number, side)
            radius = np.interp(np.arange(len(path)), [0, 4, len(path) - 1], [3.2, 3.6, 3.8]) * (
                1 if number < 11 else 0.85
            )
            label = f"rib {number} {name}"
            flat = (0.0, 0.25, 1.0) if number > 1 else (side * 0.8, 0.3, 0.3)
            cortex.append(Layer(label, tube(path, radius, wide=flat, ratio=1.75), 900 * dense))
            marrow.append(
                Layer(
                    label, tube(path, radius - 1.4, wide=flat, ratio=2.1), 180, onto_hu=900 * dense
                )
            )
            end = path[-1]
            if number <= 7:
                zs = CARTILAGE_Z[number - 1]
                edge = np.array([side * 17, cavity.front.at(zs) - 6, zs])
                between = 0.5 * (end + edge) + (0, -5, -8 if number > 3 else 0)
                previous = smooth_path([end, between, edge], 7)
                gristle.append(
                    Layer("cartilage", tube(previous, 3.6, wide=(0, 0.2, 1), ratio=1.5), hu)
                )
            elif number <= 10:
                meet = previous[len(previous) // 2]
                previous = smooth_path([end, 0.5 * (end + meet) + (0, -4, -4), meet], 7)
                gristle.append(
                    Layer("cartilage", tube(previous, 3.4, wide=(0, 0.2, 1), ratio=1.4), hu)
                )
    return [*gristle, *cortex, *marrow]


def sternum(cavity: Column, dense: float) -> list[Layer]:
    """Manubrium, body and xiphoid: a flat plate along the front of the cavity."""
    z = np.array([92, 70, 46, 20, -10, -44, -66])
    path = np.stack(
        [0 * z, cavity.front(z.astype(np.float32)) - np.array([4, 6, 8, 8, 8, 9, 8]), z], 1
    )
    plate = tube(path, [5, 6, 5, 5, 5, 4.5, 3], wide=(1, 0, 0), ratio=3.4)
    core = tube(path, [3.6, 4.6, 3.7, 3.7, 3.7, 3.2, 1.6], wide=(1, 0, 0), ratio=3.8)
    return [Layer("sternum", plate, 420 * dense), Layer("sternum", core, 110, onto_hu=420 * dense)]


def shoulders(c: Chest, dense: float) -> list[Layer]:
    """Clavicles, scapulae and the heads and shafts of the raised humeri."""
    s, out = c.shoulders_mm, c.arms_out_mm
    result: list[Layer] = []
    for side, name in ((1, "left"), (-1, "right")):
        joint = np.array([side * (118 + 0.4 * out), 24, 128 + s])
        collar = smooth_path(
            [
                (side * 22, -42, 96),
                (side * 56, -46, 106 + 0.3 * s),
                (side * 96, -12, 122 + 0.7 * s),
                joint + (side * -4, -8, 16),
            ],
            10,
        )
        radius = np.array([8.5, 7, 6, 5.6, 5.5, 5.5, 5.5, 5.6, 6, 6.5])
        result.append(Layer(f"clavicle {name}", tube(collar, radius), 1000 * dense))
        result.append(
            Layer(f"clavicle {name}", tube(collar, radius - 2), 260, onto_hu=1000 * dense)
        )
        angle = np.array([side * 116, 92, 6 + 0.6 * s])
        inner = np.array([side * 74, 96, 88 + 0.6 * s])
        blade = blob(
            (joint + angle + inner) / 3 + (0, 4, 0),
            (40, 50, 1.6),
            axes_along(np.cross(angle - joint, inner - joint)),
        )
        ridge = tube([inner, 0.5 * (inner + joint) + (0, 8, 8), joint + (0, 4, 18)], [3, 4, 7])
        border = tube([joint, angle + (0, 0, 8), angle], [7, 4.5, 5])
        result.append(
            Layer(
                f"scapula {name}",
                [blade, *ridge, *border, blob(joint, (11, 14, 17))],
                560 * dense,
                within="flesh",
            )
        )
        head, end = joint + (side * 14, -6, 12), (side * (148 + 1.8 * out), -16, 300)
        neck = head + (side * (8 + 0.4 * out), -10, 40)
        cortex = 850 * dense
        result.append(
            Layer(
                f"humerus {name}",
                [blob(head, (23, 23, 24)), *tube([head, neck, end], [17, 12, 11])],
                cortex,
            )
        )
        result.append(Layer(f"humerus {name}", tube([neck, end], [6, 6]), 60, onto_hu=cortex))
        result.append(
            Layer(f"humerus {name}", [blob(head, (21.5, 21.5, 22.5))], 240, onto_hu=cortex)
        )
    return result


def bones(c: Chest, cavity: Column) -> list[Layer]:
    """The skeleton, less dense with age."""
    dense = 1.1 - 0.3 * c.age
    return [
        *spine(c, dense),
        *ribs(c, cavity, dense),
        *sternum(cavity, dense),
        *shoulders(c, dense),
    ]
