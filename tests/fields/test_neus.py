"""NeuS: normals against autograd, opacity against closed forms, sections about known balls, meshes
and their scores.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from ball_scene import BOX, ball_fit, exact_scene
from ball_scene import cameras as ball_cameras
from torch import nn
from torch.nn.functional import normalize

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.core.types import Rays
from mednerf_kit.data.posed.dtu import Dtu
from mednerf_kit.data.posed.solids import Ball as ExactBall
from mednerf_kit.data.posed.solids import Paint, Surface
from mednerf_kit.engine.session import resolve, train
from mednerf_kit.fields.neus import Neus, NeusOptions, _RoundedRelu, annealed, section_depth
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.rays.samplers.neus import Sections
from mednerf_kit.scene import export, load, surface
from mednerf_kit.scene.evaluate import evaluate_scene
from mednerf_kit.scene.model import Model

ROOM = torch.tensor([[-1.0, -1.5, -0.5], [1.0, 1.0, 2.0]])
SMALL_HASH = {"name": "hash", "levels": 3, "log2_table": 8, "base": 2, "finest": 8}
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
PAINT = Paint((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


SMALLEST = {"width": 32, "depth": 1, "skip": 0, "head_depth": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, box: torch.Tensor = ROOM, seed: int = 1) -> torch.Tensor:
    return box[0] + torch.rand(n, 3, generator=seeded(seed)) * (box[1] - box[0])


def build(box: torch.Tensor = ROOM, seed: int = 0, **options) -> Neus:
    torch.manual_seed(seed)
    options = {"width": 32, "depth": 3, "skip": 0, "head_depth": 1, **options}
    return Neus(NeusOptions(**options), box=box)


def roughened(field: Neus) -> Neus:
    """Weights everywhere, so that no input is left out."""
    with torch.no_grad():
        for p in field.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=seeded(7)))
    return field


class ExactField(Neus):
    """NeuS whose network is replaced by the distance to a ball about the origin."""

    ball = 0.6

    def sdf(self, x):
        return x.norm(dim=-1) - self.ball

    def at(self, points):
        return self.sdf(points), normalize(points, dim=-1), torch.zeros(len(points), 32)


def exact(sharpness: float = 200.0, **options) -> ExactField:
    torch.manual_seed(0)
    return ExactField(NeusOptions(**SMALLEST, sharpness=sharpness, **options), box=BOX)


def parallel_rays(n: int = 41, reach: float = 0.9) -> Rays:
    """Rays along −x in the plane z = 0, through the box of the ball."""
    y = torch.linspace(-reach, reach, n)
    origin = torch.stack([torch.full_like(y, 3.0), y, torch.zeros_like(y)], -1)
    return Rays(
        origin,
        torch.tensor([-1.0, 0.0, 0.0]).expand(n, 3),
        torch.full((n,), 2.0),
        torch.full((n,), 4.0),
    )


# The field


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


# The sampler


def test_rounds_close_in_on_the_surface():
    rays, field = parallel_rays(reach=0.5), exact()
    true = 3 - (ExactField.ball**2 - rays.origin[:, 1].square()).sqrt()
    off = []
    for rounds in (0, 1, 2, 4):
        found = Sections(n=16, refine=4 * rounds, rounds=rounds, faint=0.0, box=BOX, field=field)(
            rays
        )
        assert found.t.shape[-1] == 16 + 4 * rounds
        torch.testing.assert_close(found.dt.sum(-1), rays.far - rays.near)
        here = (found.t - true[:, None]).abs().argmin(-1, keepdim=True)
        off.append(float(found.dt.gather(-1, here).mean()))
    assert (
        off[0] == pytest.approx(2 / 16)
        and off[1] < 0.5 * off[0]
        and off[2] < 0.5 * off[1]
        and off[3] < 0.25 * off[2]
    )


def test_sections_left_out_cannot_be_seen():
    rays, field = parallel_rays(), exact(sharpness=100.0)

    def look(faint: float):
        found = Sections(n=48, refine=32, rounds=2, faint=faint, box=BOX, field=field)(
            rays, None, seeded()
        )
        x = rays.origin[:, None] + found.t[..., None] * rays.direction[:, None]
        answer = field(x, rays.direction[:, None], found.dt)
        return emission_absorption(answer.tau.detach(), answer.color.detach()), (
            found.dt > 0
        ).float().mean()

    (all_of_it, everything), (some, few) = look(0.0), look(1e-3)
    assert everything == 1.0 and few < 0.45
    torch.testing.assert_close(some.image, all_of_it.image, atol=5e-3, rtol=0)
    assert float(some.w.sum(-1)[20]) > 0.999 and float(some.w.sum(-1)[0]) < 1e-2


def test_a_ray_that_misses_is_not_asked():
    asked = []
    field = SimpleNamespace(
        sharpness=torch.tensor(50.0), sdf=lambda x: (asked.append(len(x)), x.norm(dim=-1) - 0.6)[1]
    )
    rays = parallel_rays(5)
    rays = replace(rays, far=torch.where(torch.arange(5) < 2, rays.near, rays.far))
    found = Sections(n=8, refine=4, rounds=1, box=BOX, field=field)(rays)
    assert asked == [3, 3] and not found.dt[:2].any() and bool(found.t.isfinite().all())


def test_nodes_follow_behind_the_box():
    rays = replace(parallel_rays(5), far=torch.full((5,), 40.0))
    found = Sections(n=8, refine=4, rounds=1, faint=0.0, outside=6, box=BOX, field=exact())(rays)
    assert found.t.shape == (5, 18)
    torch.testing.assert_close(found.dt[:, :12].sum(-1), torch.full((5,), 2.0))
    torch.testing.assert_close(found.dt[:, 12:].sum(-1), torch.full((5,), 36.0))
    ends = 4 + found.dt[0, 12:].cumsum(-1)
    torch.testing.assert_close(
        (1 / ends).diff(), torch.full((5,), -(1 / 4 - 1 / 40) / 6), rtol=1e-3, atol=1e-6
    )


def test_a_sampler_refuses_what_has_no_distance():
    with pytest.raises(UserError, match="without signed distances"):
        SAMPLERS.build("neus", box=BOX, field=nn.Linear(1, 1))
    for options in (
        {"refine": 2, "rounds": 3},
        {"outside": 3, "box": None},
        {"sharpness": 0.0},
        {"faint": 2.0},
    ):
        with pytest.raises(UserError):
            Sections(**{"box": BOX, **options})


# The mesh


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
    assert float(load.colour_at(fit, places, directions).min()) > 0.1
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


# The recipes


@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
@pytest.mark.parametrize("name", ["neus", "neus_dtu"])
def test_recipes_are_whole(name, preset):
    recipe = resolve("blocks", name, preset, [])
    assert recipe["fields"]["scene"]["name"] == "neus" and recipe["losses"]["eikonal"] > 0


TINY = [
    "steps=12",
    "snapshot_steps=12",
    "selector.n=64",
    "fields.scene.width=16",
    "fields.scene.scatter=64",
    "task.warmup_steps=0",
]


def first_and_last(run):
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return rows[0], rows[-1]


@pytest.mark.parametrize("selector", ["random", "error_map"])
def test_a_fit_learns_a_surface(tmp_path, selector):
    small = [
        "scene.size=32",
        "scene.downscale=1",
        "scene.train_views=6",
        f"selector.name={selector}",
        "steps=40",
    ]
    run = train(
        dataset="blocks",
        config="neus",
        preset="quick",
        settings=TINY + small,
        outdir=tmp_path,
        device="cpu",
    )
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert {"photometric_l1", "eikonal", "mask"} <= rows[0].keys()
    run_training, ended = (
        sum(row["mask"] for row in some) / len(some) for some in (rows[:3], rows[-10:])
    )
    assert ended < 0.75 * run_training


def test_a_fit_of_dtu_may_do_without_masks(tmp_path):
    dataset = str(Dtu.example(tmp_path / "scan"))
    unmasked = [
        "scene.masked=false",
        "scene.clip=false",
        "scene.far=20",
        "losses.mask=0",
        "fields.scene.anneal=0.5",
        "levels.0.sampler.outside=8",
        "fields.scene.background={name: nerf, depth: 1, width: 8, skip: 0}",
    ]
    for settings in ([], unmasked):
        run = train(
            dataset=dataset,
            config="neus_dtu",
            preset="quick",
            settings=[*TINY, "scene.downscale=1", *settings],
            outdir=tmp_path / "runs",
            device="cpu",
        )
        first, last = first_and_last(run)
        assert last["photometric_l1"] < first["photometric_l1"] and ("mask" in last) == (
            not settings
        )
