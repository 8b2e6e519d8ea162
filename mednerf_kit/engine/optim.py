"""The two optimisers of an adversarial training, by name: a recipe's choice of rule, rates and
schedule.
"""

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
        """Set the rates of this step."""
        share = 0.5 ** sum(step >= border for border in self.halve_at)
        for optimiser in (self.generator, self.discriminator):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * share


OPTIMISERS: Registry[GanOptimizers] = Registry("optimiser")


def lazy_share(interval: int) -> float:
    """k / (k + 1): what a penalty applied every k-th step does to a rate (and, as an exponent, to
    Adam's betas).

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
    """Adam on both sides with the lazy-regularisation correction: rate · c and beta ** c, c = k /
    (k + 1) per side.

    ``g_interval`` is StyleGAN2's 4 even where no penalty of the generator exists, as in
    HyperNeRFGAN's training.
    """
    check_rates(g_rate, d_rate)

    def one(parameters: Iterable[nn.Parameter], rate: float, interval: int) -> torch.optim.Adam:
        c = lazy_share(interval)
        ours = list(parameters)
        return torch.optim.Adam(
            [{"params": ours, "peak": rate * c}],
            lr=rate * c,
            betas=(beta1**c, beta2**c),
            fused=on_gpu(ours),
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
    """RMSprop on both sides, rates halved at the named steps (GRAF, MedNeRF)."""
    check_rates(g_rate, d_rate)

    def one(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.RMSprop:
        return torch.optim.RMSprop(
            [{"params": list(parameters), "peak": rate}], lr=rate, alpha=alpha, eps=1e-8
        )

    return GanOptimizers(one(generator, g_rate), one(discriminator, d_rate), halve_at)


def on_gpu(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether an optimiser of these should be one kernel: a GPU waits for launches otherwise."""
    return all(p.is_cuda for p in parameters)


def in_one_pass(*optimisers: torch.optim.Optimizer) -> None:
    """Let Adam go once over memory where the processor does it, instead of once per operation;
    equal but for rounding.

    Of several processes each makes the whole step: what does not get shorter with more of them had
    better be short.
    """
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            if isinstance(optimiser, torch.optim.Adam) and all(
                p.device.type == "cpu" for p in group["params"]
            ):
                group["fused"] = True


def check_rates(*rates: float) -> None:
    """Refuse a learning rate nothing learns with."""
    if min(rates) <= 0:
        shown = ", ".join(f"{rate:g}" for rate in rates)
        raise UserError(
            f"got learning rates {shown}", "wanted positive ones", "correct the optimiser"
        )
