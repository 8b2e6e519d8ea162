"""Random patients: voxels show what rays show, draws agree, styles mix, copies are found."""

import itertools
from dataclasses import replace

import pytest
import torch
from random_priors import prior_of, seeded

from mednerf_kit.metrics import features
from mednerf_kit.metrics import image as image_metrics
from mednerf_kit.recon.field_volume import bake
from mednerf_kit.study.generation import memory, mixing, random_patients


def test_voxels_show_what_rays_show(tmp_path):
    prior = prior_of(tmp_path)
    code = next(random_patients.drawn_codes(prior, 1, seeded()))
    angles = (0.0, 45.0, 270.0)
    psnr_db = image_metrics.psnr_db(
        random_patients.baked_views(prior, code, angles),
        random_patients.own_views(prior, code, angles),
    )
    assert float(psnr_db.min()) > 35
    other = random_patients.own_views(
        prior, next(random_patients.drawn_codes(prior, 1, seeded(1))), angles
    )
    assert (
        float(
            (
                image_metrics.psnr_db(random_patients.baked_views(prior, code, angles), other)
                - psnr_db
            ).max()
        )
        < -3
    )


@pytest.mark.parametrize("detail", [[], [1.0, 0.5, 0.5]])
def test_voxels_get_back_what_training_and_interpolation_take(tmp_path, detail):
    prior = prior_of(tmp_path)
    prior = replace(prior, meta={**prior.meta, "detail": detail})
    code = next(random_patients.drawn_codes(prior, 1, seeded()))
    geometry = prior.geometry.at((30.0,))
    voxels = bake(prior.generator, code, geometry, size=48).with_detail(detail).unblurred()
    seen = random_patients.baked_views(prior, code, (30.0,), size=48)
    torch.testing.assert_close(seen, voxels.project(geometry, prior.distance)[0])


@pytest.mark.parametrize(
    "task",
    [{"image_model": "emission_absorption", "background": 1.0}, {"image_model": "transmission"}],
)
def test_voxels_show_what_rays_show_where_matter_hides_matter(tmp_path, task):
    node = {
        "name": "hypernerfgan",
        "code_dim": 8,
        "width": 16,
        "depth": 2,
        "octaves": 2,
        "rank": 2,
        "skip": 0,
        "outputs": 4 if "background" in task else 1,
    }
    prior = prior_of(tmp_path, {"name": "adversarial", **task}, node)
    code = next(random_patients.drawn_codes(prior, 1, seeded()))
    baked, own = (
        see(prior, code, (30.0,))
        for see in (random_patients.baked_views, random_patients.own_views)
    )
    assert float(own.std()) > 0.01
    assert float(image_metrics.psnr_db(baked, own).min()) > 30


def test_the_first_fakes_are_the_same_however_many(tmp_path):
    prior = prior_of(tmp_path)
    options = {"views": 3, "keep": 4, "orbits": 2, "orbit_deg": (0.0, 90.0)}
    few, many = (
        random_patients.draw(
            prior, {"pyramid": features.PyramidFeatures()}, count=n, rng=seeded(), **options
        )
        for n in (2, 8)
    )
    assert (
        few.pictures.shape == (2, 32, 32)
        and many.pictures.shape == (4, 32, 32)
        and few.orbits.shape == (2, 2, 32, 32)
    )
    assert (
        torch.equal(many.orbits, few.orbits)
        and len(many.features["pyramid"]) == 8
        and many.patients == 3
    )
    assert torch.allclose(
        features.read(features.PyramidFeatures(), many.pictures), many.features["pyramid"][:4]
    )
    assert float(many.pictures.min()) >= 0 and float(many.pictures.max()) <= 1


@pytest.mark.parametrize(("views", "each"), [(72, 8), (8, 8), (8, 3), (5, 1)])
def test_views_of_a_patient_are_spread_and_differ(views, each):
    chosen = sorted(random_patients.spread_views(views, each, seeded()).tolist())
    assert len(set(chosen)) == each and 0 <= chosen[0] <= chosen[-1] < views
    gaps = [b - a for a, b in zip(chosen, [*chosen[1:], chosen[0] + views], strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_mixing_takes_the_first_layers_of_one_and_the_last_of_the_other(tmp_path):
    prior = prior_of(tmp_path)
    g = prior.generator
    a, b = (g.draw(1, seeded(k)) for k in (0, 1))
    codes = [g.weights(latent) for latent in (a, b)]
    for k in range(len(codes[0].layers) + 1):
        mixed = mixing.crossed(*codes, k)
        for i, (w, bias) in enumerate(mixed.layers):
            source = codes[0] if i < k else codes[1]
            assert w is source.layers[i][0] and bias is source.layers[i][1]
        assert mixed.pose is codes[0].pose
    views = [
        random_patients.baked_views(prior, mixing.crossed(*codes, k), (270.0,))
        for k in range(len(codes[0].layers) + 1)
    ]
    assert torch.equal(views[-1], random_patients.baked_views(prior, codes[0], (270.0,)))
    assert all(float((x - y).abs().max()) > 1e-3 for x, y in itertools.pairwise(views))


def test_a_copy_is_found_and_new_patients_are_not_called_copies():
    training, fresh = torch.rand(14, 8, 16, 16, generator=seeded()).split([6, 8])
    names = [f"p{k}" for k in range(6)]
    columns = [0, 2, 4, 6]
    samples = torch.cat([training[[4]] + 0.01, fresh[:3]])[:, columns]
    found = memory.memorisation(samples, training.half(), names, columns, unseen=fresh[3:])
    assert found["nearest"][0]["patient"] == "p4" and found["nearest"][0]["rmse"] == pytest.approx(
        0.01, abs=1e-3
    )
    assert found["ratio_least"] < 0.05
    assert found["ratio_median"] == pytest.approx(1, abs=0.1) and found[
        "unseen_ratio"
    ] == pytest.approx(1, abs=0.1)


def test_a_turned_copy_is_found_where_no_angle_was_ever_told():
    training = torch.rand(3, 8, 16, 16, generator=seeded())
    sample = training[[1]][:, [3, 5, 7, 1]]
    still = memory.memorisation(sample, training, "abc", [0, 2, 4, 6])
    turned = memory.memorisation(sample, training, "abc", [0, 2, 4, 6], turns=range(8))
    assert still["ratio_least"] > 0.5 and turned["ratio_least"] == 0
    assert turned["nearest"][0]["patient"] == "b" and turned["nearest"][0]["turned_views"] == 3


def test_distances_of_large_pictures_are_taken_at_64_px():
    a, b = (
        torch.rand(2, 2, 128, 128, generator=seeded()),
        torch.rand(1, 2, 128, 128, generator=seeded(1)),
    )
    small = [torch.nn.functional.avg_pool2d(x, 2) for x in (a, b)]
    assert torch.allclose(memory.orbit_rmse(a, b), memory.orbit_rmse(*small))


def test_one_patient_or_twins_have_no_ratio():
    orbit = torch.rand(1, 4, 16, 16, generator=seeded())
    for training in (orbit, orbit.repeat(2, 1, 1, 1)):
        found = memory.memorisation(
            orbit + 0.1, training, "ab"[: len(training)], range(4), unseen=orbit
        )
        assert found["ratio_median"] is found["patient_rmse"] is found["unseen_ratio"] is None
        assert found["nearest"][0]["rmse"] == pytest.approx(0.1, abs=1e-6)
