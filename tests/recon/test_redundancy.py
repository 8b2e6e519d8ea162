"""Filtered back-projection of short arcs and behind displaced detectors: water stays water."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mednerf_kit.core.errors import UserError
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.recon import fdk as feldkamp
from mednerf_kit.recon import rtk
from mednerf_kit.recon.fdk import fdk
from mednerf_kit.recon.field_volume import FieldVolume, voxel_centres
from mednerf_kit.recon.redundancy import redundancy, turn_of

CENTRED = Geometry(
    source_to_isocentre_mm=785,
    source_to_detector_mm=1200,
    rows=33,
    cols=48,
    pixel_mm=7.2,
    line_integral_scale=1.0,
)
WATER, RADIUS_MM = 0.0205, 85.0
SIDES = ((0, 0), (50, 0), (-50, 0), (0, 50), (0, -50))
ROD_MM, ROD_RADIUS_MM = (36.0, -36.0), 12.0


def water(geometry: Geometry) -> Tensor:
    """Line integrals of a long cylinder of water with a denser rod, in closed form."""
    yx = geometry.pixel_grid().expand(geometry.views, -1, -1, -1)
    view = torch.arange(geometry.views)[:, None, None].expand(yx.shape[:-1])
    rays = geometry.view_rays(view, yx)
    o, d = rays.origin * geometry.half_width_mm, rays.direction
    total = torch.zeros(yx.shape[:-1])
    for centre, radius, mu in (((0.0, 0.0), RADIUS_MM, WATER), (ROD_MM, ROD_RADIUS_MM, WATER)):
        across = o[..., :2] - torch.tensor(centre)
        a = d[..., :2].square().sum(-1)
        b = (across * d[..., :2]).sum(-1)
        root = (b.square() - a * (across.square().sum(-1) - radius**2)).clamp_min(0).sqrt()
        total += mu * 2 * root / a
    return total


def places(found: FieldVolume) -> tuple[list[float], float]:
    """Mean HU at five places of the water in the orbit's plane, and of the air around."""
    hu = 1000 * (found.per_mm / WATER - 1)
    x, y, z = (voxel_centres(48) * found.unit_mm).unbind(-1)
    level = z.abs() < 12
    inside = [float(hu[level & ((x - a) ** 2 + (y - b) ** 2 < 14**2)].mean()) for a, b in SIDES]
    radius = (x.square() + y.square()).sqrt()
    return inside, float(hu[level & (radius > 105) & (radius < 140)].mean())


def hounsfield(geometry: Geometry, **options) -> tuple[list[float], float]:
    """The same of our reconstruction of the water."""
    return places(fdk(water(geometry), geometry, size=48, cutoff=0.5, **options))


FULL = CENTRED.orbit(90)
ARC = CENTRED.at([20 + 2.5 * k for k in range(80)])


@pytest.mark.parametrize(
    "geometry",
    [
        FULL,
        ARC,
        ARC.at([-a for a in ARC.angles_deg]),
        replace(ARC, columns_flipped=False),
        CENTRED.at([300 + 2.5 * k for k in range(108)]),
        replace(FULL, offset_mm=(90.0, 0.0)),
        replace(FULL, offset_mm=(-90.0, 12.0)),
        replace(FULL, offset_mm=(90.0, 0.0), columns_flipped=False),
    ],
    ids=["full", "200°", "clockwise", "mirrored", "270°", "right", "left", "right-mirrored"],
)
def test_water_is_0_hu(geometry):
    inside, outside = hounsfield(geometry)
    assert inside == pytest.approx([0] * 5, abs=15)
    assert outside == pytest.approx(-1000, abs=15)


def test_without_weights_it_is_not(monkeypatch):
    """What the weights are for: every ray counted half leaves an arc 50 HU and more away."""
    half = lambda geometry, turn: torch.full((geometry.views, geometry.cols), 0.5)  # noqa: E731
    monkeypatch.setattr(feldkamp, "redundancy", half)
    for geometry in (ARC, replace(FULL, offset_mm=(90.0, 0.0))):
        assert max(map(abs, hounsfield(geometry)[0])) > 50


def test_a_displaced_detector_needs_no_option():
    assert hounsfield(replace(FULL, offset_mm=(90.0, 0.0)), extend=0.0)[0] == pytest.approx(
        [0] * 5, abs=15
    )


@pytest.mark.parametrize("columns_flipped", [True, False])
def test_the_two_measurements_of_a_ray_count_once(columns_flipped):
    """The other end of each ray is found by intersecting it with the circle of sources."""
    geometry = replace(CENTRED.at([0.5 * k for k in range(420)]), columns_flipped=columns_flipped)
    weights = redundancy(geometry, turn_of(torch.tensor(geometry.angles_deg)))
    pairs = 0
    for view in (3, 20, 41, 60, 390, 410):
        middle = torch.tensor([[16.0, c] for c in range(48)])
        rays = geometry.view_rays(torch.full((48,), view), middle)
        # |o + t d| = distance again at t = −2 o·d: the source of the opposite measurement
        t = -2 * (rays.origin * rays.direction).sum(-1, keepdim=True)
        other = rays.origin + t * rays.direction
        angle = torch.rad2deg(torch.atan2(-other[:, 1], other[:, 0])) % 360
        for column in range(48):
            before, share = divmod(float(angle[column]) / 0.5, 1)
            own = float(weights[view, column])
            if before >= geometry.views - 1:
                assert own == pytest.approx(1, abs=0.01)
            else:
                pairs += 1
                near = weights[int(before) : int(before) + 2, 47 - column]
                assert own + float(near[0].lerp(near[1], share)) == pytest.approx(1, abs=0.01)
    assert pairs > 40


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        (CENTRED.at([2.0 * k for k in range(90)]), "an arc of 180°"),
        (replace(ARC, offset_mm=(90.0, 0.0)), "displaced detector on an arc"),
        (replace(FULL, offset_mm=(200.0, 0.0)), "off the isocentre"),
        (replace(FULL, offset_mm=(150.0, 0.0)), "6.3 columns are seen from both sides"),
        (CENTRED.at([*range(0, 100, 2), *range(180, 280, 2)]), "a gap of 82°"),
        (replace(FULL, tilt_deg=20.0), "level orbit"),
    ],
)
def test_rays_that_nobody_measured_are_refused(geometry, said):
    with pytest.raises(UserError, match=said):
        fdk(torch.zeros(geometry.views, 33, 48), geometry, size=12)


@pytest.mark.skipif(not rtk.installed(), reason="itk-rtk is not installed")
@pytest.mark.parametrize(
    "geometry",
    [
        ARC,
        replace(FULL, offset_mm=(90.0, 0.0)),
        replace(FULL, offset_mm=(90.0, 0.0), columns_flipped=False),
    ],
    ids=["arc", "displaced", "mirrored"],
)
def test_the_row_of_rtk_is_weighted_too(geometry):
    found = rtk.fdk(water(geometry), geometry, size=48, hann=0.5, extend=0.0)
    assert places(found)[0] == pytest.approx([0] * 5, abs=15)


def test_sparse_and_uneven_turns_stay_full_turns():
    for angles in ([0.0, 90, 180, 270], [10.0 * k + k % 3 for k in range(36)], [*range(361)]):
        turn = turn_of(torch.tensor(angles))
        assert turn.arc_deg == 360 and float(turn.shares.sum()) == pytest.approx(2 * torch.pi)
