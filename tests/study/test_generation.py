"""Scores of random patients: distances against closed forms and brute force, copies found, pictures
that agree, one command.
"""

import itertools
import json
import math
import sys
import types

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from tiny import VIEWS, make_set
from tiny_prior import NODE, snapshot
from torch import Generator

from mednerf_kit import cli
from mednerf_kit.core.errors import UserError
from mednerf_kit.data.orbits import load_orbits
from mednerf_kit.engine import tensorboard
from mednerf_kit.engine.loop import Task
from mednerf_kit.metrics import features
from mednerf_kit.metrics import image as image_metrics
from mednerf_kit.metrics.distances import frechet_distance, kernel_distance, precision_recall
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior import previews
from mednerf_kit.study.generation import memory, mixing, random_patients
from mednerf_kit.study.generation import score as scoring


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def exact_gaussian(n: int, mean: torch.Tensor, factor: torch.Tensor, seed: int) -> torch.Tensor:
    """n points whose sample mean and covariance are exactly ``mean`` and ``factor factorᵀ``."""
    x = torch.randn(n, len(mean), generator=seeded(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1))).T
    return white @ factor.T + mean


# --- distances
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [9, 300])
def test_frechet_distance_of_known_gaussians(n):
    stds_a, stds_b = (
        torch.tensor([1.0, 2.0, 0.5, 3.0]).double(),
        torch.tensor([2.0, 2.0, 1.5, 0.1]).double(),
    )
    # commuting covariances: a closed form
    turn = torch.linalg.qr(torch.randn(4, 4, generator=seeded(), dtype=torch.float64)).Q
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5]).double()
    a = exact_gaussian(n, torch.zeros(4).double(), turn @ stds_a.diag(), 1)
    b = exact_gaussian(n + 7, shift, turn @ stds_b.diag(), 2)
    closed = float(shift.square().sum() + (stds_a - stds_b).square().sum())
    assert frechet_distance(a, b) == pytest.approx(closed, rel=1e-9)
    assert frechet_distance(b, a) == pytest.approx(closed, rel=1e-9)


# full rank, and fewer pictures than features
@pytest.mark.parametrize(("n", "m"), [(40, 60), (4, 60), (4, 3)])
def test_frechet_distance_is_that_with_the_root_of_a_matrix(n, m):
    a, b = torch.randn(n, 6, generator=seeded(1)), 2 * torch.randn(m, 6, generator=seeded(2)) + 0.3
    ca, cb = np.cov(a.double().numpy().T), np.cov(b.double().numpy().T)
    root = np.real(sqrtm(ca @ cb + 1e-12 * np.eye(6)))
    wanted = float((a.double().mean(0) - b.double().mean(0)).square().sum()) + np.trace(
        ca + cb - 2 * root
    )
    assert frechet_distance(a, b) == pytest.approx(wanted, abs=2e-4)


def test_a_set_is_at_no_distance_from_itself():
    x = 100 + torch.randn(50, 80, generator=seeded())
    assert frechet_distance(x, x[torch.randperm(50, generator=seeded())]) == pytest.approx(
        0, abs=1e-6
    )
    assert precision_recall(x, x.clone()) == (1.0, 1.0)


def test_kernel_distance_is_the_double_sum():
    a, b = (
        torch.randn(5, 3, generator=seeded(1)).double(),
        torch.randn(5, 3, generator=seeded(2)).double() + 1,
    )

    def k(x, y):
        return float((x @ y / 3 + 1) ** 3)

    within = sum(k(x[i], x[j]) for x in (a, b) for i, j in itertools.permutations(range(5), 2)) / 20
    across = sum(k(x, y) for x in a for y in b) / 25
    value, deviation = kernel_distance(a, b, seeded())
    assert value == pytest.approx(within - 2 * across, rel=1e-9)
    assert deviation is None  # both sets whole: there is one subset only


def test_kernel_distance_is_unbiased_and_its_subsets_are_capped():
    draws = torch.randn(200, 2, 20, 4, generator=seeded())
    values = torch.tensor([kernel_distance(a, b, seeded())[0] for a, b in draws])
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(len(values))
    assert float(values.min()) < 0 < float(values.max())
    whole, spread = kernel_distance(
        *torch.randn(2, 300, 4, generator=seeded(1)), seeded(), subsets=10, size=50
    )
    assert spread > 0 and abs(whole) < 0.5
    # 20 against 4000
    larger, spread = kernel_distance(
        draws[0, 0], draws[:, 0].flatten(0, 1) + 2, seeded(), subsets=5
    )
    assert larger > 1 and math.isfinite(spread)


