"""How often augmentations happen: a fixed probability p, or one that follows overfitting."""

from __future__ import annotations

from torch import Tensor

from ...core.config import Registry
from ...core.errors import UserError

PROBABILITIES: Registry[FixedProbability | AdaptiveProbability] = Registry("augment probability")


@PROBABILITIES.register("fixed")
class FixedProbability:
    """A probability that stays what it is.

    Options:
        p: the probability, in [0, 1].

    >>> FixedProbability(p=0.3).p
    0.3
    """

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = _checked_p("p", p)

    def observe(self, real_logits: Tensor) -> None:
        """Nothing to learn."""

    def state(self) -> dict[str, float]:
        """Nothing to keep."""
        return {}

    def load(self, state: dict[str, float]) -> None:
        """Nothing to restore."""


@PROBABILITIES.register("adaptive")
class AdaptiveProbability:
    """A probability that follows the discriminator's overfitting (ADA, arXiv 2006.06676, sec. 3).

    r = E[sign D(real)] over some batches; then p += sign(r − target) · pictures / (1000 · kimg),
    within [0, p_max].

    Options:
        start: p at the beginning.
        target: the r at which p stands still.
        kimg: thousands of pictures in which p goes from 0 to 1.
        interval: batches between two changes of p.
        p_max: the highest p; above about 0.8 augmentations show in what the generator makes.

    >>> import torch
    >>> ada = AdaptiveProbability(interval=1, kimg=1.0)
    >>> ada.observe(torch.ones(100))
    >>> ada.p
    0.1
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        target: float = 0.6,
        kimg: float = 500.0,
        interval: int = 4,
        p_max: float = 0.8,
    ) -> None:
        if kimg <= 0 or interval < 1:
            raise UserError(
                f"got kimg {kimg:g} and interval {interval} for the adaptive probability",
                "wanted positive ones",
                "correct them",
            )
        self.p_max = _checked_p("p_max", p_max)
        self.p = min(_checked_p("start", start), p_max)
        self.target, self.kimg, self.interval = target, kimg, interval
        self.signs, self.pictures, self.batches = 0.0, 0, 0

    def observe(self, real_logits: Tensor) -> None:
        """Take note of the first head's logits of one batch of (augmented) reals, of any shape; p
        moves every ``interval`` batches.
        """
        self.signs += real_logits.detach().sign().sum().item()
        self.pictures += real_logits.numel()
        self.batches += 1
        if self.batches == self.interval:
            r = self.signs / self.pictures
            direction = (r > self.target) - (r < self.target)
            moved = self.p + direction * self.pictures / (1000 * self.kimg)
            self.p = min(self.p_max, max(0.0, moved))
            self.signs, self.pictures, self.batches = 0.0, 0, 0

    def state(self) -> dict[str, float]:
        """Plain numbers for a snapshot."""
        return {name: getattr(self, name) for name in ("p", "signs", "pictures", "batches")}

    def load(self, state: dict[str, float]) -> None:
        """Continue from :meth:`state`."""
        for name in self.state():
            setattr(self, name, state[name])


def _checked_p(name: str, p: float) -> float:
    if not 0 <= p <= 1:
        raise UserError(
            f"got {name} {p:g} for the augmentation",
            "wanted a probability between 0 and 1",
            "correct it",
        )
    return p
