"""What the posed terms compare with: volumes of CTs, reconstructions, and both read at points."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny import PATIENTS, VOXELS, make_set

from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.imaging.geometry import DEFAULTS
from mednerf_kit.imaging.variation import Variation
from mednerf_kit.prior.training_volumes import (
    FOV_CURVE,
    RECONSTRUCTION,
    TrainingVolumes,
    body_alone,
    cache_file,
    make_training_volumes,
    reconstructed_volume,
    soft_tissue,
    water_in,
    water_value,
)
from mednerf_kit.recon.field_volume import FieldVolume, cylinder, voxel_centres
from mednerf_kit.recon.sart import sart


def test_known_volumes_project_to_the_pictures(tmp_path):
    orbits = load_orbits(make_set(tmp_path / "tiny"), split="all")
    training = make_training_volumes(orbits, size=48, progress=False)
    assert (
        training.volumes.shape == (len(PATIENTS), 48, 48, 48)
        and not training.per_view_scale
        and (training.log_gains == 0).all()
    )
    error = (
        (
            FieldVolume.of(training.volumes, orbits.geometry).project(orbits.geometry)
            - orbits.images.float()
        )
        .square()
        .mean((1, 2, 3))
    )
    assert (-10 * error.log10()).min() > 30


def test_orbits_without_volumes_are_lifted_and_cached(tmp_path):
    orbits = load_orbits(make_set(tmp_path / "bare", volumes=False), patients=["p0"])
    training = make_training_volumes(orbits, size=VOXELS, progress=False)
    known = make_training_volumes(
        load_orbits(make_set(tmp_path / "full"), patients=["p0"]), size=VOXELS, progress=False
    )
    assert (
        torch.corrcoef(torch.stack([training.volumes.flatten(), known.volumes.flatten()]))[0, 1]
        > 0.85
    )
    geometry = orbits.geometry.with_fov(orbits.geometry.fov_deg)
    again, gains = reconstructed_volume(
        torch.zeros(0), geometry, VOXELS, False, orbits.fingerprints["p0"][-1]
    )
    assert torch.equal(again, training.volumes[0]) and (gains == 1).all()


def test_caches_that_exist_are_found():
    """The names by which earlier versions kept a reconstruction and a curve."""
    geometry = DEFAULTS["chest"].orbit(8)
    names = (
        cache_file(RECONSTRUCTION, "m", geometry, 64, True),
        cache_file(FOV_CURVE, "m", geometry),
    )
    assert [path.stem for path in names] == ["306dd9546ae4187a3ebeff54", "0986d3546dd435d3479b4c35"]
    assert {path.parent.name for path in names} == {"lifted"}


def test_a_reconstruction_keeps_the_details_of_its_pictures():
    """It explains them with a third of the error of SART's own, shorter passes."""
    rng = torch.Generator().manual_seed(0)
    geometry = DEFAULTS["chest"].resized(24).orbit(24)
    blobs = torch.rand(1, 1, 12, 12, 12, generator=rng).round() * cylinder(12)
    truth = FieldVolume.of(torch.nn.functional.interpolate(blobs, scale_factor=2)[0, 0], geometry)
    pictures = truth.project(geometry)
    values, _ = reconstructed_volume(pictures, geometry, 24, False, "blobs")
    left = (FieldVolume.of(values, geometry).project(geometry) - pictures).square().mean()
    shorter = sart(pictures, geometry, size=24).volume.project(geometry)
    assert left < 0.3 * (shorter - pictures).square().mean()


def test_volume_values_are_trilinear():
    """A volume that is linear in its coordinates is read back exactly."""
    x, y, z = voxel_centres(16).unbind(-1)
    training = TrainingVolumes(
        torch.zeros(2, 1, 4, 4),
        torch.stack([x + 2 * y - z, 3 * z]),
        torch.zeros(2, 1),
        torch.ones(2),
        False,
    )
    points = 2.4 * torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0)) - 1.2
    found = training.values_at(torch.tensor([1, 0]), points)
    torch.testing.assert_close(
        found,
        torch.stack([3 * points[0, :, 2], points[1] @ torch.tensor([1.0, 2, -1])]),
        rtol=1e-4,
        atol=1e-5,
    )