def test_precision_and_recall_of_clusters():
    """Reals in two clusters: fakes in one of them are right but miss half; fakes in a third place
    are wrong in every way.
    """
    cluster = 0.1 * torch.randn(60, 2, generator=seeded())
    left, right, away = (
        cluster[20 * k : 20 * k + 20] + torch.tensor(place)
        for k, place in enumerate([(0.0, 0), (9.0, 0), (0.0, 9)])
    )
    reals = torch.cat([left, right])
    precision, recall = precision_recall(reals, left + 1e-4)
    assert precision == 1.0 and recall == pytest.approx(0.5)
    assert precision_recall(reals, away) == (0.0, 0.0)
    precision, recall = precision_recall(left, torch.cat([left + 1e-4, away]))
    assert precision == pytest.approx(0.5) and recall == 1.0


def test_precision_is_the_brute_force_share(monkeypatch):
    monkeypatch.setattr("mednerf_kit.metrics.distances.CHUNK", 7)
    reals, points = (
        torch.randn(30, 3, generator=seeded(1)).double(),
        torch.randn(40, 3, generator=seeded(2)).double() + 0.7,
    )
    radius = [sorted(float((x - y).norm()) for y in reals)[3] for x in reals]
    inside = [
        any(float((p - x).norm()) <= r for x, r in zip(reals, radius, strict=True)) for p in points
    ]
    assert precision_recall(reals, points)[0] == pytest.approx(sum(inside) / 40)


@pytest.mark.parametrize(
    "distance", [frechet_distance, lambda a, b: kernel_distance(a, b, seeded()), precision_recall]
)
def test_sets_too_small_are_refused(distance):
    with pytest.raises(UserError, match="got sets of 1 and 9 pictures"):
        distance(torch.zeros(1, 2), torch.zeros(9, 2))


# --- features
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (17, 17)])
def test_pyramid_features_are_finite_for_any_size(shape):
    found = features.PyramidFeatures()(torch.rand(3, *shape, generator=seeded()).half())
    assert found.shape[0] == 3 and bool(found.isfinite().all())
    assert bool(features.PyramidFeatures()(torch.zeros(1, *shape)).isfinite().all())


def test_pyramid_features_notice_brightness_and_blur():
    images = torch.rand(8, 64, 64, generator=seeded())
    blurred = torch.nn.functional.avg_pool2d(images[:, None], 3, 1, 1)[:, 0]
    extract = features.PyramidFeatures()
    apart = [
        float((extract(x) - extract(images)).norm(dim=1).mean())
        for x in (images, 0.9 * images, blurred)
    ]
    assert apart[0] == 0 and apart[1] > 0.1 and apart[2] > 1


def test_features_are_read_in_batches(monkeypatch):
    images = torch.rand(7, 16, 16, generator=seeded())
    whole = features.read(features.PyramidFeatures(), images)
    monkeypatch.setattr(features, "BATCH", 3)
    assert (
        torch.equal(features.read(features.PyramidFeatures(), images), whole)
        and whole.dtype == torch.float64
    )


