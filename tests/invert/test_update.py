"""Structures that no member of a prior has, planted into a film: kept, marked, and held for unsure.

The ensemble is synthetic, so that no network is asked.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Generator

from mednerf_kit.invert.disagreement import Misfit, filtered, levels, regions_beyond, standardised
from mednerf_kit.invert.film_response import FilmResponse, grey_pictures
from mednerf_kit.invert.update import DENSEST, Films, Update, innovation, reconciled, updated_by
from mednerf_kit.recon.field_volume import FieldVolume, voxel_centres
from mednerf_kit.recon.measurement_update import smoothed

SIDE, PX, MEMBERS = 48, 64, 5


@pytest.fixture(scope="module")
def case(prior, posterior):
    """A posterior of five cylinders that differ smoothly, seen from the front."""
    rng = Generator().manual_seed(3)
    x, y, z = voxel_centres(SIDE).unbind(-1)
    body = ((x / 0.9) ** 2 + (y / 0.6) ** 2 < 1) & (z.abs() < 0.9)
    lungs = ((x.abs() - 0.45) / 0.3) ** 2 + (y / 0.4) ** 2 + (z / 0.6) ** 2 < 1
    base = torch.where(lungs, 0.07, 0.3) * body
    noise = torch.stack(
        [smoothed(torch.randn(SIDE, SIDE, SIDE, generator=rng)) for _ in range(MEMBERS)]
    )
    members = base * (1 + 0.5 * noise)
    geometry = prior.geometry
    found = replace(
        posterior,
        angles_deg=torch.tensor([270.0]),
        gains=torch.ones(MEMBERS, 1),
        distance=prior.distance,
    )
    return found, FieldVolume.of(members, geometry), (x, y, z)


def planted(case, prior, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The true patient with and without a structure: [SIDE]³ each."""
    _, volume, (x, y, z) = case
    normal = volume.values.mean(0)
    mm = prior.geometry.half_width_mm
    if kind == "nodule":
        radius = 6 / mm
        there = (x - 0.45) ** 2 + y**2 + (z - 0.1) ** 2 < max(radius, 1.2 * 2.8 / SIDE) ** 2
        return normal + 0.6 * there, normal
    if kind == "opacity":
        there = ((x - 0.45) / 0.3) ** 2 + (y / 0.4) ** 2 + (z / 0.6) ** 2 < 1
        return normal + 0.2 * (there & (z < -0.1)), normal
    notch = (x + 0.75).abs() < 0.04
    return normal * (1 - 0.9 * (notch & ((z - 0.2).abs() < 0.08) & (y < 0))), normal


