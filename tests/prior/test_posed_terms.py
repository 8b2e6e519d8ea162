"""The terms of a prior's training in closed form: weights, optimisers, schedule, average, ADA."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from linear_game import PIXELS, SIZE, Follower, LinearDiscriminator, adam, slope_gradient
from tiny import VIEWS, small_geometry

from mednerf_kit.engine import session
from mednerf_kit.engine.distributed import BatchShard
from mednerf_kit.fields.hyper import SHARP_EDGE
from mednerf_kit.gan.discriminator import DISCRIMINATORS
from mednerf_kit.gan.generator import POSE_DIM
from mednerf_kit.prior.posed import PriorTask, cylinder_points
from mednerf_kit.prior.posed_setup import build_task
from mednerf_kit.prior.training_volumes import TrainingVolumes

PATIENTS, BATCH = 4, 2
POSED = "objective: posed"
GAN = f"objective: gan, gan_batch: {BATCH}, gan_views: 1"
HYBRID = GAN.replace("gan,", "hybrid, gan_start: 0.0, gan_interval: 1, gan_lead: 0,", 1)
GENERATOR = (
    "code_dim: 4, width: 8, depth: 1, octaves: 2, rank: 2, mapping_width: 8, precision: fp32"
)
FAST, SLOW = "learning_rate: 0.05, code_rate: 0.1", "learning_rate: 1.0e-12"


@pytest.fixture(autouse=True)
def linear_game(monkeypatch):
    """The recipes' discriminator may be the linear one."""
    monkeypatch.setitem(DISCRIMINATORS.entries, "linear", LinearDiscriminator)


def task_of(
    options: str,
    *settings: str,
    picture: float = 1.0,
    volume: float = 0.5,
    slope: float = 0.01,
    seed: int = 0,
) -> PriorTask:
    """The chest's recipe, smaller, for patients of one grey value and random volumes."""
    small = [
        f"task={{name: prior, points: 24, rays: 4, ray_share: 0.0, {options}}}",
        f"generator={{name: hyper, {GENERATOR}}}",
        f"discriminator={{name: linear, size: {SIZE}, slope: {slope}}}",
        "levels=[{name: stratified, n: 4}]",
        "augment={name: none}",
        "probability={name: fixed, p: 0.0}",
    ]
    recipe = session.resolve("chest", "chest", "default", [*small, *settings])
    geometry = small_geometry()
    training = TrainingVolumes(
        torch.full((PATIENTS, VIEWS, geometry.rows, geometry.cols), picture),
        volume * torch.rand(PATIENTS, 6, 6, 6, generator=torch.Generator().manual_seed(seed)),
        torch.zeros(PATIENTS, VIEWS),
        torch.full((PATIENTS,), geometry.distance),
        False,
    )
    orbits = SimpleNamespace(geometry=geometry)
    return build_task(recipe, orbits, training, seed=seed, device="cpu")


# The adversary


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("options", [GAN, HYBRID, f"{HYBRID}, gan_known: 0.0"])
def test_the_generator_learns_from_what_it_is_judged_by(options, accumulate):
    """∂/∂x of mean softplus(−D(x)) is −σ(−D(x)) · slope / B at every pixel."""
    task = task_of(f"{options}, accumulate: {accumulate}")
    discriminator = task.parts.discriminator
    task.step(0.5, 0)
    fakes, slope = torch.cat(discriminator.shown[-accumulate:]), discriminator.slope.detach()
    logits = slope * (fakes - 0.5).sum((1, 2, 3), keepdim=True)
    wanted = (-torch.sigmoid(-logits) * slope / BATCH).expand_as(fakes)
    torch.testing.assert_close(torch.cat(discriminator.returned), wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("option", "share"), [("", 0.7), ("gan_weight: 1.5,", 1.5)])
def test_the_adversary_is_a_share_of_the_posed_gradient_at_the_last_layer(
    option, share, accumulate
):
    """Together they are the posed gradient and one whose length there is share times its own."""
    gradients = {}
    for name, options in (("posed", POSED), ("hybrid", f"{option} {HYBRID}")):
        task = task_of(f"{options}, accumulate: {accumulate}, batch: 4, code_noise: 0.0")
        last = task.parts.generator.shared[-1]
        task.optimiser.register_step_pre_hook(
            lambda *_, name=name, last=last: gradients.update({name: last.grad.clone()})
        )
        task.options = replace(task.options, code_penalty=0.0)
        points = cylinder_points(4, 24, 1.4, torch.Generator().manual_seed(3))
        task._volume_error = lambda ids, code, shard, task=task, points=points: (
            task.parts.generator.field.density(shard.take(points), code).square().mean()
        )
        logged = task.step(0.0, 0)
    added = gradients["hybrid"] - gradients["posed"]
    assert float(added.norm()) == pytest.approx(share * float(gradients["posed"].norm()), rel=1e-3)
    assert logged["gan_factor"] > 0


