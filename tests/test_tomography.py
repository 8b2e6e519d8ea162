"""From an orbit back to a volume, by balls whose pictures are known in closed form; and what training patients become."""

from __future__ import annotations

import pytest
import torch
from tiny import PATIENTS, VOXELS, make_set

from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.projector import project
from mednerf_kit.train.targets import HALF_EXTENT, Targets, lifted_volume, make_targets
from mednerf_kit.train.tomography import FOVS_DEG, agreed_fovs_deg, fov_curve, lift, peak
from mednerf_kit.train.volumes import project_field

BALLS = [((0.0, 0.0, 0.0), 0.75, 0.3), ((0.3, 0.3, 0.2), 0.25, 0.6), ((-0.25, 0.25, -0.35), 0.2, 0.9)]  # centre, radius, mu
GEOMETRY = Geometry(source_to_isocentre_mm=600, source_to_detector_mm=900, rows=40, cols=40, pixel_mm=9.0).orbit(24)


def pictures(geometry: Geometry = GEOMETRY, *, reach: float = 1.0) -> torch.Tensor:
    """Exact line integrals of the balls in field units, [V, rows, cols]: Σ mu·2·sqrt(r² − b²)."""
    yx = geometry.pixel_grid().expand(geometry.views, -1, -1, -1)
    angles = torch.tensor(geometry.angles_deg)[:, None, None].expand(yx.shape[:-1])
    rays = geometry.field_rays(angles, yx, geometry.distance)
    total = torch.zeros(yx.shape[:-1])
    for centre, radius, mu in BALLS:
        offset = reach * torch.tensor(centre) - rays.origin
        across = offset - (offset * rays.direction).sum(-1, keepdim=True) * rays.direction
        total += mu * 2 * ((reach * radius) ** 2 - across.square().sum(-1)).clamp_min(0).sqrt()
    return total


@pytest.fixture(scope="module")
def lifted():
    return lift(pictures(), GEOMETRY, size=40)


def reprojected(found, geometry: Geometry) -> torch.Tensor:
    unit = geometry.half_width_mm
    return project(found.values, (2 * found.half_extent * unit / found.values.shape[-1],) * 3, geometry) / unit


def db(error: torch.Tensor) -> float:
    return float(-10 * error.square().mean().log10())


def test_a_lifted_orbit_explains_its_pictures(lifted):
    assert db(reprojected(lifted, GEOMETRY) - pictures()) > 28
    assert lifted.fit_db == pytest.approx(db(reprojected(lifted, GEOMETRY) - pictures()), abs=0.1)


def test_a_lifted_orbit_predicts_views_between_its_own(lifted):
    between = GEOMETRY.orbit(24, start_deg=7.5)
    assert db(reprojected(lifted, between) - pictures(between)) > 28


def test_the_volume_has_the_balls_where_they_are(lifted):
    """The right place and the right value: the world is not mirrored on the way."""
    line = ((torch.arange(40) + 0.5) / 40 * 2 - 1) * 1.4
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    points = torch.stack([x, y, z], -1)

    def mean_in(centre, radius):
        return float(lifted.values[(points - torch.tensor(centre)).norm(dim=-1) < radius].mean())

    assert mean_in((0.3, 0.3, 0.2), 0.12) == pytest.approx(0.9, rel=0.15)
    assert mean_in((-0.25, 0.25, -0.35), 0.1) == pytest.approx(1.2, rel=0.2)
    for mirrored in ((-0.3, 0.3, 0.2), (0.3, -0.3, 0.2), (0.3, 0.3, -0.2)):
        assert mean_in(mirrored, 0.1) == pytest.approx(0.3, rel=0.15)
    assert float(lifted.values[points.norm(dim=-1) > 1.0].mean()) < 0.01


def test_values_are_positive_and_the_support_is_kept(lifted):
    line = (torch.arange(40) + 0.5) / 40 * 2 - 1
    assert (lifted.values >= 0).all()
    assert float(lifted.values[:, line[:, None] ** 2 + line**2 >= 1].abs().max()) == 0
    assert torch.equal(lifted.gains, torch.ones(24))


