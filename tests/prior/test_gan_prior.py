"""The adversarial line: losses against hand-made numbers, parts of the published systems, and every
preset from end to end.
"""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny import SIZE, VIEWS, make_set, small_geometry
from torch.nn import functional

from mednerf_kit.core import config, files
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.unposed import read_photographs
from mednerf_kit.engine import session, snapshots
from mednerf_kit.gan.discriminator import DISCRIMINATORS
from mednerf_kit.gan.losses import LOSSES, Hinge
from mednerf_kit.gan.optimisers import OPTIMISERS
from mednerf_kit.gan.selfsup import SelfSupervisedDiscriminator, quadrant
from mednerf_kit.invert import evaluate as scoring
from mednerf_kit.invert.fine_tuning import FineTuning, FineTuningProblem, uncertainty_weighted
from mednerf_kit.invert.reconstruct import project
from mednerf_kit.metrics import perceptual
from mednerf_kit.metrics.perceptual import PyramidDistance
from mednerf_kit.prior import gan_setup
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.cameras import CameraDistribution
from mednerf_kit.prior.gan import AdversarialTask
from mednerf_kit.prior.rendering import Renderer
from mednerf_kit.rays.selectors.patches import AnnealedPatch, smallest_scale

PRESETS = [
    "chest_hypernerfgan",
    "knee_hypernerfgan",
    "chest_mednerf",
    "knee_mednerf",
    "chest_graf",
    "carla",
]
HYPER = [
    "generator={name: hypernerfgan, code_dim: 8, width: 16, depth: 3, skip: 2, octaves: 3, "
    "rank: 2}",
    "discriminator={name: residual, size: 16, fmaps: 0.004, max_channels: 8, policy: none, "
    "dag_weight: 0.0}",
]
GRAF = (
    "generator={name: graf, shape_dim: 4, appearance_dim: 4, width: 16, depth: 3, skip: 2, "
    "octaves: 3, view_octaves: 2}"
)
SELFSUP = "discriminator={name: selfsup, size: 16, width: 4, doublings: 1, heads: 4}"
SMALL = {
    "chest_hypernerfgan": HYPER,
    "knee_hypernerfgan": HYPER,
    "carla": HYPER,
    "chest_mednerf": [GRAF, SELFSUP],
    "knee_mednerf": [GRAF, SELFSUP],
    "chest_graf": [GRAF, "discriminator={name: patchgan, size: 16, width: 4}"],
}
QUICK = [
    "levels=[{name: stratified, n: 6}]",
    "task.batch=2",
    "steps=2",
    "snapshot_steps=2",
    "inversion={name: fine_tuning, samples: 1, candidates: 4, azimuths: 2, code_steps: 2, "
    "tune_steps: 2, patch_px: 16}",
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "chest_toys", volumes=False)


def trained(name: str, dataset: Path, outdir: Path, *settings: str, **options) -> Path:
    size = f"dataset={{size: {SIZE}{', pictures: true' if name == 'carla' else ''}}}"
    folder = session.train(
        dataset=str(dataset),
        config=name,
        settings=[*SMALL[name], size, *QUICK, *settings],
        outdir=outdir,
        device="cpu",
        **options,
    )
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def mednerf(toys, tmp_path_factory) -> Path:
    return trained("chest_mednerf", toys, tmp_path_factory.mktemp("runs"))