@pytest.mark.parametrize("kind", ["nodule", "opacity", "notch"])
def test_a_planted_structure_stays_in_the_reprojection(case, prior, kind):
    posterior, volume, _ = case
    with_it, normal = planted(case, prior, kind)
    geometry = prior.geometry.resized(PX).at([270.0])
    films = [volume.with_values(v).project(geometry, prior.distance) for v in (with_it, normal)]
    after, told = updated_by(
        prior, posterior, volume, Films.of(films[0]), Update(), Generator().manual_seed(0)
    )
    contrast = films[0] - films[1]
    seen = after.values.mean(0)
    shown = volume.with_values(seen).project(geometry, prior.distance) - films[1]
    kept = float((shown * contrast).sum() / contrast.square().sum())
    assert 0.7 < kept < 1.3
    place = contrast[0].abs().argmax()
    row, col = int(place // PX), int(place % PX)
    if kind != "notch":
        assert float(told.z[0, row, col]) > 0.8 * float(told.z.abs().max())
    # what was added lies along the structure's rays, and there the members are less sure
    changed = volume.with_values((seen - volume.values.mean(0)).abs())
    assert float(changed.project(geometry, prior.distance)[0, row, col]) > 3 * float(
        changed.project(geometry, prior.distance)[0].median()
    )


def test_what_a_film_shows_beyond_the_prior_makes_no_voxel_denser_than_bone(case, prior):
    """A film that goes on above the members' last slice, of which a ray meets little."""
    posterior, volume, (x, _, z) = case
    neck = 0.3 * ((x.abs() < 0.3) & (z > 0.8)) + volume.values.mean(0)
    geometry = prior.geometry.resized(PX).at([270.0])
    film = volume.with_values(neck).project(geometry, prior.distance)
    after, _ = updated_by(
        prior, posterior, volume, Films.of(film), Update(), Generator().manual_seed(0)
    )
    assert float(after.values.amax()) <= DENSEST * float(volume.values.amax()) * (1 + 1e-6)


def test_an_opacity_is_named_and_spreads(case, prior):
    posterior, volume, _ = case
    with_it, normal = planted(case, prior, "opacity")
    geometry = prior.geometry.resized(PX).at([270.0])
    found = {}
    for name, truth in (("with", with_it), ("without", normal)):
        film = volume.with_values(truth).project(geometry, prior.distance)
        after, told = updated_by(
            prior, posterior, volume, Films.of(film), Update(), Generator().manual_seed(0)
        )
        found[name] = after.values.std(0), told
    assert found["without"][1].regions == ()
    region = found["with"][1].regions[0]
    assert region.z > 0 and "more attenuation" in region.text and region.width_mm > 10
    there = (with_it - normal) > 0
    widened = found["with"][0][there].mean() / found["without"][0][there].mean()
    elsewhere = (with_it == normal) & (normal > 0.2)
    same = found["with"][0][elsewhere].mean() / found["without"][0][elsewhere].mean()
    assert float(widened) > 1.2 * float(same)


def test_where_a_film_says_nothing_its_structures_do_not_count(case, prior):
    posterior, volume, _ = case
    with_it, normal = planted(case, prior, "opacity")
    geometry = prior.geometry.resized(PX).at([270.0])
    film, plain = (
        volume.with_values(v).project(geometry, prior.distance) for v in (with_it, normal)
    )
    mask = ((film - plain).abs() < 1e-6).float()
    films = Films.of(film, mask)
    seen = volume.project(geometry, prior.distance)
    told = innovation(prior, posterior, films, seen, Update())
    assert bool((told.root_precision[mask == 0] == 0).all())
    after, found = updated_by(prior, posterior, volume, films, Update(), Generator().manual_seed(0))
    assert found.regions == ()
    shown = after.with_values(after.values.mean(0)).project(geometry, prior.distance)
    assert float((shown - plain)[mask == 0].mean()) < 0.3 * float((film - plain)[mask == 0].mean())


def test_what_the_members_curves_differ_by_is_not_known_of_a_film(case, prior):
    posterior, volume, _ = case
    geometry = prior.geometry.resized(PX).at([270.0])
    seen = volume.project(geometry, prior.distance)
    response = FilmResponse.of(prior.geometry, torch.device("cpu"))
    tone = torch.zeros(MEMBERS, 1, response.parameters)
    film = grey_pictures(response, tone[:1, 0], seen[:1, 0])
    films = Films.of(film, has_scale=[False], is_film=[True])
    apart = tone + 0.5 * torch.randn(tone.shape, generator=Generator().manual_seed(0))
    one, several = (
        innovation(prior, replace(posterior, tone=z), films, seen, Update()).root_precision
        for z in (tone, apart)
    )
    body = one > 0
    assert body.float().mean() > 0.1
    assert float((several[body] / one[body]).median()) < 0.6


def test_a_known_scale_takes_no_gain(case, prior):
    posterior, volume, _ = case
    gained = replace(posterior, gains=torch.full((MEMBERS, 1), 1.2))
    geometry = prior.geometry.resized(PX).at([270.0])
    seen = volume.project(geometry, prior.distance)
    film = seen.mean(0)
    known = innovation(prior, gained, Films.of(film), seen, Update())
    unknown = innovation(prior, gained, Films.of(film, has_scale=[False]), seen, Update())
    torch.testing.assert_close(known.values, film - seen)
    torch.testing.assert_close(unknown.values, film / 1.2 - seen)
    assert known.gains.unique().tolist() == [1.0]


def test_the_misfit_of_patients_decides_what_is_named(prior):
    geometry = prior.geometry.resized(PX).at([270.0])
    body = torch.ones(1, PX, PX, dtype=torch.bool)
    rng = Generator().manual_seed(1)
    quiet = [0.02 * torch.randn(3, 1, PX, PX, generator=rng) for _ in range(3)]
    maps = [filtered(r, torch.ones(1, PX, PX), torch.ones(1, PX, PX), geometry) for r in quiet]
    misfit = Misfit.fit([levels(mean, body) for mean, _, _ in maps])
    assert misfit.fitted and Misfit.of(misfit.to_json()) == misfit
    for mean, variance, _ in maps:
        z = standardised(mean, variance, misfit)
        assert regions_beyond(z, misfit.limit, geometry) == []
    loud = quiet[0].clone()
    loud[..., 20:30, 40:50] -= 1.0
    mean, variance, _ = filtered(loud, torch.ones(1, PX, PX), torch.ones(1, PX, PX), geometry)
    region = regions_beyond(standardised(mean, variance, misfit), misfit.limit, geometry)[0]
    assert region.z < 0 and "less attenuation" in region.text
    assert region.x == pytest.approx(45 / PX, abs=0.05)
    assert region.y == pytest.approx(25 / PX, abs=0.05)


def test_several_views_show_what_no_member_has(case, prior):
    """An arm beside the body, where every member is air: four views tell where it is."""
    _, volume, (x, y, z) = case
    arm = ((x - 1.05) ** 2 + y**2 < 0.12**2) & (z.abs() < 0.9)
    truth = volume.with_values(volume.values.mean(0) + 0.3 * arm)
    geometry = prior.geometry.resized(PX).at([270.0, 315.0, 0.0, 45.0])
    seen = truth.project(geometry)
    found = reconciled(volume, seen, torch.ones_like(seen), geometry, Update())
    left = (found.mean(0) - truth.values)[arm].abs().mean() / 0.3
    assert found.shape == volume.values.shape and float(found.min()) >= 0
    assert float(left) < 0.6, "much of it is at its place, where the members have nothing"
    error = (volume.with_values(found).project(geometry) - seen).square().mean().sqrt()
    before = (volume.project(geometry) - seen).square().mean().sqrt()
    assert error < 0.25 * before, "every member explains the X-rays"


def test_what_a_mask_leaves_out_changes_nothing(case, prior):
    """Letters on a film, as dense as nothing in a patient."""
    _, volume, (x, y, z) = case
    truth = volume.with_values(volume.values.mean(0) + 0.3 * (x**2 + y**2 + z**2 < 0.1))
    geometry = prior.geometry.resized(PX).at([270.0, 0.0])
    clean = truth.project(geometry)
    masks, lettered = torch.ones_like(clean), clean.clone()
    masks[0, 10:14, 12:20], lettered[0, 10:14, 12:20] = 0.0, 5.0
    found, same = (
        reconciled(volume, seen, masks, geometry, Update()) for seen in (lettered, clean)
    )
    assert torch.equal(found, same)
    assert not torch.equal(found, volume.values)