def test_gains_of_views_that_were_scaled_one_by_one_are_recovered():
    truth = 0.7 + 0.6 * torch.rand(24, generator=torch.Generator().manual_seed(0))
    scaled = pictures() * truth[:, None, None]
    found = lift(scaled, GEOMETRY, size=40, fit_gains=True)
    recovered, wanted = found.gains / found.gains.mean(), truth / truth.mean()
    assert (recovered / wanted - 1).abs().max() < 0.06
    assert found.fit_db > lift(scaled, GEOMETRY, size=40).fit_db + 5
    torch.testing.assert_close((1 / found.gains).mean(), torch.tensor(1.0))


def test_lifting_repeats(lifted):
    assert torch.equal(lift(pictures(), GEOMETRY, size=40).values, lifted.values)


def test_a_wide_orbit_is_taken_for_wide():
    """Whatever opening angle the geometry came with; 24 views of 40 pixels tell the side, not the degree."""
    wide = GEOMETRY.with_fov(40.0)
    fov_deg, _ = peak(fov_curve(pictures(wide, reach=1.2), wide.with_fov(18.0), size=40, views=24, epochs=3))
    assert 27 < fov_deg < 45


def test_a_set_agrees_on_its_opening_angle():
    def curve(fov_deg, sharpness=0.02):
        return -sharpness * (torch.tensor(FOVS_DEG) - fov_deg).square()

    several = torch.stack([curve(36.0), curve(37.0), curve(38.0)])
    assert agreed_fovs_deg(several, 18.0) == pytest.approx([37.0] * 3, abs=1e-3)  # one scanner
    stranger = torch.cat([several, curve(18.5)[None]])
    assert agreed_fovs_deg(stranger, 20.0)[3] == pytest.approx(18.5, abs=1e-3)  # clearly another's
    assert agreed_fovs_deg(torch.stack([curve(16.0, 1e-3)] * 2), 19.1) == [19.1] * 2  # no reason to leave what was given


# What the posed terms compare with


def test_known_volumes_project_to_the_pictures(tmp_path):
    orbits = load_orbits(make_set(tmp_path / "tiny"), split="all")
    targets = make_targets(orbits, size=48, progress=False)
    assert targets.volumes.shape == (len(PATIENTS), 48, 48, 48) and not targets.per_view_scale and (targets.log_gains == 0).all()
    error = (project_field(targets.volumes, orbits.geometry) - orbits.images.float()).square().mean((1, 2, 3))
    assert (-10 * error.log10()).min() > 30


def test_orbits_without_volumes_are_lifted_and_cached(tmp_path):
    orbits = load_orbits(make_set(tmp_path / "bare", volumes=False), patients=["p0"])
    targets = make_targets(orbits, size=VOXELS, progress=False)
    known = make_targets(load_orbits(make_set(tmp_path / "full"), patients=["p0"]), size=VOXELS, progress=False)
    assert torch.corrcoef(torch.stack([targets.volumes.flatten(), known.volumes.flatten()]))[0, 1] > 0.85
    geometry = orbits.geometry.with_fov(orbits.geometry.fov_deg)
    again, gains = lifted_volume(torch.zeros(0), geometry, VOXELS, False, orbits.marks["p0"][-1])
    assert torch.equal(again, targets.volumes[0]) and (gains == 1).all()


def test_volume_values_are_trilinear():
    """A volume that is linear in its coordinates is read back exactly."""
    line = ((torch.arange(16) + 0.5) / 16 * 2 - 1) * HALF_EXTENT
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    targets = Targets(torch.zeros(2, 1, 4, 4), torch.stack([x + 2 * y - z, 3 * z]), torch.zeros(2, 1), torch.ones(2), False)
    points = 2.4 * torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)) - 1.2
    found = targets.values_at(torch.tensor([1, 0]), points)
    torch.testing.assert_close(
        found, torch.stack([3 * points[0, :, 2], points[1] @ torch.tensor([1.0, 2, -1])]), rtol=1e-4, atol=1e-5
    )
