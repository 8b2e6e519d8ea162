"""The two optimisers of an adversarial training, by name: their rule, rates and schedule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..core.config import Registry
from ..core.errors import UserError


@dataclass(frozen=True)
class GanOptimizers:
    """The generator's and the discriminator's optimiser; both rates halve at the named steps."""

    generator: torch.optim.Optimizer
    discriminator: torch.optim.Optimizer
    halve_at: Sequence[int]

    def at(self, step: int) -> None:
        """Set the rates of this step: halved at every step of ``halve_at`` that is behind it."""
        share = 0.5 ** sum(step >= halving for halving in self.halve_at)
        for optimiser in (self.generator, self.discriminator):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * share


OPTIMISERS: Registry[GanOptimizers] = Registry("optimiser")


def lazy_share(interval: int) -> float:
    """Lazy regularisation's correction k / (k + 1) of a rate (and, as an exponent, of Adam's betas)
    for a penalty that is applied every k-th step.

    Karras et al. 2020 (arXiv 1912.04958), appendix B; 1 where there is no such penalty (interval 0
    or 1).

    >>> lazy_share(16), lazy_share(1)
    (0.9411764705882353, 1.0)
    """
    return interval / (interval + 1) if interval > 1 else 1.0


@OPTIMISERS.register("adam")
def adam(
    *,
    g_rate: float = 2.5e-3,
    d_rate: float = 2.5e-3,
    beta1: float = 0.0,
    beta2: float = 0.99,
    g_interval: int = 4,
    halve_at: tuple = (),
    generator: Iterable[nn.Parameter],
    discriminator: Iterable[nn.Parameter],
    d_interval: int = 0,
) -> GanOptimizers:
    """Adam on both sides, with lazy regularisation's correction of rates and betas.

    The rate becomes rate · c and beta becomes beta ** c, with c = k / (k + 1) of each side's
    interval k (:func:`lazy_share`).

    Options:
        g_rate: the generator's learning rate.
        d_rate: the discriminator's learning rate.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        g_interval: the generator's k; StyleGAN2's 4 even where the generator has no penalty, as in
            HyperNeRFGAN's training.
        halve_at: steps at which both rates are halved.
    """
    check_rates(g_rate, d_rate)

    def one(parameters: Iterable[nn.Parameter], rate: float, interval: int) -> torch.optim.Adam:
        c = lazy_share(interval)
        return torch.optim.Adam(
            [{"params": list(parameters), "peak": rate * c}],
            lr=rate * c,
            betas=(beta1**c, beta2**c),
            fused=True,
        )

    return GanOptimizers(
        one(generator, g_rate, g_interval), one(discriminator, d_rate, d_interval), halve_at
    )


@OPTIMISERS.register("rmsprop")
def rmsprop(
    *,
    g_rate: float = 5e-4,
    d_rate: float = 1e-4,
    alpha: float = 0.99,
    halve_at: tuple = (50_000, 100_000, 200_000),
    generator: Iterable[nn.Parameter],
    discriminator: Iterable[nn.Parameter],
) -> GanOptimizers:
    """RMSprop on both sides (GRAF, MedNeRF).

    Options:
        g_rate: the generator's learning rate.
        d_rate: the discriminator's learning rate.
        alpha: decay of the mean square.
        halve_at: steps at which both rates are halved.
    """
    check_rates(g_rate, d_rate)

    def one(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.RMSprop:
        groups = [{"params": list(parameters), "peak": rate}]
        return torch.optim.RMSprop(groups, lr=rate, alpha=alpha, eps=1e-8)

    return GanOptimizers(one(generator, g_rate), one(discriminator, d_rate), halve_at)


def check_rates(*rates: float) -> None:
    """Refuse a learning rate nothing learns with."""
    if min(rates) <= 0:
        shown = ", ".join(f"{rate:g}" for rate in rates)
        raise UserError(
            f"got learning rates {shown}", "wanted positive ones", "correct the optimiser"
        )
