"""Training poses corrected with the scene, kept in snapshots, and used in scores."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ball_scene import BOX, BallFit, cameras
from blob_scene import (
    Blobs,
    away,
    blob_fit,
    blob_model,
    blob_scene,
    model_of,
    random_twists,
    seeded,
    small_scene,
)
from torch import Tensor, nn

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import FieldOutput
from mednerf_kit.data.posed.types import Scene
from mednerf_kit.fields.base import SceneField
from mednerf_kit.imaging.cameras import Cameras, look_at
from mednerf_kit.imaging.motion import apart, exp_se3, log_se3, square
from mednerf_kit.rays.selectors.uniform import RandomRays
from mednerf_kit.scene import load as scene_runs
from mednerf_kit.scene.evaluate import evaluate_scene
from mednerf_kit.scene.fit import FitOptions, FitParts, FitTask
from mednerf_kit.scene.load import Fit
from mednerf_kit.scene.losses import build_losses
from mednerf_kit.scene.pose_corrections import PoseCorrections


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene()


@pytest.fixture(scope="module")
def fit(scene) -> BallFit:
    return blob_fit(scene)


STEPS = 150


class Voxels(SceneField):
    """Density and colour on 18³ points, read linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.grid = nn.Parameter(torch.zeros(1, 4, 18, 18, 18))
        self.grid.data[:, 0] = -1.0

    def read(self, x: Tensor) -> Tensor:
        values = nn.functional.grid_sample(self.grid, x.reshape(1, -1, 1, 1, 3), align_corners=True)
        return values[0, :, :, 0, 0].T.reshape(*x.shape[:-1], 4)

    def density(self, x: Tensor, code=None) -> Tensor:
        return 4 * nn.functional.softplus(self.read(x)[..., 0])

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code=None) -> FieldOutput:
        values = self.read(x)
        return FieldOutput(
            4 * nn.functional.softplus(values[..., 0]) * dt, torch.sigmoid(values[..., 1:])
        )


def ring(views: int, size: int) -> Cameras:
    turn = 2 * math.pi * torch.arange(views) / views
    rise = 0.6 * (2 * turn).sin()
    position = 3.0 * torch.stack([turn.cos() * rise.cos(), turn.sin() * rise.cos(), rise.sin()], -1)
    like = cameras(1, size).take([0] * views)
    return replace(like, c2w=look_at(position, torch.zeros(3), torch.tensor([0.0, 0, 1])), box=BOX)


def task_of(scene: Scene, rate: float) -> FitTask:
    selector = RandomRays(
        n=384, views=scene.count, rows=scene.cameras.rows, cols=scene.cameras.cols
    )
    parts = FitParts(lambda: model_of(Voxels(), 20), selector, build_losses({"mse": 1.0}))
    options = FitOptions(learning_rate=0.1, refine_poses=rate)
    return FitTask(options, parts=parts, scene=scene)


def trained(scene: Scene, rate: float) -> tuple[FitTask, float]:
    """A task after its steps, and the PSNR of its last rays."""
    task = task_of(scene, rate)
    rows = [task.step(k / STEPS, k) for k in range(STEPS)]
    return task, sum(row["psnr_db"] for row in rows[-10:]) / 10


def errors(cameras: Cameras, truth: Cameras) -> tuple[float, float]:
    """Mean rotation error in degrees, and how far the blobs' middles are off in the pictures, in
    pixels; both after the one motion of the world that brings the poses nearest to the true ones.
    """
    for _ in range(5):
        step = log_se3(square(truth.c2w) @ torch.linalg.inv(square(cameras.c2w.detach()))).mean(0)
        cameras = replace(cameras, c2w=cameras.c2w.detach()).moved(exp_se3(step))
    x = Blobs().middles
    view = torch.arange(truth.count)[:, None].expand(-1, len(x))
    yx, true_yx = (c.to_pixels(view, x.expand(truth.count, -1, -1))[0] for c in (cameras, truth))
    return float(apart(cameras.c2w, truth.c2w)[0].mean()), float((yx - true_yx).norm(dim=-1).mean())


def test_wrong_training_poses_are_corrected_and_pictures_sharpen():
    truth = blob_scene(ring(12, 32))
    twist = torch.randn(12, 6, generator=seeded(5)) * torch.tensor([0.05] * 3 + [0.1] * 3)
    wrong = replace(truth, cameras=truth.cameras.moved(exp_se3(twist)))
    kept, kept_db = trained(wrong, 0.0)
    moved, moved_db = trained(wrong, 3e-3)
    assert kept.poses is None and moved_db > kept_db + 5
    (turn, off_px), (turn_after, off_px_after) = (
        errors(wrong.cameras, truth.cameras),
        errors(moved.cameras, truth.cameras),
    )
    assert off_px > 2 and off_px_after < 0.35 * off_px and turn_after < 0.7 * turn
    assert moved.poses is not None and float(moved.poses.twist.detach().mean(0).abs().max()) < 1e-6
    change = moved.poses.change(wrong.cameras)
    assert change["pose_rotation_deg"] > 1 and change["pose_shift"] > 0.03


def test_corrections_travel_in_the_snapshot(scene):
    task = task_of(scene, 1e-3)
    for k in range(2):
        task.step(0.1, k)
    tensors, meta = task.state()
    again = task_of(scene, 1e-3)
    again.load({k: v.clone() for k, v in tensors.items()}, meta["task_state"])
    for one in (task, again):
        one.step(0.1, 2)
    assert torch.equal(task.poses.twist, again.poses.twist)
    assert not any(name.startswith("poses.") for name in task_of(scene, 0.0).state()[0])
    with pytest.raises(UserError, match="refine_poses"):
        task_of(scene, -1.0)


def test_a_run_with_refined_poses_says_so_and_keeps_them(scene, tmp_path):
    twist = 0.05 * random_twists(scene.count, 1.0).float()
    meta = {
        "dataset": "toy",
        "recipe": {"scene": {}, "levels": []},
        "stems": list(scene.stems),
        "split": "train",
    }
    fit = Fit(blob_model(), meta, tmp_path, torch.device("cpu"), twist)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene_runs, "load_scene", lambda *_, **__: scene)
        moved = fit.scene("train").cameras
        untouched = replace(fit, twist=None).scene("train").cameras
        unseen = fit.scene("test").cameras  # whose views are called alike
    wanted = PoseCorrections(scene, twist=twist).applied(scene.cameras)
    torch.testing.assert_close(moved.c2w, wanted.c2w)
    assert torch.equal(untouched.c2w, scene.cameras.c2w) and torch.equal(
        unseen.c2w, scene.cameras.c2w
    )


def test_unseen_views_are_aligned_before_they_are_scored(fit, monkeypatch):
    off = replace(
        fit.known, cameras=replace(fit.known.cameras, c2w=away(fit.known.cameras.c2w, 3.0))
    )
    wrong = replace(fit, known=off)
    plain = evaluate_scene(wrong, limit=1)
    aligned = evaluate_scene(replace(wrong, twist=torch.zeros(off.count, 6)), limit=1)
    assert not plain["poses_aligned"] and aligned["poses_aligned"]
    assert aligned["psnr_db"] > plain["psnr_db"] + 3