def stats(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


# Losses


def test_losses_by_hand():
    real, fake, weight = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[-0.5, 0.0, 3.0]]), 0.2

    def sp(x: float) -> float:
        return math.log1p(math.exp(x))

    logistic = sp(-2) + sp(-0.5) + 0.1 * (sp(1) + sp(0) + sp(-0.5) + sp(3))
    hinge = 0 + 0.5 + 0.1 * (2 + 1 + 0.5 + 4)
    hinge_09 = 0 + 0.4 + 0.1 * (1.9 + 0.9 + 0.4 + 3.9)
    for node, u, discriminator, generator in [
        ("nonsaturating", 0.0, logistic, sp(0.5) + 0.1 * (sp(0) + sp(-3))),
        ("bce", 0.0, logistic, sp(0.5) + 0.1 * (sp(0) + sp(-3))),
        ("hinge", 0.0, hinge, 0.5 - 0.1 * 3),
        ({"name": "hinge", "margin_low": 0.8, "margin_high": 1.0}, 0.5, hinge_09, 0.5 - 0.1 * 3),
    ]:
        loss = LOSSES.build(node)
        assert float(loss.discriminator(real, fake, weight, u)) == pytest.approx(
            discriminator, abs=1e-5
        )
        assert float(loss.generator(fake, weight)) == pytest.approx(generator, abs=1e-5)


def test_in_the_batch_mean_one_picture_hides_behind_another():
    real, fake = torch.tensor([[3.0], [-1.0]]), torch.tensor([[-3.0], [1.0]])
    each, mean = (
        Hinge().discriminator(real, fake, 0.2, 0.0),
        Hinge(batch_mean=True).discriminator(real, fake, 0.2, 0.0),
    )
    assert each.tolist() == [0.0, 4.0] and mean.tolist() == [0.0]


# Discriminators


@pytest.mark.parametrize("size", [8, 9])
def test_a_quadrant_of_a_map_is_the_quadrant_of_its_picture(size):
    row, column = torch.meshgrid(torch.arange(2.0 * size), torch.arange(2.0 * size), indexing="ij")
    picture = torch.stack([row, column])
    for which in range(4):
        coarse = quadrant(functional.avg_pool2d(picture, 2), which)
        fine = functional.avg_pool2d(quadrant(picture, which), 2) if size % 2 == 0 else coarse
        torch.testing.assert_close(coarse, fine)
        assert (coarse[0].mean() > size - 0.5) == (which in (2, 3)) and (
            coarse[1].mean() > size - 0.5
        ) == (which in (1, 3))


def test_what_is_drawn_of_a_part_comes_from_that_part():
    discriminator = SelfSupervisedDiscriminator(
        size=32, channels=1, width=8, policy="none", doublings=1, rng=seeded()
    )
    for seed in range(4):
        images = torch.rand(1, 1, 32, 32, generator=seeded(seed)).requires_grad_()
        extras = discriminator(images, rng=seeded(seed)).extras
        which = int(torch.randint(4, (), generator=seeded(seed)))
        torch.testing.assert_close(
            extras["part_target"][0], functional.interpolate(quadrant(images, which), (16, 16))
        )
        (influence,) = torch.autograd.grad(extras["part"].square().sum(), images)
        shares = torch.stack([quadrant(influence.abs(), k).sum() for k in range(4)])
        assert int(shares.argmax()) == which


def test_every_head_is_asked_to_draw_what_it_saw():
    discriminator = SelfSupervisedDiscriminator(size=16, channels=1, width=4, doublings=1)
    images = torch.rand(3, 1, 16, 16, generator=seeded())
    extras = discriminator(images, rng=seeded()).extras
    torch.testing.assert_close(extras["whole_target"][1], images.flip(-2))
    assert {k: v.shape for k, v in extras.items()} == dict.fromkeys(extras, (4, 3, 1, 16, 16))


@pytest.mark.parametrize("name", sorted(DISCRIMINATORS.entries))
def test_a_head_count_must_match_the_policy(name):
    with pytest.raises(UserError, match="got 3 heads; wanted 4"):
        DISCRIMINATORS.build({"name": name, "policy": "fliprot", "heads": 3}, size=16, channels=1)


@pytest.mark.parametrize("name", ["selfsup", "patchgan"])
def test_a_verdict_does_not_depend_on_the_company(name):
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS.build(
        {"name": name, "width": 4, "policy": "fliprot"}, size=16, channels=1
    ).eval()
    images = torch.rand(4, 1, 16, 16, generator=seeded())
    torch.testing.assert_close(
        discriminator(images).heads[:1], discriminator(images[:1]).heads, rtol=1e-4, atol=1e-5
    )