def test_patches_say_from_where_they_are_seen():
    """Views whose grey values are their angles; a discriminator may be conditioned on these."""
    task = task_of(GAN)
    angles_deg = torch.tensor(task.geometry.angles_deg)
    task.training.images.copy_(angles_deg[:, None, None] / 360)
    reals, fakes = task._draw_patches(BatchShard(), SHARP_EDGE)
    torch.testing.assert_close(360 * reals.images.mean((1, 2, 3)), reals.angles_deg)
    assert torch.equal(reals.angles_deg, fakes.angles_deg)


def test_the_penalty_on_reals_is_applied_every_kth_step_and_k_times_as_strong():
    """k · γ/2 · |∂D/∂x|² beside the loss: k · γ · N · slope more gradient."""
    interval, gamma = 3, 0.7
    task = task_of(f"{GAN}, r1_interval: {interval}, r1_gamma: {gamma}, d_rate: 1.0e-12")
    discriminator = task.parts.discriminator
    slope = discriminator.slope.item()
    for index in range(2 * interval):
        discriminator.shown.clear()
        logged = task.step(0.5, index)
        lazy = index % interval == 0
        assert ("r1" in logged) == lazy
        if lazy:
            assert logged["r1"] == pytest.approx(slope**2 * PIXELS)
        weight = interval * gamma if lazy else 0.0
        wanted = slope_gradient(slope, discriminator.shown[0], discriminator.shown[1], weight)
        assert float(discriminator.slopes[-1]) == pytest.approx(wanted, rel=1e-4)


def test_unless_told_the_penalty_is_a_half_and_comes_every_sixteenth_step():
    task = task_of(GAN)
    discriminator = task.parts.discriminator
    lazy = [index for index in range(18) if "r1" in task.step(0.5, index)]
    wanted = slope_gradient(0.01, discriminator.shown[0], discriminator.shown[1], 16 * 0.5)
    assert lazy == [0, 16] and discriminator.slopes[0].item() == pytest.approx(wanted, rel=1e-4)


def test_the_discriminators_adam_knows_that_the_penalty_is_lazy():
    """The rate times c and betas (0, 0.99) to the power of c = k / (k + 1)."""
    task = task_of(f"{GAN}, r1_interval: 3, d_rate: 0.02")
    followed = Follower(task.parts.discriminator.slope)
    for index in range(6):
        task.step(0.5, index)
    lazy = 3 / 4
    wanted = adam(followed.gradients, [0.02 * lazy] * 6, (0.0, 0.99**lazy))
    assert float(followed.moved) == pytest.approx(float(wanted), rel=1e-4)
    assert max(followed.gradients) > 2 * min(followed.gradients), "else no beta shows"


