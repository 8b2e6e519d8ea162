"""The occupancy grid: what it remembers against brute force, what a ray is asked, and what skipping
may lose.
"""

from __future__ import annotations

import math

import pytest
import torch

from mednerf_kit.core.errors import RunError, UserError
from mednerf_kit.core.raymath import emission_absorption
from mednerf_kit.core.types import Rays, Samples
from mednerf_kit.rays.samplers.importance import Importance
from mednerf_kit.rays.samplers.occupancy import Occupancy
from mednerf_kit.rays.samplers.stratified import Stratified

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
DIAGONAL = 2 * math.sqrt(3)
RADIUS = 0.5


class Ball:
    """Density ``mu`` inside a centred ball; remembers the points it was asked."""

    def __init__(self, mu: float = 5.0, radius: float = RADIUS) -> None:
        self.mu, self.radius = mu, radius
        self.asked: list[torch.Tensor] = []

    def density(self, x, code=None):
        self.asked.append(x)
        return self.mu * (x.square().sum(-1) < self.radius**2).float()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parallel_rays(count: int = 200) -> Rays:
    """Rays along x through random places of the box, some beside it."""
    yz = 2.4 * torch.rand(count, 2, generator=seeded(5)) - 1.2
    origin = torch.cat([torch.full((count, 1), -2.0), yz], -1)
    return Rays(
        origin, torch.eye(3)[0].expand(count, 3), torch.ones(count), torch.full((count,), 3.0)
    )


def chords(rays: Rays) -> torch.Tensor:
    return 2 * (RADIUS**2 - rays.origin[:, 1:].square().sum(-1)).clamp_min(0).sqrt()


def taught(field=None, times: int = 40, **options) -> Occupancy:
    sampler = Occupancy(
        **{"n": 128, "resolution": 20, "every": 1, "warmup_steps": 30, **options}, box=BOX
    )
    for step in range(times):
        sampler.observe(step, field or Ball())
    return sampler


def cell_centres(resolution: int) -> torch.Tensor:
    axis = (torch.arange(resolution) + 0.5) * 2 / resolution - 1
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)


def test_it_works_unobserved_and_then_everything_in_the_box_is_occupied():
    rays = parallel_rays()
    found = Occupancy(n=64, resolution=8, box=BOX)(rays)
    hits = (rays.origin[:, 1:].abs() <= 1).all(-1)
    torch.testing.assert_close(found.dt.sum(-1), 2.0 * hits, atol=DIAGONAL / 64, rtol=0)
    long = Occupancy(n=64, resolution=8, box=10 * BOX)(rays)
    torch.testing.assert_close(long.dt.sum(-1), torch.full_like(rays.far, 2.0))


def test_steps_are_even_and_no_longer_than_the_boxs_diagonal_allows():
    rays = parallel_rays(4)
    found = Occupancy(n=100, resolution=8, box=10 * BOX)(rays)
    step = 10 * DIAGONAL / 100
    torch.testing.assert_close(found.dt[0, :5], torch.full((5,), step))
    assert (
        found.dt.max() <= step * (1 + 1e-5)
        and (found.dt > 0).sum(-1).tolist() == [math.ceil(2 / step)] * 4
    )
    whole = Occupancy(n=100, resolution=8, box=0.01 * BOX).steps(rays, None)
    torch.testing.assert_close(whole.diff(dim=-1), torch.full((4, 100), 0.02), atol=1e-5, rtol=0)


def test_the_grid_finds_the_ball():
    sampler = taught()
    centre = cell_centres(20)
    reach = math.sqrt(3) / 20  # half a cell's diagonal
    distance = centre.norm(dim=-1).flatten()
    assert sampler.occupied[distance < RADIUS - reach].all(), "a cell within the ball is occupied"
    assert not sampler.occupied[distance > RADIUS + reach].any(), "a cell beside it is empty"
    inside = torch.rand(500, 3, generator=seeded()) * 2 - 1
    assert sampler.is_occupied(inside[inside.norm(dim=-1) < RADIUS - 2 * reach]).all()
    assert not sampler.is_occupied(
        torch.tensor([[0.0, 0.0, 1.5], [-1.01, 0.0, 0.0], [0.9, 0.9, 0.9]])
    ).any()


