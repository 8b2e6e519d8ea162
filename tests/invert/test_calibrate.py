"""Calibration over patients: factors that hold what they say, and silence where too few say it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from tiny import SPLIT, VIEWS, make_set
from tiny_inversion import FASTEST, FRONTAL, seeded

from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.invert import calibrate as calibrating
from mednerf_kit.invert.calibrate import QUANTILES, Record, fitted, record
from mednerf_kit.invert.intervals import (
    Calibration,
    angle_classes,
    calibration_of,
    calibration_text,
    code_distance,
    outside,
    view_factors,
    volume_factors,
)
from mednerf_kit.invert.measured import claimed_and_true
from mednerf_kit.invert.measured import measured as share_of
from mednerf_kit.invert.measures import bounds, measured
from mednerf_kit.invert.predict import predict
from mednerf_kit.invert.scoring import score_spread
from mednerf_kit.invert.spread import PLACE_MM
from mednerf_kit.recon.field_volume import FieldVolume


def patient(k: int, scale: float, **other: object) -> Record:
    """A patient whose errors are normal, ``scale`` times what the spread says."""
    half_normal = torch.distributions.Normal(0.0, 1.0).icdf(
        0.5 + 0.5 * (torch.arange(QUANTILES) + 0.5) / QUANTILES
    )
    ratios = (scale * half_normal / 1.645).tolist()
    row = {
        "patient": f"p{k}",
        "views": ratios,
        "by_angle": [ratios, [2 * r for r in ratios], [3 * r for r in ratios]],
        "views_by_angle": [24, 24, 23],
        "volume": {"all": ratios, "lung": [2 * r for r in ratios], "bone": []},
        "measures": {"lung_volume_ml": float(k)},
        "code_distance": 1 + k / 10,
        "misfit": 0.01 + k / 1000,
    }
    return Record(**(row | other))


def test_equal_patients_get_the_factor_of_one():
    found = Calibration(**fitted([patient(k, 1.7) for k in range(9)]))
    assert found.factor == pytest.approx(1.7, rel=0.02) and found.patients == 9
    assert found.patient_factor == pytest.approx(1.7, rel=0.02)
    assert list(found.by_angle) == pytest.approx([1.7, 3.4, 5.1], rel=0.02)
    assert found.volume == {
        k: pytest.approx(v, rel=0.02) for k, v in {"all": 1.7, "lung": 3.4}.items()
    }
    # the ninth of nine patients: the conformal quantile
    assert found.measures == {"lung_volume_ml": 8.0}


def test_unequal_patients_are_covered_on_average_and_nine_of_ten_one_by_one():
    scales = torch.randn(60, generator=seeded(1)).mul(0.5).exp().tolist()
    records = [patient(k, scale) for k, scale in enumerate(scales)]
    found = Calibration(**fitted(records))
    shares = [float((torch.tensor(r.views) <= found.factor).float().mean()) for r in records]
    margin = 1.645 * float(torch.tensor(shares).std()) / 60**0.5
    assert sum(shares) / 60 - margin == pytest.approx(0.9, abs=0.005) and min(shares) < 0.8
    served = [
        float((torch.tensor(r.views) <= found.patient_factor).float().mean()) for r in records
    ]
    assert 0.88 <= sum(share >= 0.895 for share in served) / 60 <= 0.94


def test_fewer_than_nine_patients_calibrate_nothing_and_the_text_says_so(prior):
    few = fitted([patient(k, 1.0) for k in range(8)])
    assert few == {"factor": None, "patients": 8, "place_mm": PLACE_MM}
    told = replace(prior, meta={**prior.meta, "calibration": {"1": few}})
    text = calibration_text(told, 1)
    assert "not calibrated (8 patients are too few)" in text and "not as an interval" in text
    enough = replace(prior, meta={"calibration": {"1": fitted([patient(k, 2) for k in range(9)])}})
    assert "fitted on 9 patients" in calibration_text(enough, 1)
    assert json.loads(json.dumps(enough.meta)) == enough.meta


def test_one_number_of_an_older_prior_is_read_as_before(prior):
    old = replace(prior, meta={"calibration": {"1": 2.0, "2": 3.0}})
    assert [calibration_of(old, n).factor for n in (1, 2, 5)] == [2.0, 3.0, 3.0]
    more = replace(prior, meta={"calibration": {"1": 2.0, "2": 3.0, "8": 1.5}})
    assert [calibration_of(more, n).factor for n in (1, 4, 8, 36)] == [2.0, 3.0, 1.5, 1.5]
    assert view_factors(calibration_of(old, 1), [0.0, 90.0], [270.0]).tolist() == [2.0, 2.0]
    assert "times 2.00, fitted on patients" in calibration_text(old, 1)


def test_an_older_record_keeps_the_spread_that_it_was_fitted_for(prior):
    entry = fitted([patient(k, 1.0) for k in range(9)])
    old = {key: value for key, value in entry.items() if key not in ("place_mm", "share")}
    known = calibration_of(replace(prior, meta={"calibration": {"1": old}}), 1)
    assert (known.place_mm, known.share) == (0.0, None)
    now = calibration_of(replace(prior, meta={"calibration": {"1": entry}}), 1)
    never = calibration_of(replace(prior, meta={}), 1)
    assert now.place_mm == never.place_mm == PLACE_MM and never.factor is None


def test_the_claimed_share_is_brought_to_what_cts_say(prior, posterior, scenes):
    predicted = predict(prior, posterior, prior.geometry, size=32)
    claimed, perfect = claimed_and_true(prior, predicted, predicted.volume, seeded())
    assert 0 < claimed < 1 and perfect == pytest.approx(1)
    truth = FieldVolume.of(torch.zeros_like(predicted.volume.values), prior.geometry)
    assert claimed_and_true(prior, predicted, truth, seeded())[1] < 1

    def told(shares):
        records = [patient(k, 1.0, share=shares) for k in range(9)]
        known = replace(prior, meta={**prior.meta, "calibration": {"1": fitted(records)}})
        mask = torch.ones(1, *predicted.views.shape[1:])
        return share_of(known, posterior, predicted, mask, seeded())

    own, measured_share = told([]), told([0.8, 0.2])
    assert "by the prior's own account" in own.text and own.total == pytest.approx(claimed)
    assert measured_share.total == pytest.approx(claimed / 4, rel=1e-3)
    torch.testing.assert_close(
        measured_share.share.values, own.share.values / 4, rtol=1e-3, atol=1e-6
    )
    assert "CTs of 9 patients whom the prior had not seen" in measured_share.text
    assert "it was 20 to 20 %" in measured_share.text
    assert told([0.8, -0.3]).total == 0, "it determined nothing"


def test_a_views_factor_follows_its_angle_off_the_nearest_input():
    known = Calibration(factor=1.0, by_angle=(1.0, 2.0, 3.0))
    assert view_factors(known, [270, 90, 240, 225, 180, 0], [270.0]).tolist() == [1, 1, 1, 2, 3, 3]
    assert angle_classes([0.0, 45.0], [270.0, 0.0]).tolist() == [0, 1]


def test_a_voxels_factor_follows_its_region():
    hu = torch.full((1, 6, 6), -1000.0)
    hu[0, 1:5, 1:5], hu[0, 2, 2], hu[0, 4, 4] = 40.0, -800.0, 600.0
    volume = FieldVolume((hu / 1000 + 1) * 0.0205 * 100 / 8, 100.0, 8.0)
    known = Calibration(factor=9.0, volume={"all": 1.0, "lung": 2.0, "bone": 3.0})
    found = volume_factors(known, volume)
    assert (found[0, 2, 2], found[0, 4, 4], found[0, 1, 1], found[0, 0, 0]) == (2, 3, 1, 1)
    assert volume_factors(known, replace(volume, scale=None)) == 1
    assert volume_factors(Calibration(factor=9.0), volume) == 9


@pytest.mark.parametrize("inputs", [[FRONTAL], [FRONTAL, 0]])
def test_a_patients_own_calibration_covers_nine_tenths_of_it(prior, scenes, inputs):
    """Nine times the same patient: what the factors promise is checked on its pixels."""
    truth = scenes[2][1].clamp(0, 1)
    angles = torch.tensor([prior.geometry.angles_deg[k] for k in inputs])
    found = FASTEST(prior, truth[inputs], angles, seeded())
    plain = predict(prior, found, prior.geometry, size=32)
    one = record(prior, found, plain, truth, inputs, patient="a")
    assert one.volume == {} and one.misfit == pytest.approx(found.held_out_mse**0.5)
    told = {str(len(inputs)): fitted([one] * 9)}
    told_prior = replace(prior, meta={**prior.meta, "calibration": told})
    wide = predict(told_prior, found, prior.geometry, size=32)
    rest = torch.tensor([k not in inputs for k in range(VIEWS)])
    assert score_spread(wide, truth, rest)["coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert asdict(Record(**asdict(one))) == json.loads(json.dumps(asdict(one)))


def test_validation_patients_are_inverted_and_test_patients_never_read(
    prior, tmp_path, monkeypatch
):
    monkeypatch.setattr(calibrating, "Inversion", lambda: FASTEST)
    root = make_set(tmp_path / "with_val")
    (root / "split.json").write_text(json.dumps({"train": [], "val": ["q0"], "test": ["q1"]}))
    meta = {"dataset": str(root), "recipe": {"dataset": {"size": 32}}, "identities": []}
    here = replace(prior, meta={**prior.meta, **meta})
    found = calibrating.calibrate(here, views=("1", "2"))
    few = {"factor": None, "patients": 1, "place_mm": PLACE_MM}
    assert found == {"1": few, "2": few}
    orbits = load_orbits(root, patients=["q0"])
    (one,) = calibrating.records_of(here, orbits, ["q0"], "1", 1)
    assert len(one.views) == QUANTILES and set(one.volume) == {
        "all",
        "air",
        "lung",
        "soft_tissue",
        "bone",
    }
    assert calibrating.calibrate(here, limit=0) == {}
    seen = replace(here, meta={**here.meta, "identities": list(orbits.all_fingerprints())})
    assert calibrating.calibrate(seen) == {}
    (root / "split.json").write_text(json.dumps(SPLIT))
    assert calibrating.calibrate(here) == {}


def test_a_film_outside_of_the_calibration_widens_its_interval(prior, posterior):
    distance = code_distance(prior, posterior)
    assert distance > 0
    inside = {"code_distances": [2 * distance] * 9, "misfits": [1.0] * 9}
    far = {"code_distances": [distance / 3] * 9, "misfits": [1.0] * 9}
    few = {"code_distances": [distance / 3] * 8, "misfits": []}

    def told(entry):
        return replace(prior, meta={"calibration": {"1": {"factor": 1.0, **entry}}})

    assert outside(told(inside), posterior) == (1.0, [])
    assert outside(told(few), posterior) == (1.0, [])
    widening, (sentence,) = outside(told(far), posterior)
    assert widening == pytest.approx(3) and "3.0 times as far as the farthest of 9" in sentence
    worse = {**far, "misfits": [posterior.held_out_mse**0.5 / 2] * 9}
    widening, (both,) = outside(told(worse), posterior)
    assert widening == pytest.approx(3) and both.endswith("the spread is widened 3.0 times")
    assert "its code lies 3.0 times and its own pixels are missed by 2.0 times as far" in both
    plain, wide = (
        predict(told(entry), posterior, prior.geometry, size=16) for entry in (inside, far)
    )
    torch.testing.assert_close(wide.spread, 3 * plain.spread)
    assert wide.outside == (sentence,) and plain.outside == ()


def lungs(width: int) -> torch.Tensor:
    hu = torch.full((20, 40, 60), -1000.0)
    hu[1:19, 5:35, 5:55] = 40.0
    for left in (30 - 4 - width, 34):
        hu[4:16, 10:30, left : left + width] = -800.0
    return (hu / 1000 + 1) * 0.0205 * 100 / 8


def test_bounds_are_the_members_mean_and_as_many_spreads_as_patients_needed():
    members = FieldVolume(
        torch.stack([lungs(w) for w in (12, 14, 16)]), 100.0, 8.0, half_extents=(1.2, 0.8, 0.4)
    )
    ml = 2 * 12 * 20 * 4**3 / 1000
    centre, spread = measured(members)["lung_volume_ml"]
    assert centre == pytest.approx(14 * ml) and spread == pytest.approx((2 + 0.02 * 14) * ml)
    found = bounds(members, Calibration(factor=1.0, measures={"lung_volume_ml": 1.5}))
    low, high = found["lung_volume_ml"]["bounds_90"]
    assert (low, high) == pytest.approx((centre - 1.5 * spread, centre + 1.5 * spread), abs=0.01)
    assert found["heart_width_mm"]["bounds_90"] is None
    assert found["thorax_depth_mm"] == {"mean": 120.0, "unit": "mm", "bounds_90": None}
    assert bounds(replace(members, scale=None), Calibration(factor=1.0)) == {}
