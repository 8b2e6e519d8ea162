"""The conditional task: its score against closed forms, its data, and runs that go on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_training import assert_same, last_tensors, stats
from torch import Generator

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.engine.session import resolve, train
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.conditional import SLAB, hidden_borders, ranked_score, squared_error
from mednerf_kit.prior.conditional_setup import build_task
from mednerf_kit.prior.training_volumes import make_training_volumes

SMALL = (
    "generator.pixels=16",
    "generator.margin=4",
    "generator.planes=12",
    "generator.widths=[8,16]",
    "generator.precision=fp32",
    "task.batch=2",
    "dataset.volume_size=16",
    "snapshot_steps=2",
)


def trained(dataset, outdir, *settings, **options):
    found = train(
        dataset=str(dataset),
        config="chest_conditional",
        settings=[*SMALL, *settings],
        outdir=outdir,
        split="all",
        **options,
    )
    assert found is not None
    return found


def test_the_score_of_two_answers_to_a_constant() -> None:
    """Cells, blocks and sums of constants: CRPS is (|a − t| + |b − t| − |a − b|)/2 of each."""
    shape, lengths = (1, SLAB, 8, 8), torch.full((8, 8), 0.5)
    truth, a, b = torch.full(shape, 1.0), torch.full(shape, 3.0), torch.full(shape, 4.0)
    found = ranked_score(torch.cat([a, b]), truth, lengths, 0)
    # cells and blocks score 2; a sum along a ray of 12 cells, 8 rows or columns, of length 0.5
    expected = 1.0 * 2 + 2.0 * 2 + 0.4 * 2 * SLAB * 0.5 + 0.6 * 2 * 8 * 0.5 + 0.3 * 2 * 8 * 0.5
    assert math.isclose(float(found), expected, rel_tol=1e-5)


def test_the_score_is_least_for_the_right_spread() -> None:
    """For a truth N(0, 1) the expected score is least where the answers are N(0, 1) as well."""
    rng = Generator().manual_seed(0)
    shape, lengths = (400, SLAB, 4, 4), torch.full((4, 4), 0.01)

    def score(spread: float) -> float:
        truth = torch.randn(shape, generator=rng)
        answers = spread * torch.randn(2 * shape[0], *shape[1:], generator=rng)
        return float(ranked_score(answers, truth, lengths, 0))

    least = score(1.0)
    assert least < score(0.6) and least < score(1.5)


def test_the_squared_error_of_a_constant() -> None:
    truth, lengths = torch.zeros(1, SLAB, 8, 8), torch.full((8, 8), 0.5)
    found = squared_error(truth + 2, truth, lengths, 0)
    expected = 4 * (
        1.0 + 2.0 + 0.4 * (SLAB * 0.5) ** 2 + 0.6 * (8 * 0.5) ** 2 + 0.3 * (8 * 0.5) ** 2
    )
    assert math.isclose(float(found), expected, rel_tol=1e-5)


def test_borders_are_hidden_now_and_then() -> None:
    seen = hidden_borders(400, 20, Generator().manual_seed(0))
    some = (seen.amin((1, 2)) < 1).float().mean()
    assert 0.08 < float(some) < 0.22
    assert bool(seen[:, 5:-5, 5:-5].all()), "a border takes no more than its share"


def test_it_trains_and_goes_on_where_it_stopped(tiny_set, tmp_path) -> None:
    whole = trained(tiny_set, tmp_path / "whole", "steps=4")
    learned = [set(row) & {"squared_error", "ranked_score"} for row in stats(whole)]
    assert learned == [{"squared_error"}] * 3 + [{"ranked_score"}], "first a guess, then the spread"
    half = trained(tiny_set, tmp_path / "parts", "steps=4", max_minutes=1e-9)
    assert len(stats(half)) < 4
    again = trained(tiny_set, tmp_path / "parts", "steps=4", resume="latest")
    assert again == half
    assert set(last_tensors(again)) == set(last_tensors(whole))


def test_a_finished_generator_joins_the_prior_beside_it(tiny_set, tmp_path) -> None:
    prior = train(
        dataset=str(tiny_set),
        config="chest",
        preset="quick",
        settings=["task.objective=posed", "steps=1", "task.batch=2", "calibration_patients=0"],
        outdir=tmp_path,
        split="all",
    )
    assert prior_load.load_prior(prior).conditional is None
    run = trained(tiny_set, tmp_path, "steps=2", f"task.beside={prior}")
    joined = prior_load.load_prior(prior).conditional
    assert joined is not None and joined.angle_deg == 270.0
    kept = {
        name.removeprefix("ema."): t.half().float()
        for name, t in last_tensors(run).items()
        if name.startswith("ema.")
    }
    assert_same(dict(joined.generator.state_dict()), kept)


def test_pictures_without_a_scale_are_learned_at_the_scale_that_makes_them_white(toys) -> None:
    """Each varied patient, seen at the mean gain of the angle, is white at his densest ray."""
    orbits = load_orbits(toys, split="all")
    orbits = orbits.subset(orbits.patients[:2])
    geometry = replace(orbits.geometry, line_integral_scale=None)
    stretched = (orbits.images.float() / orbits.images.float().amax((-1, -2), keepdim=True)).half()
    orbits = replace(orbits, images=stretched, geometry=geometry)
    settings = [*SMALL, "task.noise=0.0", "task.gain_sigma=0.0"]
    recipe = resolve(str(toys), "chest_conditional", "default", settings)
    task = build_task(recipe, orbits, seed=0, device="cpu")
    learned = make_training_volumes(orbits, size=16, progress=False)
    frontal = geometry.angles_deg.index(270.0)
    assert task.view_gain == pytest.approx(float(learned.log_gains[:, frontal].mean().exp()))
    truth, xray, _ = task.draw()
    assert xray.amax((1, 2)).tolist() == pytest.approx([1.0] * len(xray))
    inner = slice(4, 20)
    again = task.view_gain * task.grid.line_integrals(truth)[:, inner, inner]
    torch.testing.assert_close(again, xray)


def test_a_foreign_file_beside_a_prior_is_named(tmp_path, tiny_set) -> None:
    run = trained(tiny_set, tmp_path, "steps=2")
    path = run / "snapshot-000002.safetensors"
    assert prior_load.load_conditional(path).generator.pixels == 16
    with pytest.raises(UserError, match="alone is no prior"):
        prior_load.load_prior(run)
