"""A task's parts as named tensors and back: what makes a resumed run equal to an uninterrupted
one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn


def named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under ``prefix.``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`named` put under this prefix.

    >>> part("a", named("a", {"w": torch.zeros(1)}) | named("b", {"w": torch.ones(1)}))
    {'w': tensor([0.])}
    """
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its slots by ``parameter.slot``."""
    return {
        f"{i}.{slot}": torch.as_tensor(value)
        for i, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Continue from :func:`optimiser_tensors`; rates stay the optimiser's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, slot = key.partition(".")
        state.setdefault(int(i), {})[slot] = value
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )


def seeded_generator(device: str | torch.device, seed: int, rank: int = 0) -> Generator:
    """Random numbers of a device's own, beside those that ``seed`` itself gives on the CPU; one
    stream a process.
    """
    return Generator(device=device).manual_seed(1000 * seed + 1 + rank)


def resume(rng: Generator, state: Tensor) -> None:
    """Continue a generator from its saved state; one of another kind of device cannot be continued
    and stays as it is.

    >>> rng = Generator().manual_seed(0)
    >>> resume(rng, torch.zeros(16, dtype=torch.uint8))  # a GPU's
    >>> rng.initial_seed()
    0
    """
    if len(state) == len(rng.get_state()):
        rng.set_state(state)


@torch.no_grad()
def ema_update(slow: nn.Module, fast: nn.Module, keep: float) -> None:
    """Exponential moving average of parameters, slow ← keep·slow + (1 − keep)·fast; buffers are
    copied.
    """
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - keep)
    for buffer, newest in zip(slow.buffers(), fast.buffers(), strict=True):
        buffer.copy_(newest)
