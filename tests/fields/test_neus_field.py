"""NeuS: a signed distance, its normals, and the opacity that it stands for."""

from __future__ import annotations

import pytest
import torch
from ball_scene import BOX
from neus_ball import ROOM, SMALL_HASH, build, exact, parallel_rays, points, seeded
from torch.nn.functional import normalize

from mednerf_kit.core.errors import UserError
from mednerf_kit.fields.neus import Neus, _RoundedRelu, annealed, section_depth
from mednerf_kit.rays.samplers.neus import Sections

NETS = [
    {"depth": 3, "skip": 0},
    {"depth": 4, "skip": 2, "octaves": 3},
    {"depth": 3, "skip": 1, "encoding": SMALL_HASH},
    {
        "depth": 1,
        "skip": 0,
        "encoding": [{"name": "frequency", "octaves": 2}, {"name": "planes", "resolution": 6}],
    },
]


def roughened(field: Neus) -> Neus:
    """Weights everywhere, so that no input is left out."""
    with torch.no_grad():
        for p in field.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=seeded(7)))
    return field


@pytest.mark.parametrize("options", NETS)
def test_a_new_field_is_a_ball(options):
    off = []
    for seed in range(3):
        field = build(seed=seed, **{**options, "width": 128, "depth": 4, "radius": 0.6})
        u = (
            normalize(torch.randn(400, 3, generator=seeded()), dim=-1)
            * torch.linspace(0.2, 1.0, 400)[:, None]
        )
        inside = field.inside(x := ROOM.mean(0) + 1.25 * u)
        off.append((field.sdf(x) - 1.25 * (u.norm(dim=-1) - 0.6))[inside] / 1.25)
    together = torch.cat(off).detach()
    assert float(together.abs().mean()) < 0.12 and abs(float(together.mean())) < 0.1


@pytest.mark.parametrize("options", NETS)
class TestNormals:
    def test_are_the_gradient_of_the_distance(self, options):
        field, x = roughened(build(**options)), points(50).requires_grad_()
        distance = field.sdf(x)
        (gradient,) = torch.autograd.grad(distance.sum(), x)
        found, normal, _ = field.at(x.detach())
        torch.testing.assert_close(found, distance)
        torch.testing.assert_close(normal, gradient, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            again = field.at(x.detach())
        torch.testing.assert_close(again[1], gradient, rtol=1e-4, atol=1e-4)
        assert not any(part.requires_grad for part in again)

    def test_their_length_teaches_as_autograd_would(self, options):
        field, x = roughened(build(**options)), points(50)
        (field.at(x)[1].norm(dim=-1) - 1).square().mean().backward()
        ours = {name: p.grad.clone() for name, p in field.named_parameters() if p.grad is not None}
        field.zero_grad()
        plain = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            slow_distance(field, plain).sum(), plain, create_graph=True
        )
        (gradient.norm(dim=-1) - 1).square().mean().backward()
        assert ours
        for name, p in field.named_parameters():
            if p.grad is not None and bool((p.grad != 0).any()):
                torch.testing.assert_close(ours[name], p.grad, rtol=1e-3, atol=1e-5, msg=name)


def slow_distance(field: Neus, x: torch.Tensor) -> torch.Tensor:
    """The distance from plain differentiable parts."""
    inputs = h = field.inputs(x)
    for i, layer in enumerate(field.trunk):
        z = layer(torch.cat([h, inputs], -1) if i and i == field.options.skip else h)
        h = torch.where(z.abs() < 0.028, (z + 0.028).square() / (4 * 0.028), z.relu())
    return field.unit * field.to_distance(h)[:, 0]


def test_the_rounded_corner_has_its_slopes():
    z = torch.linspace(-0.05, 0.05, 31, dtype=torch.float64).add(1e-4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: _RoundedRelu.apply(v), z, eps=1e-7, atol=1e-5)
    value, slope = _RoundedRelu.apply(z)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), z)[0], slope)


def test_opacity_of_a_plane_is_neus_alpha():
    """f = −x·n + c along rays of any angle: (Φ(f⁻) − Φ(f⁺)) / Φ(f⁻), eq. 13."""
    s, cos = 30.0, torch.tensor([-1.0, -0.5, -0.1])[:, None]
    t, dt = torch.linspace(0.05, 0.95, 10), torch.tensor(0.1)
    middle = 0.2 + cos * (t - 0.5)
    before, after = (torch.sigmoid(s * (middle + sign * 0.5 * cos * dt)) for sign in (-1, 1))
    alpha = -torch.expm1(-section_depth(middle, cos, dt, s))
    torch.testing.assert_close(alpha, (before - after) / before, rtol=1e-4, atol=1e-6)
    assert float(section_depth(middle, torch.zeros(1), dt, s).abs().max()) == 0


