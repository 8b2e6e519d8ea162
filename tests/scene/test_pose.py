"""Poses: motions against matrix exponentials, photographs found again from afar, training poses
corrected with the scene.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace

import click
import pytest
import torch
from ball_scene import BOX, BallFit, cameras
from torch import Tensor, nn

from mednerf_kit import cli
from mednerf_kit.commands import pose as command
from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import FieldOutput
from mednerf_kit.data.posed.scene import Scene
from mednerf_kit.fields.base import SceneField
from mednerf_kit.imaging.cameras import Cameras, look_at
from mednerf_kit.imaging.motion import about, angle_deg, apart, exp_se3, log_se3, skew, square
from mednerf_kit.rays.render import IMAGE_MODELS, Level
from mednerf_kit.rays.samplers.base import Stratified
from mednerf_kit.rays.selectors.base import RandomRays
from mednerf_kit.scene import load as scene_runs
from mednerf_kit.scene.evaluate import evaluate_scene
from mednerf_kit.scene.fit import FitParts, FitTask, PoseCorrections
from mednerf_kit.scene.load import Fit
from mednerf_kit.scene.losses import build_losses
from mednerf_kit.scene.model import Model, render_cameras
from mednerf_kit.scene.pose import report
from mednerf_kit.scene.pose.search import (
    PixelSets,
    PoseSearch,
    aligned,
    approach,
    corners,
    dilated,
    refine,
    sees_scene,
)

SIZE = 40


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Blobs(SceneField):
    """Coloured bells of density at fixed places: smooth everywhere, and alike from no two sides."""

    def __init__(self) -> None:
        super().__init__()
        self.middles = 1.3 * torch.rand(8, 3, generator=seeded(3)) - 0.65
        self.colours = torch.rand(8, 3, generator=seeded(4))

    def bells(self, x: Tensor) -> Tensor:
        return torch.exp(-(x[..., None, :] - self.middles).square().sum(-1) / (2 * 0.18**2))

    def density(self, x: Tensor, code=None) -> Tensor:
        return 25 * self.bells(x).sum(-1)

    def forward(self, x: Tensor, d: Tensor | None, dt: Tensor, code=None) -> FieldOutput:
        bells = self.bells(x)
        return FieldOutput(
            25 * bells.sum(-1) * dt,
            bells @ self.colours / bells.sum(-1, keepdim=True).clamp_min(1e-12),
        )


def model_of(field: SceneField, n: int) -> Model:
    return Model(
        nn.ModuleDict({"fine": field}),
        nn.ModuleDict(),
        [Level(Stratified(n=n), field)],
        lambda answer: IMAGE_MODELS["emission_absorption"](answer, background=1.0),
    )


def blob_model() -> Model:
    return model_of(Blobs(), 16)


def blob_scene(like: Cameras) -> Scene:
    images = render_cameras(blob_model(), like, progress=False).image.half()
    return Scene(
        name="blobs",
        format="blender",
        split="test",
        stems=tuple(f"r_{k}" for k in range(like.count)),
        images=images,
        alpha=None,
        depth=None,
        confidence=None,
        cameras=like,
        box=BOX,
        background=1.0,
    )


@pytest.fixture(scope="module")
def scene() -> Scene:
    return blob_scene(replace(cameras(3, SIZE), box=BOX))


@pytest.fixture(scope="module")
def fit(scene) -> BallFit:
    meta = {
        "quantity": "colour",
        "box": BOX.tolist(),
        "recipe": {"scene": {"downscale": 2}, "levels": []},
    }
    return BallFit(blob_model(), scene, meta)


def away(c2w: Tensor, degrees: float, *, seed: int = 0, pivot: Tensor | None = None) -> Tensor:
    """Poses [P, 3, 4] turned by so much about random axes through a point, or through
    themselves.
    """
    axis = nn.functional.normalize(torch.randn(len(c2w), 3, generator=seeded(seed)), dim=-1)
    motion = exp_se3(torch.cat([axis * math.radians(degrees), torch.zeros(len(c2w), 3)], -1))
    return (
        about(motion, c2w[:, :, 3] if pivot is None else pivot.expand(len(c2w), 3)) @ square(c2w)
    )[:, :3]


# Motions


def random_twists(n: int, angle: float) -> Tensor:
    twist = torch.randn(n, 6, generator=seeded(), dtype=torch.float64)
    return torch.cat([angle * nn.functional.normalize(twist[:, :3], dim=-1), twist[:, 3:]], -1)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.1, 0.49, 0.51, 2.0, 3.14])
def test_a_motion_is_the_matrix_exponential_of_its_twist(angle):
    twist = random_twists(20, angle)
    generators = torch.zeros(20, 4, 4, dtype=torch.float64)
    generators[:, :3, :3], generators[:, :3, 3] = skew(twist[:, :3]), twist[:, 3:]
    torch.testing.assert_close(exp_se3(twist), torch.matrix_exp(generators), atol=1e-9, rtol=0)
    torch.testing.assert_close(log_se3(exp_se3(twist)), twist, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        angle_deg(exp_se3(twist)[:, :3, :3]),
        torch.rad2deg(twist[:, :3].norm(dim=-1)),
        atol=1e-6,
        rtol=0,
    )


def test_single_precision_suffices():
    for angle in (1e-4, 0.3, 0.6, 3.1):
        twist = random_twists(50, angle)
        torch.testing.assert_close(
            log_se3(exp_se3(twist.float())), twist.float(), atol=2e-5, rtol=1e-4
        )


def test_gradients_are_right_at_zero_and_elsewhere():
    for twist in (
        torch.zeros(6, dtype=torch.float64),
        random_twists(1, 0.3)[0],
        random_twists(1, 2.5)[0],
    ):
        assert torch.autograd.gradcheck(exp_se3, twist.requires_grad_(True))
        assert torch.autograd.gradcheck(lambda t: log_se3(exp_se3(t)), twist)


def test_a_half_turn_keeps_its_axis():
    axis = nn.functional.normalize(torch.randn(30, 3, generator=seeded()), dim=-1)
    found = log_se3(exp_se3(torch.cat([math.pi * axis, torch.zeros(30, 3)], -1)))[:, :3]
    torch.testing.assert_close(
        (found * axis).sum(-1).abs(), torch.full((30,), math.pi), atol=1e-3, rtol=0
    )


def test_moving_cameras_moves_their_rays():
    like = cameras(2, 8)
    motion = exp_se3(torch.tensor([0.1, 0.2, -0.3, 0.5, 0.6, 0.7]))
    view, yx = torch.tensor([0, 1]), torch.tensor([[1.0, 2.0], [5.0, 3.0]])
    before, after = like.rays(view, yx), like.moved(motion).rays(view, yx)
    torch.testing.assert_close(after.direction, before.direction @ motion[:3, :3].T)
    torch.testing.assert_close(after.origin, before.origin @ motion[:3, :3].T + motion[:3, 3])


# Pixels


def test_corners_are_those_of_a_square():
    image = torch.zeros(1, 40, 40, 1)
    image[:, 10:30, 12:28] = 1.0
    found = corners(image)[0].nonzero()
    assert len(found) >= 4
    for corner in ((9.5, 11.5), (9.5, 27.5), (29.5, 11.5), (29.5, 27.5)):
        assert float((found - torch.tensor(corner)).norm(dim=-1).min()) < 2.5
    with pytest.raises(UserError, match="without a single corner"):
        corners(torch.full((1, 20, 20, 3), 0.4))
    assert not corners(torch.full((1, 20, 20, 3), 0.4), needed=False).any()


@pytest.mark.parametrize("pixels", ["random", "interest", "region"])
def test_pixels_lie_where_they_may_and_carry_their_colours(pixels, scene):
    search = PoseSearch(pixels=pixels, rays=64, blur=0.1)
    points = None if pixels == "random" else corners(scene.images)
    sets = PixelSets(scene.images, points, search)
    photo = torch.tensor([2, 0, 2])
    yx, colours = sets.draw(len(sets.photos) - 1, photo, seeded())
    at = yx.long()
    assert yx.shape == (3, 64, 2) and bool((yx == yx.round()).all())
    torch.testing.assert_close(
        colours, scene.images[photo[:, None], at[..., 0], at[..., 1]].float()
    )
    if points is not None:
        allowed = points if pixels == "interest" else dilated(points, 5, 3)
        assert bool(allowed[photo[:, None], at[..., 0], at[..., 1]].all())
    else:
        assert all(len(spots.unique(dim=0)) > 60 for spots in yx)  # strata: hardly any pixel twice


def test_a_dilated_point_is_a_square():
    point = torch.zeros(1, 21, 21, dtype=torch.bool)
    point[0, 10, 10] = True
    assert int(dilated(point, 5, 3).sum()) == 13**2 and int(dilated(point, 3, 1, 2).sum()) == 7**2


# Search


@pytest.mark.parametrize("pixels", ["random", "region"])
def test_poses_are_found_again_all_in_one_batch(pixels, scene, monkeypatch):
    monkeypatch.setattr("mednerf_kit.scene.pose.search.RAYS_AT_ONCE", 200)  # groups of one
    which = torch.tensor([0, 2])
    truth = scene.cameras.c2w[which]
    starts = away(truth, 4.0, pivot=torch.zeros(3))
    search = PoseSearch(pixels=pixels, rays=120, steps=40)
    found = refine(
        blob_model(), scene.cameras, scene.images.float(), starts, which, search, rng=seeded()
    )
    turn, shift = apart(found.c2w, truth)
    assert float(turn.max()) < 0.5 and float(shift.max()) < 0.03
    assert found.path.shape == (3, 2, 3, 4) and found.step == [0, 20, 40]
    torch.testing.assert_close(found.path[0], starts)
    assert bool((found.loss[-1] < 0.1 * found.loss[0]).all())


def test_corners_of_the_render_count_where_asked(scene):
    search = PoseSearch(pixels="interest", points="both", rays=60, steps=1)
    start = away(scene.cameras.c2w[:1], 4.0, pivot=torch.zeros(3))
    found = refine(
        blob_model(),
        scene.cameras,
        scene.images.float(),
        start,
        torch.tensor([0]),
        search,
        rng=seeded(),
    )
    assert found.c2w.isfinite().all()


def test_an_approach_comes_near_from_afar(scene):
    which = torch.tensor([2, 0])
    truth = scene.cameras.c2w[which]
    on_the_spot, about_the_scene = (
        away(truth[:1], 30.0, seed=1),
        away(truth[1:], 30.0, seed=2, pivot=torch.zeros(3)),
    )
    starts = torch.cat([on_the_spot, about_the_scene])
    found = approach(blob_model(), scene.cameras, scene.images.float(), starts, which, rng=seeded())
    assert float(apart(found, truth)[0].max()) < 6.0


def test_a_view_refined_from_its_own_pose_stays(scene):
    kept = aligned(blob_model(), scene.cameras, scene.images.float(), steps=10)
    turn, shift = apart(kept.c2w, scene.cameras.c2w)
    assert float(turn.max()) < 0.3 and float(shift.max()) < 0.02


def test_a_camera_that_looks_away_sees_no_scene(scene):
    back = scene.cameras.c2w * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert (
        bool(sees_scene(scene.cameras, BOX).all())
        and not sees_scene(replace(scene.cameras, c2w=back), BOX).any()
    )


# Files


@pytest.fixture
def opened(fit, monkeypatch) -> BallFit:
    monkeypatch.setattr(report, "load_fit", lambda run, **options: fit)
    return fit


def write_photo(fit: BallFit, path, *, scale: int = 1) -> str:
    from PIL import Image

    pixels = (
        (fit.known.images[1].float() * 255)
        .round()
        .byte()
        .repeat_interleave(scale, 0)
        .repeat_interleave(scale, 1)
    )
    Image.fromarray(pixels.numpy()).save(path)
    return str(path)


def test_a_photograph_leaves_its_pose_a_picture_and_a_film(opened, tmp_path):
    start = tmp_path / "start.json"
    begin = away(opened.known.cameras.c2w[1:2], 5.0, pivot=torch.zeros(3))[0]
    start.write_text(json.dumps({"transform_matrix": square(begin).tolist()}))
    photo = write_photo(opened, tmp_path / "photo.png", scale=2)
    found = report.pose_run(
        run="x",
        image=photo,
        start=start,
        gif=True,
        search=PoseSearch(rays=100, steps=24),
        near_first=False,
        blur=0.0,
        out=tmp_path / "out",
    )
    kept = json.loads((tmp_path / "out" / "pose.json").read_text())
    assert kept == json.loads(json.dumps(found)) and kept["final"]["mse"] < kept["initial"]["mse"]
    torch.testing.assert_close(torch.tensor(kept["start"]), square(begin))
    assert "rotation_error_deg" not in kept["final"] and kept["history"][0]["step"] == 0
    assert all((tmp_path / "out" / name).stat().st_size for name in ("pose.png", "pose.gif"))
    torch.testing.assert_close(
        report.read_pose(tmp_path / "out" / "pose.json"), torch.tensor(kept["camera_to_world"])[:3]
    )


def test_a_view_of_the_scene_is_compared_with_its_true_pose(opened, tmp_path):
    found = report.pose_run(
        run="x",
        image="test/r_1",
        start_view="test/r_1",
        search=PoseSearch(rays=50, steps=2),
        near_first=False,
        out=tmp_path,
    )
    assert found["initial"]["rotation_error_deg"] < 0.1 and found["final"]["shift_error"] < 0.2


def test_a_report_counts_every_start(opened, tmp_path):
    found = report.report_run(
        run="x",
        starts=4,
        angle=8.0,
        shift=0.05,
        pixels=["region"],
        near_first=False,
        blur=0.05,
        search=PoseSearch(rays=100, steps=40),
        out=tmp_path,
    )
    rows = (tmp_path / "starts.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 and json.loads(
        (tmp_path / "report.json").read_text()
    ) == json.loads(json.dumps(found))
    method = found["methods"]["region"]
    assert (
        sum(b["count"] for b in method["bins"])
        == method["count"]
        == 4
        == method["up_to"][-1]["count"]
    )
    assert method["successes"] >= 3 > found["methods"]["start"]["successes"]
    assert (tmp_path / "success.png").stat().st_size


def test_starts_are_as_far_as_they_say(scene):
    for turn in ("scene", "camera"):
        drawn = report.draw_starts(scene, 40, angle_deg=20.0, shift=0.1, turn=turn, rng=seeded())
        degrees, shift = apart(drawn.c2w, drawn.truth)
        torch.testing.assert_close(degrees, drawn.angle_deg, atol=1e-2, rtol=0)
        assert float(degrees.max()) < 20 and float(degrees.min()) < 0.6
        assert (float(shift.max()) < 0.1 * math.sqrt(3)) == (turn == "camera")
        assert set(drawn.which.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"start_view": None}, "no start"),
        ({"start_view": "test/r_7"}, "r_2"),
        ({"start_view": "nowhere"}, "SPLIT/STEM"),
        ({"image": "missing.png"}, "SPLIT/STEM"),
        ({"image": "wrong.png"}, "wanted 40×40 or 80×80"),
        ({"search": PoseSearch(rays=1601, pixels="random")}, "at most one a pixel"),
        ({"start_view": None, "start": "bad.txt"}, "holds no pose"),
        ({"start_view": None, "start": "back.txt"}, "no ray meets the scene"),
        ({"image": "flat.png"}, "without a single corner"),
    ],
)
def test_bad_input_is_one_sentence(opened, tmp_path, change, sentence):
    from PIL import Image

    Image.new("RGB", (50, 40)).save(tmp_path / "wrong.png")
    Image.new("RGB", (40, 40), (90, 90, 90)).save(tmp_path / "flat.png")
    (tmp_path / "bad.txt").write_text("1 2 3")
    away_pose = look_at(
        torch.tensor([0.0, 0, 4]), torch.tensor([0.0, 0, 8]), torch.tensor([0.0, 1, 0])
    )
    (tmp_path / "back.txt").write_text(" ".join(str(v) for v in away_pose.flatten().tolist()))
    given = {
        "run": "x",
        "image": "test/r_0",
        "start_view": "test/r_1",
        "search": PoseSearch(rays=20, steps=1),
        "near_first": False,
        "out": tmp_path,
        **change,
    }
    if given["image"].endswith((".png",)):
        given["image"] = str(tmp_path / given["image"])
    if given.get("start"):
        given["start"] = tmp_path / given["start"]
    with pytest.raises(UserError, match=sentence):
        report.pose_run(**given)


@pytest.mark.parametrize(
    "bad", [{"kernel": 4}, {"rays": 0}, {"rate": 0.0}, {"blur": 0.5}, {"final_rate": 2.0}]
)
def test_bad_options_are_refused(bad):
    with pytest.raises(UserError):
        PoseSearch(**bad)


def test_every_option_of_the_command_reaches_its_function(capsys):
    options = {p.name for p in command.pose.params} - {"report"}
    assert options == command.SHARED | command.ONE | command.MANY
    fields = set(inspect.signature(PoseSearch).parameters)
    assert set(command.SEARCH) <= fields and list(command.PIXELS) == list(report.PIXELS)
    given = dict.fromkeys((command.SHARED - {"pixels", *command.SEARCH}) | {"search"})
    inspect.signature(report.pose_run).bind(**given, **dict.fromkeys(command.ONE))
    inspect.signature(report.report_run).bind(**given, **dict.fromkeys(command.MANY | {"pixels"}))
    assert isinstance(command.pose, click.Command)
    assert (
        cli.main(["pose", "--run", "x", "--report", "--gif"]) == 2
        and "--gif" in capsys.readouterr().err
    )
    assert cli.main(["pose", "--run", "x"]) == 2 and "--image" in capsys.readouterr().err


# Training poses

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
    return FitTask(learning_rate=0.1, refine_poses=rate, parts=parts, scene=scene)


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
    yx, true_yx = (c.project(view, x.expand(truth.count, -1, -1))[0] for c in (cameras, truth))
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
        patch.setattr(scene_runs, "read_scene", lambda *_: scene)
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
