"""Patients to look at: those of the seeds, between two, of two, and the training patients."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_prior
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.invert.render import walk
from mednerf_kit.prior.load import load_prior
from mednerf_kit.study.generation.gallery import COMPARED, VIEWS, Gallery
from mednerf_kit.study.generation.random_patients import baked_views, drawn_codes


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder: Path = tiny_prior.snapshot(tmp_path_factory.mktemp("prior"))
    return Gallery.of(load_prior(folder, precision="fp32"))


def same(a, b) -> bool:
    return all(torch.equal(v, w) for v, w in zip(a.layers[-1], b.layers[-1], strict=True))


def test_a_seed_is_the_patient_that_sample_draws(gallery: Gallery) -> None:
    (first,) = drawn_codes(gallery.prior, 1, torch.Generator().manual_seed(6), truncation=0.7)
    assert same(gallery.random(6, 0.7), first)
    orbit = gallery.turning(first)
    wanted = baked_views(gallery.prior, first, [0.0, 90.0], size=48).clamp(0, 1)
    assert orbit.shape == (VIEWS, 32, 32)
    assert torch.allclose(orbit[[0, VIEWS // 4]], wanted, atol=1e-6)


def test_the_ends_of_a_walk_and_of_a_mix_are_the_two(gallery: Gallery) -> None:
    a, b = gallery.random(2), gallery.random(3)
    for share, end in ((0.0, a), (1.0, b)):
        walked = gallery.between(2, 3, share)
        assert torch.allclose(walked.layers[0][0], end.layers[0][0], atol=1e-5)
    assert same(gallery.mixed(2, 3, 0), b) and same(gallery.mixed(2, 3, gallery.layers), a)
    half = gallery.mixed(2, 3, 1)
    assert torch.equal(half.layers[0][0], a.layers[0][0]) and same(half, b)


def test_a_walk_keeps_the_length_of_its_numbers(gallery: Gallery) -> None:
    one, two = gallery.numbers(0), gallery.numbers(1)
    lengths = [float(walk(one, two, s).norm()) for s in (0, 0.25, 0.5, 1)]
    start, end = float(one.norm()), float(two.norm())
    assert lengths == pytest.approx([start + s * (end - start) for s in (0, 0.25, 0.5, 1)])


def test_the_nearest_of_a_training_patient_is_itself(gallery: Gallery) -> None:
    assert not gallery.render_training(max_seconds=0) and not gallery.rendered
    assert gallery.render_training()
    assert {views.shape for views in gallery.rendered} == {(COMPARED, 32, 32)}
    assert len(gallery.rendered) == tiny_prior.PATIENTS
    for k in (0, 3):
        found = gallery.nearest(gallery.turning(gallery.trained(k)))
        assert found is not None and found["index"] == k
        assert found["rmse"] == pytest.approx(0, abs=1e-5)
    with pytest.raises(UserError, match="training patient 9"):
        gallery.trained(9)


def test_truncation_moves_a_patient(gallery: Gallery) -> None:
    assert gallery.truncates
    mean = gallery.random(0, 0.0)
    assert same(mean, gallery.random(5, 0.0))
