"""Adam without torch's compiler, which ``torch.optim`` imports when an optimiser is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class Moments:
    """What Adam remembers of one tensor."""

    mean: Tensor
    square: Tensor
    steps: int = 0


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), step for step what ``torch.optim.Adam`` does on a CPU.

    That one imports torch's compiler and sympy when it is made, some two seconds, a good part of
    what a search of a hundred steps takes. ``groups`` are dicts of ``params``, leaf tensors, and
    ``lr``, their learning rate, which may be changed between steps.

    >>> x = torch.tensor([3.0], requires_grad=True)
    >>> adam = Adam([{"params": [x], "lr": 0.5}])
    >>> x.square().sum().backward()
    >>> adam.step()
    >>> x
    tensor([2.5000], requires_grad=True)
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.param_groups = [dict(group) for group in groups]
        self.betas, self.eps = betas, eps
        self.moments: dict[Tensor, Moments] = {}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for tensor in group["params"]:
                tensor.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """x ← x − lr · m̂ / (√v̂ + eps) for every tensor that has a gradient."""
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is not None:
                    self._move(tensor, tensor.grad, group["lr"])

    def _move(self, tensor: Tensor, grad: Tensor, rate: float) -> None:
        known = self.moments.get(tensor)
        if known is None:
            known = Moments(torch.zeros_like(tensor), torch.zeros_like(tensor))
            self.moments[tensor] = known
        known.steps += 1
        first, second = self.betas
        known.mean.lerp_(grad, 1 - first)
        known.square.mul_(second).addcmul_(grad, grad, value=1 - second)
        root = (known.square.sqrt() / (1 - second**known.steps) ** 0.5).add_(self.eps)
        tensor.addcdiv_(known.mean, root, value=-rate / (1 - first**known.steps))
