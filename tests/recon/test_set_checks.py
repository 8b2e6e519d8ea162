"""A set says what is wrong with it: handedness, polarity, range, density, angles."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mednerf_kit.data.drr import write_patient
from mednerf_kit.data.grey import from_transmission
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.imaging.phantoms import phantom
from mednerf_kit.imaging.projector import project_volume
from mednerf_kit.recon.set_checks import examine_set, set_warnings

SIDE = 28
CHEST = replace(DEFAULTS["chest"].resized(SIDE).orbit(16), line_integral_scale=12.0)


@pytest.fixture(scope="module")
def integrals() -> Tensor:
    """Line integrals of a chest phantom, whose heart tells left from right."""
    hu, spacing_mm = phantom("chest", 3).voxelise(SIDE)
    return project_volume((0.0205 * (1 + hu / 1000)).clamp_min(0), spacing_mm, CHEST)


def write_set(root: Path, pictures: Tensor, geometry: Geometry, *, scale: float | None) -> Path:
    geometry.save(root / "geometry.json")
    write_patient(root / "p0", pictures, scale=scale, record={"identity": "toy"})
    return root


def said(root: Path, **reading: object) -> str:
    return "\n".join(set_warnings(load_orbits(root, split="all", **reading)))


def test_a_good_set_has_nothing_to_say(integrals: Tensor, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", integrals, CHEST, scale=12.0)
    assert said(root) == ""
    facts = examine_set(load_orbits(root, split="all")).facts
    assert any("white is a line integral of 12" in fact for fact in facts)


@pytest.mark.parametrize("scale", [12.0, None])
def test_mirrored_and_reversed_sets_say_so_with_the_db(
    scale: float | None, integrals: Tensor, tmp_path: Path
) -> None:
    geometry = replace(CHEST, line_integral_scale=scale)
    wrong = {
        "mirrored": (integrals.flip(2), geometry),
        "reversed": (integrals, geometry.at(-a for a in geometry.angles_deg)),
    }
    for name, (pictures, told) in wrong.items():
        words = said(write_set(tmp_path / name, pictures, told, scale=scale))
        assert "dB better mirrored" in words and "columns_flipped to false" in words


def test_transmission_is_told_and_can_be_said(integrals: Tensor, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", (-integrals).exp(), CHEST, scale=1.0)
    assert "air is bright" in said(root)
    assert said(root, input_kind="transmission") == ""
    found = load_orbits(root, split="all", input_kind="transmission")
    assert torch.allclose(found.images[0].float() * 12, integrals, atol=0.1)


def test_black_and_white_exchanged_can_be_said(integrals: Tensor, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", 1 - integrals / 12, CHEST, scale=1.0)
    assert "air is bright" in said(root)
    assert said(root, invert=True) == ""


def test_a_set_that_is_nearly_black_says_so(integrals: Tensor, tmp_path: Path) -> None:
    told = replace(CHEST, line_integral_scale=None)
    root = write_set(tmp_path / "set", integrals * 0.004 / integrals.max(), told, scale=1.0)
    assert "the pictures use 0.4 % of their range" in said(root)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_tissue_that_is_none_says_so(factor: float, integrals: Tensor, tmp_path: Path) -> None:
    told = replace(CHEST, line_integral_scale=12.0 * factor)
    assert "of water's 0.0205" in said(write_set(tmp_path / "set", integrals, told, scale=12.0))


def test_a_cut_scale_a_cut_field_and_doubled_views_say_so(
    integrals: Tensor, tmp_path: Path
) -> None:
    small = 0.4 * float(integrals.max())
    told = replace(CHEST, line_integral_scale=small)
    assert "are white" in said(write_set(tmp_path / "scale", integrals, told, scale=small))
    narrow = replace(CHEST, cols=SIDE // 4)
    middle = integrals[..., 3 * SIDE // 8 : 5 * SIDE // 8]
    assert "edge cuts" in said(write_set(tmp_path / "field", middle, narrow, scale=12.0))
    doubled = integrals.clone()
    doubled[7] = doubled[6]
    assert "views 6 and 7" in said(write_set(tmp_path / "two", doubled, CHEST, scale=12.0))


def test_angles_in_radians_are_asked_about(integrals: Tensor, tmp_path: Path) -> None:
    radians = CHEST.at([math.radians(angle) for angle in CHEST.angles_deg])
    root = write_set(tmp_path / "set", integrals, radians, scale=12.0)
    assert "are their angles radians?" in said(root)


def test_lengths_in_metres_are_no_body(integrals: Tensor, tmp_path: Path) -> None:
    metres = replace(
        CHEST,
        source_to_isocentre_mm=CHEST.source_to_isocentre_mm / 1000,
        source_to_detector_mm=CHEST.source_to_detector_mm / 1000,
        pixel_mm=CHEST.pixel_mm / 1000,
        line_integral_scale=None,
    )
    root = write_set(tmp_path / "set", integrals, metres, scale=12.0)
    assert "are the lengths of geometry.json in mm" in said(root)


def test_the_logarithm_of_integers_takes_the_brightest_for_air() -> None:
    truth = np.linspace(0, 5, 2000)
    stored = (40000 * np.exp(-truth)).round()
    found, note = from_transmission(stored, 65535.0)
    assert np.abs(found - truth).max() < 0.02 and "percentile" in note
