"""One adversarial step: the discriminator is trained, then the generator gets its gradient.

Both tasks that train a prior take this step; each brings its own way of drawing patches, and steps
the generator's optimiser itself. A batch may be computed in parts, one after the other, which takes
so much less memory and changes nothing else: every part finds the random numbers of the whole batch
and keeps its own rows. With more than one part the generator's patches are rendered twice, once for
the discriminator and once for the generator's own gradient, of the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..core.types import DiscriminatorOutput
from ..engine.distributed import BatchShard, Ranks, RngSnapshot, mean_of
from ..engine.snapshots import (
    optimiser_tensors,
    restore_optimiser,
    set_rng_state,
    strip_prefix,
    with_prefix,
)
from ..gan.augment.apply import augmented
from ..gan.augment.parameters import Augment
from ..gan.discriminator import Discriminator
from ..gan.losses import AdversarialLoss, r1_penalty


@dataclass(frozen=True)
class Patches:
    """Patches of one part of a batch, all real or all generated."""

    images: Tensor  # [B, C, size, size] in [0, 1]
    angles_deg: Tensor | None = None  # [B] from where each is seen, where that is known

    def detached(self) -> Patches:
        """The same without a gradient."""
        return replace(self, images=self.images.detach())


#: Draws the real and the generated patches of one part of a batch.
DrawPatches = Callable[[BatchShard], tuple[Patches, Patches]]


@dataclass(frozen=True)
class Penalty:
    """A term that joins the discriminator's loss at every ``interval``-th step."""

    name: str  # in the log
    weight: float
    interval: int
    value: Callable[[Patches, DiscriminatorOutput], Tensor]  # of the reals and the output on them


def lazy_r1(
    discriminator: Discriminator, *, gamma: float, interval: int, share: float = 1.0
) -> Penalty:
    """The R1 penalty on unaugmented reals at every ``interval``-th step, weighted accordingly.

    This is lazy regularisation (Karras et al. 2020, appendix B) of
    :func:`~mednerf_kit.gan.losses.r1_penalty`.

    ``share`` of the penalty acts: 1/4 for a gamma published for pictures in [−1, 1], which ours, in
    [0, 1], are half as long as.
    """

    def value(reals: Patches, _: DiscriminatorOutput) -> Tensor:
        exact = reals.images.detach().clone().requires_grad_(True)
        logits = discriminator(exact, reals.angles_deg, heads=1).heads[:, 0]
        return share * r1_penalty(logits, exact).mean()

    return Penalty("r1", 0.5 * gamma * interval, interval, value)


