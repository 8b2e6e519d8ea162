"""What several processes that train one generator agree on: precision, random patients, and what a
discriminator that compares pictures sees of a batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator

from ..engine.distributed import BatchShard, Ranks
from ..fields import hyper
from ..gan.generator import Latent, SceneGenerator


def agree_precision(field: Any, ranks: Ranks, device: str | torch.device) -> None:
    """Let every process compute a generated field in the precision that the first one found
    fastest.
    """
    mlp = getattr(field, "mlp", field)
    fastest = mlp.dtype or hyper.fastest_dtype(torch.device(device))
    mlp.dtype = getattr(torch, ranks.broadcast_text(str(fastest).removeprefix("torch.")))


def random_patients(generator: SceneGenerator, n: int, share: BatchShard, rng: Generator) -> Latent:
    """A share of n random patients: what ``generator.draw(n, rng)`` would make of these rows."""
    eps = torch.randn((n, generator.latent_dim), generator=rng, device=rng.device)
    return generator.latent(share.take(eps).to(next(generator.parameters())))


def group_size_note(discriminator: Any, batch: int, parts: int) -> list[str]:
    """What to say when a discriminator that compares the pictures of a batch sees fewer of them at
    a time.
    """
    group = getattr(discriminator, "mbstd_group", 1)
    alone, here = math.gcd(batch, group), math.gcd(batch // parts, group)
    if alone == here:
        return []
    return [
        f"note: the discriminator compares {here} pictures at a time instead of {alone}: it sees "
        f"{batch // parts} of the {batch}"
    ]
