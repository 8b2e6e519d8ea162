"""What the posed task's discriminator is shown: whose patches, from where, with which gradient."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import random_prior
from torch import Generator

from mednerf_kit.engine.distributed import BatchShard
from mednerf_kit.prior.posed_patches import PatchSource
from mednerf_kit.prior.training_volumes import TrainingVolumes
from mednerf_kit.rays.selectors.patches import StridedPatch
from mednerf_kit.recon.field_volume import bake, bake_matter

VIEWS_EACH, BATCH = 2, 8
WHOLE = BatchShard()


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def source_of(prior, images=None, *, size=16, known=0.5) -> PatchSource:
    geometry, count = prior.geometry, len(prior.codes)
    if images is None:
        images = torch.rand(count, geometry.views, geometry.rows, geometry.cols)
    training = TrainingVolumes(
        images,
        torch.zeros(count, 4, 4, 4),
        torch.zeros(count, geometry.views),
        torch.full((count,), geometry.distance),
        False,
    )
    shape = {"views": geometry.views, "rows": geometry.rows, "cols": geometry.cols}
    return PatchSource(training, geometry, StridedPatch(size=size, **shape), VIEWS_EACH, known)


def test_known_patients_are_judged_beside_their_own_views():
    """Where the DRRs are what the generator makes, reals and fakes are the same patches."""
    prior = random_prior()
    code = prior.generator.weights(prior.generator.coded(prior.codes))
    size = round(0.9 * prior.geometry.cols)
    views = bake(prior.generator, code, prior.geometry, size=size).project(prior.geometry)
    source = source_of(prior, views, known=1.0)
    places = source.places(BATCH, WHOLE, seeded(1))
    latent = source.patients(prior.generator, prior.codes, places.ids, BATCH, WHOLE, seeded(2))
    distance = source.training.distance[places.ids]
    fakes = source.projected(prior.generator, prior.generator.weights(latent), distance, places)
    reals = source.reals(places)
    assert reals.shape == fakes.shape == (BATCH, 16 * 16)
    assert (reals - fakes).abs().mean() < 0.02 * reals.std() and reals.std() > 0.01


@pytest.mark.parametrize("known", [0.0, 0.5, 1.0])
def test_so_many_of_the_generated_patients_are_known_ones(known):
    prior, n = random_prior(), 400
    source = source_of(prior, known=known)
    ids = torch.arange(n // VIEWS_EACH) % len(prior.codes)
    latent = source.patients(prior.generator, prior.codes, ids, n, WHOLE, seeded())
    rebuilt = torch.isclose(latent.pose, prior.codes[ids][:, -latent.pose.shape[1] :]).all(1)
    assert float(rebuilt.float().mean()) == pytest.approx(known, abs=0.12)
    assert known not in (0.0, 1.0) or float(rebuilt.float().mean()) == known


def test_parts_of_a_batch_are_the_whole():
    prior = random_prior()
    source = source_of(prior)
    whole = source.places(BATCH, WHOLE, seeded(4))
    parts = [source.places(BATCH, BatchShard(k, 2), seeded(4)) for k in range(2)]
    assert torch.equal(torch.cat([p.ids for p in parts]), whole.ids)
    assert torch.equal(torch.cat([p.pixels.yx for p in parts]), whole.pixels.yx)
    of_whole = source.patients(prior.generator, prior.codes, whole.ids, BATCH, WHOLE, seeded(5))
    of_parts = [
        source.patients(prior.generator, prior.codes, p.ids, BATCH, BatchShard(k, 2), seeded(5))
        for k, p in enumerate(parts)
    ]
    torch.testing.assert_close(torch.cat([one.w for one in of_parts]), of_whole.w)


@pytest.mark.parametrize(("nodes", "pays"), [(8, False), (64, True)])
def test_patients_are_baked_where_that_takes_fewer_points(nodes, pays):
    """29³ voxels, half of them matter, against 2 · 16² rays."""
    source = source_of(random_prior())
    assert source.grid == 29 and source.baking_pays(nodes) == pays


def test_patches_have_several_scales():
    places = source_of(random_prior()).places(40, WHOLE, seeded())
    stride = places.pixels.yx[:, 16, 0] - places.pixels.yx[:, 0, 0]
    assert stride.min() < 1.2 and stride.max() > 1.8 and stride.min() >= 1


def test_baked_patients_pass_the_gradient_of_their_matter():
    """The voxels are those of ``bake`` where there is matter, and differentiable there."""
    prior = random_prior()
    code = prior.generator.weights(prior.generator.coded(prior.codes[:2]))
    weight = code.layers[-1][1].clone().requires_grad_(True)
    learned = replace(code, layers=(*code.layers[:-1], (code.layers[-1][0], weight)))
    full = bake(prior.generator, code, prior.geometry, size=20).values
    matter = bake_matter(prior.generator, learned, prior.geometry, size=20, air_share=0.3).values
    torch.testing.assert_close(
        matter.detach()[full > 0.6 * full.amax()], full[full > 0.6 * full.amax()]
    )
    (slope,) = torch.autograd.grad(matter.sum(), weight)
    assert slope.shape == weight.shape and (slope > 0).all()
