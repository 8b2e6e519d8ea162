"""What several processes that train one generator agree on.

That is the precision, the random patients of a batch, and what a discriminator that compares
pictures sees of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator

from ..engine.distributed import BatchShard, Ranks
from ..gan.generator import Latent, PatientGenerator


def agree_precision(ranks: Ranks, *generators: PatientGenerator) -> None:
    """Let every process compute these generators' fields in the first process's precision.

    That is the recipe's, or what was faster there.
    """
    agreed = ranks.broadcast_text(generators[0].precision)
    for generator in generators:
        generator.field.precision = agreed


def keep_precision(state: Mapping[str, Any], *generators: PatientGenerator) -> None:
    """Go on in the precision that a snapshot names; one that names none leaves it open."""
    for generator in generators if "precision" in state else ():
        generator.field.precision = state["precision"]


def random_patients(
    generator: PatientGenerator, n: int, shard: BatchShard, rng: Generator
) -> Latent:
    """A part of n random patients: what ``generator.draw(n, rng)`` would make of these rows."""
    eps = torch.randn((n, generator.latent_dim), generator=rng, device=rng.device)
    return generator.latent(shard.take(eps).to(next(generator.parameters())))


def group_size_note(discriminator: Any, batch: int, parts: int) -> list[str]:
    """A remark for a discriminator that compares fewer pictures at a time than the recipe says."""
    group = getattr(discriminator, "mbstd_group", 1)
    alone, here = math.gcd(batch, group), math.gcd(batch // parts, group)
    if alone == here:
        return []
    return [
        f"note: the discriminator compares {here} pictures at a time instead of {alone}: it sees "
        f"{batch // parts} of the {batch}"
    ]
