"""Scene fields: grids against outer products, encodings against loops over points, and what every
field promises.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.fields.base import FIELDS, SceneField
from mednerf_kit.fields.encodings import ENCODINGS, PRIMES, Hash, build_encoding
from mednerf_kit.fields.factors import LINE_AXIS, PLANE_AXES, Corners, LineProducts, VectorMatrix
from mednerf_kit.fields.grids import Mask, gather, grid_points
from mednerf_kit.fields.heads import spherical_harmonics, waves
from mednerf_kit.fields.nerf import Nerf
from mednerf_kit.fields.tensorf import TensoRF

BOX = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.0, 2.0]])
SMALL_HASH = {"name": "hash", "levels": 3, "log2_table": 8, "base": 2, "finest": 16}
SMALL_TENSORF = {
    "density_ranks": 3,
    "appearance_ranks": 4,
    "start_voxels": 12**3,
    "end_voxels": 20**3,
    "head_width": 16,
}
SMALL = {
    "nerf": {"depth": 4, "width": 24, "skip": 2, "octaves": 4},
    "hash": {"encoding": SMALL_HASH, "width": 16},
    "tensorf": SMALL_TENSORF,
    "neus": {"depth": 3, "width": 24, "skip": 2, "octaves": 3, "head_depth": 1, "scatter": 16},
    "voxels": {"start_voxels": 6**3, "end_voxels": 10**3},
}
FIELD_NODES = [
    *({"name": name, **options} for name, options in SMALL.items()),
    {
        "name": "nerf",
        **SMALL["nerf"],
        "positional": False,
        "view_directions": False,
        "activation": "softplus",
        "noise": 1.0,
    },
    {
        "name": "nerf",
        **SMALL["nerf"],
        "encoding": [{"name": "frequency", "octaves": 2}, SMALL_HASH],
    },
    {
        "name": "hash",
        "encoding": {"name": "planes", "resolution": 8},
        "activation": "softplus",
        "view_encoding": "frequency",
        "view_degree": 2,
    },
    {"name": "tensorf", **SMALL_TENSORF, "factorisation": "cp", "view_encoding": "none"},
    {
        "name": "tensorf",
        **SMALL_TENSORF,
        "density_ranks": [4, 2, 1],
        "appearance_ranks": [3, 2, 1],
        "activation": "relu",
    },
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, seed: int = 1, *, reach: float = 1.0) -> torch.Tensor:
    """Points in the box, or beyond it with a larger reach."""
    middle, half = BOX.mean(0), (BOX[1] - BOX[0]) / 2
    return middle + reach * half * (2 * torch.rand(n, 3, generator=seeded(seed)) - 1)


def build(node: dict, channels: int = 3, seed: int = 0) -> SceneField:
    torch.manual_seed(seed)
    field = FIELDS.build(node, box=BOX, channels=channels)
    assert isinstance(field, SceneField)
    return field


def rays(n: int = 6, s: int = 8, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples [n, s, 3] of which some lie outside the box, directions and lengths of which a third
    are 0.
    """
    x = points(n * s, seed, reach=1.3).view(n, s, 3)
    d = torch.nn.functional.normalize(torch.randn(n, 1, 3, generator=seeded(seed + 1)), dim=-1)
    dt = 0.1 + 0.1 * torch.rand(n, s, generator=seeded(seed + 2))
    return x, d, dt * (torch.rand(n, s, generator=seeded(seed + 3)) > 1 / 3)


def names(node: dict) -> str:
    return node["name"] + "".join(
        f"-{v}" for v in node.values() if isinstance(v, str) and v != node["name"]
    )


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


class TestGather:
    def case(self, n=40, rows=30, k=4, c=3):
        g = seeded()
        table = torch.randn(rows, c, generator=g)
        return (
            table,
            torch.randint(rows, (n, k), generator=g, dtype=torch.int32),
            torch.rand(n, k, generator=g),
        )

    def test_is_a_weighted_sum_of_rows(self):
        table, index, weight = self.case()
        torch.testing.assert_close(
            gather(table, index, weight), (table[index.long()] * weight[..., None]).sum(1)
        )

    def test_slopes_and_their_slopes(self):
        table, index, weight = self.case(n=5, rows=6, k=2)
        table, weight = table.double().requires_grad_(), weight.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda t, w: gather(t, index, w), (table, weight))
        assert torch.autograd.gradgradcheck(lambda t, w: gather(t, index, w), (table, weight))

    def test_fp32_slopes_are_those_of_plain_indexing(self):
        table, index, weight = self.case(n=200)
        plain = table.clone().requires_grad_()
        ours = table.clone().requires_grad_()
        (plain[index.long()] * weight[..., None]).sum(1).square().sum().backward()
        gather(ours, index, weight).square().sum().backward()
        torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-5, atol=1e-4)


