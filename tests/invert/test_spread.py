"""The spread of views and voxels: what it says of a patient who lies elsewhere along the beam."""

from __future__ import annotations

import pytest
import torch

from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.invert.intervals import Z_90
from mednerf_kit.invert.spread import (
    levers,
    moved,
    variance_moved,
    view_variance,
    voxel_variance,
)
from mednerf_kit.metrics.uncertainty import coverage, spread_error_correlation
from mednerf_kit.recon.field_volume import FieldVolume, voxel_centres

SIDE, PX = 40, 48


@pytest.fixture(scope="module")
def geometry() -> Geometry:
    return DEFAULTS["chest"].resized(PX)


def chest(geometry: Geometry, depth_mm: float = 0.0) -> FieldVolume:
    """A body with a dense ball in it, ``depth_mm`` towards the source of a frontal film."""
    x, y, z = voxel_centres(SIDE).unbind(-1)
    y = y - depth_mm / geometry.half_width_mm
    body = ((x / 0.8) ** 2 + (y / 0.5) ** 2 < 1) & (z.abs() < 0.8)
    ball = x**2 + y**2 + z**2 < 0.25**2
    return FieldVolume.of(0.3 * body + 0.3 * ball, geometry)


def test_a_view_is_as_sure_as_its_turn_from_the_nearest_xray():
    half = 0.5**0.5
    assert levers([315.0, 225.0], [270.0, 0.0]).tolist() == pytest.approx([half, half])
    assert levers([0.0, 270.0, 180.0], [270.0, 0.0]).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert levers([0.0], [270.0, 90.0]).tolist() == pytest.approx([1.0])


def test_a_slope_that_is_moved_varies_by_slope_times_move():
    x = torch.arange(32.0)
    picture = (0.02 * x).expand(1, 1, 16, 32)
    found = variance_moved(picture, torch.tensor([[3.0, 0.0]]))[0, 0]
    torch.testing.assert_close(found[:, 8:24], torch.full((16, 16), (0.02 * 3) ** 2))
    assert float(variance_moved(picture, torch.tensor([[0.0, 3.0]])).abs().max()) < 1e-9
    there = moved(picture, torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(there[..., 4:], picture[..., 2:-2])


def test_views_turned_away_from_an_input_are_less_sure(geometry):
    views = geometry.at([270.0, 90.0, 300.0, 0.0])
    members = chest(geometry).project(views)[None]
    spread = view_variance(members, views, [270.0]).mean((1, 2)).sqrt().tolist()
    front, behind, between, side = spread
    assert front == pytest.approx(behind, abs=1e-4) and 2 * front < between < side
    both = view_variance(members, views, [270.0, 0.0]).mean((1, 2)).sqrt().tolist()
    assert both[3] == pytest.approx(0, abs=1e-4) and both[2] == pytest.approx(between)
    same = view_variance(members, views, [270.0], 0.0)
    assert float(same.abs().max()) < 1e-9, "one member that lies where it lies"


def test_members_variance_is_smoothed_and_keeps_its_mean(geometry):
    views = geometry.at([270.0])
    members = torch.randn(4, 1, PX, PX, generator=torch.Generator().manual_seed(0))
    found = view_variance(members, views, [270.0], 0.0)
    assert float(found.mean()) == pytest.approx(float(members.var(0).mean()), rel=0.03)
    assert float(found.std()) < 0.5 * float(members.var(0).std())


@pytest.mark.parametrize("depth_mm", [-12.0, 10.0])
def test_the_spread_covers_and_finds_what_a_moved_patient_does(geometry, depth_mm):
    views = geometry.at([float(a) for a in range(0, 360, 30)])
    guess, truth = chest(geometry), chest(geometry, depth_mm)
    seen, true = (volume.project(views) for volume in (guess, truth))
    spread = view_variance(seen[None], views, [270.0]).sqrt()
    body, band = true > 0.03, Z_90 * (spread + 0.01)
    assert coverage(seen - band, seen + band, true, body) > 0.8
    assert spread_error_correlation(spread, seen - true, body)["pearson"] > 0.5
    one = guess.with_values(guess.values[None])
    voxels = voxel_variance(one, [270.0]).sqrt()
    error = (guess.values - truth.values).abs()
    assert spread_error_correlation(voxels, error, guess.values > 0.01)["pearson"] > 0.3


def test_faces_across_the_beam_are_less_sure_than_those_along_it(geometry):
    volume = chest(geometry)
    one = volume.with_values(volume.values[None])
    found = voxel_variance(one, [270.0])
    middle = SIDE // 2
    front = found[middle, :, middle].amax()
    side = found[middle, middle, : SIDE // 3].amax()
    assert float(front) > 3 * float(side)
    turned = voxel_variance(one, [0.0])
    assert float(turned[middle, middle].amax()) > 3 * float(
        turned[middle, : SIDE // 3, middle].amax()
    )