def test_varied_patients_come_after_all_others_and_are_seen_as_they_are(tiny_set):
    orbits = load_orbits(tiny_set, split="all", limit=2)
    plain = make_training_volumes(orbits, size=24, progress=False)
    water = water_value(orbits.geometry)
    rng = torch.Generator().manual_seed(0)
    found = plain.with_variants(2, orbits.geometry, rng, Variation())
    assert len(found.images) == len(found.volumes) == len(found.log_gains) == 6
    assert torch.equal(found.volumes[:2], plain.volumes)
    assert torch.equal(found.images[:2], plain.images)
    changed = (found.volumes[2:] - plain.volumes.repeat(2, 1, 1, 1)).abs().amax((1, 2, 3))
    assert float(changed.min()) > 0.2 * water
    volume = FieldVolume.of(found.volumes[5:], orbits.geometry)
    seen = volume.project(orbits.geometry, float(found.distance[5]))[0].clamp_max(1)
    assert float((seen - found.images[5].float()).abs().max()) < 2e-3
    # nothing is varied by strengths of zero
    still = Variation(
        deformation_mm=0, size=0, stretch=0, rotation_deg=0, shift_mm=0, lung=0, bone=0, cut=0
    )
    copied = plain.with_variants(1, orbits.geometry, rng, still)
    assert float((copied.volumes[2:] - plain.volumes).abs().max()) < 1e-4 * float(water)


def test_patients_without_a_scale_are_varied_by_their_own_soft_tissue(tiny_set):
    orbits = load_orbits(tiny_set, split="all", limit=2)
    geometry = replace(orbits.geometry, line_integral_scale=None)
    plain = make_training_volumes(orbits, size=24, progress=False)
    body = reconstruction(0.7)
    assert water_in(body, geometry) == soft_tissue(body) / 1.04
    assert water_in(body, orbits.geometry) == water_value(orbits.geometry)
    plain = replace(plain, log_gains=torch.rand_like(plain.log_gains) - 1)
    found = plain.with_variants(1, geometry, torch.Generator().manual_seed(0), Variation())
    seen = FieldVolume.of(found.volumes[2:3], geometry).project(geometry, float(found.distance[2]))
    expected = (seen[0] * plain.log_gains[0].exp()[:, None, None]).clamp_max(1)
    assert float((expected - found.images[2].float()).abs().max()) < 2e-3
    assert torch.equal(found.log_gains[2:], plain.log_gains)


def reconstruction(tissue: float) -> torch.Tensor:
    """A body of soft tissue, with lungs and a spine, in a cube of 64³ with specks at its sides."""
    x, y, z = voxel_centres(64).unbind(-1)
    noise = torch.rand(64, 64, 64, generator=torch.Generator().manual_seed(0))
    values = tissue * (noise > 0.97) * ((x**2 + y**2).sqrt() > 1.25)
    body = ((x / 0.9) ** 2 + (y / 0.6) ** 2 < 1) & (z.abs() < 0.8)
    values[body] = tissue
    values[body & ((x.abs() - 0.45) ** 2 + y**2 < 0.3**2)] = 0.25 * tissue
    values[body & (x**2 + (y - 0.45) ** 2 < 0.08**2)] = 1.6 * tissue
    return values


def test_the_most_frequent_dense_value_is_soft_tissue():
    for tissue in (0.2, 0.7):
        assert abs(soft_tissue(reconstruction(tissue)) / tissue - 1) < 0.02


def test_a_body_alone_has_air_around_it_and_water_for_its_unit():
    values = reconstruction(0.5)
    found = body_alone(values, DEFAULTS["chest"])
    x, y, z = voxel_centres(64).unbind(-1)
    assert float(found[(x**2 + y**2).sqrt() > 1.2].abs().max()) == 0
    inside = (values == 0.5) & (z.abs() < 0.7) & ((x / 0.8) ** 2 + (y / 0.5) ** 2 < 1)
    assert abs(float(found[inside].mean()) - 1.04) < 0.03, "1.04 of water is soft tissue"
    lung = (values == 0.125) & (z.abs() < 0.7)
    assert abs(float(found[lung].mean()) - 0.26) < 0.02, "lungs are the body's own"
