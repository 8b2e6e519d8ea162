"""A cell is trained and scored as an ordinary run."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_ablation import planned

from mednerf_kit.core import files
from mednerf_kit.study.ablation import results, run, scoring
from mednerf_kit.study.ablation.results import Result


def stand_in(monkeypatch, owner, name, answer):
    """Replace a function by one that takes the same arguments only; returns the list of what it was
    called with.
    """
    signature, calls = inspect.signature(getattr(owner, name)), []

    def replacement(*args, **options):
        calls.append(signature.bind(*args, **options).arguments)
        return answer(calls[-1])

    monkeypatch.setattr(owner, name, replacement)
    return calls


def trained(call):
    """A run folder as training leaves it."""
    folder = Path(call["outdir"]) / "00000-any"
    files.write_json(
        folder / "metrics.json",
        {"steps": 50, "train_seconds": 10.04, "last": {"r_t": 0.25}, "note": "x"},
    )
    return folder


def trained_with_snapshots(call):
    """The same with two snapshots, whose scores are made up too."""
    folder = trained(call)
    for step in (25, 50):
        (folder / f"snapshot-{step:06d}.safetensors").touch()
    return folder


def test_a_prior_is_trained_drawn_from_and_scored_on_patients(spec, tmp_path, monkeypatch):
    from mednerf_kit.engine import session
    from mednerf_kit.invert import evaluate
    from mednerf_kit.prior import load
    from mednerf_kit.study.generation import score

    sixths = SimpleNamespace(angles_deg=(0.0, 60.0, 120.0, 180.0, 240.0, 300.0))
    stand_in(monkeypatch, load, "load_prior", lambda call: SimpleNamespace(geometry=sixths))

    patients = [{"patient": name, "psnr_db": value} for name, value in (("q0", 20.0), ("q1", 22.0))]
    training = stand_in(monkeypatch, session, "train", trained_with_snapshots)
    swd = {"snapshot-000025": 35.0, "snapshot-000050": 40.0}
    stand_in(
        monkeypatch, score, "score", lambda call: {"swd": swd[Path(call["run"]).stem], "seed": 0}
    )
    scoring_of = stand_in(
        monkeypatch, evaluate, "evaluate", lambda call: {"psnr_db": 21.0, "per_patient": patients}
    )
    cell = planned(spec)[1]
    results.write(tmp_path, Result(cell, "started"))
    found = run.work_on(tmp_path / cell.place, "cpu")
    assert (
        found == replace(results.load(tmp_path / cell.place / "cell.json"))
        and found.status == "done"
    ), found.error
    assert (training[0]["seed"], training[0]["resume"], training[0]["settings"]) == (
        0,
        "latest",
        cell.settings,
    )
    assert (scoring_of[0]["limit"], scoring_of[0]["run"]) == (
        8,
        str(tmp_path / cell.place / "00000-any"),
    )
    assert scoring_of[0]["input_angles"] == (240.0,)
    assert found.run == "00000-any" and found.scores.unit == "patient"
    assert found.scores.units == {"q0": {"psnr_db": 20.0}, "q1": {"psnr_db": 22.0}}
    wanted = {
        "psnr_db": 21.0,
        "swd": 40.0,
        "swd_best": 35.0,
        "evals_per_ray": 16.0,
        "seconds_per_step": 10.04 / 50,
        "train_seconds": 10.04,
        "last.r_t": 0.25,
    }
    assert wanted.items() <= found.scores.metrics.items()


def test_a_scene_is_fitted_and_scored_on_its_test_views(spec, tmp_path, monkeypatch):
    from mednerf_kit.engine import session
    from mednerf_kit.scene import evaluate, load

    views = [{"stem": "r_0", "psnr_db": 30.0, "lpips": None}]
    stand_in(monkeypatch, session, "train", trained)
    stand_in(monkeypatch, load, "load_fit", lambda call: call["device"])
    scoring_of = stand_in(
        monkeypatch,
        evaluate,
        "evaluate_scene",
        lambda call: {"evals_per_ray": 256.0, "per_view": views},
    )
    cell = replace(planned(spec)[0], recipe={"task": {"name": "fit"}})
    found = run.work(cell, tmp_path, "cpu", run.train_and_score)
    assert (found.status, found.scores.unit, found.scores.units) == (
        "done",
        "view",
        {"r_0": {"psnr_db": 30.0}},
    )
    assert found.scores.metrics["evals_per_ray"] == 256 and scoring_of[0]["limit"] == 8


@pytest.mark.parametrize(
    "levels, expected",
    [
        ([{"name": "stratified", "n": 32}], 32),
        ([{"name": "stratified", "n": 8}, {"name": "importance", "n": 16}], 8 + 24),
        ([{"name": "stratified", "n": 8}, {"name": "importance", "n": 16, "merge": False}], 8 + 16),
        ([{"name": "stratified", "n": 16}, {"name": "local", "n": 20, "kappa": 0.4}], 16 + 24),
    ],
)
def test_evaluations_per_ray_are_the_samples_that_are_there(levels, expected):
    assert scoring.evaluations_per_ray(levels) == expected
