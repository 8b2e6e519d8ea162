"""A small prior, three of its scenes, and one of them found again from a single view."""

from __future__ import annotations

import pytest
import torch
from tiny import random_prior
from tiny_inversion import inverted, seeded

from mednerf_kit.invert.members import Posterior
from mednerf_kit.prior.load import Prior
from mednerf_kit.recon.field_volume import bake


@pytest.fixture(scope="session")
def prior() -> Prior:
    return random_prior()


@pytest.fixture(scope="session")
def scenes(prior):
    """Three unseen scenes of the prior: their networks, volumes and orbits [3, V, H, W]."""
    code = prior.generator.weights(
        prior.generator.latent(torch.randn(3, prior.generator.latent_dim, generator=seeded(5)))
    )
    volumes = bake(prior.generator, code, prior.geometry, size=48)
    return code, volumes, volumes.project(prior.geometry)


@pytest.fixture(scope="session")
def mean_orbit(prior):
    code = prior.generator.weights(
        prior.generator.latent(torch.zeros(1, prior.generator.latent_dim))
    )
    return bake(prior.generator, code, prior.geometry, size=48).project(prior.geometry)[0]


@pytest.fixture(scope="session")
def posterior(prior, scenes) -> Posterior:
    return inverted(prior, scenes[2][0])
