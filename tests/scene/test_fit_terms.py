"""How a scene is fitted, in closed form: Adam's path under warm-up and decay, each group's rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from linear_game import Follower, adam

from mednerf_kit.engine.run_folder import RunConfig
from mednerf_kit.engine.session import resolve, task_type_of
from mednerf_kit.scene.fit import FitTask

HASH = {"name": "hash", "levels": 2, "log2_table": 6, "base": 2, "finest": 8}
FIELD = {"name": "hash", "encoding": HASH, "width": 8, "network_rate": 0.25}
GROWING = {
    "name": "tensorf",
    "density_ranks": 2,
    "appearance_ranks": 2,
    "features": 3,
    "head_width": 8,
    "start_voxels": 5**3,
    "end_voxels": 6**3,
    "upsample": [0.4],
    "masks": [],
}
PLACES = [(0.0, 0), (0.0, 1), (0.5, 4), (0.5, 9), (1.0, 60)]  # progress, index


def task_of(folder: Path, field: dict = FIELD, **options) -> FitTask:
    """The fit of a few pixels of the embedded scene."""
    recipe = {
        "task": {"name": "fit", **options},
        "scene": {"size": 16, "train_views": 3},
        "fields": {"scene": field},
        "levels": [{"sampler": {"name": "stratified", "n": 8}, "field": "scene"}],
        "selector": {"name": "random", "n": 24},
        "losses": {"mse": 1.0},
        "image_model": "emission_absorption",
        "steps": 100,
        "snapshot_steps": 100,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    resolved = resolve("blocks", str(path), "default", [])
    task = task_type_of(resolved).prepare(RunConfig("blocks", resolved), torch.device("cpu")).task
    assert isinstance(task, FitTask)
    return task


@pytest.mark.parametrize(("options", "beta2"), [({}, 0.999), ({"beta2": 0.8}, 0.8)])
def test_fields_go_adams_way_along_warm_up_and_decay(options, beta2, tmp_path):
    """Betas (0.9, beta2); the rate rises over ten steps, and falls as final_rate^progress."""
    task = task_of(tmp_path, learning_rate=0.02, final_rate=0.25, warmup_steps=9, **options)
    followed = {name: Follower(p) for name, p in task.model.fields.named_parameters()}
    shares = [0.1, 0.2, 0.25, 0.5, 0.25]
    for (progress, index), share in zip(PLACES, shares, strict=True):
        assert task.step(progress, index)["rate"] == pytest.approx(share)
    assert sum("encoding" in name for name in followed) > 0 and len(followed) > 4
    for name, one in followed.items():
        peak = 0.02 if "encoding" in name else 0.02 / 4
        wanted = adam(one.gradients, [peak * share for share in shares], (0.9, beta2))
        torch.testing.assert_close(one.moved, wanted, rtol=2e-3, atol=1e-7)


def test_unless_told_there_is_no_warm_up_and_a_tenth_is_left(tmp_path):
    task = task_of(tmp_path)
    followed = Follower(next(p for n, p in task.model.fields.named_parameters() if "encoding" in n))
    rates = [task.step(progress, index)["rate"] for progress, index in PLACES]
    assert rates == pytest.approx([1, 1, 0.1**0.5, 0.1**0.5, 0.1])
    wanted = adam(followed.gradients, [5e-4 * rate for rate in rates], (0.9, 0.999))
    torch.testing.assert_close(followed.moved, wanted, rtol=2e-3, atol=1e-8)


@pytest.mark.parametrize("restart", [False, True])
def test_the_rate_may_start_again_with_new_parameters(restart, tmp_path):
    task = task_of(tmp_path, GROWING, final_rate=0.01, restart_rate=restart)
    rates = [task.step(progress, index)["rate"] for index, progress in enumerate((0.3, 0.4, 0.9))]
    wanted = [0.01**0.3, 1.0, 0.01**0.5] if restart else [0.01**0.3, 0.01**0.4, 0.01**0.9]
    assert rates == pytest.approx(wanted)


def test_poses_follow_the_same_curve_and_share_no_motion(tmp_path):
    """Adam (0.9, 0.999) at their own rate, less the mean over the views."""
    task = task_of(tmp_path, refine_poses=1e-3, final_rate=0.25, warmup_steps=9)
    followed = Follower(task.poses.twist)
    for progress, index in PLACES:
        task.step(progress, index)
    way = adam(
        followed.gradients, [1e-3 * share for share in (0.1, 0.2, 0.25, 0.5, 0.25)], (0.9, 0.999)
    )
    torch.testing.assert_close(followed.moved, way - way.mean(0), rtol=2e-3, atol=1e-8)
    assert way.mean(0).abs().max() > 1e-5, "else nothing is taken away"