# Cameras, patches, optimisers, distances


def test_level_poses_are_the_orbit():
    geometry = small_geometry()
    yx = torch.rand(3, 5, 2, generator=seeded()) * (SIZE - 1)
    angles = torch.tensor([0.0, 45.0, 270.0])
    found = CameraDistribution().rays(geometry, torch.stack([angles, torch.zeros(3)], 1), yx, 1.4)
    known = geometry.field_rays(angles[:, None], yx, geometry.distance)
    tilted = CameraDistribution().rays(
        geometry, torch.stack([angles, torch.full((3,), 20.0)], 1), yx, 1.4
    )
    known_tilted = replace(geometry, tilt_deg=20.0).field_rays(
        angles[:, None], yx, geometry.distance
    )
    for a, b in ((found, known), (tilted, known_tilted)):
        for name in ("origin", "direction", "near", "far"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-4)


def test_a_depth_range_stays_about_the_isocentre():
    rays = CameraDistribution(depth=0.7).rays(
        small_geometry(), torch.tensor([[30.0, 90.0]]), torch.full((1, 1, 2), (SIZE - 1) / 2), 1.4
    )
    middle = rays.origin + (rays.near + rays.far)[..., None] / 2 * rays.direction
    torch.testing.assert_close(middle, torch.zeros_like(middle), atol=1e-4, rtol=0)
    torch.testing.assert_close(rays.far - rays.near, torch.full((1, 1), 1.4))
    torch.testing.assert_close(
        rays.direction[0, 0], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4, rtol=0
    )


def test_poses_cover_their_band_evenly():
    drawn = CameraDistribution(azimuth_deg=(-30, 90), elevation_deg=(0, 90)).draw(4000, seeded())
    height = torch.deg2rad(drawn[:, 1]).sin()
    assert drawn[:, 0].min() >= -30 and drawn[:, 0].max() <= 90
    assert torch.histc(height, 4, 0, 1).sub(1000).abs().max() < 120
    with pytest.raises(UserError, match="smaller first"):
        CameraDistribution(azimuth_deg=(90, 0))


def test_patches_grow_finer():
    assert smallest_scale(999) == 0.9 and smallest_scale(10**6) == 0.25
    assert smallest_scale(100_000) == pytest.approx(math.exp(-0.75))
    patch = AnnealedPatch(size=8, views=2, rows=32, cols=32)
    for step, low in ((0, 0.9), (10**6, 0.25)):
        widths = [
            float(yx[:, 0].max() - yx[:, 0].min()) / 31
            for yx in (patch.select(step, seeded(s)).yx for s in range(40))
        ]
        assert min(widths) >= low - 1e-5 and max(widths) <= 1 + 1e-5 and min(widths) < low + 0.15


def test_lazy_penalties_change_adams_constants():
    parameter = torch.nn.Parameter(torch.zeros(1))
    pair = OPTIMISERS.build("adam", generator=[parameter], discriminator=[parameter], d_interval=16)
    generator, discriminator = (o.param_groups[0] for o in (pair.generator, pair.discriminator))
    assert generator["lr"] == pytest.approx(0.002) and generator["betas"] == (
        0.0,
        pytest.approx(0.992, abs=1e-4),
    )
    assert discriminator["lr"] == pytest.approx(0.00235, abs=1e-5) and discriminator["betas"][
        1
    ] == pytest.approx(0.9906, abs=1e-4)
    pair = OPTIMISERS.build(
        {"name": "rmsprop", "halve_at": [10, 20]}, generator=[parameter], discriminator=[parameter]
    )
    rates = []
    for step in (0, 10, 25):
        pair.at(step)
        rates.append(pair.generator.param_groups[0]["lr"])
    assert rates == [5e-4, 2.5e-4, 1.25e-4]


