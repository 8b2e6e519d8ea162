"""Files a fitted scene leaves: pictures, videos and curves that can be read back, and surfaces of a
known ball.
"""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
import torch
from ball_scene import BOX, FROM, RADIUS, SAMPLES, Ball, ball_fit, colour_of, xray_fit

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import FieldOutput
from mednerf_kit.data.pictures import read_png
from mednerf_kit.imaging.cameras import Cameras, circle_path
from mednerf_kit.scene import export, load, outputs, render
from mednerf_kit.scene.evaluate import evaluate_scene
from mednerf_kit.viz import colours, video


def read_ply(path):
    """Vertices, colours and faces of a binary little-endian PLY, by the header's own words."""
    data = path.read_bytes()
    end = data.index(b"end_header\n") + len(b"end_header\n")
    lines = data[:end].decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    types = {"float": "<f4", "double": "<f8", "uchar": "u1"}
    names = [
        line.split()[1:] for line in lines if line.startswith("property") and "list" not in line
    ]
    vertices = np.frombuffer(
        data, [(name, types[kind]) for kind, name in names], counts["vertex"], end
    )
    faces = None
    if "face" in counts:
        kind = np.dtype([("n", "u1"), ("i", "<i4", (3,))])
        faces = np.frombuffer(data, kind, counts["face"], end + vertices.nbytes)
        assert (faces["n"] == 3).all() and len(data) == end + vertices.nbytes + faces.nbytes
        faces = faces["i"]
    colours = (
        np.stack([vertices[c] for c in ("red", "green", "blue")], -1) / 255
        if "red" in vertices.dtype.names
        else None
    )
    return np.stack([vertices[axis] for axis in "xyz"], -1), colours, faces


def edge_counts(faces):
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    return np.unique(edges, axis=0, return_counts=True)[1]


