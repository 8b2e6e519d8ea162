"""Surfaces of signed distances: meshes, scores, colours, blocks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ball_scene import BOX, ball_fit, exact_scene
from ball_scene import cameras as ball_cameras
from neus_ball import ROOM, SMALLEST, ExactField, exact, seeded
from torch import nn
from torch.nn.functional import normalize

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.posed.solids import Ball as ExactBall
from mednerf_kit.data.posed.solids import Paint, Surface
from mednerf_kit.fields.neus import Neus, NeusOptions
from mednerf_kit.rays.samplers.neus import Sections
from mednerf_kit.scene import export, field_queries, surface
from mednerf_kit.scene.evaluate import evaluate_scene
from mednerf_kit.scene.model import Model

PAINT = Paint((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def grid_of(distance, box: torch.Tensor, size: int = 48) -> torch.Tensor:
    """A distance at the centres of cells, [z, y, x]."""
    line = (torch.arange(size) + 0.5) / size
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    return distance(box[0] + torch.stack([x, y, z], -1) * (box[1] - box[0]))


def test_the_mesh_of_a_ball_lies_on_it():
    truth = Surface((ExactBall((0.1, -0.2, 0.3), 0.6, PAINT),))
    vertices, faces = surface.level_set(grid_of(truth.distance, ROOM), ROOM)
    assert surface.is_watertight(faces) and not surface.is_watertight(faces[1:])
    found = surface.chamfer(vertices, faces, truth, n=5000)
    assert found["chamfer"] < 0.004 and found["accuracy"] < 5e-4
    offset = surface.level_set(grid_of(truth.distance, ROOM), ROOM, 0.05)
    grown = surface.chamfer(*offset, truth, n=5000)
    assert grown["accuracy"] == pytest.approx(0.05 / (1.2 * math.sqrt(3)), rel=0.02)
    assert grown["completeness"] == pytest.approx(grown["accuracy"], rel=0.05)
    normals = surface.vertex_normals(vertices, faces)
    outwards = normalize(vertices - torch.tensor([0.1, -0.2, 0.3]), dim=-1)
    assert float((normals * outwards).sum(-1).min()) > 0.98


def test_half_a_surface_is_half_complete():
    truth = Surface(
        (ExactBall((-1.0, 0.0, 0.0), 0.3, PAINT), ExactBall((1.0, 0.0, 0.0), 0.3, PAINT))
    )
    box = torch.tensor([[-1.5, -0.5, -0.5], [-0.5, 0.5, 0.5]])
    found = surface.chamfer(*surface.level_set(grid_of(truth.distance, box), box), truth, n=1000)
    size = math.sqrt(2.6**2 + 2 * 0.6**2)
    away = 0.5 * (2.0 - 0.3)  # nearest point of the other ball, for about half of the points
    assert found["accuracy"] < 1e-3 and found["completeness"] * size == pytest.approx(
        away, rel=0.08
    )


def test_a_floor_that_leaves_the_box_is_closed_on_its_faces():
    vertices, faces = surface.level_set(grid_of(lambda x: x[..., 2] - 0.25, ROOM), ROOM)
    assert surface.is_watertight(faces)
    torch.testing.assert_close(vertices.amin(0), ROOM[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(vertices.amax(0), torch.tensor([1.0, 1.0, 0.25]), atol=1e-3, rtol=0)


def test_points_are_spread_by_area():
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0], [3, 0, 1], [0, 1, 1]])
    found = surface.spread_over(vertices, torch.tensor([[0, 1, 2], [3, 4, 5]]), 8000, seeded())
    upper = found[found[:, 2] > 0.5]
    assert len(upper) == pytest.approx(6000, abs=2)
    torch.testing.assert_close(upper.mean(0), torch.tensor([1.0, 1 / 3, 1.0]), atol=0.03, rtol=0)


@pytest.mark.parametrize("level", [-3.0, 5.0, math.nan])
def test_a_level_that_yields_nothing_is_one_sentence(level):
    with pytest.raises(UserError, match="yields no surface"):
        surface.level_set(grid_of(lambda x: x.norm(dim=-1) - 0.5, BOX, 8), BOX, level)


def neus_fit(field: Neus):
    """A fit of the exact ball field on the pictures of a ball."""
    fit = ball_fit(views=2, size=16)
    model = Model(
        nn.ModuleDict({"scene": field}), nn.ModuleDict(), fit.model.levels, fit.model.image_model
    )
    levels = [
        replace(
            fit.model.levels[0],
            sampler=Sections(n=24, refine=16, rounds=2, box=BOX, field=field),
            field=field,
        )
    ]
    known = exact_scene(ball_cameras(2, 16))
    truth = Surface((ExactBall((0.0, 0.0, 0.0), ExactField.ball, PAINT),))
    return replace(
        fit, model=replace(model, levels=levels), known=replace(known, facts={"surface": truth})
    )


class Floor(ExactField):
    """Everything below z = 0.25, up to the walls of the box."""

    def sdf(self, x):
        return x[..., 2] - 0.25

    def at(self, points):
        return (
            self.sdf(points),
            torch.tensor([[0.0, 0.0, 1.0]]).expand_as(points),
            torch.zeros(len(points), 32),
        )


def test_a_mesh_has_colours_also_where_it_was_closed(tmp_path):
    torch.manual_seed(0)
    fit = neus_fit(Floor(NeusOptions(**SMALLEST, sharpness=200.0), box=BOX).eval())
    places, directions = surface.seen_from_outside(fit, *surface.mesh_of(fit, size=16))
    assert float(places.abs().max()) < 1 and float(directions[:, 2].max()) == -1
    assert float(field_queries.colour_at(fit, places, directions).min()) > 0.1
    export.export_mesh(fit, tmp_path / "floor.ply", size=16)
    assert (tmp_path / "floor.ply").stat().st_size > 1000


def test_evaluating_scores_the_surface_where_it_is_known(tmp_path):
    found = evaluate_scene(neus_fit(exact().eval()))
    assert found["watertight"] is True and found["chamfer"] < 0.004
    assert "chamfer" not in evaluate_scene(ball_fit(views=1, size=16))
    field = exact().eval()
    field.ball = -1.0  # everywhere outside
    nothing = evaluate_scene(neus_fit(field))
    assert nothing["chamfer"] is None and nothing["watertight"] is None
    with pytest.raises(UserError, match="yields no surface"):
        export.export_mesh(neus_fit(field), tmp_path / "x.ply", size=16)


@pytest.mark.parametrize("size", [32, 30])
def test_distances_far_from_the_surface_are_settled_by_blocks(size):
    fit = neus_fit(exact().eval())
    vertices, faces = surface.mesh_of(fit, size=size)
    plain = surface.level_set(grid_of(lambda x: x.norm(dim=-1) - ExactField.ball, BOX, size), BOX)
    torch.testing.assert_close(vertices, plain[0], atol=1e-5, rtol=0)
    assert torch.equal(faces, plain[1])