@pytest.mark.parametrize("seed", [None, 2])
def test_only_occupied_cells_are_asked_and_the_chord_is_right(seed):
    sampler, rays = taught(), parallel_rays()
    found = sampler(rays, None, None if seed is None else seeded(seed))
    x = rays.origin[:, None] + found.t[..., None] * rays.direction[:, None]
    assert sampler.is_occupied(x)[found.dt > 0].all()
    asked = (found.dt > 0).sum(-1).float().mean()
    assert (
        0
        < asked
        < 0.25 * (Occupancy(n=128, resolution=20, box=BOX)(rays).dt > 0).sum(-1).float().mean()
    )
    integral = ((x.square().sum(-1) < RADIUS**2) * found.dt).sum(-1)
    assert (integral - chords(rays)).abs().max() < 0.1, (
        "a ray that grazes a cell may lose what lies there"
    )
    assert (integral - chords(rays)).abs().mean() < DIAGONAL / 128


def test_a_jittered_march_shifts_whole_rays():
    found = Occupancy(n=400, resolution=4, box=10 * BOX)(parallel_rays(), None, seeded())
    gaps = found.t[:, 1:4].diff(dim=-1)
    torch.testing.assert_close(gaps, torch.full_like(gaps, 10 * DIAGONAL / 400), atol=1e-4, rtol=0)
    assert found.t[:, 1].std() > 0.2 * 10 * DIAGONAL / 400


def test_memory_is_a_decaying_maximum():
    class Fading:
        mu = 1.0

        def density(self, x, code=None):
            return torch.full(x.shape[:-1], self.mu)

    sampler, field = Occupancy(n=10, resolution=3, every=2, decay=0.5, box=BOX), Fading()
    expected = 0.0
    for step, mu in enumerate([1.0, 9.0, 0.2, 9.0, 0.0, 9.0, 3.0]):
        field.mu = mu
        sampler.observe(step, field)
        if step % 2 == 0:  # every other step is not looked at
            expected = max(0.5 * expected, mu * DIAGONAL / 10)
        torch.testing.assert_close(sampler.value, torch.full((27,), expected))
        assert sampler.occupied.all(), "a constant field reaches its own mean"


def test_the_threshold_is_capped_by_the_mean():
    def occupied(mu: float) -> int:
        return int(taught(Ball(mu), resolution=10).occupied.sum())

    assert occupied(1e-6) == occupied(5.0) > 0, "a faint field is not empty"


def test_after_the_warm_up_a_quarter_is_drawn_and_as_many_of_the_occupied():
    sampler, field = taught(times=30, resolution=30), Ball()
    cells, share = 30**3, float(sampler.occupied.float().mean())
    sampler.observe(30, field)
    (asked,) = field.asked
    index = ((asked + 1) * 15).long().clamp(0, 29)
    index = (index[:, 0] * 30 + index[:, 1]) * 30 + index[:, 2]
    assert len(index.unique()) == len(index), "no cell is asked twice"
    assert share < 0.25 and len(index) == pytest.approx(cells * (0.25 + 0.75 * share), rel=0.03)
    assert sampler.occupied[index].float().sum() == pytest.approx(share * cells, rel=0.01)


def test_more_occupied_cells_than_a_quarter_are_drawn_from():
    class Full:
        def density(self, x, code=None):
            self.asked = len(x)
            return torch.ones(x.shape[:-1])

    field = Full()
    sampler = taught(field, times=30, resolution=20)
    sampler.observe(30, field)
    assert field.asked == pytest.approx(8000 * (1 - 0.75 * 0.75), rel=0.05)