def enclosed_volume(vertices, faces):
    """Signed: positive where the faces are turned outwards (divergence theorem)."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def test_an_evaluation_writes_every_picture_and_table(tmp_path):
    found = evaluate_scene(ball_fit(views=2), out=tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    with open(tmp_path / "per_view.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["stem"] for row in rows] == ["test/r_0", "test/r_1"]
    assert float(rows[1]["psnr_db"]) == pytest.approx(found["per_view"][1]["psnr_db"])
    names = {path.name for path in (tmp_path / "test").iterdir()}
    kinds = ("", "_truth", "_error", "_depth")
    assert names == {f"test_r_{k}{kind}.png" for k in range(2) for kind in kinds}
    assert read_png(tmp_path / "test" / "test_r_0.png").shape == (40, 40, 3)
    depth = read_png(tmp_path / "test" / "test_r_0_depth.png")
    assert depth.shape[0] > 40 and depth.shape[1] == 40
    # nothing is white, the ball is not
    assert depth[0, 0].tolist() == [1, 1, 1] and depth[20, 20].min() < 0.9


def test_an_evaluation_of_x_rays_is_grey_and_signed(tmp_path):
    evaluate_scene(xray_fit(views=1), out=tmp_path)
    assert {path.name for path in (tmp_path / "test").iterdir()} == {
        "test_r_0.png",
        "test_r_0_truth.png",
        "test_r_0_error.png",
    }
    assert read_png(tmp_path / "test" / "test_r_0.png").shape == (40, 40)
    assert b"not for diagnosis" in (tmp_path / "test" / "test_r_0.png").read_bytes()


def test_error_maps_tell_sign_or_size():
    truth = torch.full((16, 16, 1), 0.5)
    image = truth.clone()
    image[0, 0], image[0, 1] = 0.0, 1.0
    signed = outputs.error_map(image, truth)
    assert (
        signed[5, 5].tolist() == [255, 255, 255]
        and signed[0, 0, 2] > signed[0, 0, 0]
        and signed[0, 1, 0] > signed[0, 1, 2]
    )
    size = outputs.error_map(image.expand(-1, -1, 3), truth.expand(-1, -1, 3))
    assert size[0, 0].tolist() == size[0, 1].tolist() == list(colours.HEAT[-1]) and size[
        5, 5
    ].tolist() == list(colours.HEAT[0])
    # the scale's ends
    assert size[-1, 0].tolist() == list(colours.HEAT[0]) and size[-1, -1].tolist() == list(
        colours.HEAT[-1]
    )


def test_videos_of_colour_and_depth_can_be_read_back(tmp_path):
    fit = ball_fit(views=3)
    seen = outputs.write_video(fit, circle_path(fit.known.cameras, views=5), tmp_path)
    assert seen.image.shape == (5, 40, 40, 3)
    colour, depth = (
        imageio.v3.imread(tmp_path / name, plugin="FFMPEG") for name in ("orbit.mp4", "depth.mp4")
    )
    assert len(colour) == len(depth) == 5 and colour.shape[1:] == (40, 40, 3)
    assert np.abs(colour[2] / 255 - seen.image[2].numpy()).mean() < 0.05
    outputs.write_video(xray_fit(views=1), fit.known.cameras, tmp_path / "xray")
    assert [path.name for path in (tmp_path / "xray").iterdir()] == ["orbit.mp4"]


def test_comparisons_stand_side_by_side_under_their_labels(tmp_path):
    left, right = torch.zeros(4, 32, 48, 3), torch.ones(4, 32, 48, 1)
    mp4, gif = outputs.write_comparison({"dark": left, "bright": right}, tmp_path / "compare")
    for path in (mp4, gif):
        frames = imageio.v3.imread(path, plugin="FFMPEG" if path.suffix == ".mp4" else "pillow")
        assert len(frames) >= 1 and frames.shape[2] in (98, 99) and frames.shape[1] >= 47
        picture = frames[0, -32:]
        assert picture[5:-5, 5:40].max() < 40 and picture[5:-5, 60:90].min() > 215
    moving = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    _, gif = outputs.write_comparison({"noise": moving}, tmp_path / "noise.mp4")
    assert len(imageio.v3.imread(gif, plugin="pillow")) == 4
    video.write_gif(tmp_path / "wide.gif", torch.zeros(2, 10, 1200, 3), 20)
    assert imageio.v3.imread(tmp_path / "wide.gif", plugin="pillow").shape[1:] == (8, 960, 3)


def test_comparisons_refuse_frames_that_do_not_match(tmp_path):
    with pytest.raises(UserError, match="same number and size"):
        outputs.write_comparison(
            {"a": torch.zeros(4, 8, 8), "b": torch.zeros(3, 8, 8)}, tmp_path / "x"
        )
    with pytest.raises(UserError, match="nothing"):
        outputs.write_comparison({}, tmp_path / "x")


def runs_of(monkeypatch, **fits):
    """Fits that ``render_run`` finds by their names, each in a folder of its own and as if of the
    scene ``ball``.
    """
    meta = {"scene": "ball", "dataset": "ball"}
    there = {
        name: replace(
            fit, meta={**meta, **fit.meta}, path=Path(f"{name}/0000-ball/snapshot.safetensors")
        )
        for name, fit in fits.items()
    }
    monkeypatch.setattr(render, "load_fit", lambda run, **options: there[run])


def test_runs_of_one_name_stand_side_by_side(tmp_path, monkeypatch):
    runs_of(monkeypatch, b=ball_fit(views=1), a=ball_fit(views=1), c=ball_fit(views=1))
    seen = {}
    monkeypatch.setattr(outputs, "write_comparison", lambda frames, out: seen.update(frames))
    render.render_run(run="b", compare=["a", "c"], views=2, out=tmp_path)
    assert list(seen) == ["b/0000-ball", "a/0000-ball", "c/0000-ball"]
    seen.clear()
    render.render_run(
        run="b", compare=["b"], settings=["levels.0.sampler.n=8"], views=2, out=tmp_path
    )
    assert list(seen) == ["0000-ball levels.0.sampler.n=8", "0000-ball"]
    with pytest.raises(UserError, match="one run twice"):
        render.render_run(run="b", compare=["b"], out=tmp_path / "none")
    fit = ball_fit(views=1)
    late = [replace(fit, path=Path(f"0000-ball/snapshot-{step}.safetensors")) for step in (1, 2)]
    assert render.labels_of(late) == ["0000-ball/snapshot-1", "0000-ball/snapshot-2"]
    assert not (tmp_path / "none").exists()


def test_a_run_of_another_scene_is_no_comparison(tmp_path, monkeypatch):
    fit = ball_fit(views=1)
    elsewhere, other = (
        replace(fit, meta={**fit.meta, **meta})
        for meta in ({"dataset": "copies/ball"}, {"scene": "cube"})
    )
    runs_of(monkeypatch, fit=fit, elsewhere=elsewhere, other=other, xray=xray_fit(views=1))
    for run, words in {
        "elsewhere": "copies/ball",
        "other": "scene cube",
        "xray": "line_integral scene ball",
    }.items():
        with pytest.raises(UserError, match=words):
            render.render_run(run="fit", compare=[run], out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_cannot_be_written_is_refused_before_anything_is_rendered(tmp_path, monkeypatch):
    flat = ball_fit(views=1)
    warped = replace(flat, known=replace(flat.known, cameras=replace(flat.known.cameras, ndc=True)))
    runs_of(monkeypatch, warped=warped, xray=xray_fit(views=1))
    monkeypatch.setattr(outputs, "write_video", lambda *_: pytest.fail("something was rendered"))
    for run, options, words in (
        ("warped", {"mesh": True}, "warped by NDC"),
        ("warped", {"transforms": True}, "in NDC"),
        ("warped", {"path": "orbit"}, "wanted a spiral"),
        ("xray", {"points": True}, "first surface"),
        ("xray", {"transforms": True}, "radiographs"),
    ):
        with pytest.raises(UserError, match=words):
            render.render_run(run=run, out=tmp_path / "none", **options)
    assert not (tmp_path / "none").exists()


def test_curves_show_what_was_logged(tmp_path):
    rows = [
        {
            "step": k,
            "seconds": k / 10,
            "mse": 1 / k,
            "psnr_db": 10 * math.log10(k),
            "rate": 1.0,
            "evals_per_ray": 96.0,
        }
        for k in range(1, 300)
    ]
    outputs.curves(rows, tmp_path / "curves.png")
    outputs.curves([{"step": k, "mse": 1.0} for k in (1, 2)], tmp_path / "short.png")
    tall, short = (read_png(tmp_path / name) for name in ("curves.png", "short.png"))
    assert tall.shape[0] == 3 * short.shape[0] and tall.shape[1] == short.shape[1]
    with pytest.raises(UserError, match="without logged steps"):
        outputs.curves([], tmp_path / "none.png")


class Counted(list):
    """Rows that count how often they were gone through."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return super().__iter__()


