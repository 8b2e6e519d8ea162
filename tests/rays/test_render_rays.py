"""From rays to pictures: closed forms through real geometry, levels that refine, and what never
changes a pixel.
"""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.core.types import FieldOutput, Rays
from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.rays.render import (
    IMAGE_MODELS,
    Level,
    emission_absorption,
    line_integral,
    query,
    render,
    transmission,
)
from mednerf_kit.rays.samplers.importance import Importance
from mednerf_kit.rays.samplers.l_nerf import Local
from mednerf_kit.rays.samplers.stratified import Stratified

GEOMETRY = Geometry(
    source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=24, cols=24, pixel_mm=15
)


class Shape:
    """A field that is ``mu`` where ``within`` says so; colours are the point's own coordinates."""

    def __init__(self, within, mu: float = 1.0) -> None:
        self.within, self.mu = within, mu
        self.asked: list[torch.Tensor] = []

    def density(self, x, code=None):
        return self.mu * self.within(x).float()

    def __call__(self, x, d, dt, code=None):
        self.asked.append(x)
        return FieldOutput(self.density(x, code) * dt, x)


def ball(radius: float, mu: float = 1.0) -> Shape:
    return Shape(lambda x: x.square().sum(-1) < radius**2, mu)


def view_rays(angle_deg: float = 270.0) -> Rays:
    """All pixels of one view in field units, [1, R]."""
    yx = GEOMETRY.pixel_grid().reshape(1, -1, 2)
    return GEOMETRY.field_rays(torch.full(yx.shape[:-1], angle_deg), yx, GEOMETRY.distance)


def chords(rays: Rays, radius: float) -> torch.Tensor:
    """Length of a centred ball along each ray: 2·sqrt(r² − b²) at distance b from the centre."""
    closest = rays.origin - (rays.origin * rays.direction).sum(-1, keepdim=True) * rays.direction
    return 2 * (radius**2 - closest.square().sum(-1)).clamp_min(0).sqrt()


@pytest.mark.parametrize("samples", [1, 5, 64])
def test_a_slab_is_exact_whatever_the_number_of_samples(samples):
    length = 2.5
    rays = Rays(
        torch.zeros(1, 3, 3),
        torch.tensor([[[1.0, 0, 0]]]).expand(1, 3, 3),
        torch.ones(1, 3),
        torch.full((1, 3), 1 + length),
    )
    slab = Shape(lambda x: torch.ones(x.shape[:-1]), mu=0.7)
    film = render(rays, slab, [Level(Stratified(n=samples))], image_model=transmission)[
        -1
    ].rendering
    assert film.image.flatten().tolist() == pytest.approx([math.exp(-0.7 * length)] * 3, rel=1e-5)


@pytest.mark.parametrize("angle_deg", [0.0, 270.0, 35.0])
def test_stratified_converges_to_a_balls_chord(angle_deg):
    rays, radius, mu = view_rays(angle_deg), 0.8, 1.7
    truth = mu * chords(rays, radius)
    errors = {}
    for n in (16, 64, 512):
        seen = render(rays, ball(radius, mu), [Level(Stratified(n=n))])[-1].rendering.image[..., 0]
        errors[n] = float((seen - truth).square().mean().sqrt() / truth.amax())
    assert errors[16] > 2 * errors[64] > 4 * errors[512] and errors[512] < 2e-3


class Blob:
    """A narrow Gaussian: mu = exp(−r²/2s²), whose line integral at distance b is
    sqrt(2π)·s·exp(−b²/2s²).
    """

    width = 0.04

    def __call__(self, x, d, dt, code=None):
        return FieldOutput(torch.exp(-x.square().sum(-1) / (2 * self.width**2)) * dt)

    def error(self, rays: Rays, levels: list[Level], seeds: int = 5) -> list[float]:
        """Root mean square error of each level over jittered renders, relative to the peak."""
        closest = (
            rays.origin - (rays.origin * rays.direction).sum(-1, keepdim=True) * rays.direction
        )
        truth = (
            math.sqrt(2 * math.pi)
            * self.width
            * torch.exp(-closest.square().sum(-1) / (2 * self.width**2))
        )
        squares = torch.zeros(len(levels))
        for seed in range(seeds):
            for i, seen in enumerate(
                render(rays, self, levels, rng=torch.Generator().manual_seed(seed))
            ):
                squares[i] += (seen.rendering.image[..., 0] - truth).square().mean() / seeds
        return (squares.sqrt() / truth.amax()).tolist()


@pytest.mark.parametrize("fine", [Importance(n=48), Local(n=48, kappa=1.0, threshold=1e-3)])
def test_a_second_level_spends_its_samples_where_something_is(fine):
    """With as many samples, two levels see a narrow structure better than one."""
    (one,) = Blob().error(view_rays(), [Level(Stratified(n=80))])
    two = Blob().error(view_rays(), [Level(Stratified(n=32)), Level(fine)])[-1]
    assert two < 0.5 * one


