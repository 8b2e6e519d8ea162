"""From X-rays back to scenes: a known scene is found again, baking agrees with marching, and scores
say what they should.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS, SIZE, SPLIT, VIEWS, make_set, random_prior

from mednerf_kit.core.errors import UserError
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.engine import session
from mednerf_kit.fields.hyper import SHARP_EDGE
from mednerf_kit.invert import calibrate as calibrating
from mednerf_kit.invert import evaluate as scoring
from mednerf_kit.invert.evaluate import (
    Scored,
    baseline_orbits,
    evaluate,
    input_views,
    score_patient,
    summary,
)
from mednerf_kit.invert.posterior import Inversion, Posterior, Problem
from mednerf_kit.invert.predict import SPREAD_FLOOR, calibration, predict
from mednerf_kit.metrics import perceptual
from mednerf_kit.prior.load import Prior, load_prior
from mednerf_kit.rays.render import Level, render
from mednerf_kit.rays.samplers.stratified import Stratified
from mednerf_kit.recon.field_volume import bake, voxel_axis

QUICK = Inversion(samples=2, candidates=24, code_steps=40, pivot_steps=10, rays=128, nodes=16)
FASTEST = Inversion(samples=2, candidates=8, code_steps=10, pivot_steps=5, rays=64, nodes=8)
FRONTAL = 6  # of eight views: 270°
KEYS = {
    "psnr_db",
    "psnr_gain_fitted_db",
    "ssim",
    "lpips",
    "psnr_mask_db",
    "ssim_mask",
    "n_patients",
    "n_views",
    "input_angles_deg",
    "data_range",
    "seen",
    "per_patient",
    "per_angle",
    "baselines",
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def prior() -> Prior:
    return random_prior()


@pytest.fixture(scope="module")
def scenes(prior):
    """Three unseen scenes of the prior: their networks, volumes and orbits [3, V, H, W]."""
    code = prior.generator.weights(
        prior.generator.latent(torch.randn(3, prior.generator.latent_dim, generator=seeded(5)))
    )
    volumes = bake(prior.generator, code, prior.geometry, size=48)
    return code, volumes, volumes.project(prior.geometry)


@pytest.fixture(scope="module")
def mean_orbit(prior):
    code = prior.generator.weights(
        prior.generator.latent(torch.zeros(1, prior.generator.latent_dim))
    )
    return bake(prior.generator, code, prior.geometry, size=48).project(prior.geometry)[0]


def inverted(
    prior: Prior, orbit: torch.Tensor, views=(FRONTAL,), options: Inversion = QUICK, seed: int = 0
) -> Posterior:
    angles = torch.tensor([prior.geometry.angles_deg[k] for k in views])
    return options(prior, orbit[list(views)], angles, seeded(seed))


@pytest.fixture(scope="module")
def posterior(prior, scenes) -> Posterior:
    return inverted(prior, scenes[2][0])


def db(a: torch.Tensor, b: torch.Tensor) -> float:
    """PSNR per view at range 1, averaged over the views that were no input."""
    rest = [k for k in range(len(a)) if k != FRONTAL]
    return float((-10 * (a - b)[rest].square().mean((1, 2)).log10()).mean())


def marched(prior: Prior, code, angle_deg: float, distance: float, nodes: int = 64) -> torch.Tensor:
    """One view [rows, cols] by the ordinary renderer."""
    yx = prior.geometry.pixel_grid().reshape(1, -1, 2)
    rays = prior.geometry.field_rays(
        torch.full(yx.shape[:-1], angle_deg), yx, distance, prior.generator.field.support
    )
    return render(rays, prior.generator.field, [Level(Stratified(n=nodes))], code=code)[
        -1
    ].rendering.image.reshape(SIZE, SIZE)


# Baking


def test_baked_values_are_the_fields_at_voxel_centres(prior, scenes):
    code, volumes, _ = scenes
    line, values = voxel_axis(48), volumes.values
    for z, y, x in ((24, 24, 24), (10, 30, 20), (35, 12, 31)):
        point = torch.stack([line[x], line[y], line[z]]).expand(3, 1, 3)
        torch.testing.assert_close(
            prior.generator.field.density(point, code)[:, 0],
            values[:, z, y, x],
            rtol=1e-4,
            atol=1e-5,
        )
    outside = (line[:, None] ** 2 + line**2) >= prior.generator.field.support**2
    assert values[:, :, outside].abs().max() == 0 and values[:, line.abs() > 1.2].abs().max() == 0


@pytest.mark.parametrize("angle_deg", [0.0, 45.0, 270.0])
@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_projecting_what_was_baked_agrees_with_marching(prior, scenes, angle_deg, factor):
    code, volumes, _ = scenes
    distance = factor * prior.geometry.distance
    seen = volumes.project(prior.geometry.at([angle_deg]), distance)[0, 0]
    truth = marched(prior, code.one(0), angle_deg, distance)
    assert float(-10 * ((seen - truth) / truth.amax()).square().mean().log10()) > 38


# Inversion


def test_a_known_scene_is_found_from_one_view(prior, scenes, posterior, mean_orbit):
    """Every view but the one given: far better than the mean scene, and the input is explained."""
    truth = scenes[2][0]
    found = predict(prior, posterior, prior.geometry, size=48)
    assert db(found.views, truth) > db(mean_orbit, truth) + 6
    assert float((found.views - truth)[FRONTAL].square().mean()) < 2e-3
    assert posterior.held_out_mse < 2e-3


def test_the_fitted_geometry_stays_near_the_true_one(prior, posterior):
    assert abs(float(posterior.angles_deg[0]) - 270) < 3 and posterior.distance == pytest.approx(
        prior.geometry.distance, rel=0.1
    )
    assert (posterior.gains - 1).abs().max() < 0.2 and posterior.gains.shape == (3, 1)
    assert posterior.latent.w.shape[0] == posterior.code.batch == 3
    assert posterior.latent.pose.shape[0] == 3 and posterior.seconds > 0


def test_the_volume_is_found_too(prior, scenes, posterior):
    found = predict(prior, posterior, prior.geometry, size=48)
    truth = scenes[1].values[0]
    inside = truth > 0
    error = (found.volume.values - truth)[inside].square().mean()
    assert error < 0.3 * (truth[inside] - truth[inside].mean()).square().mean()


def test_inversion_repeats_by_seed_and_leaves_the_prior_alone(prior, scenes):
    before = {k: v.clone() for k, v in prior.generator.state_dict().items()}
    one, same, other = (inverted(prior, scenes[2][1], options=FASTEST, seed=s) for s in (3, 3, 4))
    assert (
        torch.equal(one.latent.w, same.latent.w)
        and torch.equal(one.gains, same.gains)
        and one.held_out_mse == same.held_out_mse
    )
    assert not torch.equal(one.latent.w, other.latent.w)
    assert all(torch.equal(v, before[k]) for k, v in prior.generator.state_dict().items())


def test_an_interrupted_inversion_leaves_the_prior_alone(prior, scenes, monkeypatch):
    """Ctrl-C in the middle of the search for codes, where the scan still ends softly."""
    generator = prior.generator

    def everything() -> dict[str, object]:
        return {k: v for k, v in vars(generator).items() if not k.startswith("_")}

    attributes = everything()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    code = generator.weights(generator.latent(torch.zeros(1, generator.latent_dim)))
    steps, step = [], torch.optim.Adam.step

    def interrupted(self, *args, **kwargs):
        steps.append(step(self, *args, **kwargs))
        if len(steps) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.Adam, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inverted(prior, scenes[2][1], options=FASTEST)
    assert len(steps) == 3 and everything() == attributes
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
    again = generator.weights(generator.latent(torch.zeros(1, generator.latent_dim)))
    assert again.pose.edge == code.pose.edge == SHARP_EDGE
    assert all(p.grad is None and not p.requires_grad for p in generator.parameters())


def test_two_views_say_more_than_one(prior, scenes):
    """Where one is ambiguous; here: the pictures of both inputs are explained, each with a gain and
    an angle of its own.
    """
    both = inverted(prior, scenes[2][2], views=(0, FRONTAL))
    assert both.gains.shape == (3, 2) and both.angles_deg.shape == (2,)
    found = predict(prior, both, prior.geometry, size=48)
    assert ((found.views - scenes[2][2])[[0, FRONTAL]].square().mean((1, 2)) < 2e-3).all()


def test_members_differ_and_the_best_guess_comes_first(posterior):
    w = posterior.latent.w
    assert (w[0] - w[1]).abs().max() > 1e-3 and (w[1] - w[2]).abs().max() > 1e-3


def test_a_time_limit_ends_the_search(prior, scenes):
    hurried = inverted(
        prior,
        scenes[2][0],
        options=replace(QUICK, max_seconds=0.0, code_steps=5000, pivot_steps=5000),
    )
    assert hurried.seconds < 10 and hurried.held_out_mse < 1


def held_out_error(prior: Prior, problem: Problem, found: Posterior) -> float:
    """Mean squared error of the members at the problem's held-out pixels, by the ordinary
    renderer.
    """
    total = 0.0
    for member in range(found.code.batch):
        seen = torch.stack(
            [
                marched(
                    prior, found.code.one(member), float(a), found.distance, problem.options.nodes
                )
                for a in found.angles_deg
            ]
        )
        view, y, x = problem.pixels.held_out.unbind(1)
        total += float(
            (found.gains[member, view] * seen[view, y, x] - problem.images[view, y, x])
            .square()
            .mean()
        )
    return total / found.code.batch


@pytest.mark.parametrize("wild_pivot", [False, True])
def test_the_state_with_the_lowest_held_out_error_is_kept(prior, scenes, wild_pivot):
    """Also when tuning everything makes it worse: then the codes alone are the answer."""
    problem = Problem(prior, scenes[2][0][[FRONTAL]], torch.tensor([270.0]), QUICK, seeded())
    never = torch.inf
    state, mse = problem.descend(problem.start(), 30, pivot=False, deadline=never)
    coded = held_out_error(prior, problem, problem.result(state, mse, 0.0))
    if wild_pivot:
        problem.options = replace(QUICK, code_rate=30.0)
    found = problem.result(*problem.descend(state, 5, pivot=True, deadline=never), 0.0)
    assert held_out_error(prior, problem, found) == pytest.approx(found.held_out_mse, rel=0.05), (
        "it says what it is"
    )
    assert held_out_error(prior, problem, found) <= 1.05 * coded


def test_held_out_pixels_are_never_fitted(prior, scenes):
    problem = Problem(
        prior, scenes[2][0][[0, FRONTAL]], torch.tensor([0.0, 270.0]), QUICK, seeded()
    )
    held, fitted = (
        {tuple(p) for p in pixels.tolist()}
        for pixels in (problem.pixels.held_out, problem.pixels.training)
    )
    assert (
        not held & fitted
        and len(fitted) == pytest.approx(0.9 * 2 * SIZE**2, rel=0.05)
        and len(held) > 100
    )


# What a posterior predicts


def test_the_orbit_is_the_members_mean_and_spread(prior, posterior):
    found = predict(prior, posterior, prior.geometry, size=32)
    assert found.members.shape == (3, VIEWS, SIZE, SIZE) and found.volume.values.shape == (
        32,
        32,
        32,
    )
    torch.testing.assert_close(found.views, found.members.mean(0))
    torch.testing.assert_close(found.spread, found.members.std(0) + SPREAD_FLOOR)
    seen = found.volume.project(prior.geometry, posterior.distance)
    (
        torch.testing.assert_close(found.views, seen, rtol=1e-3, atol=1e-4),
        "a mean of line integrals is the line integral of the mean",
    )


def test_calibration_widens_the_spread_by_the_number_of_views(prior, posterior):
    calibrated = replace(prior, meta={**prior.meta, "calibration": {"1": 2.0, "2": 3.0}})
    assert [calibration(calibrated, n) for n in (1, 2, 5)] == [2.0, 3.0, 3.0] and calibration(
        prior, 1
    ) == 1.0
    plain, wide = (predict(p, posterior, prior.geometry, size=16) for p in (prior, calibrated))
    torch.testing.assert_close(wide.spread, 2 * plain.spread)
    torch.testing.assert_close(wide.volume_spread.values, 2 * plain.volume_spread.values)


def test_views_of_a_set_scaled_one_by_one_get_their_angles_mean_gain(prior, posterior):
    profile = torch.linspace(-0.2, 0.3, VIEWS)
    scaled = replace(prior, meta={**prior.meta, "log_gain_profile": profile.tolist()})
    step = 360 / VIEWS
    between = scaled.expected_gain(torch.tensor([0.0, step, 1.25 * step, -0.5 * step, 360.0]))
    wanted = torch.stack(
        [
            profile[0],
            profile[1],
            0.75 * profile[1] + 0.25 * profile[2],
            (profile[0] + profile[-1]) / 2,
            profile[0],
        ]
    )
    torch.testing.assert_close(between, wanted.exp())
    assert (prior.expected_gain(torch.tensor([0.0, 17.0])) == 1).all()
    plain, gained = (predict(p, posterior, prior.geometry, size=16) for p in (prior, scaled))
    torch.testing.assert_close(gained.views, plain.views * profile.exp()[:, None, None])


def test_one_scene_has_no_spread_but_the_floor(prior, posterior):
    alone = replace(posterior, code=posterior.code.one(0))
    found = predict(prior, alone, prior.geometry, size=16)
    assert (
        found.spread.unique().tolist() == pytest.approx([SPREAD_FLOOR])
        and found.volume_spread.values.abs().max() == 0
    )


# Scores


def test_input_views_are_found_by_angle():
    angles = [0.0, 90.0, 180.0, 270.0]
    assert input_views(angles, [270, 0]) == [3, 0] and input_views(angles, [-90.0, 360.2]) == [3, 0]
    with pytest.raises(UserError, match="got input angle 45°.*nearest is"):
        input_views(angles, [45.0])


def test_baselines_are_what_anyone_could_do():
    training, truth = (
        torch.rand(5, 6, 4, 4, generator=seeded()),
        torch.rand(6, 4, 4, generator=seeded(1)),
    )
    found = baseline_orbits(training.half(), truth, [1, 4])
    errors = [
        sum(float((training[p, k].half().float() - truth[k]).square().sum()) for k in (1, 4))
        for p in range(5)
    ]
    torch.testing.assert_close(found["mean_orbit"], training.half().float().mean(0))
    assert torch.equal(found["nearest_patient"], training[errors.index(min(errors))].half().float())
    assert all(torch.equal(found["neighbour_view"][k], truth[k - 1]) for k in range(6))
    assert list(found) == ["mean_orbit", "nearest_patient", "neighbour_view"]


def scored_patient(name: str, psnr: list[float], baseline: float = 1.0) -> Scored:
    names = ("psnr_db", "psnr_gain_fitted_db", "ssim", "mae", "psnr_mask_db", "ssim_mask")
    values = torch.tensor([float("nan"), *psnr])
    shared = {
        b: {k: torch.full_like(values, baseline) for k in names}
        for b in ("mean_orbit", "nearest_patient", "neighbour_view")
    }
    return Scored(
        name,
        dict.fromkeys(names, values),
        shared,
        None,
        None,
        {"coverage_90": 0.5, "mean_spread": 0.1},
        2.0,
    )


def test_scores_are_averaged_over_views_then_patients():
    found = summary(
        [scored_patient("a", [10, 20], 1.0), scored_patient("b", [40, float("nan")], 4.0)],
        [0, 5, 10],
        [0.0],
        seen=False,
        uncertainty=True,
        lpips=(None, "no weights"),
    )
    assert set(found) > KEYS and found["psnr_db"] == pytest.approx((15 + 40) / 2)
    assert (found["n_patients"], found["n_views"], found["data_range"], found["seen"]) == (
        2,
        2,
        1.0,
        False,
    )
    assert [row["psnr_db"] for row in found["per_angle"]] == [
        None,
        pytest.approx(25),
        pytest.approx(20),
    ]
    assert [row["angle_deg"] for row in found["per_angle"]] == [0, 5, 10]
    assert [(p["patient"], p["psnr_db"]) for p in found["per_patient"]] == [
        ("a", 15.0),
        ("b", 40.0),
    ]
    assert found["baselines"]["mean_orbit"] == {"psnr_db": 2.5, "ssim": 2.5} and set(
        found["baselines"]
    ) == {"mean_orbit", "nearest_patient", "neighbour_view"}
    assert (
        found["lpips"] is None
        and found["lpips_note"] == "no weights"
        and found["uncertainty"]["coverage_90"] == 0.5
    )
    json.dumps(found, allow_nan=False)


def test_a_patients_scores_leave_the_inputs_out(prior, scenes):
    truth = scenes[2][0].clamp(0, 1)
    found = score_patient(prior, "known", truth, scenes[2], [FRONTAL], FASTEST, seeded())
    rest = [k for k in range(VIEWS) if k != FRONTAL]
    for table in (found.scores, *found.baselines.values()):
        assert table["psnr_db"][FRONTAL].isnan() and table["psnr_db"][rest].isfinite().all()
    own = -10 * (found.predicted.views.clamp(0, 1) - truth).square().mean((1, 2)).log10()
    torch.testing.assert_close(
        found.scores["psnr_db"][rest].float(), own[rest], rtol=1e-4, atol=1e-3
    )
    assert (
        0 <= found.uncertainty["coverage_90"] <= 1
        and found.uncertainty["mean_spread"] >= SPREAD_FLOOR
    )


# The command behind `mednerf-kit evaluate`


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "tiny")


@pytest.fixture(scope="module")
def run(tiny_set, tmp_path_factory) -> Path:
    settings = [
        *SETTINGS,
        "task.objective=posed",
        "task.learning_rate=1e-2",
        "steps=30",
        "snapshot_steps=30",
    ]
    return session.train(
        dataset=str(tiny_set),
        config="chest",
        settings=settings,
        outdir=tmp_path_factory.mktemp("runs"),
        device="cpu",
    )


@pytest.fixture
def hurry(monkeypatch):
    """A short search and no perceptual network, whose weights are not at hand."""
    monkeypatch.setattr(scoring, "Inversion", lambda **options: replace(FASTEST, **options))
    monkeypatch.setattr(perceptual, "lpips_distance", lambda *_: (None, "no weights here"))


def test_evaluation_answers_with_every_key(run, tiny_set, hurry):
    found = evaluate(run=str(run), device="cpu", uncertainty=True)
    assert (
        set(found) > KEYS
        and found["seen"] is False
        and found["input_angles_deg"] == [270.0]
        and found["data_range"] == 1.0
    )
    assert (found["n_patients"], found["n_views"]) == (2, VIEWS - 1) and [
        p["patient"] for p in found["per_patient"]
    ] == SPLIT["test"]
    assert found["lpips"] is None and found["lpips_note"] == "no weights here"
    assert [row["psnr_db"] is None for row in found["per_angle"]] == [
        k == FRONTAL for k in range(VIEWS)
    ]
    assert (
        found["psnr_gain_fitted_db"] >= found["psnr_db"] - 1e-3
        and 0 < found["ssim"] <= 1
        and "volume" in found
    )
    assert 0 <= found["uncertainty"]["coverage_90"] <= 1
    train, test = (load_orbits(tiny_set, split=s).images.float() for s in ("train", "test"))
    rest = [k for k in range(VIEWS) if k != FRONTAL]
    for name, guess in (
        ("mean_orbit", train.mean(0).expand_as(test)),
        ("neighbour_view", test.roll(1, 1)),
    ):
        wanted = (-10 * (guess - test)[:, rest].square().mean((2, 3)).log10()).mean()
        assert found["baselines"][name]["psnr_db"] == pytest.approx(float(wanted), abs=0.01)
    folder = run / "evaluate"
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(found))
    rows = list(csv.DictReader((folder / "error_by_angle.csv").open()))
    assert len(rows) == VIEWS and rows[FRONTAL]["psnr_db"] == "" and float(rows[0]["psnr_db"]) > 0
    assert all(
        (folder / name).stat().st_size > 500 for name in ("error_by_angle.png", "strips.png")
    )


def test_patients_the_prior_was_trained_on_are_refused_unless_seen(run, tiny_set, hurry, tmp_path):
    with pytest.raises(UserError, match="trained on.*p0.*--seen"):
        evaluate(run=str(run), split="train", device="cpu")
    found = evaluate(
        run=str(run), split="train", device="cpu", seen=True, limit=1, out=tmp_path / "scores"
    )
    assert found["seen"] is True and [p["patient"] for p in found["per_patient"]] == ["p0"]
    assert (tmp_path / "scores" / "metrics.json").is_file()


def test_a_renamed_patient_is_recognised(run, tiny_set, hurry, tmp_path):
    renamed = make_set(tmp_path / "renamed")
    (renamed / "p0").rename(renamed / "stranger")
    (renamed / "split.json").write_text(json.dumps({"train": [], "test": ["stranger"]}))
    with pytest.raises(UserError, match="stranger"):
        evaluate(run=str(run), dataset=str(renamed), device="cpu")


def test_what_cannot_be_scored_gets_one_sentence(run, tiny_set, hurry, tmp_path):
    for options, said in [
        ({"input_angles": [100.0]}, "input angle 100"),
        ({"run": str(tmp_path / "gone")}, "gone"),
        ({"input_angles": [45.0 * k for k in range(VIEWS)]}, "every view"),
        ({"split": "val"}, "val split is empty"),
        ({"split": "tst"}, "did you mean 'test'"),
        ({"dataset": "/nowhere"}, "/nowhere"),
    ]:
        with pytest.raises(UserError, match=said):
            evaluate(**{"run": str(run), "device": "cpu", **options})


def test_calibration_makes_the_band_hold_nine_tenths(run, hurry, tmp_path, monkeypatch):
    """Fitted on validation patients alone; a test patient's truth is never read."""
    monkeypatch.setattr(calibrating, "Inversion", lambda: FASTEST)
    root = make_set(tmp_path / "with_val")
    (root / "split.json").write_text(
        json.dumps({"train": SPLIT["train"], "val": ["q0"], "test": ["q1"]})
    )
    trained = load_prior(run)
    prior = replace(trained, meta={**trained.meta, "dataset": str(root)})
    factors = calibrating.calibrate(prior, views=("1", "2"))
    assert set(factors) == {"1", "2"} and all(0 < f < 100 for f in factors.values())
    truth = load_orbits(root, patients=["q0"]).images[0].float()
    calibrated = replace(prior, meta={**prior.meta, "calibration": factors})
    found = score_patient(calibrated, "q0", truth, truth[None], [FRONTAL], FASTEST, seeded(1))
    assert found.uncertainty["coverage_90"] == pytest.approx(0.9, abs=0.02)