def test_a_resumed_grid_goes_on_as_if_never_stopped():
    through = taught(times=40)
    first = taught(times=33)
    again = Occupancy(n=128, resolution=20, every=1, warmup_steps=30, box=BOX)
    again.load_state_dict(first.state_dict())
    for step in range(33, 40):
        again.observe(step, Ball())
    assert torch.equal(again.value, through.value) and torch.equal(again.occupied, through.occupied)


def test_an_empty_grid_waits_for_its_warm_up_and_then_says_so():
    nothing = Ball(mu=0.0)
    sampler = Occupancy(n=16, resolution=4, every=2, warmup_steps=10, box=BOX)
    for step in range(10):
        sampler.observe(step, nothing)
        assert sampler.occupied.all(), "until then everything counts as occupied"
    with pytest.raises(RunError, match="empty occupancy grid at step 10.*wanted.*: check the box"):
        sampler.observe(10, nothing)


def test_it_needs_a_box_and_sensible_numbers():
    with pytest.raises(UserError, match="without a box"):
        Occupancy(n=4)
    for bad in ({"n": 0}, {"resolution": 0}, {"every": 0}):
        with pytest.raises(UserError, match="0"):
            Occupancy(**bad, box=BOX)


@pytest.mark.parametrize("keep", [4, 12, 64])
def test_kept_nodes_are_gathered_and_cover_the_same_length(keep):
    rays = parallel_rays()
    loose, dense = taught()(rays), taught(keep=keep)(rays)
    assert dense.t.shape[-1] == keep < loose.t.shape[-1]
    torch.testing.assert_close(dense.dt.sum(-1), loose.dt.sum(-1), atol=1e-5, rtol=1e-5)
    few = (loose.dt > 0).sum(-1) <= keep
    assert few.any()
    for t, dt, wide_t, wide_dt in zip(
        dense.t[few], dense.dt[few], loose.t[few], loose.dt[few], strict=True
    ):
        here = wide_dt > 0
        assert torch.equal(t[: here.sum()], wide_t[here]) and torch.equal(
            dt[: here.sum()], wide_dt[here]
        )
        assert (dt[here.sum() :] == 0).all()
    x = rays.origin[:, None] + dense.t[..., None] * rays.direction[:, None]
    assert taught().is_occupied(x)[dense.dt > 0].all(), "longer steps stay within the occupied part"
    integral = ((x.square().sum(-1) < RADIUS**2) * dense.dt).sum(-1)
    assert (integral - chords(rays)).abs().max() < 1.2 / keep + 0.1


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("previous", ["even", "occupancy"])
def test_the_hybrid_refines_inside_occupied_cells_only(previous, seed):
    rays, sampler = parallel_rays(), taught(n=64, refine=32)
    coarse = Stratified(n=40)(rays) if previous == "even" else taught(n=64)(rays)
    x = rays.origin[:, None] + coarse.t[..., None] * rays.direction[:, None]
    tau = Ball().density(x) * coarse.dt
    w = emission_absorption(tau, torch.zeros(*tau.shape, 1)).w
    found = sampler(rays, (coarse, w), None if seed is None else seeded(seed))
    assert found.t.shape[-1] == 64 + 32
    x = rays.origin[:, None] + found.t[..., None] * rays.direction[:, None]
    here = found.dt > 0
    # a step may reach half its length beyond its cell
    reached = taught(Ball(radius=RADIUS + 0.5 * DIAGONAL / 64))
    assert reached.is_occupied(x)[here].float().mean() > 0.99
    integral = ((x.square().sum(-1) < RADIUS**2) * found.dt).sum(-1)
    assert (integral - chords(rays)).abs().mean() < 0.5 * DIAGONAL / 64
    if seed is None:
        front = chords(rays) > 0.4
        at_the_surface = (x.norm(dim=-1) - RADIUS).abs() < 0.1
        refined = (at_the_surface & here)[front].sum(-1).float().mean()
        plain = sampler(rays)
        y = rays.origin[:, None] + plain.t[..., None] * rays.direction[:, None]
        assert (
            refined
            > 2
            * (((y.norm(dim=-1) - RADIUS).abs() < 0.1) & (plain.dt > 0))[front]
            .sum(-1)
            .float()
            .mean()
        )