@pytest.mark.parametrize(("slope", "way"), [(0.01, 1), (-0.01, -1)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_augmentation_follows_the_reals_of_every_adversarial_step(slope, way, accumulate):
    """Reals are brighter than the middle, fakes darker: p follows the reals, a batch a step."""
    adaptive = "probability={name: adaptive, start: 0.5, interval: 1, kimg: 0.1}"
    options = f"{GAN}, accumulate: {accumulate}, d_rate: 1.0e-9"
    task = task_of(options, adaptive, slope=slope)
    with torch.no_grad():
        task.parts.generator.bias[-1] -= 3.0
    asked, draw = [], task.parts.augment.draw

    def noting(batch, shape, p, rng):
        asked.append(p)
        return draw(batch, shape, p, rng)

    object.__setattr__(task.parts.augment, "draw", noting)
    for index in range(3):
        logged = task.step(0.5, index)
        assert logged["r_t"] == way
        assert logged["p"] == pytest.approx(0.5 + way * (index + 1) * BATCH / 100)
    assert task.parts.discriminator.shown[-1].mean() < 0.5, "else reals and fakes agree"
    assert asked[-1] == logged["p"] and asked[0] == 0.5, "what is drawn goes by it"


@pytest.mark.parametrize(
    ("objective", "start", "interval"), [("hybrid", 0.6, 3), ("gan", 0.6, 3), ("posed", 0.0, 1)]
)
def test_the_adversary_joins_late_and_every_kth_step(objective, start, interval):
    phase = f"gan_start: {start}, gan_interval: {interval}, gan_lead: 0, gan_batch: 2, gan_views: 1"
    task = task_of(f"objective: {objective}, {phase}")
    steps = 12
    played = ["g_loss" in task.step(index / steps, index) for index in range(steps)]
    late = [index / steps >= start and index % interval == 0 for index in range(steps)]
    wanted = {"hybrid": late, "gan": [True] * steps, "posed": [False] * steps}[objective]
    assert played == wanted and (objective != "hybrid" or played.index(True) == 9)


def test_a_priors_adversary_ends_the_training_and_plays_every_step():
    """Its phase begins when the rates have fallen, and with rates of its own."""
    task = task_of("objective: hybrid, gan_start: 0.6, gan_rate: 0.35")
    places = [(0.3, 200), (0.599, 200), (0.6, 200), (0.6, 201), (0.8, 202), (0.999, 207)]
    logged = [task.step(progress, index) for progress, index in places]
    assert ["d_loss" in line for line in logged] == [False, False, True, True, True, True]
    rates = [line["rate"] for line in logged]
    assert rates == pytest.approx([0.51, 0.01, 0.36, 0.36, 0.185, 0.01], abs=2e-3)
    posed = task_of("objective: posed, gan_start: 0.6, gan_rate: 0.35")
    assert posed.step(0.6, 200)["rate"] == pytest.approx(0.355, abs=2e-3), "one cosine in all"


def test_at_first_the_discriminator_learns_alone():
    """Until it has had its lead the generator's gradient is that of the posed term."""
    lead, gradients = 2, {}
    for name, options in (
        ("posed", POSED),
        ("hybrid", f"{HYBRID.replace('gan_lead: 0', f'gan_lead: {lead}')}"),
    ):
        task = task_of(f"{options}, {SLOW}, code_noise: 0.0, batch: {PATIENTS}")
        last, found = task.parts.generator.shared[-1], []
        task.optimiser.register_step_pre_hook(
            lambda *_, last=last, found=found: found.append(last.grad.clone())
        )
        logged = [task.step(0.0, index) for index in range(3)]
        gradients[name] = found
    assert ["d_loss" in line for line in logged] == [True] * 3
    assert ["g_loss" in line for line in logged] == [False] * lead + [True]
    torch.testing.assert_close(gradients["hybrid"][0], gradients["posed"][0])
    assert len(task.parts.discriminator.slopes) == 3


# The posed terms


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_ray_counts_ten_times_as_much_as_a_point(accumulate):
    """Of black pictures ∂/∂log g of 10 · mean (g p)² is, all gains together, 20 times the error."""
    task = task_of(f"{POSED}, accumulate: {accumulate}, ray_share: 1.0", picture=0.0)
    followed = Follower(task.log_gains)
    error = task.step(0.5, 0)["ray_mse"]
    assert error > 0.01
    assert followed.gradients[-1].sum().item() == pytest.approx(20 * error, rel=1e-4)


@pytest.mark.parametrize(("share", "rays_from"), [(0.25, 0.75), (0.6, 0.4)])
def test_points_come_first_and_rays_last(share, rays_from):
    task = task_of(f"{POSED}, ray_share: {share}")
    for progress in (0.0, rays_from - 0.01, rays_from, 0.99):
        by_rays = progress >= rays_from
        logged = task.step(progress, 0)
        assert ("ray_mse" in logged, "volume_mse" in logged) == (by_rays, not by_rays)


@pytest.mark.parametrize("options", [POSED, GAN])
def test_a_scan_ends_softly_at_first(options):
    """Over 0.15 field units, falling to 0.02 at half of the training and no further."""
    task = task_of(options)
    pose, edges = task.parts.generator.canonical_pose, []

    def noting(numbers, *, edge):
        edges.append(edge)
        return pose(numbers, edge=edge)

    task.parts.generator.canonical_pose = noting
    for progress in (0.0, 0.2, 0.4, 0.5, 0.9):
        task.step(progress, 1)
    assert edges == pytest.approx([0.15, 0.09, 0.03, 0.02, 0.02])
    assert task.finished().canonical_pose(torch.zeros(1, POSE_DIM)).edge == SHARP_EDGE == 0.02


# Rates


def test_codes_and_weights_go_adams_way_along_warm_up_and_cosine():
    """Betas (0.9, 0.99); the rate is its peak times min(1, step / 100) · (1 + cos πt) / 2 + 1 %."""
    task = task_of(f"{POSED}, {FAST}", volume=30.0)
    codes, weights = Follower(task.codes), list(map(Follower, task.parts.generator.parameters()))
    places = [(0.0, 0), (0.25, 9), (0.5, 49), (0.75, 99), (0.25, 399), (0.5, 400)]
    shares = [0.02, 0.0953553, 0.26, 0.156447, 0.863553, 0.51]
    for (progress, index), share in zip(places, shares, strict=True):
        assert task.step(progress, index)["rate"] == pytest.approx(share, rel=1e-5)

    wanted = adam(codes.gradients, [0.1 * share for share in shares], (0.9, 0.99))
    torch.testing.assert_close(codes.moved, wanted, rtol=1e-3, atol=1e-6)

    taught = [one for one in weights if one.gradients]
    norms = [
        float(torch.cat([one.gradients[k].flatten() for one in taught]).norm())
        for k in range(len(places))
    ]
    assert max(norms) > 2 and len(taught) > 5, "else the cut at a norm of 1 does not show"
    for one in taught:
        cut = [g / max(1.0, norm) for g, norm in zip(one.gradients, norms, strict=True)]
        wanted = adam(cut, [0.05 * share for share in shares], (0.9, 0.99))
        torch.testing.assert_close(one.moved, wanted, rtol=2e-3, atol=1e-6)


def first_gradient(options: str) -> torch.Tensor:
    """Of the codes, in the first step: the sum of its parts."""
    task = task_of(options)
    followed = Follower(task.codes)
    task.step(0.0, 0)
    return followed.gradients[-1]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("option", "penalty"), [("", 1e-4), ("code_penalty: 0.3,", 0.3)])
def test_codes_are_drawn_to_zero_by_their_penalty(option, penalty, accumulate):
    """penalty · mean over the batch of |u|²/8, of all four patients: penalty · u / 16."""
    rest = f"{POSED}, batch: {PATIENTS}, accumulate: {accumulate}"
    codes = task_of(rest).codes.detach()
    found = first_gradient(f"{option} {rest}") - first_gradient(f"code_penalty: 0.0, {rest}")
    assert codes.abs().max() > 0.3
    torch.testing.assert_close(found, penalty * codes / 16, rtol=1e-2, atol=penalty * 1e-3)


@pytest.mark.parametrize(("option", "noise"), [("", 0.05), ("code_noise: 0.4,", 0.4)])
def test_codes_are_shaken_before_they_are_mapped(option, noise):
    """Of codes that are 0 the mapping sees N(0, noise²)."""
    task = task_of(f"{option} {POSED}, code_rate: 1.0e-12")
    with torch.no_grad():
        task.codes.zero_()
    mapped: list[torch.Tensor] = []
    task.parts.generator.mapping.register_forward_pre_hook(
        lambda _, inputs: mapped.append(inputs[0].detach())
    )
    for index in range(40):
        task.step(0.0, index)
    found = torch.cat(mapped)
    assert found.std().item() == pytest.approx(noise, rel=0.06) and found.mean().abs() < 0.1 * noise


# The average


def average_of_one_that_stands_still(ema_steps: float, first: int, count: int) -> float:
    """What is left of the distance to a generator that was moved and stays, after so many steps."""
    task = task_of(f"{POSED}, {SLOW}, ema_steps: {ema_steps}")
    with torch.no_grad():
        for parameter in task.parts.generator.parameters():
            parameter += 1.0
    for index in range(first, first + count):
        task.step(0.0, index)
    pairs = zip(task.parts.generator.parameters(), task.ema.parameters(), strict=True)
    left = torch.cat([(fast - slow).detach().flatten() for fast, slow in pairs])
    assert left.std() < 1e-4
    return float(left.mean())


def test_the_averages_half_life_is_as_many_steps_as_it_says():
    assert average_of_one_that_stands_still(3.0, 5000, 3) == pytest.approx(0.5, rel=1e-3)
    assert average_of_one_that_stands_still(6.0, 5000, 2) == pytest.approx(2 ** (-1 / 3), rel=1e-3)


def test_the_average_soon_forgets_how_it_began():
    """Of the first steps it keeps 1/10, 2/11, 3/12 …: what a long half-life would hold on to."""
    wanted = math.prod((k + 1) / (k + 10) for k in range(3))
    assert average_of_one_that_stands_still(50.0, 0, 3) == pytest.approx(wanted, rel=1e-3)
