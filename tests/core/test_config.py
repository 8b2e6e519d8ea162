"""Names and recipes: registries that offer the nearest name, options that are checked, recipes that
overlay.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal

import pytest

from mednerf_kit.commands.about import registries
from mednerf_kit.core import config
from mednerf_kit.core.config import (
    Option,
    Registry,
    bind,
    checked,
    load,
    options_of,
    overlaid,
    with_settings,
)
from mednerf_kit.core.errors import RunError, UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class ConeOptions:
    """What a recipe may say of a cone."""

    height_mm: float = 1.0
    tip: Literal["sharp", "round"] = "sharp"
    sides: int | None = None


class Cone:
    """A cone, whose options are a record."""

    def __init__(self, options: ConeOptions, *, size: int, device: str = "cpu") -> None:
        self.options, self.size, self.device = options, size, device


@dataclass(frozen=True, kw_only=True)
class Prism:
    """A prism, which is its own record of options."""

    edges: int
    height_mm: float = 1.0
    size: int = 0


@pytest.fixture
def shapes(monkeypatch):
    """A registry of its own, which leaves the list of registries as it was."""
    monkeypatch.setattr(Registry, "all", dict(Registry.all))
    registry = Registry("shape")

    @registry.register("ball")
    class Ball:
        """A ball."""

        def __init__(
            self,
            *,
            radius_mm: float = 1.0,
            label: str | None = None,
            kind: Literal["solid", "hollow"] = "solid",
            n: int = 3,
            centre: tuple[float, ...] = (0.0, 0.0),
            open: bool = False,
            size: int,
        ) -> None:
            self.values = {
                "radius_mm": radius_mm,
                "label": label,
                "kind": kind,
                "n": n,
                "centre": centre,
                "open": open,
                "size": size,
            }

    @registry.register("box")
    def box(*, side_mm: float = 2.0) -> float:
        return side_mm

    registry.register("cone")(Cone)
    registry.register("prism")(Prism)
    return registry


def test_a_node_builds_what_it_names(shapes):
    ball = shapes.build(
        {"name": "ball", "radius_mm": 2, "label": None, "kind": "hollow", "centre": [1, 2]}, size=7
    )
    assert ball.values == {
        "radius_mm": 2.0,
        "label": None,
        "kind": "hollow",
        "n": 3,
        "centre": (1, 2),
        "open": False,
        "size": 7,
    }
    assert isinstance(ball.values["radius_mm"], float)


def test_a_bare_name_is_a_node_and_functions_are_entries(shapes):
    assert shapes.build("box") == 2.0 and shapes.build({"name": "box", "side_mm": 5}) == 5.0


def test_checking_builds_nothing(shapes):
    built = []
    shapes.register("counted")(lambda *, n=1: built.append(n))
    shapes.check({"name": "counted", "n": 3})
    assert built == []


def test_a_record_of_options_is_built_from_the_same_flat_node(shapes):
    cone = shapes.build({"name": "cone", "height_mm": 3, "tip": "round"}, size=7, wall_mm=1.0)
    assert cone.options == ConeOptions(height_mm=3.0, tip="round") and cone.size == 7
    assert isinstance(cone.options.height_mm, float), "checked and converted like any option"
    assert shapes.build("cone", size=1, device="cuda").device == "cuda"
    assert shapes.build({"name": "prism", "edges": 5}, size=2) == Prism(edges=5, size=2)


@pytest.mark.parametrize(
    "node, said",
    [
        (
            {"name": "cone", "height": 3},
            "option of shape 'cone' 'height'; wanted one of height_mm, sides, tip: "
            "did you mean 'height_mm'",
        ),
        ({"name": "cone", "height_mm": "tall"}, "'tall'.*'cone' option 'height_mm'.*float"),
        ({"name": "cone", "tip": "rond"}, "'rond'.*round, sharp.*did you mean 'round'"),
        ({"name": "cone", "sides": 2.5}, "2.5.*'sides'.*int"),
        ({"name": "cone", "options": {"sides": 3}}, "option of shape 'cone' 'options'"),
        ({"name": "cone", "device": "cuda"}, "option of shape 'cone' 'device'"),
        ({"name": "prism", "edge": 5}, "option of shape 'prism' 'edge'.*did you mean 'edges'"),
        ({"name": "prism", "edges": 5, "size": 3}, "option of shape 'prism' 'size'"),
    ],
)
def test_a_record_of_options_refuses_as_a_signature_does(shapes, node, said):
    with pytest.raises(UserError, match=said) as built:
        shapes.build(node, size=7)
    with pytest.raises(UserError) as checked_only:
        shapes.check(node, "size")
    assert str(checked_only.value) == str(built.value)


def test_options_are_listed_in_the_order_of_the_signature(shapes):
    assert options_of(Cone) == [
        Option("height_mm", float, 1.0),
        Option("tip", Literal["sharp", "round"], "sharp"),
        Option("sides", int | None, None),
    ]
    assert options_of(Prism, ["size"]) == [
        Option("edges", int, inspect.Parameter.empty),
        Option("height_mm", float, 1.0),
    ]
    assert [option.name for option in options_of(shapes["ball"], ["size"])] == [
        "radius_mm",
        "label",
        "kind",
        "n",
        "centre",
        "open",
    ]


def test_facts_an_entry_does_not_want_are_left_out(shapes):
    assert shapes.build("box", size=7) == 2.0


@pytest.mark.parametrize(
    "node, said",
    [
        ({"name": "bal"}, "shape 'bal'.*ball, box, cone, prism.*did you mean 'ball'"),
        ({"radius_mm": 2}, "without a name.*ball, box, cone, prism"),
        (
            {"name": "ball", "radius": 2},
            "option of shape 'ball' 'radius'.*did you mean 'radius_mm'",
        ),
        ({"name": "ball", "radius_mm": "big"}, "'big'.*'radius_mm'.*float"),
        ({"name": "ball", "n": 2.5}, "2.5.*'n'.*int"),
        ({"name": "ball", "n": True}, "True.*'n'.*int"),
        ({"name": "ball", "radius_mm": True}, "True.*float"),
        ({"name": "ball", "radius_mm": None}, "None.*float"),
        ({"name": "ball", "open": 1}, "1.*'open'.*bool"),
        ({"name": "ball", "label": 3}, "3.*'label'.*str"),
        ({"name": "ball", "centre": 1}, "'centre'.*tuple"),
        ({"name": "ball", "size": 9}, "option of shape 'ball' 'size'"),
    ],
)
def test_what_cannot_be_bound_gets_one_sentence(shapes, node, said):
    with pytest.raises(UserError, match=said) as caught:
        shapes.build(node, size=7)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    with pytest.raises(UserError) as checked_only:
        shapes.check(node, "size")
    assert str(checked_only.value) == str(caught.value), (
        "checking refuses what building would, in the same words"
    )


def test_a_wrong_choice_lists_the_choices(shapes):
    with pytest.raises(UserError, match="'holow'.*hollow, solid.*did you mean 'hollow'"):
        shapes.build({"name": "ball", "kind": "holow"}, size=7)


def test_a_name_is_registered_once(shapes):
    with pytest.raises(ValueError, match="twice"):
        shapes.register("box")(lambda: None)


def test_every_registry_is_listed_and_every_entry_says_what_it_is():
    registries()  # imports every module that registers something
    assert {
        "sampler",
        "selector",
        "image model",
        "generator",
        "discriminator",
        "augment",
        "task",
    } <= set(Registry.all)
    for kind, registry in Registry.all.items():
        for name, entry in registry.entries.items():
            assert (entry.__doc__ or "").strip(), f"{kind} '{name}' has no docstring"


def test_positional_arguments_are_no_options():
    def entry(hidden: int = 1, *, shown: int = 2) -> int:
        return shown

    with pytest.raises(UserError, match="shown"):
        bind(entry, {"hidden": 1}, where="entry")


@pytest.mark.parametrize(
    "value, hint, wanted",
    [
        (3, float, 3.0),
        (3, float | None, 3.0),
        (None, int | None, None),
        ([1], tuple, (1,)),
        ("a", Literal["a", "b"], "a"),
        (4, Literal[1, 4], 4),
        ("x", tuple | str, "x"),
    ],
)
def test_yaml_values_become_the_annotated_type(value, hint, wanted):
    found = checked(value, hint, where="x")
    assert found == wanted and type(found) is type(wanted)


def test_nearest_name_only_when_near():
    assert "did you mean 'local'" in str(unknown_name("sampler", "locl", ["stratified", "local"]))
    assert "did you mean" not in str(unknown_name("sampler", "zzz", ["stratified", "local"]))
    assert (UserError("g", "w", "n").exit_code, RunError("g", "w", "n").exit_code) == (2, 1)


# Recipes


def test_overlaying_changes_single_values_and_replaces_other_variants_whole():
    base = {"a": {"name": "x", "n": 1, "m": 2}, "steps": 10, "levels": [1, 2]}
    assert overlaid(base, {"a": {"n": 5}})["a"] == {"name": "x", "n": 5, "m": 2}
    assert overlaid(base, {"a": {"name": "x", "n": 5}})["a"] == {"name": "x", "n": 5, "m": 2}
    assert overlaid(base, {"a": {"name": "y", "k": 5}})["a"] == {"name": "y", "k": 5}
    assert overlaid(base, {"levels": [3]})["levels"] == [3]
    assert base == {"a": {"name": "x", "n": 1, "m": 2}, "steps": 10, "levels": [1, 2]}, (
        "the base is left as it was"
    )


def test_overlaying_shares_nothing_with_its_parts():
    over = {"a": {"deep": [1]}}
    result = overlaid({"b": {"deep": [2]}}, over)
    result["a"]["deep"].append(9)
    assert over == {"a": {"deep": [1]}}


@pytest.mark.parametrize(
    "text, value",
    [
        ("5e-4", 5e-4),
        ("1e3", 1000.0),
        ("-2E+1", -20.0),
        ("3", 3),
        ("true", True),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("hybrid", "hybrid"),
        ("{name: local}", {"name": "local"}),
        ("a=b", "a=b"),
    ],
)
def test_settings_are_yaml_and_exponents_are_numbers(text, value):
    found = with_settings({"x": {"y": 0}}, [f"x.y={text}"])["x"]["y"]
    assert found == value and type(found) is type(value)


def test_settings_apply_in_order_and_leave_the_recipe_alone():
    recipe = {"x": {"y": 0}, "steps": 1}
    assert with_settings(recipe, ["steps=2", "x.z=3", "steps=4"]) == {
        "x": {"y": 0, "z": 3},
        "steps": 4,
    }
    assert recipe == {"x": {"y": 0}, "steps": 1}


@pytest.mark.parametrize(
    "setting, said",
    [
        ("steps", "wanted key.path=value"),
        ("=3", "wanted key.path=value"),
        ("stps=3", "did you mean 'steps'"),
        ("steps.n=3", "node at 'steps'"),
        ("levels.n=3", "index from 0 to 0 at 'n'"),
        ("levels.1.n=3", "index from 0 to 0 at '1'"),
        ("levels.-1={n: 3}", "index from 0 to 0 at '-1'"),
        ("levels.0.n.m=3", "node at 'n'"),
        ("none.0=3", "no index, for the list is empty, at '0'"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_named(setting, said):
    with pytest.raises(UserError, match=said):
        with_settings({"steps": 1, "x": {"y": 0}, "levels": [{"n": 1}], "none": []}, [setting])


@pytest.mark.parametrize(
    "setting, levels",
    [
        ("levels.1.sampler.n=3", [{"n": 1}, {"sampler": {"name": "local", "n": 3}}]),
        ("levels.0={name: stratified}", [{"name": "stratified"}, {"sampler": {"name": "local"}}]),
        ("levels.0.new.deep=1", [{"n": 1, "new": {"deep": 1}}, {"sampler": {"name": "local"}}]),
    ],
)
def test_a_whole_number_in_a_path_indexes_a_list(setting, levels):
    recipe = {"levels": [{"n": 1}, {"sampler": {"name": "local"}}]}
    assert with_settings(recipe, [setting]) == {"levels": levels}
    assert recipe == {"levels": [{"n": 1}, {"sampler": {"name": "local"}}]}, (
        "the recipe is left as it was"
    )


@pytest.mark.parametrize("setting", ["x.y=[1", "x.y={a: b", "steps=*"])
def test_a_setting_that_is_no_yaml_is_a_users_error(setting):
    with pytest.raises(UserError):
        with_settings({"steps": 1, "x": {"y": 0}}, [setting])


def test_every_recipe_of_the_package_loads():
    names = [path.stem for path in config.folder().glob("*.yaml")]
    assert {"chest", "knee"} <= set(names)
    for name in names:
        recipe = load(name)
        assert "base" not in recipe and recipe["steps"] > 0


def test_a_recipe_stands_on_its_base(tmp_path):
    (tmp_path / "first.yaml").write_text("steps: 3\ntask: {name: prior, batch: 2}\n")
    (tmp_path / "second.yaml").write_text(f"base: {tmp_path / 'first.yaml'}\ntask: {{batch: 4}}\n")
    (tmp_path / "third.yaml").write_text(f"base: {tmp_path / 'second.yaml'}\nsteps: 5\n")
    assert load(str(tmp_path / "third.yaml")) == {"steps": 5, "task": {"name": "prior", "batch": 4}}


def test_a_former_name_finds_the_recipe_and_what_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "folder", lambda: tmp_path)
    (tmp_path / "nerf.yaml").write_text("picture: emission_absorption\nlosses: {mse: 1, l1: 2}\n")
    (tmp_path / "mine.yaml").write_text("base: lego_nerf\nlosses: {l1: 3}\n")
    wanted = {"image_model": "emission_absorption", "losses": {"mse": 1, "density_l1": 2}}
    assert load("lego_nerf") == load("nerf") == wanted
    assert load("mine")["losses"] == {"mse": 1, "density_l1": 3}
    assert with_settings(load("nerf"), ["losses.l1=4", "picture=line_integral"]) == {
        "image_model": "line_integral",
        "losses": {"mse": 1, "density_l1": 4},
    }
    (tmp_path / "lego_nerf.yaml").write_text("steps: 1\n")
    assert load("lego_nerf") == {"steps": 1}, "a file of that very name goes first"


def test_an_unknown_recipe_offers_the_nearest():
    with pytest.raises(UserError, match="recipe 'chst'.*did you mean 'chest'"):
        load("chst")


@pytest.mark.parametrize(
    "text, said",
    [
        ("a: [1\n", "does not parse"),
        ("- 1\n", "without keys"),
        ("", "without keys"),
        (b"\xff\xfe\x00", "does not parse"),
    ],
)
def test_a_recipe_that_is_no_mapping_is_named(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=f"mine.yaml.*{said}|mine.yaml.*without"):
        load(str(path))


def test_a_recipe_file_that_is_absent_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.yaml"):
        load(str(tmp_path / "gone.yaml"))


def test_a_recipe_that_is_its_own_base_is_a_users_error(tmp_path):
    path = tmp_path / "circle.yaml"
    path.write_text(f"base: {path}\n")
    with pytest.raises(UserError):
        load(str(path))
