"""Fields of one scene: one contract over the whole registry."""

from __future__ import annotations

import itertools

import pytest
import torch
from field_cases import BOX, FIELD_NODES, SMALL, SMALL_TENSORF, build, names, points, rays, seeded

from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.fields.base import FIELDS
from mednerf_kit.fields.nerf import Nerf


def test_every_registered_field_is_tried():
    assert {node["name"] for node in FIELD_NODES} == set(FIELDS.entries)


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("node", FIELD_NODES, ids=names)
class TestEveryField:
    def test_answers_samples_ray_by_ray(self, node, channels):
        field = build(node, channels)
        x, d, dt = rays()
        answer = field(x, d, dt)
        assert answer.tau.shape == dt.shape and bool((answer.tau >= 0).all())
        assert bool((answer.tau[dt == 0] == 0).all())
        if not channels:
            assert answer.color is None
        else:
            assert answer.color.shape == (*dt.shape, channels)
            assert bool((answer.color >= 0).all()) and bool((answer.color <= 1).all())
        batched = field(x[None], d[None], dt[None])
        torch.testing.assert_close(batched.tau[0], answer.tau)

    def test_density_is_what_tau_stands_for(self, node, channels):
        if node["name"] == "neus":
            pytest.skip("the opacity of a surface depends on the direction it is seen along")
        field = build(node, channels).eval()
        x, d, dt = rays()
        torch.testing.assert_close(field.density(x) * dt, field(x, d, dt).tau)

    def test_is_made_by_its_seed(self, node, channels):
        (x, d, dt), one, two, other = (
            rays(),
            *(build(node, channels, seed).eval() for seed in (0, 0, 1)),
        )
        assert torch.equal(one(x, d, dt).tau, two(x, d, dt).tau)
        assert any(
            not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
        )

    def test_learns_with_finite_slopes(self, node, channels):
        field = build(node, channels)
        field.rng = seeded()
        x, d, dt = rays()
        answer = field(x * 1.0, d, dt)
        seen = (
            answer.tau.sum(-1, keepdim=True)
            if answer.color is None
            else emission_absorption(answer.tau, answer.color, 1.0).image
        )
        penalties = field.regularisers()
        assert all(bool(penalties[name].isfinite()) for name in penalties)
        (
            seen.square().mean() + sum((penalties[name] for name in penalties), torch.zeros(()))
        ).backward()
        for name, parameter in field.named_parameters():
            if parameter.grad is not None:
                assert bool(parameter.grad.isfinite().all()), name
        assert any(p.grad is not None and bool((p.grad != 0).any()) for p in field.parameters())

    def test_every_parameter_is_in_one_group(self, node, channels):
        field = build(node, channels)
        grouped = [id(p) for group in field.groups() for p in group["params"]]
        assert sorted(grouped) == sorted(id(p) for p in field.parameters())
        assert all(group["rate"] > 0 for group in field.groups())

    def test_a_state_is_taken_over(self, node, channels):
        field, other = build(node, channels).eval(), build(node, channels, seed=1).eval()
        for progress in (0.1, 0.5, 1.0):
            field.advance(progress)
        state = {name: tensor.clone() for name, tensor in field.state_dict().items()}
        other.shape_like(state)
        other.load_state_dict(state)
        x, d, dt = rays()
        assert torch.equal(field(x, d, dt).tau, other(x, d, dt).tau)
        assert not other.advance(1.0)  # what was done before the state was saved is not done again


@pytest.mark.parametrize("node", FIELD_NODES, ids=names)
class TestAnyField:
    def test_nothing_to_ask(self, node):
        field = build(node)
        x, d, dt = rays()
        answer = field(x, d, torch.zeros_like(dt))
        assert not answer.tau.any() and not answer.color.any()
        (answer.tau.sum() + answer.color.sum()).backward()

    def test_slopes_are_finite_at_extremes(self, node):
        field = build(node)
        with torch.no_grad():
            for p in field.parameters():
                p.mul_(100)
        x, d, dt = rays()
        answer = field(x.clone().requires_grad_(True), d, 1e3 * dt)
        emission_absorption(answer.tau, answer.color).image.sum().backward()
        assert bool(answer.tau.isfinite().all())
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in field.parameters())

    def test_points_far_away_are_no_trouble(self, node):
        x, d, dt = rays()
        answer = build(node)(1e6 * x, d, dt)
        assert bool(answer.tau.isfinite().all())
        if node["name"] != "nerf":
            assert not answer.tau.any()

    def test_the_slope_in_space_is_the_difference_quotient(self, node):
        if node.get("encoding") or node["name"] == "hash":
            pytest.skip("cells of a fine grid are smaller than the step")
        field = build(node)
        x = points(20).requires_grad_(True)
        (slope,) = torch.autograd.grad(field.density(x).sum(), x)
        with torch.no_grad():
            h = 1e-3
            steps = [
                (field.density(x + h * e) - field.density(x - h * e)) / (2 * h)
                for e in torch.eye(3)
            ]
        quotient = torch.stack(steps, -1)
        agree = (slope - quotient).abs() <= 0.05 * quotient.abs().max() + 1e-4
        assert float(agree.float().mean()) > 0.9  # a node between the two ends makes them differ


@pytest.mark.parametrize("name", ["hash", "tensorf", "voxels"])
def test_density_is_zero_outside_the_box(name):
    field = build({"name": name, **SMALL[name]})
    outside = points(500, reach=3.0)
    outside = outside[((outside < BOX[0]) | (outside > BOX[1])).any(-1)]
    assert len(outside) > 300 and not field.density(outside).any()
    corners = torch.stack(
        list(
            itertools.starmap(
                lambda *k: BOX[list(k), [0, 1, 2]], itertools.product((0, 1), repeat=3)
            )
        )
    )
    assert bool((field.density(corners) > 0).all())


class TestWhatIsAsked:
    @pytest.mark.parametrize("node", FIELD_NODES, ids=names)
    def test_only_samples_with_a_length(self, node, monkeypatch):
        field, asked = build(node), []
        method = "hidden" if isinstance(field, Nerf) else "at"
        original = getattr(field, method)
        monkeypatch.setattr(field, method, lambda p: (asked.append(len(p)), original(p))[1])
        x, d, dt = rays()
        x = points(x.shape[0] * x.shape[1]).view_as(x)
        field(x, d, dt)
        assert asked == [int((dt > 0).sum())]

    def test_colour_only_where_it_is_seen(self, monkeypatch):
        field, asked = (
            build({"name": "tensorf", **SMALL_TENSORF, "activation": "relu", "faint": 0.01}),
            [],
        )
        original = field.head.forward
        monkeypatch.setattr(
            field.head, "forward", lambda f, d: (asked.append(len(f)), original(f, d))[1]
        )
        with torch.no_grad():
            for table in field.density_grid.tables():
                table.fill_(1.0)
        x, d, dt = points(40).view(4, 10, 3), torch.ones(4, 1, 3), torch.full((4, 10), 0.02)
        answer = field(x, d, dt)
        w = emission_absorption(answer.tau, answer.color).w
        assert asked == [int((w > 0.01).sum())] and 0 < asked[0] < 40
        assert bool((answer.color[w > 0.01] > 0).all()) and not answer.color[w <= 0.01].any()