def test_curves_go_through_the_rows_a_few_times_however_many_there_are(tmp_path):
    """They once went through all of them for every row."""
    rows = Counted({"step": k, "mse": 1.0, "psnr_db": 20.0} for k in range(1, 400))
    outputs.curves(rows, tmp_path / "curves.png")
    assert 0 < rows.passes < 20


def test_the_running_mean_is_a_brute_force_one():
    values = np.random.default_rng(0).random(500)
    assert outputs.running_mean(values) == pytest.approx(
        [values[max(0, k - 4) : k + 1].mean() for k in range(500)]
    )


def test_the_depth_scale_covers_what_is_hit():
    fit = ball_fit(views=1)
    seen = load.render_views(fit, fit.known.cameras)
    low, high = outputs.depth_window(None, seen)
    assert FROM - RADIUS - 0.1 < low < high < FROM
    assert outputs.depth_window(torch.tensor([1.0, 2.0, torch.nan]), seen) == (1.0, 2.0)
    assert outputs.depth_window(None, replace(seen, opacity=0 * seen.opacity)) == (0.0, 1.0)


def test_the_mesh_of_a_ball_is_closed_round_and_coloured(tmp_path):
    size = 32
    counts = export.export_mesh(ball_fit(views=1), tmp_path / "ball.ply", size=size)
    vertices, colours, faces = read_ply(tmp_path / "ball.ply")
    assert counts == (len(vertices), len(faces)) and len(faces) > 1000
    voxel = 2 / size
    assert np.abs(np.linalg.norm(vertices, axis=1) - RADIUS).max() < voxel
    assert np.abs(vertices.mean(0)).max() < 0.1 * voxel
    assert set(edge_counts(faces)) == {2}
    assert enclosed_volume(vertices, faces) == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.02)
    assert np.abs(colours - colour_of(torch.from_numpy(vertices)).numpy()).max() < 0.01


