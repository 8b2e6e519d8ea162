"""From an orbit back to a volume, by balls whose pictures are known in closed form; and what
training patients become.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import PATIENTS, VOXELS, make_set

from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.projector import project
from mednerf_kit.prior.training_volumes import (
    TrainingVolumes,
    make_training_volumes,
    reconstructed_volume,
)
from mednerf_kit.recon.field_volume import HALF_EXTENT, project_field
from mednerf_kit.recon.sart import (
    FOVS_DEG,
    agreed_fovs_deg,
    fdk,
    fov_curve,
    lift,
    peak,
    ramp,
    smoothed,
    tapered,
)

# centre, radius, mu
BALLS = [
    ((0.0, 0.0, 0.0), 0.75, 0.3),
    ((0.3, 0.3, 0.2), 0.25, 0.6),
    ((-0.25, 0.25, -0.35), 0.2, 0.9),
]
GEOMETRY = Geometry(
    source_to_isocentre_mm=600, source_to_detector_mm=900, rows=40, cols=40, pixel_mm=9.0
).orbit(24)


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
    return (
        project(
            found.values, (2 * found.half_extent * unit / found.values.shape[-1],) * 3, geometry
        )
        / unit
    )


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


def test_lifting_goes_on_from_where_it_is_told(lifted):
    few = GEOMETRY.orbit(6)
    options = {"size": 40, "epochs": 2, "subset_views": 1}
    from_there = lift(pictures(few), few, start=lifted.values, **options)
    between = GEOMETRY.orbit(24, start_deg=7.5)
    alone = db(reprojected(lift(pictures(few), few, **options), between) - pictures(between))
    assert db(reprojected(from_there, between) - pictures(between)) > alone + 3


def test_few_views_are_explained_better_by_less_variation():
    few, between = GEOMETRY.orbit(9), GEOMETRY.orbit(24, start_deg=7.5)
    options = {"size": 40, "epochs": 10, "subset_views": 1, "relax": 1.0, "decay": 1.0}
    rough, smooth = (
        reprojected(lift(pictures(few), few, smooth=s, **options), between) - pictures(between)
        for s in (0, 0.01)
    )
    assert db(smooth) > db(rough) + 1


# Filtered back-projection, total variation


def test_feldkamp_has_the_balls_where_they_are_with_a_shifted_detector_and_uneven_views():
    # every other view of one half
    angles = [k * 5.0 for k in range(36)] + [180 + k * 10.0 for k in range(18)]
    geometry = replace(GEOMETRY, offset_mm=(12.0, -9.0)).at(angles)
    grid = geometry.pixel_grid().expand(geometry.views, -1, -1, -1)
    rays = geometry.field_rays(
        torch.tensor(angles)[:, None, None].expand(grid.shape[:-1]), grid, geometry.distance
    )
    total = torch.zeros(grid.shape[:-1])
    for centre, radius, mu in BALLS:
        away = torch.tensor(centre) - rays.origin
        across = away - (away * rays.direction).sum(-1, keepdim=True) * rays.direction
        total += mu * 2 * (radius**2 - across.square().sum(-1)).clamp_min(0).sqrt()
    found = fdk(total, geometry, size=40)
    line = ((torch.arange(40) + 0.5) / 40 * 2 - 1) * 1.4
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    for centre, wanted in (
        ((0.3, 0.3, 0.2), 0.9),
        ((-0.25, 0.25, -0.35), 1.2),
        ((-0.3, 0.3, 0.2), 0.3),
        ((0.0, 0.0, 0.0), 0.3),
    ):
        near = (torch.stack([x, y, z], -1) - torch.tensor(centre)).norm(dim=-1) < 0.1
        assert float(found[near].mean()) == pytest.approx(wanted, rel=0.05)


def test_the_ramp_filter_is_its_kernel():
    """Against the sum written out, h(0) = 1/(4 a²), h(odd n) = −1/(π n a)², times a; a row that
    never ends has no ramp.
    """
    rows = torch.rand(
        3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).float()
    step, n = 0.1, torch.arange(16)
    apart = (n[:, None] - n).float()
    kernel = torch.where(
        apart == 0,
        1 / (4 * step**2),
        torch.where(apart % 2 != 0, -1 / (torch.pi * apart * step) ** 2, 0.0),
    )
    torch.testing.assert_close(
        ramp(rows, step), rows @ kernel.nan_to_num() * step, rtol=1e-4, atol=1e-4
    )
    flat = ramp(torch.ones(1, 4096), step)[0, 2048]
    assert abs(float(flat)) < 0.01 * float(ramp(torch.eye(64)[32:33], step).max())
    assert float(ramp(rows, step, cutoff=0.5).std()) < float(ramp(rows, step).std())


def test_rows_end_in_zero():
    rows = torch.tensor([[2.0, 3.0, 4.0]])
    wide = tapered(rows, 4)
    assert (
        wide.shape == (1, 11)
        and torch.equal(wide[:, 4:7], rows)
        and torch.equal(tapered(rows, 0), rows)
    )
    assert float(wide[0, 0]) == pytest.approx(0, abs=1e-6) and float(wide[0, -1]) == pytest.approx(
        0, abs=1e-6
    )
    assert bool((wide[0, 7:].diff() < 0).all())


def test_total_variation_is_lowered_by_what_it_costs():
    """No small change betters ½|u − v|² + weight · TV(u); the mean stays; a strong weight leaves
    nothing else.
    """
    g = torch.Generator().manual_seed(0)
    values = torch.rand(8, 8, 8, generator=g)

    def cost(u, weight=0.1):
        steps = [
            torch.nn.functional.pad(u.diff(dim=a), [0, 0] * (2 - a) + [0, 1]) for a in range(3)
        ]
        return float(
            0.5 * (u - values).square().sum()
            + weight * torch.stack(steps).square().sum(0).sqrt().sum()
        )

    found = smoothed(values, 0.1, steps=300)
    best = cost(found)
    assert best < cost(values) and all(
        best < cost(found + 0.02 * torch.randn(8, 8, 8, generator=g)) for _ in range(20)
    )
    assert all(best <= cost(found * scale + (1 - scale) * values) + 1e-3 for scale in (0.9, 1.1))
    assert float(found.mean()) == pytest.approx(float(values.mean()), abs=1e-5)
    assert float(smoothed(values, 10.0, steps=600).std()) < 0.02


def test_a_wide_orbit_is_taken_for_wide():
    """Whatever opening angle the geometry came with; 24 views of 40 pixels tell the side, not the
    degree.
    """
    wide = GEOMETRY.with_fov(40.0)
    fov_deg, _ = peak(
        fov_curve(pictures(wide, reach=1.2), wide.with_fov(18.0), size=40, views=24, epochs=3)
    )
    assert 27 < fov_deg < 45


def test_a_set_agrees_on_its_opening_angle():
    def curve(fov_deg, sharpness=0.02):
        return -sharpness * (torch.tensor(FOVS_DEG) - fov_deg).square()

    several = torch.stack([curve(36.0), curve(37.0), curve(38.0)])
    assert agreed_fovs_deg(several, 18.0) == pytest.approx([37.0] * 3, abs=1e-3)  # one scanner
    stranger = torch.cat([several, curve(18.5)[None]])
    assert agreed_fovs_deg(stranger, 20.0)[3] == pytest.approx(18.5, abs=1e-3)  # clearly another's
    # no reason to leave what was given
    assert agreed_fovs_deg(torch.stack([curve(16.0, 1e-3)] * 2), 19.1) == [19.1] * 2


# What the posed terms compare with


def test_known_volumes_project_to_the_pictures(tmp_path):
    orbits = load_orbits(make_set(tmp_path / "tiny"), split="all")
    targets = make_training_volumes(orbits, size=48, progress=False)
    assert (
        targets.volumes.shape == (len(PATIENTS), 48, 48, 48)
        and not targets.per_view_scale
        and (targets.log_gains == 0).all()
    )
    error = (
        (project_field(targets.volumes, orbits.geometry) - orbits.images.float())
        .square()
        .mean((1, 2, 3))
    )
    assert (-10 * error.log10()).min() > 30


def test_orbits_without_volumes_are_lifted_and_cached(tmp_path):
    orbits = load_orbits(make_set(tmp_path / "bare", volumes=False), patients=["p0"])
    targets = make_training_volumes(orbits, size=VOXELS, progress=False)
    known = make_training_volumes(
        load_orbits(make_set(tmp_path / "full"), patients=["p0"]), size=VOXELS, progress=False
    )
    assert (
        torch.corrcoef(torch.stack([targets.volumes.flatten(), known.volumes.flatten()]))[0, 1]
        > 0.85
    )
    geometry = orbits.geometry.with_fov(orbits.geometry.fov_deg)
    again, gains = reconstructed_volume(
        torch.zeros(0), geometry, VOXELS, False, orbits.marks["p0"][-1]
    )
    assert torch.equal(again, targets.volumes[0]) and (gains == 1).all()


def test_volume_values_are_trilinear():
    """A volume that is linear in its coordinates is read back exactly."""
    line = ((torch.arange(16) + 0.5) / 16 * 2 - 1) * HALF_EXTENT
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    targets = TrainingVolumes(
        torch.zeros(2, 1, 4, 4),
        torch.stack([x + 2 * y - z, 3 * z]),
        torch.zeros(2, 1),
        torch.ones(2),
        False,
    )
    points = 2.4 * torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)) - 1.2
    found = targets.values_at(torch.tensor([1, 0]), points)
    torch.testing.assert_close(
        found,
        torch.stack([3 * points[0, :, 2], points[1] @ torch.tensor([1.0, 2, -1])]),
        rtol=1e-4,
        atol=1e-5,
    )