def test_nobody_to_calibrate_on_is_no_factor(run, hurry, tmp_path):
    """An empty validation split, and a recipe that asks for no patients."""
    trained = load_prior(run)
    assert calibrating.calibrate(trained) == {}
    root = make_set(tmp_path / "with_val")
    (root / "split.json").write_text(
        json.dumps({"train": SPLIT["train"], "val": ["q0"], "test": ["q1"]})
    )
    assert (
        calibrating.calibrate(
            replace(trained, meta={**trained.meta, "dataset": str(root)}), limit=0
        )
        == {}
    )


def test_a_set_of_other_views_is_refused(run, hurry, tmp_path):
    other = make_set(tmp_path / "other")
    for patient in SPLIT["train"] + SPLIT["test"]:
        (other / patient / "xray_007.png").unlink()
    geometry = json.loads((other / "geometry.json").read_text())
    (other / "geometry.json").write_text(
        json.dumps({**geometry, "angles_deg": geometry["angles_deg"][:7]})
    )
    with pytest.raises(UserError, match="7 views.*8 angles"):
        evaluate(run=str(run), dataset=str(other), split="test", device="cpu")


def test_evaluation_repeats_by_seed(run, hurry, tmp_path):
    one, two = (
        evaluate(run=str(run), device="cpu", limit=1, seed=3, out=tmp_path / str(i))
        for i in range(2)
    )
    assert one["psnr_db"] == two["psnr_db"] and one["per_angle"] == two["per_angle"]
