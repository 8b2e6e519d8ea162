"""Recipes of the posed line: mistakes, presets, and what a dry run shows."""

from __future__ import annotations

import pytest
import torch
import yaml
from tiny import SETTINGS

from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import session


def setting(text: str) -> dict:
    return {"settings": [text]}


@pytest.mark.parametrize(
    "options, said",
    [
        (setting("stps=3"), "recipe key 'stps'.*did you mean 'steps'"),
        (setting("task.objctive=gan"), "did you mean 'objective'"),
        (setting("task.objective=gann"), "'gann'.*gan"),
        (setting("task.batch=two"), "'two'.*int"),
        (setting("generator.name=hypr"), "did you mean 'hyper'"),
        (setting("levels=[{name: stratifed}]"), "did you mean 'stratified'"),
        (setting("augment.name=xry"), "did you mean 'xray'"),
        (setting("dataset.siz=3"), "did you mean 'size'"),
        (setting("task.image_model=line"), "line_integral"),
        (setting("steps=0"), "steps"),
        (setting("steps=many"), "steps"),
        (setting("snapshot_steps=0"), "snapshot_steps"),
        (setting("task.batch=0"), "batch"),
        (setting("levels=[]"), "level"),
        (setting("levels=3"), "level"),
        (setting("dataset=3"), "dataset"),
        (setting("levels=[{name: importance}]"), "'importance' on the first level"),
        (setting("task.image_model=emission_absorption"), "colour|outputs"),
        (setting("discriminator.size=64"), "discriminator.size 64 for pictures of 32"),
        (setting("task.gan_start=1.2"), "gan_start 1.2.*from 0 to below 1"),
        (setting("task.gan_start=-0.1"), "gan_start -0.1.*from 0 to below 1"),
        (setting("task.gan_known=1.5"), "gan_known 1.5.*from 0 to 1"),
        (setting("task.gan_weight=-1"), "gan_weight -1.*at least 0"),
        (setting("task.gan_rate=0"), "gan_rate 0.*rate above 0"),
        (setting("task.gan_lead=3"), "phase of 3 steps, in the first 3.*smaller task.gan_start"),
        (setting("task.gan_views=3"), "gan_batch 2 with gan_views 3.*set task.gan_batch=3"),
        (setting("task.accumulate=3"), "accumulate 3.*multiple of 3"),
        (setting("discriminator.policy=[{name: tilt, angle_deg: 95}]"), "95 degrees"),
        (setting("generator={name: graf, width: 16, depth: 3, skip: 2}"), "wanted 'hyper'"),
        ({"preset": "quik"}, "did you mean 'quick'"),
        ({"config": "chst"}, "did you mean 'chest'"),
        ({"dataset": "/nowhere"}, "/nowhere"),
        ({"split": "val"}, "val split is empty"),
        ({"resume": "00007"}, "run '00007'"),
        ({"device": "cuda"}, "cuda"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_no_run(
    options, said, tiny_set, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {
        "dataset": str(tiny_set),
        "config": "chest",
        "outdir": tmp_path / "runs",
        "device": "cpu",
        **options,
    }
    options["settings"] = [*SETTINGS, *options.get("settings", [])]
    with pytest.raises(UserError, match=said) as caught:
        session.train(**options)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_dry_run_shows_the_plan_and_writes_nothing(tiny_set, tmp_path, capsys):
    assert (
        session.train(
            dataset=str(tiny_set),
            config="chest",
            settings=SETTINGS,
            outdir=tmp_path / "runs",
            dry_run=True,
        )
        is None
    )
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (
        shown["recipe"]["steps"] == 10
        and shown["plan"]["generator_parameters"] > 1000
        and not (tmp_path / "runs").exists()
    )


def test_presets_overlay_the_recipe():
    default, quick = (session.resolve("chest", None, preset, []) for preset in ("default", "quick"))
    assert (
        quick["dataset"]["size"] == 64
        and default["dataset"]["size"] == 128
        and quick["levels"] == [{"name": "stratified", "n": 32}]
    )
    assert quick["task"]["objective"] == default["task"]["objective"]


def test_without_a_recipe_the_datasets_name_decides():
    knee, chest = (session.resolve(None, name, "default", []) for name in ("knee", "chest"))
    assert (
        session.resolve("my/KNEE_set", None, "default", []) == knee
        and session.resolve("my/set", None, "default", []) == chest
    )
