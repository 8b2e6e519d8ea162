"""A discriminator whose every gradient is known, and where optimisers go with known gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from mednerf_kit.core.types import DiscriminatorOutput

SIZE = 8
PIXELS = SIZE**2
MIDDLE = 0.5  # the mean that is neither real nor fake


class LinearDiscriminator(nn.Module):
    """D(x) = slope · Σ (x − 1/2): positive for bright pictures, where the slope is.

    Over a picture of N pixels |∂D/∂x|² = slope² N. It keeps the pictures it was shown, and the
    gradient that comes back to a picture from a loss that asks for nothing else.
    """

    dag_weight = 0.0

    def __init__(
        self,
        *,
        size: int = SIZE,
        slope: float = 0.01,
        channels: int = 1,
        rng: Generator | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        self.slope = nn.Parameter(torch.tensor(slope))
        self.shown: list[Tensor] = []
        self.slopes: list[Tensor] = []  # gradients of ``slope``, one a step
        self.returned: list[Tensor] = []  # gradients at pictures, while the slope stands still
        self.slope.register_post_accumulate_grad_hook(lambda p: self.slopes.append(p.grad.clone()))

    def forward(
        self, images: Tensor, angles_deg: Tensor | None = None, *, heads: int | None = None
    ) -> DiscriminatorOutput:
        self.shown.append(images.detach().clone())
        if images.requires_grad and not self.slope.requires_grad:
            images.register_hook(self.returned.append)
        return DiscriminatorOutput(self.slope * (images - MIDDLE).sum((1, 2, 3))[:, None])


def brightness(images: Tensor) -> Tensor:
    """What the discriminator multiplies by its slope, [B]."""
    return (images - MIDDLE).sum((1, 2, 3))


def slope_gradient(slope: float, reals: Tensor, fakes: Tensor, r1_weight: float) -> float:
    """d/d slope of mean [softplus(−D(real)) + softplus(D(fake))] + r1_weight/2 · slope² N."""
    real, fake = brightness(reals), brightness(fakes)
    game = -torch.sigmoid(-slope * real) * real + torch.sigmoid(slope * fake) * fake
    return float(game.mean()) + r1_weight * slope * PIXELS


def adam(gradients: Sequence[Tensor], rates: Sequence[float], betas: tuple[float, float]) -> Tensor:
    """How far Adam goes (Kingma & Ba 2015, algorithm 1, ε = 1e-8)."""
    moved, mean, square = (torch.zeros_like(gradients[0], dtype=torch.float64) for _ in range(3))
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient.double() ** 2
        root = (square / (1 - betas[1] ** step)).sqrt()
        moved = moved - rate * mean / (1 - betas[0] ** step) / (root + 1e-8)
    return moved


def rmsprop(gradients: Sequence[Tensor], rates: Sequence[float], alpha: float) -> Tensor:
    """How far RMSprop goes (Hinton 2012, lecture 6e, ε = 1e-8)."""
    moved, square = (torch.zeros_like(gradients[0], dtype=torch.float64) for _ in range(2))
    for gradient, rate in zip(gradients, rates, strict=True):
        square = alpha * square + (1 - alpha) * gradient.double() ** 2
        moved = moved - rate * gradient / (square.sqrt() + 1e-8)
    return moved


class Follower:
    """A parameter, where it started, and every gradient that reached it."""

    def __init__(self, parameter: Tensor) -> None:
        self.parameter, self.start = parameter, parameter.detach().clone()
        self.gradients: list[Tensor] = []
        parameter.register_post_accumulate_grad_hook(
            lambda p: self.gradients.append(p.grad.detach().clone())
        )

    @property
    def moved(self) -> Tensor:
        """How far it is from its start."""
        return (self.parameter.detach() - self.start).double()
