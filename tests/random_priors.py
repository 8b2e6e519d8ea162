"""Priors without a training, whose random patients are looked at."""

import torch
from tiny_prior import NODE, snapshot
from torch import Generator

from mednerf_kit.prior import load as prior_load


def seeded(seed: int = 0) -> Generator:
    """A torch.Generator of a seed."""
    return Generator().manual_seed(seed)


LEVELS = [{"name": "stratified", "n": 96}]


def prior_of(tmp_path, task: dict | None = None, generator: dict | None = None) -> prior_load.Prior:
    """A tiny prior with random weights, of the recipe's own task or of these nodes."""
    recipe = {
        "generator": generator or NODE,
        "levels": LEVELS,
        "task": task or {"name": "prior"},
        "dataset": {"size": 32},
    }
    if generator is None:
        return prior_load.load_prior(snapshot(tmp_path / "run", recipe=recipe))
    torch.manual_seed(0)
    from mednerf_kit.gan.generator import GENERATORS

    made = GENERATORS.build(generator).requires_grad_(False)
    plain = prior_load.load_prior(snapshot(tmp_path / "plain"))
    return prior_load.Prior(
        made,
        plain.geometry,
        torch.zeros(0, made.latent_dim),
        {**plain.meta, "recipe": recipe},
        plain.path,
    )
