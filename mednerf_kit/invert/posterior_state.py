"""Everything that a search of a posed prior's scenes optimises."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..gan.generator import HyperGenerator
from .descent import SearchState


@dataclass(frozen=True)
class State(SearchState):
    """M = 1 + K members, n views."""

    eps: Tensor  # [M, latent_dim]
    style: Tensor  # [M, code_dim] added to w
    deltas: tuple[Tensor, ...]  # [M, …] added to each layer's factors
    log_gain: Tensor  # [M, n]
    tone: Tensor  # [M, n, Q] standard normal numbers of a film's response; Q is 0 without films
    turn_deg: Tensor  # [n] added to the angles
    log_distance: Tensor  # [] added to the prior's

    @classmethod
    def of(cls, eps: Tensor, tone: Tensor, generator: HyperGenerator) -> State:
        """Codes [M, latent_dim] in the set-up as stated, with responses ``tone`` [M, n, Q]."""
        (m, n), device = tone.shape[:2], eps.device
        return cls(
            eps=eps.clone(),
            style=torch.zeros(m, generator.code_dim, device=device),
            deltas=generator.no_deltas(m),
            log_gain=torch.zeros(m, n, device=device),
            tone=tone,
            turn_deg=torch.zeros(n, device=device),
            log_distance=torch.zeros((), device=device),
        )

    def best(self) -> State:
        """The best guess alone: M = 1."""
        return replace(
            self,
            eps=self.eps[:1],
            style=self.style[:1],
            deltas=tuple(delta[:1] for delta in self.deltas),
            log_gain=self.log_gain[:1],
            tone=self.tone[:1],
        )
