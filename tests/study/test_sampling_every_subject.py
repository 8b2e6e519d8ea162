"""The lab's numbers for every kind of subject, image model and strategy, by other means."""

from __future__ import annotations

import math
from typing import Any

import pytest
import tiny_prior
import tiny_scene
import torch
from torch import Tensor

from mednerf_kit.core.types import FieldOutput
from mednerf_kit.prior.load import load_prior
from mednerf_kit.rays.render import Level, render
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.scene.load import load_fit
from mednerf_kit.study.sampling.ray import GRID, Options, View, sampled, strategies, with_depth
from mednerf_kit.study.sampling.subject import (
    IMAGE_MODELS,
    ImageModel,
    Subject,
    of_blocks,
    of_fit,
    of_phantom,
    of_prior,
)

OPTIONS = Options(coarse=12, fine=20, seed=5, jitter=True, threshold=1e-3, kappa=0.6)
PIXELS = [(0.5, 0.5), (0.62, 0.41)]  # as shares of the rows and columns


class Counted:
    """A field that counts the samples at which it is evaluated."""

    def __init__(self, field: Any) -> None:
        self.own, self.count = field, 0

    def __call__(self, x: Tensor, d: Any, dt: Tensor, code: Any = None) -> FieldOutput:
        output = self.own(x, d, dt, code)
        left_out = output.n_evaluated is not None  # by the field itself, which counts too
        self.count += int(output.n_evaluated if left_out else (dt > 0).sum())
        return output


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Subject]:
    folder = tmp_path_factory.mktemp("subjects")
    recipe = {"generator": tiny_prior.NODE, "levels": [{"name": "stratified", "n": 24}]}
    prior = load_prior(tiny_prior.snapshot(folder / "prior", recipe=recipe), precision="fp32")
    # every sample has its colour, however faint it is
    fields = {"scene": {**tiny_scene.RECIPE["fields"]["scene"], "faint": 0.0}}
    fit = load_fit(tiny_scene.fitted(folder, steps=40, fields=fields), device="cpu")
    return {
        "phantom": of_phantom("chest", 2),
        "prior": of_prior(prior, 3),
        "blocks": of_blocks(),
        "scene": of_fit(fit, "fit"),
    }


def by_hand(view: View, level: Any, rays: Any) -> list[float]:
    """A pixel from a level's places alone: the field is asked, and its answers summed in a loop."""
    subject = view.subject
    origin, ahead = rays.origin[0, 0], rays.direction[0, 0]
    factor = 1.0 if view.name == "line_integral" else subject.scale
    passed, image = 1.0, None
    there = level.samples.dt[0, 0] > 0
    t, dt = (values[0, 0][there] for values in (level.samples.t, level.samples.dt))
    # each sample as a ray of its own: nothing dims it
    output = subject.fine(
        (origin + t[:, None] * ahead)[None, :, None],
        ahead.expand(1, len(t), 1, 3),
        dt[None, :, None],
        subject.code,
    )
    white = torch.ones(len(t), 1)
    colors = white if output.color is None else output.color[0, :, 0]
    for one, color in zip((factor * output.tau[0, :, 0]).tolist(), colors.tolist(), strict=True):
        image = image or [0.0] * len(color)
        weight = one if view.name == "line_integral" else passed * -math.expm1(-one)
        shown = [1.0] if view.name == "line_integral" else color
        image = [a + weight * c for a, c in zip(image, shown, strict=False)]
        passed *= math.exp(-one)
    assert image is not None
    rest = 0.0 if view.name == "line_integral" else passed * subject.background
    return [value + rest for value in image][: 1 if view.name == "line_integral" else None]


def own_levels(view: View, grid: Any) -> dict[str, list[Level]]:
    """The strategies as a recipe would have them."""
    coarse = Level(SAMPLERS.build({"name": "stratified", "n": 12}), view.coarse)
    occupancy = SAMPLERS.build({"name": "occupancy", **GRID, "n": 32}, box=view.subject.box)
    occupancy.load_state_dict(grid.state_dict())

    def fine(**node: Any) -> Level:
        return Level(SAMPLERS.build(node), view.fine)

    return {
        "stratified": [fine(name="stratified", n=32)],
        "importance": [coarse, fine(name="importance", n=20)],
        "local": [coarse, fine(name="local", n=20, threshold=1e-3, kappa=0.6)],
        "guided": [fine(name="guided", n=32)],
        "occupancy": [Level(occupancy, view.fine)],
    }


@pytest.mark.parametrize("model", IMAGE_MODELS)
@pytest.mark.parametrize("kind", ["phantom", "prior", "blocks", "scene"])
def test_a_pixel_is_the_renderers_and_its_evaluations_are_counted(
    subjects: dict[str, Subject], kind: str, model: ImageModel
) -> None:
    plain = subjects[kind]
    view = View(plain, model)
    grid = view.occupancy_grid()
    view.coarse.field, view.fine.field = counters = Counted(plain.coarse), Counted(plain.fine)
    something = 0.0
    for row, col in PIXELS:
        at = round(row * plain.rows), round(col * plain.cols)
        rays = plain.pixel(plain.first_view, *at)
        reference = view.reference(rays)
        rays = with_depth(rays, reference)
        straight = own_levels(view, grid)
        for name, levels in strategies(view, OPTIONS, grid).items():
            before = sum(one.count for one in counters)
            found = sampled(view, rays, levels, OPTIONS, reference)
            assert found.evaluations == sum(one.count for one in counters) - before, name
            with torch.no_grad():
                rendered = render(
                    rays, None, straight[name], image_model=view.image_model, rng=OPTIONS.rng()
                )[-1]
                hand = by_hand(View(plain, model), found.levels[-1], rays)
            assert torch.allclose(found.image, rendered.rendering.image[0, 0], atol=1e-5), name
            assert found.image.tolist()[: len(hand)] == pytest.approx(hand, abs=1e-5, rel=1e-6), (
                name
            )
            something = max(something, float(reference.rendering.image.max()))
    assert something > 0.01