def test_the_substitute_for_lpips_sees_edges():
    flat, edges = torch.full((1, 1, 16, 16), 0.1), torch.zeros(1, 1, 16, 16)
    edges[..., ::2] = 0.2
    zero = torch.zeros_like(flat)
    assert float(PyramidDistance()(zero, zero)) == 0 and float(
        PyramidDistance()(flat, zero)
    ) == pytest.approx(0.1)
    assert float(PyramidDistance()(edges, zero)) > float(PyramidDistance()(flat, zero))


# Recipes


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("preset", ["default", "quick"])
def test_a_dry_run_shows_what_it_would_cost(name, preset, capsys):
    assert session.train(dataset="chest", config=name, preset=preset, dry_run=True) is None
    shown = yaml.safe_load(capsys.readouterr().out)
    plan = shown["plan"]
    assert (
        min(plan[k] for k in plan if k.endswith(("parameters", "step", "point", "mib", "seen"))) > 0
    )
    assert plan["restored_defects"] == [] and shown["recipe"]["perceptual"]["name"] == "pyramid"
    assert (
        plan["points_per_step"]
        == (1048576 if "graf" not in name and "mednerf" not in name else 524288)
        or preset == "quick"
    )
    assert len((config.folder() / f"{name}.yaml").read_text().splitlines()) <= 40


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("chest_mednrf", [], "did you mean 'chest_mednerf'"),
        ("chest_mednerf", ["discriminator.heads=3"], "got 3 heads; wanted 4"),
        ("chest_hypernerfgan", ["augment={name: bgc}"], "hue or saturation on grey"),
        ("chest_hypernerfgan", ["compat={fov: 10}"], "fov_deg"),
        ("chest_hypernerfgan", ["compat={batch_mean_hinge: true}"], "wanted the hinge"),
        (
            "chest_hypernerfgan",
            ["discriminator.condition_angle=true", "compat={mirrored: true}"],
            "without angles",
        ),
        ("chest_hypernerfgan", ["generator.outputs=1"], "wanted emission_absorption with 4"),
        ("chest_hypernerfgan", ["inversion={name: posterior}"], "fine_tuning"),
        ("chest_hypernerfgan", ["dataset.size=32"], "patch of 64 pixels"),
        ("chest_mednerf", ["perceptual={name: lpips, weights: /nowhere.pth}"], "pyramid"),
        ("chest_mednerf", ["optimiser.g_rat=1"], "did you mean 'g_rate'"),
        ("chest_mednerf", ["task.batch=0"], "at least 1"),
        (
            "chest_mednerf",
            ["dataset.views=1", "dataset.train=3"],
            "got 3 pictures and a batch of 8",
        ),
    ],
)
def test_a_bad_recipe_is_refused_before_any_work(name, settings, words, tmp_path):
    with pytest.raises(UserError) as found:
        session.train(
            dataset="chest", config=name, settings=settings, outdir=tmp_path, device="cpu"
        )
    assert (
        words in str(found.value)
        and str(found.value).count("\n") == 0
        and not list(tmp_path.iterdir())
    )


def test_a_set_smaller_than_the_batch_is_refused(toys, tmp_path):
    with pytest.raises(UserError, match="got 32 pictures and a batch of 33"):
        trained("chest_mednerf", toys, tmp_path, "task.batch=33")


def test_restored_defects_act_and_are_named(toys, tmp_path):
    settings = [
        "compat={fov_deg: 10, depth_range: 2.86, elevation_deg: [5, 20], "
        "batch_mean_hinge: true, mirrored: true}"
    ]
    folder = trained("chest_mednerf", toys, tmp_path, *settings)
    _, meta = files.load_tensors(snapshots.snapshot_files(folder)[-1])
    assert Renderer.of(meta["recipe"]).cameras.depth == 2.86
    prior = prior_load.load_prior(folder)
    assert prior.geometry.fov_deg == pytest.approx(10, abs=1e-3) and prior.geometry.tilt_deg == 12.5
    assert prior.geometry.half_width_mm == pytest.approx(small_geometry().half_width_mm)
    log = (folder / "log.txt").read_text()
    for words in (
        "fov_deg 10",
        "depth_range 2.86",
        "elevation_deg (5, 20)",
        "mirrored True",
        "batch_mean_hinge True",
    ):
        assert words in log
    assert "64 pictures" in log
    assert yaml.safe_load((folder / "config.yaml").read_text())["recipe"]["compat"]["fov_deg"] == 10