def test_levels_refine_twice():
    levels = [Level(Stratified(n=24)), Level(Importance(n=24)), Level(Importance(n=48))]
    results = render(view_rays(), Blob(), levels)
    assert [r.samples.t.shape[-1] for r in results] == [24, 48, 96]
    first, second, third = Blob().error(view_rays(), levels)
    assert third < second < 0.3 * first


def test_a_level_may_bring_its_own_field():
    rays, proposal, field = view_rays(), ball(0.5), ball(0.5, mu=3.0)
    first, last = render(
        rays, field, [Level(Stratified(n=16), field=proposal), Level(Importance(n=16))]
    )
    assert len(proposal.asked) == len(field.asked) == 1
    assert last.rendering.image.amax() > 2.5 * first.rendering.image.amax()


def test_points_are_asked_where_the_samples_are():
    rays, field = view_rays(), ball(0.5)
    samples = Stratified(n=7)(rays)
    output = query(field, rays, samples)
    (asked,) = field.asked
    assert asked.shape == (1, rays.near.shape[1], 7, 3)
    for r, s in ((0, 0), (5, 3), (100, 6)):
        point = rays.origin[0, r] + samples.t[0, r, s] * rays.direction[0, r]
        torch.testing.assert_close(asked[0, r, s], point)
        torch.testing.assert_close(output.color[0, r, s], point)
    assert output.tau.shape == (1, rays.near.shape[1], 7)


def test_chunks_of_rays_never_change_a_pixel():
    rays, levels = view_rays(), [Level(Stratified(n=16)), Level(Local(n=16))]
    whole = render(rays, ball(0.6), levels)[-1].rendering.image
    parts = []
    for start in range(0, rays.near.shape[1], 100):
        some = Rays(
            *(v[:, start : start + 100] for v in (rays.origin, rays.direction, rays.near, rays.far))
        )
        parts.append(render(some, ball(0.6), levels)[-1].rendering.image)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-6)


def test_scenes_of_a_batch_do_not_mix():
    """The code reaches the field with the scene it belongs to."""
    rays = view_rays()
    both = Rays(
        *(v.expand(2, *v.shape[1:]) for v in (rays.origin, rays.direction, rays.near, rays.far))
    )

    class Scaled(Shape):
        def density(self, x, code=None):
            return super().density(x) * code[:, None, None]

    field = Scaled(lambda x: x.square().sum(-1) < 0.25)
    image = render(both, field, [Level(Stratified(n=16))], code=torch.tensor([1.0, 2.0]))[
        -1
    ].rendering.image
    torch.testing.assert_close(image[1], 2 * image[0])


def test_a_generator_jitters_and_repeats():
    rays, levels = view_rays(), [Level(Stratified(n=8))]

    def image(seed):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return render(rays, ball(0.5), levels, rng=generator)[-1].rendering.image

    assert torch.equal(image(1), image(1)) and not torch.equal(image(1), image(2))
    assert torch.equal(image(None), image(None))


@pytest.mark.parametrize("name", sorted(IMAGE_MODELS.entries))
def test_every_picture_answers_one_value_per_ray_and_channel(name):
    tau = torch.rand(2, 5, 9, generator=torch.Generator().manual_seed(0))
    color = torch.rand(2, 5, 9, 3, generator=torch.Generator().manual_seed(1))
    seen = IMAGE_MODELS[name](FieldOutput(tau, color))
    assert seen.image.shape in ((2, 5, 1), (2, 5, 3)) and seen.w.shape == tau.shape
    assert (seen.w >= 0).all() and (seen.w.sum(-1) <= 1 + 1e-5).all()


def test_emission_and_absorption_need_a_colour():
    with pytest.raises(ValueError, match="colour"):
        emission_absorption(FieldOutput(torch.zeros(1, 2, 3)))


def test_gradients_reach_the_field_and_not_the_nodes():
    rays, mu = view_rays(), torch.tensor(0.5, requires_grad=True)

    class Grown(Shape):
        def density(self, x, code=None):
            return mu * self.within(x).float()

    results = render(
        rays,
        Grown(lambda x: x.square().sum(-1) < 0.25),
        [Level(Stratified(n=8)), Level(Importance(n=8))],
        image_model=line_integral,
    )
    assert not results[-1].samples.t.requires_grad
    total = results[-1].rendering.image.sum()
    total.backward()
    assert mu.grad.item() == pytest.approx(total.item() / 0.5, rel=1e-4), (
        "a line integral is linear in the attenuation"
    )


def test_rays_that_miss_the_support_are_black():
    missing = Rays(
        torch.tensor([[[5.0, 5.0, 0.0]]]),
        torch.tensor([[[1.0, 0, 0]]]),
        torch.ones(1, 1),
        torch.ones(1, 1),
    )
    everywhere = Shape(lambda x: torch.ones(x.shape[:-1]))
    for result in render(missing, everywhere, [Level(Stratified(n=8)), Level(Importance(n=8))]):
        assert result.rendering.image.abs().max() < 1e-6
