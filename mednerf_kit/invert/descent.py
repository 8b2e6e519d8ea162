"""What every inversion shares: pixels kept aside, and a descent that is stopped by them.

The state that fits the given pixels best explains their noise too; the one with the lowest error at
pixels that were never fitted is the answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Generator, Tensor
from tqdm import trange

from ..core.adam import Adam
from .progress import Progress, Watch

HELD_OUT_SHARE = 0.1  # of an input's pixels: never fitted
HELD_OUT_PIXELS = 256  # of those, over all views: enough to compare states
CHECK_STEPS = 10  # between two looks at the held-out error


Options = TypeVar("Options")


@dataclass(frozen=True)
class PixelSplit:
    """The pixels (view, row, column) of the inputs: those that are fitted and those kept aside."""

    training: Tensor  # [N, 3]
    held_out: Tensor  # [HELD_OUT_PIXELS, 3], fewer where there are fewer
    hidden: Tensor  # [n, rows, cols] bool, everything that is not fitted
    unseen: Tensor  # [n, rows, cols] bool, of it what says nothing of the patient

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Random pixels to fit, with repetition: [count, 3]."""
        return self.training[torch.randint(len(self.training), (count,), generator=rng)]


def split_pixels(shape: Sequence[int], rng: Generator, mask: Tensor | None = None) -> PixelSplit:
    """Keep one tenth of the pixels of views [n, rows, cols] aside, at random.

    Pixels whose ``mask`` [n, rows, cols] is below one half are neither fitted nor compared.
    """
    hidden = torch.rand(tuple(shape), generator=rng) < HELD_OUT_SHARE
    seen = torch.ones_like(hidden) if mask is None else mask.cpu() >= 0.5
    held_out = (hidden & seen).nonzero()
    order = torch.randperm(len(held_out), generator=rng)[:HELD_OUT_PIXELS]
    return PixelSplit((~hidden & seen).nonzero(), held_out[order], hidden | ~seen, ~seen)


@dataclass(frozen=True)
class SearchState:
    """What a search optimises; every field is a tensor or a tuple of tensors."""

    def copied(self: S) -> S:
        """The same numbers, apart from the graph and from this state's memory."""
        return replace(self, **{f.name: _copied(getattr(self, f.name)) for f in fields(self)})


S = TypeVar("S", bound=SearchState)


def descend(
    state: S,
    *,
    loss: Callable[[int], Tensor],
    held_out_mse: Callable[[S], float],
    optimisers: Sequence[Adam | torch.optim.Optimizer],
    schedule: Callable[[int], float] | None = None,
    steps: int,
    deadline: float,
    label: str,
    watch: Watch | None = None,
    pictures: Callable[[S], Tensor] | None = None,
) -> tuple[S, float]:
    """Change ``state`` in place, step by step; returns the best state on the way and its error.

    The best is a copy of the state that explained the held-out pixels best, be it the first.

    Options:
        loss: of step i, a function of the state's tensors; summed over all its axes.
        held_out_mse: mean squared error of a state at the pixels kept aside.
        optimisers: each holds some of the state's tensors; what none holds stays as it is.
        schedule: by which the learning rates are multiplied at step i.
        steps: at most.
        deadline: of :func:`time.perf_counter`, in seconds; the step that passes it is the last.
        label: of the progress bar.
        watch: told at the start and at every look how far this is, with the error of the best.
        pictures: of a state, as :class:`.progress.Progress` has them.
    """
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for tensor in group["params"]:
                tensor.requires_grad_(True)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    peaks = [group["lr"] for group in groups]
    best, best_mse = state.copied(), held_out_mse(state)

    def tell(step: int) -> None:
        shown = None if pictures is None else partial(pictures, state)
        if watch is not None:
            watch(Progress("invert", label, step, steps, best_mse, shown))

    tell(0)
    for i in trange(steps, desc=label, leave=False, disable=None):
        if schedule is not None:
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * schedule(i)
        total = loss(i).sum()
        for optimiser in optimisers:
            optimiser.zero_grad()
        total.backward()
        for optimiser in optimisers:
            optimiser.step()
        late = time.perf_counter() > deadline
        if i % CHECK_STEPS == CHECK_STEPS - 1 or i == steps - 1 or late:
            mse = held_out_mse(state)
            if mse < best_mse:
                best, best_mse = state.copied(), mse
            tell(i + 1)
        if late:
            break
    return best, best_mse


def hurried(options: Options, share: float) -> Options:
    """A record of options with this share of all its steps, at least one.

    >>> @dataclass(frozen=True)
    ... class Search:
    ...     code_steps: int = 80
    ...     rays: int = 224
    >>> hurried(Search(), 1 / 3)
    Search(code_steps=27, rays=224)
    """
    fewer = {
        name: max(1, round(share * count))
        for name, count in vars(options).items()
        if name.endswith("steps")
    }
    return replace(options, **fewer)  # type: ignore[type-var]


def _copied(value: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    if isinstance(value, tuple):
        return tuple(tensor.detach().clone() for tensor in value)
    return value.detach().clone()