def test_axes_and_box_of_the_mesh_are_those_of_the_scene():
    """A block that fills part of a box with three different sides, up to one of its walls."""
    box = torch.tensor([[0.0, -1.0, 2.0], [4.0, 1.0, 3.0]])
    values = torch.zeros(10, 20, 40)  # z, y, x in cells of 0.1
    values[:, 5:15, 30:] = 9.0
    vertices, faces = (v.numpy() for v in export.surface(values, box, 4.5))
    assert vertices.min(0) == pytest.approx([2.95 + 0.05, -0.5, 2.0], abs=0.06)
    assert vertices.max(0) == pytest.approx([4.0, 0.5, 3.0], abs=0.06)
    assert set(edge_counts(faces)) == {2}
    assert enclosed_volume(vertices - vertices.mean(0), faces) == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 400.0, math.nan])
def test_a_threshold_that_yields_nothing_names_the_densities(tmp_path, threshold):
    with pytest.raises(UserError, match="between 0 and 400"):
        export.export_mesh(ball_fit(views=1), tmp_path / "x.ply", size=16, threshold=threshold)
    with pytest.raises(UserError, match="between 0 and 0"):
        export.export_mesh(ball_fit(views=1, field=Ball(peak=0.0)), tmp_path / "x.ply", size=16)


def test_the_mesh_of_an_attenuation_has_no_colours(tmp_path):
    export.export_mesh(xray_fit(views=1), tmp_path / "ball.ply", size=24)
    vertices, colours, _ = read_ply(tmp_path / "ball.ply")
    assert colours is None and np.abs(np.linalg.norm(vertices, axis=1) - RADIUS).max() < 2 / 24


def test_points_lie_on_the_ball_in_its_colours(tmp_path):
    assert export.export_points(ball_fit(views=4), tmp_path / "a.ply", n=500) == 500
    points, colours, faces = read_ply(tmp_path / "a.ply")
    assert faces is None and np.abs(np.linalg.norm(points, axis=1) - RADIUS).max() < 3 / SAMPLES
    assert np.abs(colours - colour_of(torch.from_numpy(points)).numpy()).max() < 0.05
    export.export_points(ball_fit(views=4), tmp_path / "b.ply", n=500)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    assert export.export_points(ball_fit(views=1, field=Ball(peak=0.0)), tmp_path / "none.ply") == 0
    with pytest.raises(UserError, match="line integrals"):
        export.export_points(xray_fit(views=1), tmp_path / "x.ply")


class Wall(Ball):
    """Everything behind the plane z_ndc = 0, which is z = −2 in the scene's own space."""

    def forward(self, x, d, dt, code=None):
        return FieldOutput(4000.0 * (x[..., 2] > 0) * dt, torch.full((*x.shape[:-1], 3), 0.5))


def test_points_of_a_forward_facing_scene_come_back_from_ndc(tmp_path):
    pose = torch.eye(3, 4)[None].repeat(2, 1, 1)
    pose[1, 0, 3] = 0.1
    camera = Cameras(
        pose, torch.full((2, 2), 20.0), torch.full((2, 2), 9.5), 20, 20, 0.0, 1.0, ndc=True
    )
    fit = ball_fit(views=1, n=400, field=Wall())
    fit = replace(fit, known=replace(fit.known, cameras=camera))
    assert export.export_points(fit, tmp_path / "wall.ply", n=300) == 300
    assert read_ply(tmp_path / "wall.ply")[0][:, 2] == pytest.approx(np.full(300, -2.0), abs=0.02)
    with pytest.raises(UserError, match="forward-facing"):
        export.export_mesh(fit, tmp_path / "x.ply")


def test_the_default_threshold_of_an_attenuation_is_half_its_largest():
    assert export.default_threshold(torch.tensor([[[0.0, 3.0]]]), BOX, surfaces=False) == 1.5
