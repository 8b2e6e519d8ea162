"""One ray by every strategy: equal to the renderer's, counted as the field counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import FieldOutput
from mednerf_kit.rays.render import Level, line_integral, render
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.study.sampling.ray import (
    Options,
    View,
    along,
    error_curves,
    sampled,
    strategies,
    with_depth,
)
from mednerf_kit.study.sampling.subject import Subject, of_blocks

BALL = 0.5  # radius; density 1 inside


class Ball:
    """A ball of density 1 about the origin, which counts the points that it is asked about."""

    def __init__(self) -> None:
        self.asked = 0

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        return (x.norm(dim=-1) < BALL).float()

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        self.asked += int((dt > 0).sum())
        return FieldOutput(self.density(x) * dt)


def subject(field: Any) -> Subject:
    """The ball as a parallel beam along x sees it, in 9×9 pixels of 0.2."""
    from mednerf_kit.core.types import Rays

    def cast(view: int, yx: Tensor) -> Rays:
        place = (yx - 4) * 0.2
        origin = torch.stack([torch.full_like(place[:, 0], -2.0), place[:, 1], -place[:, 0]], -1)
        ahead = torch.tensor([1.0, 0.0, 0.0]).expand_as(origin)
        near = torch.full_like(place[:, 0], 1.0)
        return Rays(origin[None], ahead[None], near[None], near[None] + 2)

    return Subject(
        name="ball",
        coarse=field,
        fine=field,
        levels=[Level(SAMPLERS.build({"name": "stratified", "n": 64}), field)],
        image_model="line_integral",
        background=0.0,
        scale=2.0,
        views=("one",),
        first_view=0,
        rows=9,
        cols=9,
        box=torch.tensor([[-1.0] * 3, [1.0] * 3]),
        unit="units",
        quantity="image value",
        cast=cast,
    )


@pytest.mark.parametrize("jitter", [False, True])
def test_every_strategy_nears_the_chord_and_counts(jitter: bool) -> None:
    field = Ball()
    view = View(subject(field), "line_integral")
    rays = view.subject.pixel(0, 5, 4)
    chord = 2 * (BALL**2 - 0.2**2) ** 0.5
    reference = view.reference(rays)
    assert float(reference.rendering.image) == pytest.approx(chord, abs=1e-3)
    options = Options(coarse=24, fine=48, jitter=jitter, seed=3)
    grid = view.occupancy_grid()
    rays = with_depth(rays, reference)
    for name, levels in strategies(view, options, grid).items():
        field.asked = 0
        found = sampled(view, rays, levels, options, reference)
        assert found.evaluations == field.asked, name
        assert float(found.image) == pytest.approx(chord, abs=2 / 24), name  # a coarse cell
        assert found.error == pytest.approx(
            abs(float(found.image) - float(reference.rendering.image)), abs=1e-6
        )


def test_a_strategy_is_the_renderers_pixel() -> None:
    field = Ball()
    view = View(subject(field), "line_integral")
    rays, options = view.subject.pixel(0, 3, 4), Options(coarse=16, fine=32, jitter=True, seed=5)
    reference = view.reference(rays)
    levels = [
        Level(SAMPLERS.build({"name": "stratified", "n": 16}), field),
        Level(SAMPLERS.build({"name": "importance", "n": 32}), field),
    ]
    straight = render(
        rays, None, levels, image_model=line_integral, rng=torch.Generator().manual_seed(5)
    )[-1]
    ours = strategies(view, options, view.occupancy_grid())["importance"]
    found = sampled(view, rays, ours, options, reference)
    assert torch.equal(found.levels[-1].samples.t, straight.samples.t)
    assert float((found.image - straight.rendering.image[0, 0]).abs().max()) < 1e-5


def test_curves_along_the_ray_have_closed_forms() -> None:
    view = View(subject(Ball()), "line_integral")
    rays = view.subject.pixel(0, 4, 4)
    curves = along(view.reference(rays), view.depth_of_tau, 64)
    inside = (curves["t"] > 2 - BALL) & (curves["t"] < 2 + BALL)
    assert torch.allclose(curves["sigma"], inside.float(), atol=1e-3)
    assert torch.allclose(curves["w"], inside.float(), atol=1e-3)  # a line integral of 1
    # a beam through optical depth 2 · 1
    assert float(curves["T"][-1]) == pytest.approx(torch.exp(torch.tensor(-2.0)).item(), rel=1e-3)
    lit = View(subject(Ball()), "emission_absorption")
    opacity = float(lit.reference(rays).rendering.image)
    assert opacity == pytest.approx(1 - torch.exp(torch.tensor(-2.0)).item(), abs=2e-3)


def test_more_evaluations_err_less() -> None:
    view = View(subject(Ball()), "line_integral")
    rays = view.subject.pixel(0, 5, 4)
    reference = view.reference(rays)
    options = Options(jitter=True)
    curves = error_curves(
        view, with_depth(rays, reference), options, view.occupancy_grid(), reference
    )
    for name, points in curves.items():
        (first, coarse), (last, fine) = points[0], points[-1]
        assert last > 10 * first and fine < 0.3 * coarse, name


def test_blocks_have_exact_depth() -> None:
    found = of_blocks()
    view = View(found, "emission_absorption")
    rays = found.pixel(0, 70, 64)
    reference = view.reference(rays)
    depth = with_depth(rays, reference).depth
    assert depth is not None and rays.depth is not None
    w, t = reference.rendering.w, reference.samples.t
    assert float((w * t).sum() / w.sum()) == pytest.approx(float(rays.depth), abs=0.02)


def test_a_beginning_behind_the_end_is_refused() -> None:
    with pytest.raises(UserError, match="a beginning before the end"):
        Options(near=0.6, far=0.5)