def axis_weights(u: float, n: int) -> dict[int, float]:
    """Linear interpolation written out: grid points and their weights at u in [0, 1]."""
    place = u * (n - 1)
    low = min(int(place), n - 2)
    return {low: 1 - (place - low), low + 1: place - low}


@pytest.mark.parametrize("kind", ["vm", "cp"])
class TestFactors:
    resolution = (5, 6, 4)

    def make(self, kind: str, resolution=None) -> VectorMatrix | LineProducts:
        torch.manual_seed(3)
        size = resolution or self.resolution
        return VectorMatrix((3, 2, 4), size) if kind == "vm" else LineProducts(5, size)

    def volume(self, grid) -> torch.Tensor:
        """All products at every grid point by loops: [X, Y, Z, K]."""
        x, y, z = self.resolution
        out = torch.zeros(x, y, z, grid.width)
        for place in itertools.product(range(x), range(y), range(z)):
            if isinstance(grid, VectorMatrix):
                parts = [
                    plane[place[r], place[c]] * line[place[a]]
                    for plane, line, (r, c), a in zip(
                        grid.planes, grid.lines, PLANE_AXES, LINE_AXIS, strict=True
                    )
                ]
                out[place] = torch.cat(parts)
            else:
                out[place] = math.prod(
                    line[place[a]] for line, a in zip(grid.lines, LINE_AXIS, strict=True)
                )
        return out

    def test_grid_points_are_outer_products(self, kind):
        grid = self.make(kind)
        truth = self.volume(grid)
        axes = [
            torch.linspace(float(BOX[0, a]), float(BOX[1, a]), n)
            for a, n in enumerate(self.resolution)
        ]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
        at = Corners.find(x, BOX, self.resolution)
        torch.testing.assert_close(grid(at), truth.view(-1, grid.width), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(grid.sum(at), truth.sum(-1).flatten(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            grid.lattice(self.resolution), truth.sum(-1), rtol=1e-4, atol=1e-6
        )

    def test_between_grid_points_planes_and_lines_interpolate(self, kind):
        grid = self.make(kind)
        x = points(7)
        seen = grid(Corners.find(x, BOX, self.resolution))
        for n, u in enumerate(((x - BOX[0]) / (BOX[1] - BOX[0])).tolist()):
            w = [axis_weights(u[a], self.resolution[a]) for a in range(3)]
            lines = [
                sum(k * line[i] for i, k in w[a].items())
                for line, a in zip(grid.lines, LINE_AXIS, strict=True)
            ]
            if kind == "cp":
                expected = lines[0] * lines[1] * lines[2]
            else:
                planes = [
                    sum(kr * kc * plane[i, j] for i, kr in w[r].items() for j, kc in w[c].items())
                    for plane, (r, c) in zip(grid.planes, PLANE_AXES, strict=True)
                ]
                expected = torch.cat([p * v for p, v in zip(planes, lines, strict=True)])
            torch.testing.assert_close(seen[n], expected, rtol=1e-4, atol=1e-6)

    def test_a_finer_grid_with_the_old_points_is_the_same_function(self, kind):
        grid, x = self.make(kind), points(50)
        before = grid.sum(Corners.find(x, BOX, grid.resolution))
        grid.resize(tuple(2 * n - 1 for n in self.resolution))
        assert grid.resolution == (9, 11, 7)
        torch.testing.assert_close(
            grid.sum(Corners.find(x, BOX, grid.resolution)), before, rtol=1e-4, atol=1e-6
        )

    def test_cropping_keeps_what_lies_inside(self, kind):
        grid = self.make(kind)
        first, last = (1, 0, 1), (3, 4, 3)
        step = (BOX[1] - BOX[0]) / (torch.tensor(self.resolution) - 1)
        inner = BOX[0] + torch.tensor([first, last]) * step
        x = inner[0] + torch.rand(50, 3, generator=seeded()) * (inner[1] - inner[0])
        before = grid.sum(Corners.find(x, BOX, grid.resolution))
        grid.crop(first, last)
        assert grid.resolution == (3, 5, 3)
        torch.testing.assert_close(
            grid.sum(Corners.find(x, inner, grid.resolution)), before, rtol=1e-4, atol=1e-5
        )

    def test_penalties_at_closed_form(self, kind):
        grid = self.make(kind)
        with torch.no_grad():
            for table in grid.tables():
                table.fill_(-0.5)
        assert grid.l1().item() == pytest.approx(0.5 * len(grid.tables()))
        assert grid.tv().item() == 0
        with torch.no_grad():
            tables = list(grid.planes or grid.lines)
            tables[0].copy_(
                2.0 * torch.arange(tables[0].shape[0]).view(-1, *[1] * (tables[0].ndim - 1))
            )
        assert grid.tv().item() == pytest.approx(0.02 * 4)  # steps of 2 along one axis of one table


def solid(field: TensoRF, low: float, high: float) -> None:
    """Make a TensoRF opaque where all coordinates, in [0, 1] of its box, lie in [low, high]."""
    with torch.no_grad():
        for table in field.density_grid.tables():
            table.zero_()
        plane, line = field.density_grid.planes[0], field.density_grid.lines[0]
        inside = [
            ((u := torch.linspace(0, 1, n)) >= low - 1e-6) & (u <= high + 1e-6)
            for n in (*plane.shape[:2], len(line))
        ]
        plane[..., 0] = 20.0 * (inside[0][:, None] & inside[1])
        line[..., 0] = 1.0 * inside[2]


class TestTensoRF:
    node = {
        "name": "tensorf",
        **SMALL_TENSORF,
        "start_voxels": 21**3,
        "upsample": [0.5],
        "masks": [0.2],
    }

    def test_density_is_what_the_paper_says(self):
        field = build({**self.node, "start_voxels": 1000})
        x = points(20)
        raw = field.density_grid.sum(Corners.find(x, BOX, field.density_grid.resolution))
        longest = 2.5
        torch.testing.assert_close(
            field.density(x), torch.log1p(torch.exp(raw - 10)) * 25 * 3 / longest
        )

    def test_mask_and_shrink_keep_the_scene(self):
        field = build(self.node)
        solid(field, 0.4, 0.6)
        x = points(4000)
        before = field.density(x)
        assert field.advance(0.25) and field.note is None
        size, full = field.box[1] - field.box[0], BOX[1] - BOX[0]
        assert bool((size < 0.55 * full).all()) and bool((size > 0.2 * full).all())
        after = field.density(x)
        occupied = before > 1e-3 * 25
        assert int(occupied.sum()) > 10
        torch.testing.assert_close(after[occupied], before[occupied], rtol=1e-3, atol=1e-3)
        assert not after[((x < field.box[0]) | (x > field.box[1])).any(-1)].any()
        assert float((after > 0).float().mean()) < 0.2  # empty space is no longer asked

    def test_an_empty_mask_is_not_used(self):
        field = build(self.node)
        with torch.no_grad():
            for table in field.density_grid.tables():
                table.zero_()
        before = field.density(points(50))
        assert not field.advance(0.25)
        assert "empty" in field.note and "25%" in field.note
        assert bool((before > 0).all()) and torch.equal(field.density(points(50)), before)

    def test_coarse_to_fine_follows_the_progress(self):
        field = build(
            {
                **SMALL_TENSORF,
                "name": "tensorf",
                "upsample": [0.25, 0.5, 0.75],
                "end_voxels": 30**3,
                "masks": [],
            }
        )
        sizes = []
        for progress in (0.0, 0.2, 0.25, 0.3, 0.9, 1.0):
            replaced = field.advance(progress)
            sizes.append((replaced, math.prod(field.density_grid.resolution)))
        assert [replaced for replaced, _ in sizes] == [False, False, True, False, True, False]
        assert sizes[0][1] == pytest.approx(12**3, rel=0.15) and sizes[-1][1] == pytest.approx(
            30**3, rel=0.15
        )
        assert field.appearance_grid.resolution == field.density_grid.resolution
        assert not field.advance(1.0)

    def test_a_scene_in_other_units_starts_alike(self):
        one = build(self.node)
        torch.manual_seed(0)
        ten = FIELDS.build(self.node, box=10 * BOX, channels=3)
        x = points(20)
        torch.testing.assert_close(10 * ten.density(10 * x), one.density(x), rtol=1e-4, atol=1e-9)

    def test_ranks_must_fit(self):
        for bad in (
            {"density_ranks": [1, 2]},
            {"factorisation": "cp", "appearance_ranks": [1, 2, 3]},
        ):
            with pytest.raises(UserError, match="ranks"):
                build({**self.node, **bad})

    def test_grids_learn_faster_than_networks(self):
        grids, networks = build(self.node).groups()
        assert grids["rate"] == 1.0 and networks["rate"] == 0.05
        assert len(grids["params"]) == 12 and len(networks["params"]) == 7

    def test_grid_points_are_cubes(self):
        assert grid_points(torch.tensor([[0.0, 0, 0], [1, 1, 1]]), 27_000) == (30, 30, 30)


class TestMask:
    def test_cells_are_found_by_coordinates(self):
        cells = torch.rand(4, 4, 4, generator=seeded()) > 0.5
        mask = Mask(BOX)
        mask.set(cells, BOX)
        x = points(300, reach=1.4)
        u = (x - BOX[0]) / (BOX[1] - BOX[0])
        for point, found in zip(u.tolist(), mask(x).tolist(), strict=True):
            inside = all(0 <= c <= 1 for c in point)
            assert found == (inside and bool(cells[tuple(min(int(4 * c), 3) for c in point)]))

    def test_a_new_one_is_the_box(self):
        assert bool(Mask(BOX)(points(50)).all()) and bool(Mask(BOX)(BOX).all())


class TestNerf:
    def test_noise_comes_from_the_given_generator_and_only_in_training(self):
        node = {"name": "nerf", **SMALL["nerf"], "noise": 1.0}
        field, (x, d, dt) = build(node), rays()
        quiet = field(x, d, dt).tau  # no generator, no noise
        field.rng = seeded(5)
        first = field(x, d, dt).tau
        field.rng = seeded(5)
        assert torch.equal(field(x, d, dt).tau, first) and not torch.equal(first, quiet)
        assert torch.equal(field.eval()(x, d, dt).tau, quiet)

    def test_toggles_take_their_inputs_away(self):
        x, d, dt = rays()
        plain = build({"name": "nerf", **SMALL["nerf"], "view_directions": False})
        assert torch.equal(plain(x, d, dt).color, plain(x, -d, dt).color)
        seen = build({"name": "nerf", **SMALL["nerf"]})
        assert not torch.equal(seen(x, d, dt).color, seen(x, -d, dt).color)
        assert (
            build({"name": "nerf", **SMALL["nerf"], "positional": False}).trunk[0].in_features == 3
        )

    def test_the_published_size(self):
        field = build({"name": "nerf"})
        # nerf-pytorch's 8 x 256 with 63 and 27 inputs
        assert sum(p.numel() for p in field.parameters()) == 595_844


def slow_hash(encoding: Hash, x: list[float]) -> list[float]:
    """Instant-NGP's features of one point, by Python integers and loops."""
    out, first = [], 0
    for n, rows in zip(encoding.cells, encoding.rows, strict=True):
        place = [
            (v - float(lo)) / float(hi - lo) * n for v, lo, hi in zip(x, *encoding.box, strict=True)
        ]
        low = [min(int(p), n - 1) for p in place]
        feature = [0.0] * encoding.table.shape[1]
        for corner in itertools.product((0, 1), repeat=3):
            c = [a + b for a, b in zip(low, corner, strict=True)]
            weight = math.prod(
                p - a if b else 1 - (p - a) for p, a, b in zip(place, low, corner, strict=True)
            )
            if (n + 1) ** 3 <= encoding.size:
                row = c[0] + (n + 1) * (c[1] + (n + 1) * c[2])
            else:
                row = ((c[0] * PRIMES[0]) ^ (c[1] * PRIMES[1]) ^ (c[2] * PRIMES[2])) % encoding.size
            feature = [
                f + weight * float(v)
                for f, v in zip(feature, encoding.table.detach()[first + row], strict=True)
            ]
        out += feature
        first += rows
    return out


class TestEncodings:
    def test_hash_is_the_slow_one(self):
        torch.manual_seed(0)
        encoding = Hash(levels=5, features=3, log2_table=9, base=3, finest=1000, box=BOX)
        with torch.no_grad():
            encoding.table.normal_(generator=seeded())
        assert (
            encoding.cells[0] == 3
            and encoding.cells[-1] == 1000
            and encoding.rows == [64, *[512] * 4]
        )
        x = points(12)
        expected = torch.tensor([slow_hash(encoding, p) for p in x.tolist()])
        torch.testing.assert_close(encoding(x), expected, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("name", sorted(ENCODINGS.entries))
    def test_every_encoding_feeds_an_mlp(self, name):
        encoding = build_encoding(name, box=BOX)
        seen = encoding(points(9))
        assert seen.shape == (9, encoding.width) and bool(seen.isfinite().all())
        assert encoding(points(0)).shape == (0, encoding.width)
        mixed = build_encoding([name, {"name": "frequency", "octaves": 1}], box=BOX)
        assert mixed.width == encoding.width + 9

    @pytest.mark.parametrize("factorisation", ["vm", "cp", "triplane"])
    def test_planes_of_each_kind(self, factorisation):
        encoding = build_encoding(
            {"name": "planes", "factorisation": factorisation, "rank": 2, "resolution": 10}, box=BOX
        )
        assert encoding.width == (6 if factorisation == "vm" else 2)
        assert encoding.resolution == (8, 10, 10)
        seen = encoding(points(5))
        assert seen.shape == (5, encoding.width) and seen.requires_grad

    def test_bad_options_are_named(self):
        for node in (
            [],
            {"name": "hash", "base": 16, "finest": 8},
            {"name": "planes", "rank": 0},
            {"name": "hsh"},
        ):
            with pytest.raises(UserError):
                build_encoding(node, box=BOX)

    def test_waves(self):
        x = torch.randn(4, 5, generator=seeded())
        expected = torch.cat(
            [x, x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos(), (4 * x).sin(), (4 * x).cos()], -1
        )
        torch.testing.assert_close(waves(x, 3), expected, rtol=1e-4, atol=1e-5)

    def test_spherical_harmonics_are_orthonormal(self):
        """Gauss-Legendre in z times even angles integrates products of degree 6 exactly."""
        import numpy as np

        z, weight = np.polynomial.legendre.leggauss(8)
        angle = 2 * math.pi * np.arange(16) / 16
        z, angle = (torch.from_numpy(v.ravel()) for v in np.meshgrid(z, angle, indexing="ij"))
        r = (1 - z * z).sqrt()
        y = spherical_harmonics(torch.stack([r * angle.cos(), r * angle.sin(), z], -1), 4)
        area = torch.from_numpy(np.repeat(weight, 16)) * 2 * math.pi / 16
        torch.testing.assert_close(
            (y * area[:, None]).T @ y, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-12
        )
        assert [spherical_harmonics(torch.ones(1, 3), k).shape[-1] for k in (1, 2, 3, 4)] == [
            1,
            4,
            9,
            16,
        ]


def test_nerf_in_half_precision_answers_nearly_the_same_in_single():
    torch.manual_seed(0)
    field = FIELDS.build(
        {"name": "nerf", "width": 32, "depth": 3, "skip": 1},
        box=torch.tensor([[-1.0] * 3, [1.0] * 3]),
        channels=3,
    )
    x, d, dt = (
        torch.rand(5, 7, 3),
        torch.nn.functional.normalize(torch.randn(5, 1, 3), dim=-1),
        torch.full((5, 7), 0.1),
    )
    exact = field(x, d, dt)
    field.options = replace(field.options, precision="bfloat16")
    rounded = field(x, d, dt)
    assert rounded.tau.dtype == rounded.color.dtype == torch.float32
    assert not torch.equal(rounded.tau, exact.tau)
    torch.testing.assert_close(rounded.tau, exact.tau, rtol=0.1, atol=3e-3)
    torch.testing.assert_close(rounded.color, exact.color, rtol=0.02, atol=0.02)