def test_what_is_left_behind_a_surface_does_not_depend_on_the_sections():
    s = torch.tensor(80.0)
    for n in (3, 17, 200):
        ends = torch.linspace(0.4, -0.3, n + 1)
        tau = section_depth(
            0.5 * (ends[1:] + ends[:-1]), torch.tensor(-1.0), torch.full((n,), 0.7 / n), s
        )
        expected = torch.nn.functional.logsigmoid(s * 0.4) - torch.nn.functional.logsigmoid(
            s * -0.3
        )
        torch.testing.assert_close(tau.sum(), expected, rtol=1e-4, atol=1e-4)


def test_extremes_stay_finite():
    s = torch.tensor(1e6, requires_grad=True)
    distance = torch.tensor([-1e3, -1e-3, 0.0, 1e-3, 1e3], requires_grad=True)
    tau = section_depth(distance, torch.tensor(-1.0), torch.tensor(10.0), s)
    tau.sum().backward()
    assert bool(tau.isfinite().all() & distance.grad.isfinite().all() & s.grad.isfinite()) and bool(
        (tau >= 0).all()
    )


def test_annealing_gives_what_is_seen_from_behind_a_slope():
    cos = torch.tensor([-1.0, 0.0, 1.0])
    assert annealed(cos, 1.0).tolist() == [-1.0, 0.0, 0.0]
    assert annealed(cos, 0.0).tolist() == [-1.0, -0.5, 0.0]
    field = build(anneal=0.5)
    assert field.annealing() == 1.0  # one that is never told is past it
    assert [field.advance(p) or field.annealing() for p in (0.0, 0.25, 0.5, 1.0)] == [
        0.0,
        0.5,
        1.0,
        1.0,
    ]


def test_density_is_the_optical_depth_of_a_straight_ray():
    field = exact(sharpness=50.0)
    t = torch.linspace(2.0, 4.0, 20_001)
    x = torch.stack([3 - t, 0 * t, 0 * t], -1)
    integral = torch.trapezoid(field.density(x), t)[None]
    before_middle = t < 3
    straight = torch.trapezoid(field.density(x[before_middle]), t[before_middle])
    # from 0.4 to −0.6
    end = section_depth(torch.tensor(-0.1), torch.tensor(-1.0), torch.tensor(1.0), field.sharpness)
    assert (
        straight.item() == pytest.approx(end.item(), rel=1e-3) and integral.item() > straight.item()
    )
    assert not field.density(torch.tensor([[1.01, 0.0, 0.0]])).any()


def test_a_true_distance_has_no_eikonal_penalty():
    field = exact()
    field.rng = seeded()
    samples = Sections(n=8, refine=0, rounds=0, box=BOX, field=field)(rays := parallel_rays())
    x = rays.origin[:, None] + samples.t[..., None] * rays.direction[:, None]
    field(x, rays.direction[:, None], samples.dt)
    assert float(field.regularisers()["eikonal"]) < 1e-10
    field.at = lambda p: (p.norm(dim=-1), 3 * normalize(p, dim=-1), torch.zeros(len(p), 32))
    assert float(field.regularisers()["eikonal"]) == pytest.approx(
        4.0 * 1024 / (1024 + len(field.normals)), rel=1e-3
    )


def test_a_background_stands_outside_the_box():
    background = {
        "name": "nerf",
        "depth": 1,
        "width": 8,
        "skip": 0,
        "octaves": 2,
        "activation": "softplus",
    }
    field, plain = (exact(background=b) for b in (background, None))
    x, d = (
        torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [1.5, 0.0, 0.0], [9.0, 0.0, 0.0]]]),
        torch.eye(3)[:1, None],
    )
    dt = torch.full((1, 4), 0.1)
    seen, alone = field(x, -d, dt), plain(x, -d, dt)
    torch.testing.assert_close(seen.tau[:, :2], alone.tau[:, :2])
    assert (
        bool((seen.tau[:, 2:] > 0).all())
        and not alone.tau[:, 2:].any()
        and bool((seen.color[:, 2:] > 0).all())
    )
    assert field.contracted(x)[0, :, 0].tolist() == pytest.approx([0, 0.5, 2 - 1 / 1.5, 2 - 1 / 9])
    assert {id(p) for g in field.groups() for p in g["params"]} == {
        id(p) for p in field.parameters()
    }


@pytest.mark.parametrize(
    "options", [{"skip": 3}, {"radius": 0.0}, {"anneal": 1.5}, {"sharpness": -1.0}, {"width": 0}]
)
def test_a_field_refuses_what_it_cannot_be(options):
    with pytest.raises(UserError):
        build(**options)
