"""The posed task on a tiny set: what each objective learns from; a seed repeats its run."""

from __future__ import annotations

import pytest
import torch
from tiny import VIEWS, make_set
from tiny_training import assert_same, last_tensors, stats, trained

from mednerf_kit.core import files
from mednerf_kit.engine import snapshots
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.posed import cylinder_points

OBJECTIVES = ["posed", "gan", "hybrid"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_steps_and_logs_what_it_learns_from(objective, tiny_set, tmp_path):
    folder = trained(
        tiny_set, tmp_path, f"task.objective={objective}", "steps=6", "snapshot_steps=6"
    )
    logged = stats(folder)
    posed, adversarial = {"volume_mse", "ray_mse"}, {"d_loss", "g_loss", "r_t", "p", "r1", "kimg"}
    seen = {name for line in logged for name in line} - {"step", "seconds", "rate"}
    both = posed | adversarial | {"gan_factor"}
    assert seen == {"posed": posed, "gan": adversarial, "hybrid": both}[objective]
    if objective == "gan":
        assert all({"d_loss", "g_loss"} <= set(line) for line in logged)
    else:
        assert ["ray_mse" in line for line in logged] == [False] * 5 + [True], (
            "the last steps learn from rays"
        )


def test_who_is_not_judged_needs_no_patch(tiny_set, tmp_path):
    """A discriminator for larger pictures than these is refused only where it is used."""
    settings = ["task.objective=posed", "discriminator.size=64", "steps=2", "snapshot_steps=2"]
    assert len(stats(trained(tiny_set, tmp_path, *settings))) == 2


def test_baked_patients_are_judged(tiny_set, tmp_path):
    """Two views of each: steps 0, 2 and 4 learn from them, and from known patients as before."""
    folder = trained(
        tiny_set,
        tmp_path,
        "task.gan_batch=4",
        "task.gan_views=2",
        "task.gan_start=0.0",
        "levels=[{name: stratified, n: 32}]",
        "steps=6",
        "snapshot_steps=6",
    )
    factors = [line["gan_factor"] for line in stats(folder) if "gan_factor" in line]
    assert len(factors) == 3 and all(0 < factor < 1e4 for factor in factors)


def test_coloured_pictures_train_too(tiny_set, tmp_path):
    folder = trained(
        tiny_set,
        tmp_path,
        "generator.outputs=4",
        "task.image_model=emission_absorption",
        "steps=6",
        "snapshot_steps=6",
    )
    assert (
        "ray_mse" in stats(folder)[-1]
        and prior_load.load_prior(folder).generator.shared[-1].shape[0] == 4
    )


def test_the_loss_falls(tiny_set, tmp_path):
    folder = trained(
        tiny_set,
        tmp_path,
        "task.objective=posed",
        "task.learning_rate=1e-2",
        "steps=80",
        "snapshot_steps=80",
    )
    lines = stats(folder)
    assert lines[50]["volume_mse"] < 0.4 * lines[0]["volume_mse"]
    first = next(line["ray_mse"] for line in lines if "ray_mse" in line)
    assert sum(line["ray_mse"] for line in lines[-5:]) / 5 < max(first, 0.05)


def test_the_same_seed_gives_the_same_run_and_another_does_not(tiny_run, tiny_set, tmp_path):
    assert_same(last_tensors(tiny_run), last_tensors(trained(tiny_set, tmp_path / "a")))
    other = last_tensors(trained(tiny_set, tmp_path / "b", seed=1))
    assert (other["codes"] - last_tensors(tiny_run)["codes"]).abs().max() > 1e-3


def test_a_set_scaled_view_by_view_learns_gains(tmp_path):
    folder = trained(
        make_set(tmp_path / "views", volumes=False, per_view=True), tmp_path / "runs", limit=1
    )
    tensors, meta = files.load_tensors(snapshots.snapshot_files(folder)[-1])
    assert (
        meta["per_view_scale"] is True
        and tensors["log_gains"].shape == (1, VIEWS)
        and tensors["log_gains"].std() > 0.01
    )
    assert meta["geometry"]["line_integral_scale"] is None
    assert 0.9 < meta["view_peak"] <= 1 and len(meta["log_gain_profile"]) == VIEWS


def test_points_fill_the_cylinder_evenly():
    x = cylinder_points(1, 40_000, 1.4, torch.Generator().manual_seed(0))[0]
    radius = x[:, :2].norm(dim=-1)
    assert radius.max() <= 1.4 + 1e-5 and x[:, 2].abs().max() <= 1.15
    assert (radius < 0.7).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (x[:, 2] > 0.575).float().mean().item() == pytest.approx(0.25, abs=0.01) and x.mean(
        0
    ).abs().max() < 0.02