def test_importance_after_the_grid_never_enters_an_empty_cell():
    rays, sampler = parallel_rays(), taught()
    coarse = sampler(rays, None, None)
    # even what no field would answer in an empty cell
    w = torch.rand(coarse.t.shape, generator=seeded())
    found = Importance(n=32)(rays, (coarse, w * (coarse.dt > 0)), seeded())
    torch.testing.assert_close(found.dt.sum(-1), coarse.dt.sum(-1), atol=1e-4, rtol=1e-4)
    within = (found.t[:, :, None] - coarse.t[:, None]).abs() <= 0.5 * coarse.dt[:, None] + 1e-5
    assert (within & (coarse.dt > 0)[:, None]).any(-1)[found.dt > 0].all()


def test_what_skipping_loses_is_bounded_by_the_steps_it_skips():
    """Optical depth left out of a ray is at most Σ over skipped steps of what the grid allows
    them.
    """

    class Fog:
        """A bell of density: most of the box is faint, nothing is empty."""

        def density(self, x, code=None):
            return 20 * torch.exp(-x.square().sum(-1) / 0.1)

    rays, threshold = parallel_rays(), 2e-3
    sampler = taught(
        Fog(), threshold=threshold, decay=1.0, times=60, warmup_steps=60, resolution=32, n=64
    )
    everything, kept = Occupancy(n=64, resolution=32, box=BOX)(rays), sampler(rays)
    x = rays.origin[:, None] + everything.t[..., None] * rays.direction[:, None]
    whole, part = (Fog().density(x) * s.dt for s in (everything, kept))
    lost = (whole - part).sum(-1)
    skipped = ((everything.dt > 0) & (kept.dt == 0)).sum(-1)
    assert skipped.max() > 20 and lost.max() > 0
    assert (lost <= 1.5 * threshold * skipped).all(), (
        "1.5: the grid saw random points, not each cell's densest"
    )
    seen = [1 - torch.exp(-tau.sum(-1)) for tau in (whole, part)]
    assert ((seen[0] - seen[1]) <= lost + 1e-6).all()


def test_a_lower_threshold_costs_little():
    """A soft-edged ball: a tenth of the threshold loses far less and asks little more."""

    class Soft:
        def density(self, x, code=None):
            return 60 * torch.sigmoid((RADIUS - x.norm(dim=-1)) / 0.02)

    rays, lost, asked = parallel_rays(), [], []
    whole = None
    for threshold in (0.0, 1e-3, 1e-2):
        found = taught(Soft(), threshold=threshold, resolution=32, n=200)(rays)
        x = rays.origin[:, None] + found.t[..., None] * rays.direction[:, None]
        opacity = 1 - torch.exp(-(Soft().density(x) * found.dt).sum(-1))
        whole = opacity if whole is None else whole
        lost.append((opacity - whole).abs().max().item())
        asked.append((found.dt > 0).sum().item())
    assert 0 < lost[1] < 0.3 * lost[2] and lost[2] < 0.1
    assert asked[2] < asked[1] < 1.4 * asked[2] < 0.5 * asked[0]


def test_a_ray_that_misses_has_nodes_without_length():
    rays = Rays(torch.zeros(3, 3), torch.eye(3), torch.full((3,), 5.0), torch.full((3,), 5.0))
    for options in ({}, {"keep": 4}, {"refine": 4}):
        level = Samples(torch.full((3, 6), 5.0), torch.zeros(3, 6)), torch.zeros(3, 6)
        found = taught(**options)(rays, level, None)
        assert (found.t == 5).all() and (found.dt == 0).all()
