"""What a posterior predicts: means, spreads, calibration and gains."""

from __future__ import annotations

from dataclasses import replace

import torch
from tiny import SIZE, VIEWS

from mednerf_kit.invert.intervals import calibration
from mednerf_kit.invert.predict import SPREAD_FLOOR, VOLUME_FLOOR, predict
from mednerf_kit.invert.spread import view_variance, voxel_variance
from mednerf_kit.recon.field_volume import bake


def test_the_orbit_is_the_members_mean_and_spread(prior, posterior):
    found = predict(prior, posterior, prior.geometry, size=32)
    assert found.members.shape == (3, VIEWS, SIZE, SIZE) and found.volume.values.shape == (
        32,
        32,
        32,
    )
    torch.testing.assert_close(found.views, found.members.mean(0))
    inputs_deg = posterior.angles_deg.tolist()
    spread = view_variance(found.members, prior.geometry, inputs_deg).sqrt() + SPREAD_FLOOR
    torch.testing.assert_close(found.spread, spread)
    torch.testing.assert_close(
        found.volume_variance, voxel_variance(found.volume_members, inputs_deg)
    )
    seen = found.volume.project(prior.geometry, posterior.distance)
    (
        torch.testing.assert_close(found.views, seen, rtol=1e-3, atol=1e-4),
        "a mean of line integrals is the line integral of the mean",
    )


def test_views_of_random_patients_get_back_what_interpolation_takes_and_volumes_stay(
    prior, posterior
):
    plain, shown = (
        predict(prior, posterior, prior.geometry, size=32, detailed=detailed)
        for detailed in (False, True)
    )
    assert torch.equal(plain.volume.values, shown.volume.values)
    seen = plain.volume.unblurred().project(prior.geometry, posterior.distance)
    torch.testing.assert_close(shown.views, seen, rtol=1e-3, atol=1e-4)
    assert float((shown.views - plain.views).abs().max()) > 1e-3


def test_calibration_widens_the_spread_by_the_number_of_views(prior, posterior):
    calibrated = replace(prior, meta={**prior.meta, "calibration": {"1": 2.0, "2": 3.0}})
    assert [calibration(calibrated, n) for n in (1, 2, 5)] == [2.0, 3.0, 3.0] and calibration(
        prior, 1
    ) == 1.0
    # neither number says more of the patient's place than the other
    unit = replace(prior, meta={**prior.meta, "calibration": {"1": 1.0}})
    plain, wide = (predict(p, posterior, prior.geometry, size=16) for p in (unit, calibrated))
    torch.testing.assert_close(wide.spread, 2 * plain.spread)
    torch.testing.assert_close(wide.volume_spread.values, 2 * plain.volume_spread.values)


def test_views_of_a_set_scaled_one_by_one_get_their_angles_mean_gain(prior, posterior):
    profile = torch.linspace(-0.2, 0.3, VIEWS)
    scaled = replace(prior, meta={**prior.meta, "log_gain_profile": profile.tolist()})
    step = 360 / VIEWS
    between = scaled.expected_gain(torch.tensor([0.0, step, 1.25 * step, -0.5 * step, 360.0]))
    wanted = torch.stack(
        [
            profile[0],
            profile[1],
            0.75 * profile[1] + 0.25 * profile[2],
            (profile[0] + profile[-1]) / 2,
            profile[0],
        ]
    )
    torch.testing.assert_close(between, wanted.exp())
    assert (prior.expected_gain(torch.tensor([0.0, 17.0])) == 1).all()
    plain, gained = (predict(p, posterior, prior.geometry, size=16) for p in (prior, scaled))
    torch.testing.assert_close(gained.views, plain.views * profile.exp()[:, None, None])


def test_views_of_a_set_stretched_one_by_one_are_stretched_to_its_peak(prior, posterior):
    meta = {**prior.meta, "log_gain_profile": [0.3] * VIEWS, "view_peak": 0.9}
    stretched = replace(prior, meta=meta)
    plain, seen = (predict(p, posterior, prior.geometry, size=16) for p in (prior, stretched))
    torch.testing.assert_close(seen.views.amax((-1, -2)), torch.full((VIEWS,), 0.9))
    gains = 0.9 / plain.views.amax((-1, -2))
    torch.testing.assert_close(seen.members, plain.members * gains[:, None, None])
    assert stretched.gains(torch.zeros(1, 4, 4), [0.0]).isfinite().all()


def test_random_patients_get_the_detail_that_their_prior_lacks_and_answers_do_not(prior, posterior):
    lacking = replace(prior, meta={**prior.meta, "detail": [1.0, 0.5, 0.5]})
    size = {"size": 32}
    plain, answer = (predict(p, posterior, prior.geometry, **size) for p in (prior, lacking))
    assert torch.equal(answer.volume.values, plain.volume.values)
    shown = predict(lacking, posterior, prior.geometry, **size, detailed=True)
    wanted = bake(prior.generator, posterior.code, prior.geometry, **size)
    wanted = wanted.with_detail([1.0, 0.5, 0.5])
    torch.testing.assert_close(shown.volume.values, wanted.values.mean(0))
    seen = shown.volume.unblurred().project(prior.geometry, posterior.distance)
    torch.testing.assert_close(shown.views, seen, rtol=1e-3, atol=1e-4)
    assert float((shown.volume.values - plain.volume.values).abs().max()) > 1e-3


def test_one_scene_has_no_spread_but_the_floor(prior, posterior):
    alone = replace(posterior, code=posterior.code.one(0))
    placed = replace(prior, meta={**prior.meta, "calibration": {"1": {"factor": 1.0}}})
    found = predict(placed, alone, prior.geometry, size=16)
    for spread, floor in ((found.spread, SPREAD_FLOOR), (found.volume_spread.values, VOLUME_FLOOR)):
        torch.testing.assert_close(spread, torch.full_like(spread, floor), rtol=0, atol=1e-5)
