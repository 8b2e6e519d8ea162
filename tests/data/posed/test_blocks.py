"""The embedded scene: views, exact surface and depth, its cache."""

from dataclasses import replace

import pytest
import torch
from scene_files import SMALL

from mednerf_kit.data.posed import blocks
from mednerf_kit.data.posed.depth import pixel_grid
from mednerf_kit.data.posed.scene import load_scene


@pytest.fixture(scope="module")
def embedded():
    return {split: load_scene("blocks", split=split, **SMALL) for split in ("train", "test")}


def test_blocks_has_its_views_box_and_surface(embedded):
    assert embedded["train"].count == 3 and embedded["test"].count == 25
    for scene in embedded.values():
        assert (
            scene.format == scene.name == "blocks" and scene.alpha is not None and not scene.notes
        )
        rays = replace(scene.cameras, box=None).rays(*pixel_grid(scene.cameras))
        known = scene.depth.isfinite()
        x = (rays.origin + scene.depth[..., None] * rays.direction)[known]
        assert float(scene.facts["surface"].distance(x).abs().max()) < 1e-3
        assert bool((x > scene.box[0]).all()) and bool((x < scene.box[1]).all())
        assert (
            bool((scene.alpha[known] > 0).all())
            and float((scene.alpha[~known] < 1).float().mean()) > 0.99
        )
        assert 0.2 < float(known.float().mean()) < 0.6


def test_depth_of_blocks_is_the_first_crossing_of_its_distance(embedded):
    """Sphere tracing, which uses nothing but the signed distance, must stop where the closed form
    says.
    """
    scene = embedded["test"].take([0, 7])
    rays = replace(scene.cameras, box=None).rays(*pixel_grid(scene.cameras))
    surface, t = scene.facts["surface"], torch.full(rays.near.shape, 2.0)
    for _ in range(400):
        t = t + surface.distance(rays.origin + t[..., None] * rays.direction).clamp_min(1e-5)
    hit = t < 7
    sure = ~(hit & scene.depth.isnan()) & ~(~hit & scene.depth.isfinite())
    assert float(sure.float().mean()) > 0.98
    both = hit & scene.depth.isfinite()
    assert float((t - scene.depth)[both].abs().quantile(0.98)) < 0.02


def test_surface_samples_lie_on_it_in_proportion_to_area():
    for solid in blocks.SURFACE.solids:
        x = solid.sample(500, torch.Generator().manual_seed(0))
        assert float(solid.distance(x).abs().max()) < 1e-5
    x = blocks.SURFACE.sample(4000, torch.Generator().manual_seed(1))
    areas = torch.tensor([solid.area for solid in blocks.SURFACE.solids])
    on = (
        torch.stack([solid.distance(x).abs() < 1e-4 for solid in blocks.SURFACE.solids])
        .float()
        .mean(1)
    )
    assert torch.allclose(on, areas / areas.sum(), atol=0.03)


def test_solids_stand_apart_so_that_the_distance_is_exact():
    for solid in blocks.SURFACE.solids:
        x = solid.sample(2000, torch.Generator().manual_seed(2))
        others = torch.stack(
            [other.distance(x) for other in blocks.SURFACE.solids if other is not solid]
        )
        assert float(others.min()) > 0.003


@pytest.mark.parametrize("solid", blocks.SURFACE.solids, ids=lambda solid: type(solid).__name__)
def test_a_solids_span_agrees_with_its_distance(solid):
    rng = torch.Generator().manual_seed(3)
    centre = torch.tensor(solid.centre)
    origin = centre + 3 * torch.nn.functional.normalize(torch.randn(400, 3, generator=rng), dim=-1)
    target = centre + solid.reach * (2 * torch.rand(400, 3, generator=rng) - 1)
    direction = torch.nn.functional.normalize(target - origin, dim=-1)
    enter, leave, normal = solid.span(origin, direction)
    hit = leave > enter
    assert 40 < int(hit.sum()) < 400
    for t in (enter, leave):
        assert float(solid.distance(origin + t[:, None] * direction)[hit].abs().max()) < 1e-4
    middle = origin + (0.5 * (enter + leave)).nan_to_num(0)[:, None] * direction
    assert float(solid.distance(middle)[hit].max()) < 1e-4
    x = (origin + enter[:, None] * direction)[hit].requires_grad_(True)
    # just outside, away from the kink
    slope = torch.autograd.grad(solid.distance(x + 1e-3 * normal[hit]).sum(), x)[0]
    assert float((slope * normal[hit]).sum(-1).quantile(0.05)) > 0.99
    t = torch.linspace(0, 6, 1200)
    away = solid.distance(origin[:, None] + t[:, None] * direction[:, None]).amin(1)
    assert float(away[~hit].min()) > -1e-3


def test_blocks_shines_differently_from_another_side(embedded):
    """The highlight moves with the eye: a point of the yellow ball is not of one colour."""
    ball = blocks.SURFACE.solids[4]
    x = ball.sample(3000, torch.Generator().manual_seed(0))
    n = (x - torch.tensor(ball.centre)) / ball.radius
    eyes = [torch.tensor([2.0, -2.5, 3.0]), torch.tensor([-1.0, -3.0, 2.0])]
    seen = (n @ blocks.SUN > 0.5) & torch.stack(
        [((eye - x) * n).sum(-1) > 0.2 for eye in eyes]
    ).all(0)
    colors = []
    for eye in eyes:
        to = torch.nn.functional.normalize(eye - x[seen], dim=-1)
        colors.append(blocks.shade(x[seen] + 0.05 * to, -to)[:, :3])
    assert float((colors[0] - colors[1]).abs().max()) > 0.2


def test_the_cached_blocks_are_an_ordinary_scene_of_blenders_format(embedded, tmp_path):
    blocks.make_blocks(tmp_path / "b", size=8, train_views=2)
    scene = load_scene(tmp_path / "b", split="test")
    assert scene.format == "blender" and scene.count == 25 and bool(scene.depth.isfinite().any())
    assert not list(tmp_path.glob(".b-*"))
