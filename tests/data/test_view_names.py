"""Pictures find their views by name: angles in any order, counters, masks."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mednerf_kit.data.view_names import views_by_name, without_masks

ANGLES = [-100.0 + 2.5 * k for k in range(41)]
NAMINGS = {
    "degrees": lambda k, a: f"view_{a:g}deg.png",
    "decimals": lambda k, a: f"{a:.2f}.png",
    "beside a date": lambda k, a: f"scan_20240101_{a:g}_v2.png",
    "full turns": lambda k, a: f"a{a % 360:g}.png",
    "m and a point": lambda k, a: f"ap_{'m' if a < 0 else 'p'}{abs(a):.1f}.png",
    "p for the point": lambda k, a: f"drr_{a:.1f}".replace(".", "p") + ".png",
    "neg and a comma": lambda k, a: (
        f"{'neg' if a < 0 else 'pos'}_{abs(a):05.1f}".replace(".", ",") + ".png"
    ),
    "a plus, a dash": lambda k, a: f"{a:+g}.png".replace("-", "–"),
    "counted": lambda k, a: f"xray_{k:03d}.png",
    "counted by rank": lambda k, a: f"proj-{k + 1}.png",
}


@pytest.mark.parametrize("kind", NAMINGS)
def test_each_picture_finds_its_angle(kind: str) -> None:
    pictures = [Path(NAMINGS[kind](k, angle)) for k, angle in enumerate(ANGLES)]
    shuffled = random.Random(0).sample(pictures, len(pictures))
    found, note = views_by_name(shuffled, ANGLES)
    assert [found[k] for k in range(len(ANGLES))] == pictures
    assert note is None


def test_angles_of_the_geometry_may_be_in_any_order() -> None:
    angles = [40.0, -10.0, 0.25]
    found, _ = views_by_name([Path(f"v_{a:g}.png") for a in sorted(angles)], angles)
    assert [found[k].name for k in range(3)] == ["v_40.png", "v_-10.png", "v_0.25.png"]


def test_signed_decimals_sort_pictures_without_angles() -> None:
    names = ["0.5", "-10", "0.25", "5", "0.75", "-5", "0"]
    found, note = views_by_name([Path(f"{name}.png") for name in names])
    assert [found[k].name[:-4] for k in range(7)] == ["-10", "-5", "0", "0.25", "0.5", "0.75", "5"]
    assert note is None


def test_numbers_that_are_no_angles_are_said() -> None:
    found, note = views_by_name([Path(f"t{t}.png") for t in (300, 7, 90)], [0.0, 1.0, 2.0])
    assert [found[k].name for k in range(3)] == ["t7.png", "t90.png", "t300.png"]
    assert note is not None and "'t7.png' first" in note


def test_names_that_differ_in_no_one_number_are_said() -> None:
    names = [f"drr_{angle:.1f}".replace(".", "_") for angle in (-10.0, -5.5, 0.5)]
    found, note = views_by_name([Path(f"{name}.png") for name in names], [-10.0, -5.5, 0.5])
    assert note is not None and f"'{found[0].name}' first" in note
    assert views_by_name([Path("b.png"), Path("a.png")])[1] is None


def test_angles_that_could_count_the_pictures_are_said() -> None:
    pictures = [Path(f"p{k}.png") for k in range(3)]
    found, note = views_by_name(pictures, [2.0, 1.0, 0.0])
    assert [found[k].name for k in range(3)] == ["p2.png", "p1.png", "p0.png"]
    assert note is not None and "could count" in note


@pytest.mark.parametrize("form", ["{}_mask", "{}-Segmentation", "mask_{}", "{}.roi"])
def test_masks_are_no_views(form: str) -> None:
    stems = [f"xray_{k:03d}" for k in range(3)]
    both = [stem for one in stems for stem in (one, form.format(one))]
    kept, note = without_masks([Path(f"{stem}.png") for stem in both])
    assert [path.stem for path in kept] == stems
    assert note is not None and f"'{form.format('xray_000')}.png'" in note
