"""A task's parts as named tensors and back, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each named ``prefix.NAME``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`with_prefix` put under this prefix, by their own names.

    >>> both = with_prefix("a", {"w": torch.zeros(1)}) | with_prefix("b", {"w": torch.ones(1)})
    >>> strip_prefix("a", both)
    {'w': tensor([0.])}
    """
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter (Adam's moments, say), as
    ``PARAMETER.SLOT`` with the parameter's number.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> sgd = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> weight.sum().backward()
    >>> sgd.step()
    >>> optimiser_tensors(sgd)
    {'0.momentum_buffer': tensor([1., 1.])}
    """
    return {
        f"{i}.{slot}": torch.as_tensor(value)
        for i, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Let an optimiser continue from :func:`optimiser_tensors`; its rates stay its own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, slot = key.partition(".")
        state.setdefault(int(i), {})[slot] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def seeded_generator(device: str | torch.device, seed: int, rank: int = 0) -> Generator:
    """A random generator on ``device``; its numbers differ from those of ``seed`` itself and from
    those of every other ``rank``.
    """
    return Generator(device=device).manual_seed(1000 * seed + 1 + rank)


def set_rng_state(rng: Generator, state: Tensor) -> None:
    """Continue a random generator from its saved state.

    The state of another kind of device cannot be continued; then the generator stays as it is.

    >>> rng = Generator().manual_seed(0)
    >>> set_rng_state(rng, torch.zeros(16, dtype=torch.uint8))  # a GPU's
    >>> rng.initial_seed()
    0
    """
    if len(state) == len(rng.get_state()):
        rng.set_state(state)


@torch.no_grad()
def ema_update(average: nn.Module, current: nn.Module, keep: float) -> None:
    """Move an exponential moving average of a module's parameters one step on.

    average ← keep·average + (1 − keep)·current; buffers are copied.
    """
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - keep)
    for buffer, newest in zip(average.buffers(), current.buffers(), strict=True):
        buffer.copy_(newest)
