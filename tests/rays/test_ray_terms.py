"""L-NeRF's threshold where a weight equals it, soft mining's warm-up, a quadtree's epochs."""

from __future__ import annotations

import pytest
import torch

from mednerf_kit.core.types import Pixels, Rays, Samples
from mednerf_kit.rays.samplers.importance import Importance
from mednerf_kit.rays.samplers.l_nerf import Local
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.rays.selectors.quadtree import Quadtree
from mednerf_kit.rays.selectors.soft_mining import SoftMining

CELLS = 8  # of length 1 each
LEVELS = [  # options, weights; exact in binary, so that equal is equal
    ({"threshold": 0.25}, 0.25, 0.5),
    ({"threshold": 0.5, "relative": True}, 0.25, 0.5),
    ({"threshold": 1.0, "relative": True}, 0.5, 0.5),
]


def ray_and_weights(at_threshold: float, above: float) -> tuple[Rays, Samples, torch.Tensor]:
    """One ray of eight cells: weights of the third and the seventh; half the third's elsewhere."""
    rays = Rays(torch.zeros(1, 3), torch.eye(3)[:1], torch.zeros(1), torch.full((1,), float(CELLS)))
    w = torch.full((1, CELLS), at_threshold / 2)
    w[0, 2], w[0, 6] = at_threshold, above
    return rays, Stratified(n=CELLS)(rays), w


@pytest.mark.parametrize("skip_masked", [False, True])
@pytest.mark.parametrize(("options", "equal", "above"), LEVELS)
def test_a_weight_that_equals_the_threshold_gets_its_share(options, equal, above, skip_masked):
    rays, coarse, w = ray_and_weights(equal, above)
    sampler = Local(n=300, kappa=1.0, merge=False, skip_masked=skip_masked, **options)
    counted = torch.histc(sampler(rays, (coarse, w)).t, CELLS, 0, CELLS)
    share = equal / (equal + above)
    wanted = torch.zeros(CELLS)
    wanted[2], wanted[6] = 300 * share, 300 * (1 - share)
    assert (counted - wanted).abs().max() <= 1


def test_the_released_codes_window_begins_at_a_weight_that_equals_the_threshold():
    """The third cell opens the window, the seventh closes it."""
    rays, coarse, w = ray_and_weights(0.25, 0.5)
    t = Local(n=64, threshold=0.25, compat="released")(rays, (coarse, w)).t[0]
    fine = t[(t[:, None] - coarse.t[0]).abs().amin(1) > 1e-6]
    assert 2.0 <= fine.min() < 3.0, "the first to pass opens the window"


def test_a_threshold_of_zero_is_reached_by_every_weight():
    """Also by those that are zero: it is importance sampling then."""
    rays, coarse, w = ray_and_weights(0.25, 0.5)
    w[0, 4] = 0.0
    asked = Local(n=40, kappa=1.0, threshold=0.0, skip_masked=True)(rays, (coarse, w))
    known = Importance(n=40)(rays, (coarse, w))
    assert asked.t.shape == known.t.shape and asked.dt.sum().item() == pytest.approx(CELLS)
    torch.testing.assert_close(asked.t, known.t, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "warm_up", "alpha"), [({}, 600, 0.6), ({"warmup_steps": 40, "alpha": 1.0}, 40, 1.0)]
)
def test_soft_minings_weights_grow_until_its_warm_up_is_over(options, warm_up, alpha):
    """Q^−α with Q = √error: errors 1 and 16 are weighed 4^α apart; α grows with the step."""
    selector = SoftMining(n=2, explore=0.0, idle=0.0, images=torch.rand(1, 8, 8, 3), **options)
    for share in (0.0, 0.05, 0.5, 1.0, 3.0):
        pixels: Pixels = selector.select(round(share * warm_up), torch.Generator().manual_seed(0))
        weight = selector.weigh(pixels, torch.tensor([1.0, 16.0]))
        ratio = (weight[0] / weight[1]).item()
        assert ratio == pytest.approx(4 ** (alpha * min(share, 1.0)), rel=1e-5)
        assert weight.mean().item() == pytest.approx(1)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_quadtree_is_split_after_its_epochs(epochs):
    """An epoch of open leaves is a ray a pixel: 2 views of 256 pixels are 8 batches of 64."""
    images = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    tree = Quadtree(n=64, depth=1, max_depth=3, refresh_epochs=epochs, images=images)
    rng, depths = torch.Generator().manual_seed(1), []
    for step in range(2 * 8 * epochs + 1):
        pixels = tree.select(step, rng)
        tree.observe(pixels, torch.ones(64))
        depths.append(int(tree.depth.max()))
    assert [depths.index(2), depths.index(3)] == [8 * epochs, 16 * epochs]
