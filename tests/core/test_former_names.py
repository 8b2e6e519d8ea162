"""Former names: recipes, settings and snapshots written with them are read under the present
ones.
"""

from __future__ import annotations

import copy

import pytest

from mednerf_kit.commands.about import registries
from mednerf_kit.core import config, former_names
from mednerf_kit.core.former_names import (
    current_recipe,
    current_setting,
    current_tensors,
    recipe_name,
)


@pytest.fixture(autouse=True)
def all_renamed(monkeypatch):
    """The tables, with two renamed options beside."""
    options = {
        ("selector", "soft_mining"): {"a": "step_size", "b": "noise"},
        ("loss", "density_l1"): {"w": "weight"},
    }
    monkeypatch.setattr(former_names, "OPTIONS", options)


def test_no_present_name_is_a_former_one():
    """Otherwise reading twice would change what was read."""
    assert not set(former_names.RECIPES) & set(former_names.RECIPES.values())
    assert not set(former_names.KEYS) & set(former_names.KEYS.values())
    present = {(kind, new) for (kind, _), new in former_names.VARIANTS.items()}
    assert not set(former_names.VARIANTS) & present
    for renamed in former_names.OPTIONS.values():
        assert not set(renamed) & set(renamed.values())
    for new in former_names.TENSORS.values():
        assert not new.startswith(tuple(former_names.TENSORS))


def test_every_renamed_option_is_one_of_its_variant(monkeypatch):
    monkeypatch.undo()
    registries()  # imports every module that registers something
    for (kind, name), renamed in former_names.OPTIONS.items():
        known = {option.name for option in config.options_of(config.Registry.all[kind][name])}
        assert set(renamed.values()) <= known and not set(renamed) & known


def test_every_former_recipe_still_loads():
    for name in former_names.RECIPES:
        assert config.load(name)["steps"] > 0


def test_a_scene_recipe_with_its_presets():
    old = {
        "task": {"name": "fit", "picture": "x"},
        "picture": "emission_absorption",
        "losses": {"mse": 1.0, "l1": 8.0e-5, "l1_colour": {"weight": 1.0}},
        "selector": {"name": "soft_mining", "a": 20.0, "n": 64},
        "levels": [{"sampler": {"name": "stratified", "n": 8}, "field": "scene"}],
        "presets": {"quick": {"losses": {"l1": 0.0}, "selector": {"b": 0.1}, "steps": 2}},
    }
    kept = copy.deepcopy(old)
    new = current_recipe(old)
    assert old == kept, "the input stays as it is"
    assert new == {
        "task": {"name": "fit", "image_model": "x"},
        "image_model": "emission_absorption",
        "losses": {"mse": 1.0, "density_l1": 8.0e-5, "photometric_l1": {"weight": 1.0}},
        "selector": {"name": "soft_mining", "step_size": 20.0, "n": 64},
        "levels": [{"sampler": {"name": "stratified", "n": 8}, "field": "scene"}],
        "presets": {
            "quick": {"losses": {"density_l1": 0.0}, "selector": {"noise": 0.1}, "steps": 2}
        },
    }
    assert current_recipe(new) == new


@pytest.mark.parametrize(
    "old, new",
    [
        ({"inversion": "relaxed"}, {"inversion": "fine_tuning"}),
        ({"inversion": {"name": "relaxed"}}, {"inversion": {"name": "fine_tuning"}}),
        ({"loss": {"name": "l1"}}, {"loss": {"name": "l1"}}),  # an adversarial loss is another kind
        ({"selector": {"name": "random", "a": 1}}, {"selector": {"name": "random", "a": 1}}),
        ({"inversion": {"mode": "relaxed"}}, {"inversion": {"mode": "relaxed"}}),
        ({"scene": {"picture": "x"}}, {"scene": {"picture": "x"}}),
        ({"losses": {"l1": {"w": 2.0}}}, {"losses": {"density_l1": {"weight": 2.0}}}),
        (
            {"patch": {"name": "soft_mining", "a": 1}},
            {"patch": {"name": "soft_mining", "step_size": 1}},
        ),
        ({"steps": 3, "selector": "soft_mining"}, {"steps": 3, "selector": "soft_mining"}),
    ],
)
def test_a_node_is_read_by_its_kind(old, new):
    assert current_recipe(old) == new


def test_of_two_names_of_one_option_the_one_laid_over_counts():
    assert current_recipe({"losses": {"density_l1": 1.0, "l1": 2.0}}) == {
        "losses": {"density_l1": 2.0}
    }


@pytest.mark.parametrize(
    "old, new",
    [
        ("picture", "image_model"),
        ("task.picture", "task.image_model"),
        ("losses.l1", "losses.density_l1"),
        ("losses.l1.w", "losses.density_l1.weight"),
        ("levels.0.a", "levels.0.a"),
        ("selector.a", "selector.step_size"),
        ("scene.picture", "scene.picture"),
        ("", ""),
        ("a..b", "a..b"),
    ],
)
def test_a_setting_is_read_as_the_recipe_it_changes(old, new):
    assert current_setting(old, {"selector": {"name": "soft_mining"}, "levels": [{}]}) == new


def test_without_its_variant_an_option_keeps_its_name():
    assert current_setting("selector.a") == "selector.a"
    assert current_setting("losses.l1") == "losses.density_l1"


def test_a_setting_replaces_the_option_of_the_present_name():
    recipe = {"selector": {"name": "soft_mining", "step_size": 20.0}, "losses": {"density_l1": 1.0}}
    settings = ["selector.a=2", "losses={l1: 3}"]
    assert config.with_settings(recipe, settings) == {
        "selector": {"name": "soft_mining", "step_size": 2},
        "losses": {"density_l1": 3},
    }


def test_tensors_of_a_snapshot():
    old = {"judge.a.b": 1, "optim.maker.0.step": 2, "optim.judge.0.step": 3, "ema.judge.a": 4}
    new = {
        "discriminator.a.b": 1,
        "optim.generator.0.step": 2,
        "optim.discriminator.0.step": 3,
        "ema.judge.a": 4,
    }
    assert current_tensors(old) == new and current_tensors(new) == new
    assert current_tensors({"optim.g.0.step": 1}) == {"optim.generator.0.step": 1}


def test_a_recipe_that_was_never_renamed_keeps_its_name():
    assert recipe_name("chest") == "chest" and recipe_name("dtu_neus") == "neus_dtu"