# From end to end


@pytest.mark.parametrize(
    "name", ["chest_hypernerfgan", "chest_graf", "knee_hypernerfgan", "knee_mednerf"]
)
def test_a_preset_trains_inverts_and_is_scored(name, toys, tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual, "lpips_distance", lambda *_: (None, "no weights here"))
    folder = trained(name, toys, tmp_path, *(["dataset.limit=1"] if "hyper" in name else []))
    rows = stats(folder)
    assert len(rows) == 2 and {"d_loss", "g_loss", "r_t", "p", "kimg"} <= set(rows[0])
    assert ("r1" in rows[0]) == ("mednerf" not in name)
    assert f"{VIEWS * (1 if 'hyper' in name else 4)} pictures" in (folder / "log.txt").read_text()
    assert (folder / "previews" / "samples.png").is_file()
    assert json.loads((folder / "metrics.json").read_text())["images_seen"] == 4
    found = scoring.evaluate(run=str(folder), limit=1, uncertainty=True, device="cpu")
    assert (
        found["n_views"] == VIEWS - 1 and math.isfinite(found["psnr_db"]) and "volume" not in found
    )
    assert (
        found["n_training_patients"] == (1 if "hyper" in name else 4)
        and found["baselines"]["mean_orbit"]["psnr_db"] > 5
    )


def test_an_xray_becomes_an_orbit(mednerf, toys, tmp_path):
    out = project(
        xray=[toys / "q0" / "xray_000.png"],
        view=[0.0],
        run=str(mednerf),
        outdir=tmp_path / "out",
        samples=1,
        size=16,
    )
    broadcast_text = json.loads((out / "metrics.json").read_text())
    assert (
        "no attenuation" in broadcast_text["units"]["volume"]
        and broadcast_text["volume"]["quantity"] == "relative"
        and broadcast_text["codes"] == 2
    )
    assert any("other physics" in text for text in broadcast_text["warnings"])
    assert len(list((out / "orbit").glob("*.png"))) == 72 and (out / "volume.nii.gz").is_file()


def test_resumed_equals_uninterrupted(toys, tmp_path, monkeypatch):
    step = AdversarialTask.step
    same = (
        "steps=3",
        "probability={name: adaptive, kimg: 0.01}",
        "augment={name: xray}",
        "task.r1_gamma=1.0",
        "task.r1_interval=2",
    )
    whole = trained("chest_mednerf", toys, tmp_path / "whole", *same)

    def stopping(self, progress, index):
        if index == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, progress, index)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialTask, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained("chest_mednerf", toys, tmp_path / "parts", *same)
    again = trained("chest_mednerf", toys, tmp_path / "parts", *same, resume="latest")
    a, b = (
        files.load_tensors(snapshots.snapshot_files(folder)[-1])[0] for folder in (whole, again)
    )
    assert [name for name in a if not torch.equal(a[name], b[name])] == [] and set(a) == set(b)
    assert [row["d_loss"] for row in stats(whole)] == [row["d_loss"] for row in stats(again)]


