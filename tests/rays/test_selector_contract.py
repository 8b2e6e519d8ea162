"""Selectors: one contract over the whole registry and its options."""

from __future__ import annotations

import copy

import pytest
import torch
from selector_cases import COLS, CORRECTED, EVERY, ROWS, VIEWS, build, scene, seeded, trained, truth

from mednerf_kit.core.errors import UserError
from mednerf_kit.rays.selectors.base import SELECTORS, sample_bilinear


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_selector_stays_in_the_pictures_with_mean_weight_one(name, options):
    batches = trained(build(name, **options), 60, seeded())
    for pixels, weight in batches:
        assert (
            pixels.view.shape == pixels.weight.shape == pixels.yx.shape[:-1]
            and pixels.yx.shape[-1] == 2
        )
        assert (
            pixels.view.dtype == torch.int64
            and pixels.yx.dtype == pixels.weight.dtype == torch.float32
        )
        assert pixels.view.min() >= 0 and pixels.view.max() < VIEWS
        assert (pixels.yx > -1e-4).all() and (
            pixels.yx < torch.tensor([ROWS - 1, COLS - 1]) + 1e-4
        ).all()
        assert weight.isfinite().all() and (weight >= 0).all()
    means = torch.stack([weight.mean() for _, weight in batches])
    exact = name not in CORRECTED or 0 <= options.get("correction", 1.0) < 1 or name == "mask"
    assert means.mean().item() == pytest.approx(
        1, abs=1e-5 if exact else 4 * float(means.std()) / len(means) ** 0.5
    )


@pytest.mark.parametrize(
    ("name", "options"), [entry for entry in EVERY if build(entry[0], **entry[1]).unbiased]
)
def test_a_selector_that_claims_it_is_unbiased_while_it_learns(name, options):
    batches = trained(build(name, **options), 200, seeded(7))
    means = torch.stack(
        [(weight * sample_bilinear(truth().sqrt(), pixels)).mean() for pixels, weight in batches]
    ).double()
    epoch = VIEWS * ROWS * COLS // 60
    means = (
        means[: len(means) // epoch * epoch].view(-1, epoch).mean(1)
        if name == "shuffled"
        else means
    )
    off = float(means.mean() - truth().sqrt().mean())
    assert abs(off) < 4 * float(means.std()) / len(means) ** 0.5 + 1e-6


def test_what_claims_to_be_unbiased_is_what_corrects_fully():
    claims = {name for name, options in EVERY if build(name, **options).unbiased}
    assert claims == {"random", "shuffled", "latin_hypercube", *CORRECTED}
    assert not any(build(name, correction=c).unbiased for name in CORRECTED for c in (0.0, 0.5))


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_every_selector_is_deterministic_by_seed(name, options):
    one, same, other = (trained(build(name, **options), 12, seeded(s))[-1][0] for s in (5, 5, 6))
    assert (
        torch.equal(one.yx, same.yx)
        and torch.equal(one.view, same.view)
        and torch.equal(one.weight, same.weight)
    )
    assert not torch.equal(one.yx, other.yx)


@pytest.mark.parametrize(("name", "options"), EVERY)
def test_a_selector_continues_from_its_state(name, options):
    selector, generator = build(name, **options), seeded()
    trained(selector, 20, generator, until=0.5)
    copied, again = build(name, **options), seeded()
    copied.load_state_dict(copy.deepcopy(selector.state_dict()))
    again.set_state(generator.get_state())
    ahead, same = (trained(s, 10, g)[-1][0] for s, g in ((selector, generator), (copied, again)))
    assert (
        torch.equal(ahead.yx, same.yx)
        and torch.equal(ahead.view, same.view)
        and torch.equal(ahead.weight, same.weight)
    )


@pytest.mark.parametrize("name", sorted(SELECTORS.entries))
def test_every_selector_reaches_every_view(name):
    seen = {int(v) for pixels, _ in trained(build(name), 60, seeded()) for v in pixels.view}
    assert seen == set(range(VIEWS))


BAD = [
    ("shuffled", {"n": 0}, "batch"),
    ("latin_hypercube", {"n": 2}, "3 views"),
    ("egra", {"edge_chance": 1.5}, "edge_chance = 1.5"),
    ("egra", {"canny_low": 50.0, "canny_high": 40.0}, "canny_low = 50"),
    ("egra", {"correction": -1.0}, "correction = -1"),
    ("context", {"share": 2.0}, "share = 2"),
    ("mask", {"share": 1.0}, "strictly"),
    ("mask", {"n": 1}, "one ray on each side"),
    ("error_map", {"grid": 15}, "15×15 tiles"),
    ("error_map", {"keep": float("nan")}, "got nan .*keep"),
    ("error_map", {"every": 0}, "every = 0"),
    ("imap", {"n": 5}, "pilot"),
    ("imap", {"blocks": 30}, "30×30"),
    ("imap", {"pilot": 0.0}, "strictly"),
    ("quadtree", {"depth": 4}, "depth = 4"),
    ("quadtree", {"threshold": -0.1}, "threshold"),
    ("quadtree", {"closed_rays": 0}, "closed_rays = 0"),
    ("soft_mining", {"n": 2}, "3 views"),
    ("soft_mining", {"n": 900}, "900 walkers"),
    ("soft_mining", {"alpha": 1.1}, "alpha = 1.1"),
    ("expansive", {"anchors": 0.0}, "anchors = 0"),
    ("expansive", {"anchors": 1.0}, "anchors = 1"),
    ("expansive", {"anchor_rays": 0.0}, "anchor_rays = 0"),
    ("expansive", {"anchor_rays": 1.0}, "anchor_rays = 1"),
    ("expansive", {"n": 2}, "kinds of rays"),
    ("expansive", {"rendered": 1.5}, "rendered = 1.5"),
    ("expansive", {"anchor_weight": 0.0, "source_weight": 0.0}, "both 0"),
]


@pytest.mark.parametrize(("name", "options", "words"), BAD)
def test_an_option_out_of_range_is_refused_in_one_sentence(name, options, words):
    with pytest.raises(UserError, match=words) as caught:
        build(name, **options)
    assert "\n" not in str(caught.value) and "wanted" in str(caught.value)


@pytest.mark.parametrize("name", ["egra", "expansive"])
def test_a_view_without_a_single_edge_is_refused(name):
    facts = scene()
    facts["images"][1] = 0.5
    with pytest.raises(UserError, match="view 1 without a single edge"):
        build(name, facts)


@pytest.mark.parametrize("name", ["context", "soft_mining", "quadtree", "error_map", "imap"])
def test_blank_views_are_no_trouble_to_the_others(name):
    facts = scene()
    facts["images"][:] = 1.0
    selector = build(name, facts)
    for step in range(30):
        pixels = selector.select(step, seeded(step))
        selector.observe(pixels, torch.zeros(len(pixels.view)), torch.zeros_like(pixels.yx))
        assert pixels.weight.isfinite().all()


MISFITS = [
    (None, "without masks"),
    (torch.ones(VIEWS, ROWS, COLS + 1), "3×20×15"),
    (torch.zeros(VIEWS, ROWS, COLS), "nothing"),
    (torch.ones(VIEWS, ROWS, COLS), "everything"),
]


@pytest.mark.parametrize(("masks", "words"), MISFITS)
def test_masks_that_do_not_fit_are_refused(masks, words):
    with pytest.raises(UserError, match=words):
        build("mask", {**scene(), "masks": masks})
