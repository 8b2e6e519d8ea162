"""The descent that all inversions share, on sums of squares."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
import torch

from mednerf_kit.invert.descent import CHECK_STEPS, SearchState, descend, split_pixels


@dataclass(frozen=True)
class Place(SearchState):
    """A point and two numbers beside it."""

    x: torch.Tensor
    others: tuple[torch.Tensor, ...]


def start() -> Place:
    return Place(torch.tensor([4.0, -2.0]), (torch.tensor(1.0), torch.tensor(2.0)))


def walk(held_out_mse, *, steps=40, rate=0.1, deadline=torch.inf, **options) -> tuple[Place, float]:
    state = start()
    sgd = torch.optim.SGD([state.x], lr=rate)
    return descend(
        state,
        loss=lambda _: state.x.square(),
        held_out_mse=held_out_mse,
        optimisers=[sgd],
        steps=steps,
        deadline=deadline,
        label="walk",
        **options,
    )


def error_at(x: float):
    """Smallest where the first coordinate is x."""
    return lambda state: float((state.x[0].detach() - x).square())


def test_the_state_with_the_lowest_held_out_error_is_returned_not_the_best_fit():
    """x falls from 4 towards 0 by a factor of 0.8 a step; of the states looked at, 4·0.8¹⁰ = 0.43
    is nearest to 1.
    """
    found, mse = walk(error_at(1.0))
    assert float(found.x[0]) == pytest.approx(4 * 0.8**CHECK_STEPS, rel=1e-4)
    assert mse == pytest.approx((1 - 4 * 0.8**CHECK_STEPS) ** 2, rel=1e-4)
    assert walk(error_at(0.0))[1] == pytest.approx((4 * 0.8**40) ** 2, rel=1e-3)


def test_a_search_that_makes_it_worse_returns_its_start():
    found, mse = walk(error_at(4.0))
    assert found.x.tolist() == [4.0, -2.0] and mse == 0
    assert not found.x.requires_grad
    assert walk(error_at(4.0), steps=0)[0].x.tolist() == [4.0, -2.0]


def test_what_no_optimiser_holds_stays():
    assert [float(t) for t in walk(error_at(0.0))[0].others] == [1.0, 2.0]


def test_the_last_step_and_the_step_after_the_deadline_are_looked_at():
    found, _ = walk(error_at(0.0), steps=3)
    assert float(found.x[0]) == pytest.approx(4 * 0.8**3)
    found, _ = walk(error_at(0.0), steps=10**6, deadline=time.perf_counter())
    assert float(found.x[0]) == pytest.approx(4 * 0.8)


def test_rates_follow_the_schedule():
    found, _ = walk(error_at(0.0), steps=2, schedule=lambda i: 1.0 - i)
    assert float(found.x[0]) == pytest.approx(4 * 0.8)  # the second step's rate is zero


def test_one_tenth_of_the_pixels_is_kept_aside():
    split = split_pixels((3, 40, 40), torch.Generator().manual_seed(0))
    hidden = {tuple(p) for p in split.hidden.nonzero().tolist()}
    fitted = {tuple(p) for p in split.training.tolist()}
    assert len(hidden) == pytest.approx(480, rel=0.2) and not hidden & fitted
    assert len(hidden) + len(fitted) == 3 * 40 * 40
    assert len(split.held_out) == 256 and {tuple(p) for p in split.held_out.tolist()} <= hidden
    drawn = split.draw(500, torch.Generator().manual_seed(1))
    assert drawn.shape == (500, 3) and {tuple(p) for p in drawn.tolist()} <= fitted