def test_photographs_nobody_posed_train_the_same_generator(tmp_path):
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    for k in range(3):
        picture = torch.zeros(20, 24, 4, dtype=torch.uint8)
        picture[4:16, 4 + k : 16, :] = torch.tensor([200, 50 * k, 0, 255], dtype=torch.uint8)
        Image.fromarray(picture.numpy()).save(folder / f"r_{k}.png")
    Image.fromarray(picture.numpy()).save(folder / "r_0_depth.png")
    images, notes = read_photographs(root=str(folder.parent), size=20, background=1.0)
    assert (
        images.shape == (3, 20, 20, 3)
        and images[0, 0, 0].tolist() == [1, 1, 1]
        and "middle" in notes[0]
    )
    assert images[1, 10, 10].tolist() == pytest.approx([200 / 255, 50 / 255, 0], abs=1e-3)
    run = trained("carla", folder.parent, tmp_path / "runs")
    prior = prior_load.load_prior(run)
    assert (
        prior.geometry.fov_deg == pytest.approx(39.6, abs=1e-3)
        and not prior.geometry.columns_flipped
    )
    for use in (
        lambda: scoring.evaluate(run=str(run)),
        lambda: project(xray=["x.png"], run=str(run)),
    ):
        with pytest.raises(UserError, match="coloured photographs"):
            use()


# Inversion


def test_uncertainty_weights_by_hand():
    terms, sigma = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    assert float(uncertainty_weighted(terms, sigma)) == pytest.approx(
        1 + math.log(2) + 3 / 8 + math.log(5)
    )


@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
def test_inversion_approaches_its_input_without_the_held_out_pixels(mednerf, toys, weighting):
    prior = prior_load.load_prior(mednerf)
    with torch.no_grad():
        code = prior.generator.weights(prior.generator.draw(1, seeded(5)))
        renderer = Renderer.of(prior.meta["recipe"])
        view = renderer.views(prior.generator.field, code, prior.geometry.at((45.0,))).mean(-1)[0]
        view = (view / view.max().clamp_min(1e-6)).clamp(0, 1)
    options = FineTuning(
        samples=1,
        candidates=6,
        azimuths=4,
        code_steps=10,
        tune_steps=30,
        patch_px=16,
        tune_rate=5e-3,
        weighting=weighting,
    )
    problem = FineTuningProblem(prior, view, torch.tensor([45.0]), options, seeded())
    members = problem.start()
    before = problem._held_out_mse(members)
    posterior = options(prior, view, torch.tensor([45.0]), seeded())
    assert posterior.held_out_mse < 0.8 * before and posterior.latent.w.shape[0] == 2
    hidden = view.clone()
    hidden[problem.pixels.hidden] = 7.0
    seeing, blind = (
        FineTuningProblem(prior, v, torch.tensor([45.0]), options, seeded()).loss(members)
        for v in (view, hidden)
    )
    assert torch.equal(seeing, blind)


def test_candidates_are_tried_at_several_azimuths(mednerf):
    prior = prior_load.load_prior(mednerf)
    problem = FineTuningProblem(
        prior,
        torch.rand(1, SIZE, SIZE, generator=seeded()),
        torch.tensor([0.0]),
        FineTuning(samples=3, candidates=8, azimuths=4),
        seeded(),
    )
    members = problem.start()
    assert len(members.eps) == 4 and set(members.turn_deg.tolist()) <= {0.0, 90.0, 180.0, 270.0}
    assert gan_setup.compat_options(prior.meta["recipe"]).named() == []


def test_a_gain_by_angle_is_learned_and_kept_with_the_prior(toys, tmp_path):
    settings = [*SMALL["chest_mednerf"], *QUICK, "task.view_gain=2"]
    run = session.train(
        dataset=str(toys), config="chest_mednerf", settings=settings, outdir=tmp_path, device="cpu"
    )
    prior = prior_load.load_prior(run)
    profile = torch.tensor(prior.meta["log_gain_profile"])
    assert profile.shape == (VIEWS,) and 0 < float(profile.abs().max()) < 0.1
    angles = torch.tensor(prior.geometry.angles_deg)
    torch.testing.assert_close(prior.expected_gain(angles).log(), profile, atol=1e-4, rtol=1e-3)
    with pytest.raises(UserError, match="view_gain -1"):
        session.train(
            dataset=str(toys),
            config="chest_mednerf",
            settings=[*settings, "task.view_gain=-1"],
            outdir=tmp_path,
            device="cpu",
        )
