"""Masked pixels in fits and scores, what leaves a scene in the world of its files, black walls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ball_scene import ball_fit
from far_mesh import PLACES, cameras_about, write
from test_scene_outputs import read_ply
from tiny_scene import fitted, prepared

from mednerf_kit.core.types import Pixels
from mednerf_kit.data.posed.world import file_length, world_points
from mednerf_kit.fields.heads import query_present
from mednerf_kit.metrics.scene import image_scores
from mednerf_kit.rays.selectors.drawing import Strata
from mednerf_kit.scene import export
from mednerf_kit.scene.evaluate import evaluate_scene, score_view, where_counted
from mednerf_kit.scene.field_queries import density_grid
from mednerf_kit.scene.load import load_fit
from mednerf_kit.scene.views import RenderedViews

UTM = torch.eye(4, dtype=torch.float64)
UTM[:3, 3] = torch.tensor([500000.0, 5300000.0, 300.0], dtype=torch.float64)


def test_masked_pixels_are_replaced_by_pixels_drawn_evenly_among_the_others(tmp_path):
    task = prepared(tmp_path)
    shape = task.scene.images.shape[:3]
    valid = torch.zeros(shape, dtype=torch.bool)
    valid[0, :12], valid[3, 5:9, 5:9] = True, True
    task.scene, task.strata = replace(task.scene, valid=valid), Strata(valid)
    n = 40_000
    rng = torch.Generator().manual_seed(1)
    view = torch.randint(shape[0], (n,), generator=rng)
    yx = torch.randint(shape[1], (n, 2), generator=rng).float()
    pixels = task.counted(Pixels(view, yx, torch.ones(n)))
    y, x = pixels.yx.long().unbind(-1)
    assert bool(valid[pixels.view, y, x].all())
    share = float((pixels.view == 3).float().mean())
    assert share == pytest.approx(16 / int(valid.sum()), abs=0.005)
    kept = valid[view, yx[:, 0].long(), yx[:, 1].long()]
    assert torch.equal(pixels.yx[kept], yx[kept])


def test_scores_look_at_the_pixels_that_count():
    fit = ball_fit(views=1)
    scene = fit.known
    shape = scene.images.shape[:3]
    valid = torch.ones(shape, dtype=torch.bool)
    valid[:, :, :10] = False
    truth = scene.images.float()
    image = (truth + 0.1).where(valid[..., None], torch.tensor(0.0))
    wanted = float(((image - truth)[valid]).square().mean())
    found = image_scores(image, truth, valid)
    assert float(found["mse"]) == pytest.approx(wanted, rel=1e-5)
    assert float(found["psnr_db"]) == pytest.approx(-10 * np.log10(wanted), abs=1e-4)
    assert float(found["mae"]) == pytest.approx(0.1, rel=1e-3)
    flat = torch.ones(shape)
    seen = RenderedViews(image, flat, flat, flat, flat, 1.0, 1.0, 1.0)
    scene = replace(scene, valid=valid)
    counted = where_counted(seen, scene, 0)
    assert torch.equal(counted.image[~valid], truth[~valid])
    scores = score_view(counted, scene, 0)
    inside = scene.alpha[valid].float()
    assert float(scores["alpha_iou"]) == pytest.approx(float((inside > 0.5).float().mean()))


def test_a_mesh_far_off_keeps_every_millimetre(tmp_path):
    fit = ball_fit(views=1)
    export.export_mesh(fit, tmp_path / "own.ply", size=16)
    export.export_mesh(fit, tmp_path / "world.ply", size=16, to_world=UTM)
    own, colours, faces = read_ply(tmp_path / "own.ply")
    world, same_colours, same_faces = read_ply(tmp_path / "world.ply")
    assert own.dtype == np.float32 and world.dtype == np.float64
    assert np.abs(world - UTM[:3, 3].numpy() - own).max() < 1e-6
    assert np.array_equal(faces, same_faces) and np.array_equal(colours, same_colours)
    export.export_points(fit, tmp_path / "points.ply", n=200, to_world=UTM)
    points, _, _ = read_ply(tmp_path / "points.ply")
    assert np.abs(points - UTM[:3, 3].numpy()).max() < 1
    turned = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    assert world_points(torch.tensor([1.0, 0, 0]), UTM @ turned).tolist() == [500002, 5300000, 300]


def test_a_scene_in_utm_metres_is_the_same_fit_elsewhere(tmp_path):
    """Bit for bit until its mesh is written: there the vertices are moved, in double precision."""
    vertices = {}
    for name, place in PLACES.items():
        write(tmp_path / name, cameras_about(4, 16), place)
        run = fitted(tmp_path / name, dataset=str(tmp_path / name), scene={}, steps=6)
        fit, path = load_fit(run, device="cpu"), tmp_path / f"{name}.ply"
        threshold = float(density_grid(fit, 12)[0].median())
        to_world = fit.scene("train").to_world
        export.export_mesh(fit, path, size=12, threshold=threshold, to_world=to_world)
        vertices[name] = read_ply(path)[0]
    assert vertices["utm"].dtype == np.float64 and len(vertices["utm"]) > 100
    moved = vertices["origin"] + np.array(PLACES["utm"])
    assert np.abs(vertices["utm"] - moved).max() < 1e-8


def test_depth_is_scored_in_lengths_of_the_files():
    fit = ball_fit(views=1)
    found = evaluate_scene(fit)
    moved = replace(
        fit.known, to_world=UTM @ torch.diag(torch.tensor([250.0, 250, 250, 1])).double()
    )
    scaled = evaluate_scene(replace(fit, known=moved))
    for key, factor in {
        "depth_l1": 250,
        "depth_rmse": 250,
        "sharpness": 250,
        "depth_delta": 1,
    }.items():
        assert scaled[key] == pytest.approx(factor * found[key], rel=1e-4), key
    cameras = replace(moved.cameras, ndc=True)
    assert file_length(replace(moved, cameras=cameras)) == 1


def test_on_black_a_faint_sample_pulls_its_density_up():
    """A sample too faint to be asked for its colour must still answer to a bright pixel."""
    for faint_color, moved in ((1.0, True), (0.0, False)):
        density = torch.full((4,), 1e-4, requires_grad=True)
        found = query_present(
            torch.zeros(1, 4, 3),
            None,
            torch.ones(1, 4),
            torch.ones(1, 4, dtype=torch.bool),
            lambda points, d=density: (d, (points,)),
            lambda rows, d: torch.full((len(rows[0]), 3), 0.5),
            faint=1e-3,
            faint_color=faint_color,
        )
        (found.tau[..., None] * found.color).sum().backward()
        assert bool((density.grad > 0).all()) == moved
