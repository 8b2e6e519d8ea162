"""The terms of adversarial training in closed form: R1, optimisers, average and ADA."""

from __future__ import annotations

import pytest
import torch
from linear_game import PIXELS, SIZE, Follower, LinearDiscriminator, adam, rmsprop, slope_gradient
from tiny import small_geometry

from mednerf_kit.engine import session
from mednerf_kit.gan.discriminator import DISCRIMINATORS
from mednerf_kit.prior.gan import AdversarialTask, Reals
from mednerf_kit.prior.gan_setup import build_task

BATCH, SLOPE = 2, 0.01
GENERATOR = (
    "code_dim: 4, width: 8, depth: 1, octaves: 2, rank: 2, mapping_width: 8, precision: fp32"
)
STILL = "optimiser={name: adam, g_rate: 1.0e-12, d_rate: 1.0e-12}"


@pytest.fixture(autouse=True)
def linear_game(monkeypatch):
    """The recipes' discriminator may be the linear one."""
    monkeypatch.setitem(DISCRIMINATORS.entries, "linear", LinearDiscriminator)


def task_of(*settings: str, options: str = "", slope: float = SLOPE) -> AdversarialTask:
    """HyperNeRFGAN's recipe, smaller and without colour, for pictures whose every pixel is 1."""
    small = [
        f"task={{name: adversarial, image_model: line_integral, batch: {BATCH}}}",
        f"generator={{name: hyper, {GENERATOR}}}",
        f"discriminator={{name: linear, size: {SIZE}, slope: {slope}}}",
        "levels=[{name: stratified, n: 4}]",
        "augment={name: none}",
        "dataset.size=32",
    ]
    changed = [f"task.{option.replace(': ', '=')}" for option in options.split(", ") if option]
    recipe = session.resolve(
        "chest", "chest_hypernerfgan", "default", [*small, *changed, *settings]
    )
    geometry = small_geometry()
    reals = Reals(torch.ones(geometry.views, geometry.rows, geometry.cols, 1))
    task = build_task(recipe, reals, geometry, seed=0, device="cpu")
    with torch.no_grad():
        task.parts.generator.bias[-1] -= 3.0
    return task


@pytest.mark.parametrize(
    ("options", "interval", "gamma"),
    [
        ("", 16, 0.5),
        ("r1_interval: 3, r1_gamma: 2.0", 3, 2.0),
        ("r1_interval: 1, r1_gamma: 0.0", 1, 0.0),
    ],
)
def test_the_penalty_is_lazy_and_counts_pictures_from_minus_one_to_one(options, interval, gamma):
    """k · γ/2 · |∂D/∂x|² with ∂x twice as long on [−1, 1]: a quarter of slope² N."""
    task = task_of(STILL, options=options)
    discriminator = task.parts.discriminator
    for index in range(interval + 2):
        discriminator.shown.clear()
        logged = task.step(0.5, index)
        lazy = index % interval == 0 and gamma > 0
        assert ("r1" in logged) == lazy
        if lazy:
            assert logged["r1"] == pytest.approx(SLOPE**2 * PIXELS / 4)
        weight = interval * gamma / 4 if lazy else 0.0
        wanted = slope_gradient(SLOPE, discriminator.shown[0], discriminator.shown[1], weight)
        assert discriminator.slopes[-1].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_generators_gradient_reaches_its_pictures(accumulate):
    """∂/∂x of mean softplus(−D(x)) is −σ(−D(x)) · slope / B at every pixel."""
    task = task_of(STILL, options=f"accumulate: {accumulate}")
    discriminator = task.parts.discriminator
    task.step(0.5, 0)
    fakes = torch.cat(discriminator.shown[-accumulate:])
    logits = SLOPE * (fakes - 0.5).sum((1, 2, 3), keepdim=True)
    wanted = (-torch.sigmoid(-logits) * SLOPE / BATCH).expand_as(fakes)
    torch.testing.assert_close(torch.cat(discriminator.returned), wanted, rtol=1e-4, atol=0)


def followed(task: AdversarialTask, steps: int = 6) -> tuple[list[Follower], list[Follower]]:
    """The generator's parameters that learn, and the discriminator's, after some steps."""
    parts = task.parts
    ours, theirs = (
        [Follower(p) for p in m.parameters()] for m in (parts.generator, parts.discriminator)
    )
    for index in range(steps):
        task.step(0.5, index)
    return [one for one in ours if one.gradients], theirs


def test_adam_of_each_side_knows_of_its_own_lazy_penalty():
    """Rate · c and betas ^ c, c = k / (k + 1): k is 4 for the generator, else R1's interval."""
    settings = "optimiser={name: adam, g_rate: 0.01, d_rate: 0.02, beta1: 0.3, beta2: 0.9}"
    generator, discriminator = followed(task_of(settings, options="r1_interval: 3"))
    assert len(generator) > 5 and len(discriminator) == 1
    for ones, rate, c in ((generator, 0.01, 4 / 5), (discriminator, 0.02, 3 / 4)):
        for one in ones:
            wanted = adam(one.gradients, [rate * c] * 6, (0.3**c, 0.9**c))
            torch.testing.assert_close(one.moved, wanted, rtol=1e-3, atol=1e-6)


def test_adams_constants_are_hypernerfgans_unless_told():
    """Rates 0.0025 and betas (0, 0.99); of the discriminator with R1's default interval, 16."""
    generator, discriminator = followed(task_of("optimiser={name: adam}"))
    for ones, c in ((generator, 4 / 5), (discriminator, 16 / 17)):
        for one in ones:
            wanted = adam(one.gradients, [0.0025 * c] * 6, (0.0, 0.99**c))
            torch.testing.assert_close(one.moved, wanted, rtol=2e-4, atol=1e-7)