@dataclass(frozen=True)
class Phase:
    """One side's turn in a step: the gradient of its loss over all parts of the batch."""

    trains_discriminator: bool
    sources: tuple[Any, ...]  # random generators and modules that every part finds as the first did
    loss: Callable[[BatchShard], tuple[Tensor, dict[str, float]]]  # and what to log of it
    finish: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class GanStep:
    """The game's two phases over one batch; what it trains is the discriminator."""

    discriminator: Discriminator
    optimiser: torch.optim.Optimizer  # the discriminator's
    loss: AdversarialLoss
    penalties: Sequence[Penalty]
    augment: Augment
    probability: Any  # of the augmentation; it watches the logits of the reals
    batch: int  # patches, over all processes and parts
    accumulate: int  # parts of a process's share of it
    rng: Generator  # of choices
    ray_rng: Generator  # of what is drawn along rays
    draws_margin: bool = False  # whether each part draws a number for a loss that is random
    redraws: bool = False  # whether the discriminator draws the reals again, at random

    def __call__(
        self, draw: DrawPatches, *, index: int, ranks: Ranks, alone: bool = False
    ) -> dict[str, float]:
        """Step the discriminator, and unless it learns ``alone`` add the generator's gradient.

        The gradient is added to the generator's parameters. Returns what to log, averaged over the
        parts.
        """
        start = RngSnapshot(self.rng, self.ray_rng)
        in_one = self.accumulate == 1 and not alone
        logits: list[Tensor] = []
        generated: list[Patches] = []

        def discriminator_loss(shard: BatchShard) -> tuple[Tensor, dict[str, float]]:
            with torch.set_grad_enabled(in_one):
                reals, fakes = draw(shard)
            if in_one:
                generated.append(fakes)
            loss, logged, real_logits = self._discriminator_loss(
                reals, fakes.detached(), index, shard
            )
            logits.append(real_logits)
            return loss, logged

        def update_discriminator() -> None:
            ranks.average_gradients(self.discriminator.parameters())
            self.optimiser.step()
            self.probability.observe(ranks.all_gather(torch.cat(logits)))

        def generator_loss(shard: BatchShard) -> tuple[Tensor, dict[str, float]]:
            if in_one:
                (fakes,) = generated
            else:  # one part's graph at a time
                with start.replayed():
                    _, fakes = draw(shard)
            heads = self._discriminate(fakes, shard).heads
            loss = self.loss.generator(heads, self.discriminator.dag_weight).mean()
            return loss, {"g_loss": float(loss.detach())}

        self.optimiser.zero_grad(set_to_none=True)
        phases = (
            Phase(
                True,
                (self.rng, self.ray_rng, self.discriminator),
                discriminator_loss,
                finish=update_discriminator,
            ),
            Phase(False, (self.rng, self.discriminator), generator_loss),
        )
        found: dict[str, float] = {}
        for phase in phases[: 1 if alone else 2]:
            self.discriminator.requires_grad_(phase.trains_discriminator)
            logged = []
            for shard in ranks.shards(self.accumulate, *phase.sources):
                loss, numbers = phase.loss(shard)
                (loss / self.accumulate).backward()
                logged.append(numbers)
            phase.finish()
            found |= mean_of(logged)
        return found

    def _discriminate(
        self, patches: Patches, shard: BatchShard, **options: Any
    ) -> DiscriminatorOutput:
        """What the discriminator says of augmented patches."""
        _, channels, rows, cols = patches.images.shape
        shape = (channels, rows, cols)
        drawn = self.augment.draw(self.batch, shape, self.probability.p, self.rng)
        images = augmented(patches.images, drawn.rows(shard.rows(self.batch)))
        return self.discriminator(images, patches.angles_deg, **options)

    def _discriminator_loss(
        self, reals: Patches, fakes: Patches, index: int, shard: BatchShard
    ) -> tuple[Tensor, dict[str, float], Tensor]:
        """The discriminator's loss, what to log of it, and the first head's logits of the reals."""
        options = {"rng": self.rng} if self.redraws else {}
        output = self._discriminate(reals, shard, **options)
        u = float(torch.rand((), generator=self.rng)) if self.draws_margin else 0.0
        fake_heads = self._discriminate(fakes, shard).heads
        weight = self.discriminator.dag_weight
        loss = self.loss.discriminator(output.heads, fake_heads, weight, u).mean()
        real_logits = output.heads[:, 0].detach()
        logged = {"d_loss": float(loss.detach()), "r_t": float(real_logits.sign().mean())}
        for penalty in self.penalties:
            if index % penalty.interval == 0:
                value = penalty.value(reals, output)
                loss = loss + penalty.weight * value
                logged[penalty.name] = float(value.detach())
        return loss, logged, real_logits

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Named tensors (discriminator, its optimiser, random generators), and plain values."""
        tensors = with_prefix("discriminator", self.discriminator.state_dict())
        tensors |= with_prefix("optim.discriminator", optimiser_tensors(self.optimiser))
        tensors |= {"rng": self.rng.get_state(), "ray_rng": self.ray_rng.get_state()}
        return tensors, {"probability": self.probability.state()}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.discriminator.load_state_dict(strip_prefix("discriminator", tensors))
        restore_optimiser(self.optimiser, strip_prefix("optim.discriminator", tensors))
        set_rng_state(self.rng, tensors["rng"])
        set_rng_state(self.ray_rng, tensors["ray_rng"])
        self.probability.load(values["probability"])
