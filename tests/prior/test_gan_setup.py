"""Recipes of the adversarial line: cost, mistakes, and the defects that ``compat`` restores."""

from __future__ import annotations

import pytest
import yaml
from tiny import small_geometry
from tiny_gan import trained

from mednerf_kit.core import config, files
from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import session, snapshots
from mednerf_kit.prior import load as prior_load
from mednerf_kit.prior.rendering import Renderer

PRESETS = [
    "chest_hypernerfgan",
    "knee_hypernerfgan",
    "chest_mednerf",
    "knee_mednerf",
    "chest_graf",
    "carla",
]


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
