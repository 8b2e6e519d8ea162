"""Scores say what they should: views, patients, baselines, the spread."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_prior
import torch
from tiny import SETTINGS, SIZE, SPLIT, VIEWS, make_set, small_geometry
from tiny_inversion import FASTEST, FRONTAL, seeded

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.engine import session
from mednerf_kit.imaging.geometry import DEFAULTS, Geometry
from mednerf_kit.invert import evaluate as scoring
from mednerf_kit.invert.evaluate import evaluate, summary
from mednerf_kit.invert.predict import SPREAD_FLOOR
from mednerf_kit.invert.scoring import (
    Scored,
    apart_deg,
    baseline_orbits,
    input_views,
    neighbours,
    score_patient,
)
from mednerf_kit.metrics import perceptual
from mednerf_kit.metrics.image import psnr_db
from mednerf_kit.prior.load import load_prior
from mednerf_kit.recon.ridge import ridge_orbit

CHEST = DEFAULTS["chest"]
KEYS = {
    "psnr_db",
    "psnr_gain_fitted_db",
    "ssim",
    "lpips",
    "psnr_mask_db",
    "ssim_mask",
    "n_patients",
    "n_views",
    "input_angles_deg",
    "data_range",
    "seen",
    "per_patient",
    "per_angle",
    "baselines",
}


def test_input_views_are_found_by_angle():
    angles = [0.0, 90.0, 180.0, 270.0]
    assert input_views(angles, [270, 0]) == [3, 0] and input_views(angles, [-90.0, 360.2]) == [3, 0]
    with pytest.raises(UserError, match="got input angle 45°.*nearest is"):
        input_views(angles, [45.0])


BASELINES = ["mean_orbit", "nearest_patient", "ridge", "neighbour_view", "mirrored_film"]


def test_baselines_are_what_anyone_could_do():
    training, truth = (
        torch.rand(5, 6, 4, 4, generator=seeded()),
        torch.rand(6, 4, 4, generator=seeded(1)),
    )
    found = baseline_orbits(training.half(), truth, [1, 3], CHEST.orbit(6))
    errors = [
        sum(float((training[p, k].half().float() - truth[k]).square().sum()) for k in (1, 3))
        for p in range(5)
    ]
    torch.testing.assert_close(found["mean_orbit"], training.half().float().mean(0))
    assert torch.equal(found["nearest_patient"], training[errors.index(min(errors))].half().float())
    torch.testing.assert_close(
        found["ridge"], ridge_orbit(training.half(), truth[[1, 3]], [1, 3]), rtol=0, atol=0
    )
    assert all(torch.equal(found["neighbour_view"][k], truth[k - 1]) for k in range(6))
    assert list(found) == BASELINES


def test_the_film_mirrored_is_the_view_from_behind_and_says_nothing_of_others():
    truth = torch.rand(6, 4, 4, generator=seeded(1))
    training, angles = truth[None], [60.0 * k for k in range(6)]
    behind = baseline_orbits(training, truth, [1], CHEST.at(angles))["mirrored_film"]
    assert torch.equal(behind[4], truth[1].flip(-1))
    assert behind[[0, 1, 2, 3, 5]].isnan().all()
    angles[4] += 3  # no view from behind is left
    found = baseline_orbits(training, truth, [1], CHEST.at(angles))["mirrored_film"]
    assert found.isnan().all()


def scored_patient(name: str, psnr: list[float], baseline: float = 1.0) -> Scored:
    names = ("psnr_db", "psnr_gain_fitted_db", "ssim", "mae", "psnr_mask_db", "ssim_mask")
    values = torch.tensor([float("nan"), *psnr])
    shared = {b: {k: torch.full_like(values, baseline) for k in names} for b in BASELINES}
    return Scored(
        name,
        dict.fromkeys(names, values),
        shared,
        None,
        None,
        {"coverage_90": 0.5, "mean_spread": 0.1},
        2.0,
    )


def test_scores_are_averaged_over_views_then_patients():
    found = summary(
        [scored_patient("a", [10, 20], 1.0), scored_patient("b", [40, float("nan")], 4.0)],
        [0, 5, 10],
        [0.0],
        seen=False,
        uncertainty=True,
        lpips=(None, "no weights"),
    )
    assert set(found) > KEYS and found["psnr_db"] == pytest.approx((15 + 40) / 2)
    assert (found["n_patients"], found["n_views"], found["data_range"], found["seen"]) == (
        2,
        2,
        1.0,
        False,
    )
    assert [row["psnr_db"] for row in found["per_angle"]] == [
        None,
        pytest.approx(25),
        pytest.approx(20),
    ]
    assert [row["angle_deg"] for row in found["per_angle"]] == [0, 5, 10]
    assert [(p["patient"], p["psnr_db"]) for p in found["per_patient"]] == [
        ("a", 15.0),
        ("b", 40.0),
    ]
    assert found["baselines"]["mean_orbit"] == {"psnr_db": 2.5, "ssim": 2.5}
    assert list(found["baselines"]) == BASELINES
    low, high = found["intervals_95"]["gain_over_ridge_db"]
    assert (low, high) == pytest.approx((15 - 1, 40 - 4))  # of two patients: either one twice
    assert (
        found["lpips"] is None
        and found["lpips_note"] == "no weights"
        and found["uncertainty"]["coverage_90"] == 0.5
    )
    json.dumps(found, allow_nan=False)


def test_a_patients_scores_leave_the_inputs_out(prior, scenes):
    truth = scenes[2][0].clamp(0, 1)
    found = score_patient(prior, "known", truth, scenes[2], [FRONTAL], FASTEST, seeded())
    rest = [k for k in range(VIEWS) if k != FRONTAL]
    whole = [table for name, table in found.baselines.items() if name != "mirrored_film"]
    for table in (found.scores, *whole):
        assert table["psnr_db"][FRONTAL].isnan() and table["psnr_db"][rest].isfinite().all()
    behind = (FRONTAL + VIEWS // 2) % VIEWS
    mirrored = found.baselines["mirrored_film"]["psnr_db"]
    assert mirrored[behind].isfinite() and int(mirrored.isfinite().sum()) == 1
    shown = found.predicted.views[FRONTAL]  # at the stated angle, without the fitted gain
    assert found.given_psnr_db == pytest.approx(float(psnr_db(shown, truth[FRONTAL])), abs=2)
    own = -10 * (found.predicted.views.clamp(0, 1) - truth).square().mean((1, 2)).log10()
    torch.testing.assert_close(
        found.scores["psnr_db"][rest].float(), own[rest], rtol=1e-4, atol=1e-3
    )
    assert (
        0 <= found.uncertainty["coverage_90"] <= 1
        and found.uncertainty["mean_spread"] >= SPREAD_FLOOR
    )


# The command behind `mednerf-kit evaluate`


@pytest.fixture(scope="module")
def run(tiny_set, tmp_path_factory) -> Path:
    settings = [
        *SETTINGS,
        "task.objective=posed",
        "task.learning_rate=1e-2",
        "steps=30",
        "snapshot_steps=30",
    ]
    return session.train(
        dataset=str(tiny_set),
        config="chest",
        settings=settings,
        outdir=tmp_path_factory.mktemp("runs"),
        device="cpu",
    )


@pytest.fixture
def hurry(monkeypatch):
    """A short search and no perceptual network, whose weights are not at hand."""
    monkeypatch.setattr(scoring, "Inversion", lambda **options: replace(FASTEST, **options))
    monkeypatch.setattr(perceptual, "lpips_distance", lambda *_: (None, "no weights here"))


def test_evaluation_answers_with_every_key(run, tiny_set, hurry):
    found = evaluate(run=str(run), device="cpu", uncertainty=True)
    assert (
        set(found) > KEYS
        and found["seen"] is False
        and found["input_angles_deg"] == [270.0]
        and found["data_range"] == 1.0
    )
    assert (found["n_patients"], found["n_views"]) == (2, VIEWS - 1) and [
        p["patient"] for p in found["per_patient"]
    ] == SPLIT["test"]
    assert found["lpips"] is None and found["lpips_note"] == "no weights here"
    assert [row["psnr_db"] is None for row in found["per_angle"]] == [
        k == FRONTAL for k in range(VIEWS)
    ]
    assert (
        found["psnr_gain_fitted_db"] >= found["psnr_db"] - 1e-3
        and 0 < found["ssim"] <= 1
        and "volume" in found
    )
    assert 0 <= found["uncertainty"]["coverage_90"] <= 1
    train, test = (load_orbits(tiny_set, split=s).images.float() for s in ("train", "test"))
    rest = [k for k in range(VIEWS) if k != FRONTAL]
    for name, guess in (
        ("mean_orbit", train.mean(0).expand_as(test)),
        ("neighbour_view", test.roll(1, 1)),
    ):
        wanted = (-10 * (guess - test)[:, rest].square().mean((2, 3)).log10()).mean()
        assert found["baselines"][name]["psnr_db"] == pytest.approx(float(wanted), abs=0.01)
    folder = run / "evaluate"
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(found))
    patients = list(csv.DictReader((folder / "per_patient.csv").open()))
    assert [row["patient"] for row in patients] == SPLIT["test"]
    for row, known in zip(patients, found["per_patient"], strict=True):
        assert float(row["baselines.ridge.psnr_db"]) == known["baselines"]["ridge"]["psnr_db"]
        assert float(row["volume.psnr_window_db"]) == known["volume"]["psnr_window_db"]
    low, high = found["intervals_95"]["psnr_db"]
    assert low <= found["psnr_db"] <= high
    given = [row["given_view_psnr_db"] for row in found["per_patient"]]
    assert found["given_view"]["psnr_db"] == pytest.approx(sum(given) / 2, rel=1e-5)
    kept = found["power_kept"]
    assert kept["bands_cycles_per_picture"][:2] == ["1-4", "4-8"] and kept["other_views"][0] > 0
    assert kept["other_views"][-1] is None  # finer than these pictures' pixels
    rows = list(csv.DictReader((folder / "error_by_angle.csv").open()))
    assert len(rows) == VIEWS and rows[FRONTAL]["psnr_db"] == "" and float(rows[0]["psnr_db"]) > 0
    assert all(
        (folder / name).stat().st_size > 500 for name in ("error_by_angle.png", "strips.png")
    )


def test_patients_the_prior_was_trained_on_are_refused_unless_seen(run, tiny_set, hurry, tmp_path):
    with pytest.raises(UserError, match="trained on.*p0.*--seen"):
        evaluate(run=str(run), split="train", device="cpu")
    found = evaluate(
        run=str(run), split="train", device="cpu", seen=True, limit=1, out=tmp_path / "scores"
    )
    assert found["seen"] is True and [p["patient"] for p in found["per_patient"]] == ["p0"]
    assert (tmp_path / "scores" / "metrics.json").is_file()


def test_a_renamed_patient_is_recognised(run, tiny_set, hurry, tmp_path):
    renamed = make_set(tmp_path / "renamed")
    (renamed / "p0").rename(renamed / "stranger")
    (renamed / "split.json").write_text(json.dumps({"train": [], "test": ["stranger"]}))
    with pytest.raises(UserError, match="stranger"):
        evaluate(run=str(run), dataset=str(renamed), device="cpu")


def test_what_cannot_be_scored_gets_one_sentence(run, tiny_set, hurry, tmp_path):
    for options, said in [
        ({"input_angles": [100.0]}, "input angle 100"),
        ({"run": str(tmp_path / "gone")}, "gone"),
        ({"input_angles": [45.0 * k for k in range(VIEWS)]}, "every view"),
        ({"split": "val"}, "val split is empty"),
        ({"split": "tst"}, "did you mean 'test'"),
        ({"dataset": "/nowhere"}, "/nowhere"),
    ]:
        with pytest.raises(UserError, match=said):
            evaluate(**{"run": str(run), "device": "cpu", **options})


def framed(geometry: Geometry, chosen: list[int]) -> Geometry:
    """Some views of an orbit with a frame each; every other one leans out of it."""
    level, leaning = (
        replace(geometry, tilt_deg=tilt_deg).subset(chosen).frames_of_views().to_list()
        for tilt_deg in (0.0, 15.0)
    )
    frames = [leaning[i] if i % 2 else level[i] for i in range(len(chosen))]
    return replace(geometry, angles_deg=(), view_frames=tuple(frames))


@pytest.mark.parametrize(
    ("views", "note"),
    [
        (lambda g: g.subset([6, 5, 4, 3]), None),  # clockwise, half of them
        (lambda g: g.at([270.0 + 21 * k for k in range(-4, 5)]), "CTs"),  # an arc, other angles
        (lambda g: replace(g, columns_flipped=False).at([270, 0, 45]), "CTs"),
        (lambda g: framed(g, [6, 0, 3]), "CTs"),
    ],
    ids=["clockwise", "arc", "mirrored", "frames"],
)
def test_a_set_is_scored_at_the_views_it_has(run, hurry, tmp_path, views, note):
    """The same scores as of the whole orbit where views are the same, and none of them invented."""
    geometry = views(small_geometry())
    other = make_set(tmp_path / "other", geometry=geometry)
    found = evaluate(run=str(run), dataset=str(other), split="test", device="cpu", limit=1)
    assert found["n_views"] == geometry.views - 1
    assert [row["angle_deg"] for row in found["per_angle"]] == [
        pytest.approx(a, abs=1e-4) for a in geometry.angles_deg
    ]
    if note:
        assert note in found["set_notes"][-1]
    else:
        assert found["set_notes"] == []
    # what every patient has in common is seen from everywhere: no view is turned or mirrored
    mean = found["baselines"]["mean_orbit"]["psnr_db"]
    assert mean > 15 and found["psnr_db"] > 14
    if geometry.columns_flipped and not geometry.view_frames:
        whole = evaluate(run=str(run), device="cpu", limit=1, out=tmp_path / "whole")
        assert found["psnr_db"] == pytest.approx(whole["psnr_db"], abs=1.5)


def test_other_views_without_cts_or_codes_are_compared_with_the_priors_own(run, hurry, tmp_path):
    prior = load_prior(run)
    views = prior.geometry.at([10.0, 100.0])
    found, note = scoring.training_views(prior, views, None)
    assert found.shape == (len(SPLIT["train"]), 2, SIZE, SIZE) and note == [scoring.REMEMBERED]
    training = load_orbits(make_set(tmp_path / "bare", volumes=False), split="train")
    found, note = scoring.training_views(prior, views, training)
    assert note == [scoring.REMEMBERED]
    found, note = scoring.training_views(prior, prior.geometry.subset([3, 1]), training)
    assert torch.equal(found, training.images[:, [3, 1]]) and note == []


def test_a_neighbour_is_the_nearest_view_of_an_arc():
    arc = CHEST.at([0.0, 10, 20, 200])
    assert neighbours(apart_deg(arc)).tolist() == [1, 0, 1, 0]
    assert neighbours(apart_deg(CHEST.orbit(5))).tolist() == [4, 0, 1, 2, 3]
    frames = replace(arc, view_frames=tuple(arc.frames_of_views().to_list()))
    torch.testing.assert_close(apart_deg(frames), apart_deg(arc), atol=0.05, rtol=0)


def test_a_set_of_another_scale_is_scored_on_the_priors(run, tiny_set, hurry, tmp_path):
    from PIL import Image

    other = Path(shutil.copytree(tiny_set, tmp_path / "other"))
    geometry = json.loads((other / "geometry.json").read_text())
    geometry["line_integral_scale"] *= 2
    (other / "geometry.json").write_text(json.dumps(geometry))
    for path in other.glob("*/*.png"):
        pixels = np.asarray(Image.open(path), dtype=np.uint16)
        Image.fromarray(pixels // 2).save(path)
    own, darker = (
        evaluate(run=str(run), dataset=str(root), limit=1, device="cpu", out=tmp_path / root.name)
        for root in (tiny_set, other)
    )
    assert darker["psnr_db"] == pytest.approx(own["psnr_db"], abs=0.05)
    assert own["set_notes"] == [] and "brought to" in darker["set_notes"][-1]


def test_evaluation_repeats_by_seed(run, hurry, tmp_path):
    one, two = (
        evaluate(run=str(run), device="cpu", limit=1, seed=3, out=tmp_path / str(i))
        for i in range(2)
    )
    assert one["psnr_db"] == two["psnr_db"] and one["per_angle"] == two["per_angle"]


def test_baselines_without_the_training_set_learn_from_the_priors_own_views(tmp_path):
    path = tiny_prior.snapshot(tmp_path / "run", dataset="a folder that is gone")
    prior = load_prior(path)
    orbits = scoring.remembered_orbits(prior)
    assert orbits.shape == (tiny_prior.PATIENTS, 8, 32, 32)
    for k in (0, 3):
        truth = tiny_prior.orbit_of(prior, k, prior.geometry.angles_deg).clamp(0, 1)
        assert float((orbits[k].float() - truth).abs().max()) < 0.01
    # varied copies come after the patients, and are no baselines
    copies = replace(prior, codes=prior.codes.repeat(3, 1))
    assert torch.equal(scoring.remembered_orbits(copies), orbits)


def test_the_first_patient_is_kept_with_its_truth(run, tiny_set, hurry, tmp_path):
    from mednerf_kit.imaging.scans.read import read_volume
    from mednerf_kit.view.shown import Shown, pixels

    found = evaluate(run=str(run), device="cpu", out=tmp_path, limit=1)
    assert [path.name for path in (tmp_path / "patients").iterdir()] == ["q0"]
    kept = tmp_path / "patients" / "q0"
    shown = Shown.at(kept)
    ours, truth, spread = (
        torch.from_numpy(pixels(shown.views[kind]) / np.float32(65535))
        for kind in ("prediction", "truth", "spread")
    )
    said = json.loads((kept / "metrics.json").read_text())
    assert said["per_angle"][FRONTAL]["psnr_db"] is None and said["input_angles_deg"] == [270.0]
    scores = torch.tensor([row["psnr_db"] or torch.nan for row in said["per_angle"]])
    rest = [k for k in range(VIEWS) if k != FRONTAL]
    assert torch.allclose(psnr_db(ours, truth)[rest], scores[rest], atol=0.02)
    assert said["psnr_db"] == pytest.approx(found["psnr_db"]) and float(spread.amin()) > 0
    volumes = [read_volume(kept / f"{name}.nii.gz") for name in ("volume", "truth")]
    assert volumes[0].quantity == "hu" and volumes[0].shape == volumes[1].shape
    assert shown.overlays == ["uncertainty", "difference"]