def test_rmsprop_is_mednerfs_and_halves_both_rates():
    generator, discriminator = followed(task_of("optimiser={name: rmsprop, halve_at: [2, 4]}"))
    for ones, rate in ((generator, 5e-4), (discriminator, 1e-4)):
        for one in ones:
            rates = [rate * share for share in (1, 1, 0.5, 0.5, 0.25, 0.25)]
            wanted = rmsprop(one.gradients, rates, 0.99)
            torch.testing.assert_close(one.moved, wanted, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("slope", "way"), [(SLOPE, 1), (-SLOPE, -1)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_augmentation_follows_the_reals_of_every_step(slope, way, accumulate):
    """Reals are brighter than the middle, fakes darker: p follows the reals, a batch a step."""
    adaptive = "probability={name: adaptive, start: 0.5, interval: 1, kimg: 0.1}"
    task = task_of(STILL, adaptive, options=f"accumulate: {accumulate}", slope=slope)
    asked, draw = [], task.parts.augment.draw

    def noting(batch, shape, p, rng):
        asked.append(p)
        return draw(batch, shape, p, rng)

    object.__setattr__(task.parts.augment, "draw", noting)
    for index in range(3):
        assert task.step(0.5, index)["r_t"] == way
        assert task.parts.probability.p == pytest.approx(0.5 + way * (index + 1) * BATCH / 100)
    assert task.parts.discriminator.shown[-1].mean() < 0.5, "else reals and fakes agree"
    assert asked[-1] == task.parts.probability.p and asked[0] == 0.5, "what is drawn goes by it"


@pytest.mark.parametrize(
    ("options", "first", "half_life"),
    [
        ("ema_kimg: 0.008, ema_ramp: null", 0, 8),  # pictures
        ("ema_kimg: 0.008, ema_ramp: 0.05", 5000, 8),
        ("ema_kimg: 20, ema_ramp: 0.25", 8, 4),  # a quarter of the 8 · 2 seen
        ("", 320, 32),  # the default ramp, a twentieth of the 320 · 2 seen
        ("", 10**6, 20_000),  # the default
    ],
)
def test_the_averages_half_life_is_counted_in_pictures(options, first, half_life):
    """Of the distance to a generator that stands still, a step leaves 2^(−batch / half-life)."""
    task = task_of(STILL, options=options)
    with torch.no_grad():
        for parameter in task.parts.generator.parameters():
            parameter += 1.0
        before = [slow.clone() for slow in task.ema.parameters()]
    task.step(0.5, first)
    rows = zip(task.parts.generator.parameters(), task.ema.parameters(), before, strict=True)
    left = [((fast - slow) / (fast - old)).flatten() for fast, slow, old in rows]
    wanted = torch.full_like(torch.cat(left), 2 ** (-BATCH / half_life))
    torch.testing.assert_close(torch.cat(left).detach(), wanted, rtol=1e-5, atol=0)


def test_an_average_that_has_seen_nothing_holds_on_to_nothing():
    task = task_of(STILL)
    with torch.no_grad():
        for parameter in task.parts.generator.parameters():
            parameter += 1.0
    task.step(0.5, 0)
    for fast, slow in zip(task.parts.generator.parameters(), task.ema.parameters(), strict=True):
        assert torch.equal(fast, slow)


def test_noise_on_density_falls_to_nothing(monkeypatch):
    """Normal, of deviation 0.8 · (1 − step / 10)."""
    small = "code_dim: 4, width: 8, depth: 1, skip: 0, octaves: 2, rank: 2, precision: fp32"
    coloured = f"generator={{name: hypernerfgan, {small}}}"
    options = "image_model: emission_absorption, density_noise: 0.8, density_noise_steps: 10"
    task = task_of(STILL, coloured, options=options)
    field = task.parts.generator.field
    evaluate, found = field.evaluate, []

    def noting(x, d, dt, code, noise=None):
        found.append(0.0 if noise is None else noise.std().item())
        return evaluate(x, d, dt, code, noise)

    monkeypatch.setattr(field, "evaluate", noting)
    for index in (0, 5, 9, 10, 50):
        task.step(0.5, index)
    assert found == pytest.approx([0.8, 0.4, 0.08, 0.0, 0.0], rel=0.1)


def test_what_a_discriminator_draws_joins_its_loss_at_every_step():
    selfsup = f"discriminator={{name: selfsup, size: {2 * SIZE}, width: 4, doublings: 1}}"
    task = task_of(STILL, selfsup, "perceptual={name: pyramid}")
    redraw, r1 = task.gan_step.penalties
    assert (redraw.name, redraw.weight, redraw.interval) == ("redraw", 1.0, 1)
    assert (r1.name, r1.interval) == ("r1", 16)
    assert all(task.step(0.5, index)["redraw"] > 0 for index in range(2))


def test_a_random_margin_is_drawn_at_every_step():
    task = task_of(STILL, "loss={name: hinge, margin_low: 0.8, margin_high: 1.0}")
    judged, drawn = task.parts.loss.discriminator, []

    def noting(real_heads, fake_heads, dag_weight, u):
        drawn.append(u)
        return judged(real_heads, fake_heads, dag_weight, u)

    task.parts.loss.discriminator = noting
    for index in range(4):
        task.step(0.5, index)
    assert len(set(drawn)) == 4 and all(0 < u < 1 for u in drawn)
