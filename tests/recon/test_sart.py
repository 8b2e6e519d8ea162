"""SART by balls whose pictures are known in closed form, and the total variation between passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from balls import GEOMETRY, db, pictures

from mednerf_kit.recon.field_volume import voxel_centres
from mednerf_kit.recon.sart import sart, smoothed


@pytest.fixture(scope="module")
def found():
    return sart(pictures(), GEOMETRY, size=40)


def test_a_reconstruction_explains_its_pictures(found):
    assert db(found.volume.project(GEOMETRY) - pictures()) > 28
    assert found.fit_db == pytest.approx(db(found.volume.project(GEOMETRY) - pictures()), abs=0.1)


def test_a_reconstruction_predicts_views_between_its_own(found):
    between = GEOMETRY.orbit(24, start_deg=7.5)
    assert db(found.volume.project(between) - pictures(between)) > 28


def test_the_volume_has_the_balls_where_they_are(found):
    """The right place and the right value: the world is not mirrored on the way."""
    points = voxel_centres(40)

    def mean_in(centre, radius):
        near = (points - torch.tensor(centre)).norm(dim=-1) < radius
        return float(found.volume.values[near].mean())

    assert mean_in((0.3, 0.3, 0.2), 0.12) == pytest.approx(0.9, rel=0.15)
    assert mean_in((-0.25, 0.25, -0.35), 0.1) == pytest.approx(1.2, rel=0.2)
    for mirrored in ((-0.3, 0.3, 0.2), (0.3, -0.3, 0.2), (0.3, 0.3, -0.2)):
        assert mean_in(mirrored, 0.1) == pytest.approx(0.3, rel=0.15)
    assert float(found.volume.values[points.norm(dim=-1) > 1.0].mean()) < 0.01


def test_values_are_positive_and_the_support_is_kept(found):
    line = (torch.arange(40) + 0.5) / 40 * 2 - 1
    assert (found.volume.values >= 0).all()
    assert float(found.volume.values[:, line[:, None] ** 2 + line**2 >= 1].abs().max()) == 0
    assert torch.equal(found.gains, torch.ones(24))


def test_gains_of_views_that_were_scaled_one_by_one_are_recovered():
    truth = 0.7 + 0.6 * torch.rand(24, generator=torch.Generator().manual_seed(0))
    scaled = pictures() * truth[:, None, None]
    found = sart(scaled, GEOMETRY, size=40, fit_gains=True)
    recovered, wanted = found.gains / found.gains.mean(), truth / truth.mean()
    assert (recovered / wanted - 1).abs().max() < 0.06
    assert found.fit_db > sart(scaled, GEOMETRY, size=40).fit_db + 5
    torch.testing.assert_close((1 / found.gains).mean(), torch.tensor(1.0))


def test_it_repeats(found):
    again = sart(pictures(), GEOMETRY, size=40)
    assert torch.equal(again.volume.values, found.volume.values)


def test_it_goes_on_from_where_it_is_told(found):
    few = GEOMETRY.orbit(6)
    options = {"size": 40, "epochs": 2, "subset_views": 1}
    from_there = sart(pictures(few), few, start=found.volume, **options)
    between = GEOMETRY.orbit(24, start_deg=7.5)
    alone = sart(pictures(few), few, **options)
    alone_db = db(alone.volume.project(between) - pictures(between))
    assert db(from_there.volume.project(between) - pictures(between)) > alone_db + 3


def test_it_stays_in_the_units_of_its_start(found):
    """A cube of half the size: the ball at its middle is where it was, in millimetres."""
    few = GEOMETRY.orbit(6)
    halved = replace(found.volume, unit_mm=found.volume.unit_mm / 2)
    seen = halved.project(few)
    again = sart(seen, few, size=40, epochs=2, subset_views=1, start=halved)
    assert again.volume.unit_mm == halved.unit_mm
    assert again.fit_db > 60, "what explains the pictures is left as it is"


def test_few_views_are_explained_better_by_less_variation():
    few, between = GEOMETRY.orbit(9), GEOMETRY.orbit(24, start_deg=7.5)
    options = {"size": 40, "epochs": 10, "subset_views": 1, "relax": 1.0, "decay": 1.0}
    rough, smooth = (
        sart(pictures(few), few, smooth=s, **options).volume.project(between) - pictures(between)
        for s in (0, 0.01)
    )
    assert db(smooth) > db(rough) + 1


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