@pytest.fixture
def empty_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_inception_without_weights_or_network_is_one_sentence(empty_hub, monkeypatch):
    def offline(url, *args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    assert features.inception_path() is None
    with pytest.raises(
        UserError, match=r"got no InceptionV3 weights.*no route to host.*--extractor pyramid"
    ):
        features.EXTRACTORS.build("inception")
    chosen, why = scoring.extractors("auto", None)
    assert list(chosen) == ["pyramid"] and features.INCEPTION_FILE in why and "\n" not in why


@pytest.fixture
def stand_in_network(monkeypatch):
    """torchvision is replaced by a network that reports its input."""

    class Network(torch.nn.Module):
        def forward(self, x):
            return torch.cat(
                [x.mean((2, 3)), x.amax((2, 3)), torch.full((len(x), 1), float(x.shape[-1]))], 1
            )

    models = types.ModuleType("torchvision.models")
    models.inception_v3 = lambda **options: Network()
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_inception_weights_that_were_named_must_be_there_and_whole(
    empty_hub, stand_in_network, monkeypatch, tmp_path
):
    with pytest.raises(UserError, match="which is no file"):
        scoring.extractors("auto", tmp_path / "nowhere.pth")
    broken = tmp_path / features.INCEPTION_FILE
    broken.write_bytes(b"no archive")
    monkeypatch.setenv("MEDNERF_KIT_INCEPTION", str(tmp_path))  # a folder that holds it
    assert features.inception_path() == broken
    with pytest.raises(UserError, match="InceptionV3 weights .* that cannot be used"):
        scoring.extractors("auto", None)


def test_inception_sees_what_it_should(stand_in_network, monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"")
    monkeypatch.setattr(torch, "load", lambda *args, **options: {})
    found = features.Inception(weights=str(path))(torch.full((2, 16, 24), 0.75))
    assert found[0].tolist() == pytest.approx([0.5] * 6 + [299])


# --- fakes
# -----------------------------------------------------------------------------------------------------------------

LEVELS = [{"name": "stratified", "n": 96}]


def prior_of(tmp_path, task: dict | None = None, generator: dict | None = None) -> prior_load.Prior:
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


# --- memorisation
# ----------------------------------------------------------------------------------------------------------


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


# --- the command
# -----------------------------------------------------------------------------------------------------------


class StandIn:
    """A small stand-in for InceptionV3: a fixed random projection."""

    rule = "projected at random"

    def __call__(self, images):
        axes = torch.randn(images[0].numel(), 5, generator=seeded())
        return images.flatten(1) @ axes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A set on disk and a snapshot that says it was trained on its training patients; clips of two
    frames.
    """
    root = tmp_path_factory.mktemp("score")
    data = make_set(root / "chest-set")
    orbits = load_orbits(data, split="train")
    meta = {
        "recipe": {
            "generator": NODE,
            "dataset": {"size": 32},
            "levels": LEVELS,
            "task": {"name": "prior"},
        },
        "dataset": str(data),
        "patients": list(orbits.patients),
        "identities": list(orbits.all_fingerprints()),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "FRAMES", 2)
        patch.setattr(mixing, "PAIRS", 1)
        yield snapshot(root / "run", geometry=orbits.geometry, **meta), data


QUICK = {"fakes": 12, "views": 4, "samples": 2}
WORDS = ["--fakes", "12", "--views", "4", "--samples", "2"]
KEYS = {
    "fid",
    "kid",
    "kid_std",
    "fid_note",
    "features",
    "swd",
    "swd_levels",
    "swd_n",
    "extractors",
    "floor",
    "memorisation",
    "diversity",
    "consistency",
    "n_fakes",
    "n_scenes",
    "views_per_scene",
    "n_reals",
    "n_patients",
    "dataset",
    "split",
    "seed",
    "truncation",
    "image_px",
    "seconds",
    "conventions",
    "note",
}


@pytest.fixture(scope="module")
def scored(trained, tmp_path_factory):
    """The score of that run with a stand-in for InceptionV3, and its folder."""
    folder = tmp_path_factory.mktemp("scored")
    return scoring.score(
        run=str(trained[0]), extractor={"inception": StandIn()}, out=folder, **QUICK
    ), folder


def test_score_of_a_run_with_a_stand_in_for_inception(scored):
    found, folder = scored
    assert set(found) == KEYS
    assert json.loads((folder / "score.json").read_text()) == found
    assert (
        found["fid"] == found["features"]["inception"]["frechet"] > 0 and found["fid_note"] is None
    )
    assert found["kid"] == found["features"]["inception"]["kernel"] and found["kid_std"] >= 0
    assert found["features"]["inception"]["n"] == [4 * VIEWS, 12] and found["features"][
        "inception"
    ]["n_neighbours"] == [16, 12]
    assert found["n_reals"] == 4 * VIEWS and found["n_patients"] == 4 and found["n_scenes"] == 3
    assert found["floor"]["features"]["pyramid"]["n"] == [4 * VIEWS, 2 * VIEWS]
    assert len(found["memorisation"]["nearest"]) == 2 and found["memorisation"]["n_patients"] == 4
    assert found["memorisation"]["unseen_ratio"] > 0.3 and found["consistency"]["psnr_db"] > 30
    for name in ("reals_fakes.png", "memorisation.png", "mixing.png", "mixing.gif"):
        assert (folder / name).stat().st_size > 1000


def test_the_command_writes_plain_json_and_the_same_numbers(trained, scored, tmp_path, capsys):
    assert (
        cli.main(["score", "--run", str(trained[0]), *WORDS, "--out", str(tmp_path), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert set(found) == KEYS and found["fid"] is None and "not on this disk" in found["fid_note"]
    for name in ("swd", "memorisation", "consistency", "diversity"):
        assert found[name] == scored[0][name], name
    assert found["features"]["pyramid"] == scored[0]["features"]["pyramid"]


def test_the_command_compares_with_other_patients_in_words(trained, scored, tmp_path, capsys):
    words = ["--dataset", str(trained[1]), "--split", "test", "--out", str(tmp_path)]
    assert cli.main(["score", "--run", str(trained[0]), *WORDS, *words]) == 0
    out = capsys.readouterr().out
    assert (
        "pyramid kernel" in out
        and "memorisation ratio_median" in out
        and "note: FID and KID were not computed" in out
    )
    found = json.loads((tmp_path / "score.json").read_text())
    assert (
        found["n_patients"] == 2
        and found["features"]["pyramid"] != scored[0]["features"]["pyramid"]
    )
    assert found["floor"]["features"]["pyramid"] == scored[0]["floor"]["features"]["pyramid"]
    assert found["memorisation"] == scored[0]["memorisation"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--extractor", "incepton"], "nearest|inception"),
        (["--weights", "nowhere.pth"], "which is no file"),
        (["--fakes", "2"], "8"),
    ],
)
def test_mistakes_are_told_before_any_work(trained, more, words, capsys):
    run, _ = trained
    assert cli.main(["score", "--run", str(run), *more]) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert len(line) == 1 and any(word in line[0] for word in words.split("|"))


# --- the board
# -------------------------------------------------------------------------------------------------------------


def logged(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def test_the_board_shows_grids_a_clip_gains_and_the_field_of_view(tmp_path):
    import io

    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    prior = prior_of(tmp_path)

    class Shown(Task):
        def pictures(self, index):
            images = torch.rand(3, prior.geometry.views, 32, 32, generator=seeded())
            return previews.radiographs(prior.generator, images, prior.geometry, prior.distance)

        def fitted(self):
            return {"distance": 1.0, "log_gain_profile": [0.0, math.log(2.0)]}

    writer = SummaryWriter(str(tmp_path / "board"))
    tensorboard.write_pictures(writer, Shown(), 5)
    tensorboard.write_pictures(writer, Task(), 6)  # a task with nothing to show
    writer.close()
    events = logged(tmp_path / "board")
    assert set(events.Tags()["images"]) == {"grid/reals", "grid/fakes", "clip/orbit"}
    assert [e.value for e in events.Scalars("fov_deg")] == pytest.approx([90.0])
    assert [
        e.value for n in ("least", "mean", "most") for e in events.Scalars(f"gain/{n}")
    ] == pytest.approx([1, 1.5, 2])
    clip = Image.open(io.BytesIO(events.Images("clip/orbit")[0].encoded_image_string))
    assert clip.n_frames == previews.FRAMES and clip.size == (32, 32)


def test_the_board_shows_generators_whose_views_are_marched(tmp_path):
    node = {
        "name": "hypernerfgan",
        "code_dim": 8,
        "width": 8,
        "depth": 1,
        "octaves": 2,
        "rank": 2,
        "skip": 0,
    }
    prior = prior_of(tmp_path, {"name": "adversarial", "image_model": "emission_absorption"}, node)
    renderer = previews.Renderer.of(
        {**prior.meta["recipe"], "levels": [{"name": "stratified", "n": 4}]}
    )
    found = previews.marched(
        prior.generator, renderer, torch.rand(20, 32, 32, 1).half(), prior.geometry
    )
    assert found["grid/reals"].shape == (16, 32, 32) and found["grid/fakes"].shape == (
        16,
        32,
        32,
        3,
    )
    assert found["clip/orbit"].shape == (previews.FRAMES, 32, 32, 3)
