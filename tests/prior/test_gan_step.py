"""The adversarial step by itself: what it hands to its loss and penalties, in one part or more."""

from __future__ import annotations

import pytest
import torch
from linear_game import SIZE, LinearDiscriminator
from torch import Generator, Tensor

from mednerf_kit.engine.distributed import Ranks
from mednerf_kit.gan.augment.presets import AUGMENTATIONS
from mednerf_kit.gan.augment.probability import PROBABILITIES
from mednerf_kit.gan.losses import NonSaturating
from mednerf_kit.prior.gan_step import GanStep, Patches, Penalty

BATCH = 4


class Noting(NonSaturating):
    """Keeps the random numbers it was given."""

    def __init__(self) -> None:
        self.margins: list[float] = []

    def discriminator(self, real_heads, fake_heads, dag_weight, u):
        self.margins.append(u)
        return super().discriminator(real_heads, fake_heads, dag_weight, u)


class Game:
    """A step whose fakes are a brightness, which is what the generator learns, and noise."""

    def __init__(self, *, accumulate: int = 1, penalties=(), **options) -> None:
        self.brightness = torch.nn.Parameter(torch.tensor(0.3))
        self.discriminator = LinearDiscriminator()
        self.drawn: list[Tensor] = []
        self.loss = Noting()
        self.step = GanStep(
            discriminator=self.discriminator,
            optimiser=torch.optim.SGD(self.discriminator.parameters(), lr=1e-3),
            loss=self.loss,
            penalties=penalties,
            augment=AUGMENTATIONS.build("none"),
            probability=PROBABILITIES.build({"name": "fixed", "p": 0.0}),
            batch=BATCH,
            accumulate=accumulate,
            rng=Generator().manual_seed(0),
            ray_rng=Generator().manual_seed(1),
            **options,
        )

    def draw(self, shard) -> tuple[Patches, Patches]:
        shape = (BATCH, 1, SIZE, SIZE)
        reals = shard.take(torch.rand(shape, generator=self.step.rng))
        noise = shard.take(0.1 * torch.rand(shape, generator=self.step.ray_rng))
        fakes = self.brightness + noise
        self.drawn.append(fakes.detach().clone())
        return Patches(reals), Patches(fakes)

    def play(self, steps: int = 1) -> dict[str, float]:
        for index in range(steps):
            logged = self.step(self.draw, index=index, ranks=Ranks())
        return logged


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_are_the_whole_batch(accumulate):
    """The same gradients and numbers, and the generator is judged on what the discriminator saw."""
    whole, parts = Game(), Game(accumulate=accumulate)
    a, b = whole.play(3), parts.play(3)
    assert a == pytest.approx(b, rel=1e-5)
    torch.testing.assert_close(parts.brightness.grad, whole.brightness.grad)
    torch.testing.assert_close(parts.discriminator.slope, whole.discriminator.slope)
    first = parts.drawn[: 2 * accumulate]
    assert torch.equal(torch.cat(first[:accumulate]), torch.cat(first[accumulate:]))
    assert torch.equal(torch.cat(first[:accumulate]), whole.drawn[0])
    # in one part the patches are rendered once
    assert (len(whole.drawn), len(parts.drawn)) == (3, 6 * accumulate)


def test_the_two_phases_touch_their_own_side_only():
    game = Game()
    game.play()
    assert game.brightness.grad is not None and not game.discriminator.slope.requires_grad
    assert len(game.discriminator.slopes) == 1, "the generator's loss leaves the discriminator be"
    assert float(game.brightness.grad) != 0.0


def test_a_random_loss_gets_a_number_a_step():
    still, random = Game(), Game(draws_margin=True)
    still.play(5)
    random.play(5)
    assert still.loss.margins == [0.0] * 5
    assert len(set(random.loss.margins)) == 5
    assert all(0 < u < 1 for u in random.loss.margins)


@pytest.mark.parametrize(("interval", "due"), [(1, [0, 1, 2, 3]), (3, [0, 3])])
def test_a_penalty_joins_the_loss_when_it_is_due(interval, due):
    """Its weight times the slope's own derivative, 1, is added to the slope's gradient."""
    penalty = Penalty("own", 7.0, interval, lambda reals, output: game.discriminator.slope)
    plain, game = Game(), Game(penalties=[penalty])
    for index in range(4):
        slopes = []
        for one in (plain, game):
            with torch.no_grad():
                one.discriminator.slope.fill_(0.01)
            logged = one.step(one.draw, index=index, ranks=Ranks())
            slopes.append(float(one.discriminator.slopes[-1]))
        assert ("own" in logged) == (index in due)
        assert slopes[1] - slopes[0] == pytest.approx(7.0 if index in due else 0.0, abs=1e-4)
