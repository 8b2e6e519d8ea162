"""The conditional generator: shapes, what it heeds and what it must not see."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from mednerf_kit.core.errors import UserError
from mednerf_kit.gan.conditional import ConditionalGenerator

SMALL = {"pixels": 16, "margin": 4, "planes": 6, "widths": (8, 16), "code_dim": 4, "local_dim": 2}


@pytest.fixture
def generator() -> ConditionalGenerator:
    torch.manual_seed(0)
    made = ConditionalGenerator(**SMALL, precision="fp32")
    torch.nn.init.normal_(made.head.weight, std=0.5)
    return made.requires_grad_(False)


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_answers_come_sample_by_sample(generator) -> None:
    xray, seen = torch.rand(2, 16, 16), torch.ones(2, 16, 16)
    found = generator(xray, seen, rng(), samples=3)
    assert found.shape == (6, 6, 24, 24)
    assert float(found.min()) >= 0
    assert generator.half_width == 1.5
    # the answers to the first X-ray do not depend on its neighbour
    swapped = generator(xray.flip(0), seen, rng(), samples=3)
    assert not torch.equal(found[0], swapped[0])
    one = torch.stack([xray[0], 1 - xray[1]])
    torch.testing.assert_close(generator(one, seen, rng(), samples=3)[0], found[0])


def test_the_same_numbers_give_the_same_answers(generator) -> None:
    xray, seen = torch.rand(1, 16, 16), torch.ones(1, 16, 16)
    a, b, c = (
        generator(xray, seen, rng(seed), samples=2) for seen, seed in [(seen, 0)] * 2 + [(seen, 1)]
    )
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert not torch.allclose(a[0], a[1]), "two answers differ"


def test_hidden_pixels_say_nothing(generator) -> None:
    seen = torch.ones(1, 16, 16)
    seen[:, :5] = 0
    xray = torch.rand(1, 16, 16)
    other = torch.where(seen > 0, xray, torch.rand(1, 16, 16))
    a, b = (generator(picture, seen, rng()) for picture in (xray, other))
    assert torch.equal(a, b)
    assert not torch.allclose(a, generator(xray, torch.ones_like(seen), rng()))


def test_antithetic_answers_cancel_what_is_odd(generator) -> None:
    xray, seen = torch.rand(1, 16, 16), torch.ones(1, 16, 16)
    pairs = torch.stack(
        [generator(xray, seen, rng(k), samples=2, antithetic=True) for k in range(40)]
    )
    apart = torch.stack([generator(xray, seen, rng(k), samples=2) for k in range(40)])
    assert float(pairs.mean(1).std(0).mean()) < 0.75 * float(apart.mean(1).std(0).mean())
    # each alone is spread as far as any other
    torch.testing.assert_close(
        pairs[:, 1].std(0).mean(), apart[:, 1].std(0).mean(), rtol=0.3, atol=0
    )


@pytest.mark.parametrize("samples", [1, 3])
def test_odd_counts_of_antithetic_answers(generator, samples: int) -> None:
    xray, seen = torch.rand(1, 16, 16), torch.ones(1, 16, 16)
    assert len(generator(xray, seen, rng(), samples=samples, antithetic=True)) == samples


def test_bf16_is_close_to_fp32(generator) -> None:
    xray, seen = torch.rand(1, 16, 16), torch.ones(1, 16, 16)
    exact = generator(xray, seen, rng())
    generator.precision = "bf16"
    assert float((generator(xray, seen, rng()) - exact).abs().max()) < 0.03 * float(exact.max())


@pytest.mark.parametrize(
    "wrong", [{"widths": (8,)}, {"widths": (8, 12)}, {"planes": 0}, {"margin": -1}]
)
def test_impossible_sizes_are_refused(wrong) -> None:
    with pytest.raises(UserError, match="wanted two widths or more"):
        ConditionalGenerator(**(SMALL | wrong))
