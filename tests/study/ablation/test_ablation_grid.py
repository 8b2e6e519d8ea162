"""Files of ablations are read, refused and planned; those in configs/ hold what they promise."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from small_ablation import TEXT, cheap_resolve

from mednerf_kit.core import config
from mednerf_kit.core.errors import UserError
from mednerf_kit.study.ablation import grid


def test_a_file_becomes_an_ablation(spec):
    found = grid.read(str(spec))
    assert (found.name, found.about, found.base, found.seeds) == (
        "mine",
        "What it shows. What it costs.",
        "chest",
        (0, 1),
    )
    assert found.pairs() == [("second", "first"), ("third", "first")]
    assert found.common() == ["task.batch=4", "dataset.size=32", "steps=50"]


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("seeds:", "seed:", "option of ablation 'mine' 'seed'.*did you mean 'seeds'"),
        ("base: chest", "x: 1", "without 'base'"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds .-1."),
        ("seeds: [0, 1]", "seeds: []", "seeds"),
        ("seeds: [0, 1]", "compare: [[secnd, first]]", "cell 'secnd'.*did you mean 'second'"),
        ("seeds: [0, 1]", "compare: [first]", "wanted .cell, reference"),
        ("steps: 50", "steps: 0", "steps 0"),
        ("steps: 50", "steps: many", "'many'.*int"),
        ("third: {", "a/b: {", "cell 'a/b'"),
        ("third: {", "off: {", "a cell named False"),
        ("third: {task.objective: hybrid}", "third: 3", "cell 'third' = 3"),
        ("limit: 8", "limit: [8", "does not parse"),
    ],
)
def test_a_file_that_is_wrong_gets_one_sentence(spec, old, new, said):
    spec.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        grid.read(str(spec))
    assert "\n" not in str(caught.value)


def test_names_are_found_and_the_nearest_is_offered():
    assert (
        grid.find("objective")
        == grid.find("ablations/objective")
        == config.folder() / "ablations" / "objective.yaml"
    )
    with pytest.raises(UserError, match="did you mean 'objective'"):
        grid.find("objectiv")
    with pytest.raises(UserError, match="gone.yaml"):
        grid.find("gone.yaml")


def test_the_plan_has_every_cell_and_finishes_a_seed_before_the_next(spec):
    cells = grid.plan(
        grid.read(str(spec)),
        {"a": "x/a", "b": "x/b"},
        cheap_resolve,
        ["task.batch=6", "task.r1_gamma=2.0"],
    )
    assert [(c.seed, c.scene, c.name) for c in cells] == [
        (seed, scene, name)
        for seed in (0, 1)
        for scene in "ab"
        for name in ("first", "second", "third")
    ]
    second = cells[1]
    common, line, own = (
        ["task.batch=4", "dataset.size=32", "steps=50"],
        ["task.batch=6", "task.r1_gamma=2.0"],
        ["levels.0.n=16", "task.r1_gamma=1e-3"],
    )
    assert second.settings == common + line + own
    assert (
        second.recipe["task"]["batch"],
        second.recipe["task"]["r1_gamma"],
        second.recipe["levels"][0]["n"],
    ) == (6, 1e-3, 16)
    assert (second.dataset, second.limit, second.place) == ("x/a", 8, Path("a/second/seed0"))


def test_a_cell_may_start_from_another_recipe(spec):
    spec.write_text(TEXT.replace("third: {", "third: {base: knee, "))
    cells = grid.plan(grid.read(str(spec)), {"a": "a"}, cheap_resolve)
    assert [c.base for c in cells[:3]] == ["chest", "chest", "knee"]
    assert "base=knee" not in cells[2].settings


def test_a_cell_that_no_recipe_can_be_made_of_is_named_before_any_work(spec):
    spec.write_text(TEXT.replace("levels.0.n", "levels.3.n"))
    with pytest.raises(UserError, match="cell 'second'.*index from 0 to 0"):
        grid.plan(grid.read(str(spec)), {"a": "a"}, cheap_resolve)


def test_another_preset_replaces_the_files_own_size(spec):
    found = grid.resized(grid.read(str(spec)), "paper")
    assert (found.preset, found.common(), found.limit, found.max_minutes) == (
        "paper",
        ["task.batch=4"],
        None,
        None,
    )


def test_scenes_are_found_under_and_beside_the_dataset(tmp_path):
    for name in ("lego", "chair", "notes"):
        (tmp_path / name).mkdir()

    def is_scene(path):
        return path.name in ("lego", "chair")

    both = {"chair": str(tmp_path / "chair"), "lego": str(tmp_path / "lego")}
    assert (
        grid.datasets(str(tmp_path), "all", is_scene)
        == grid.datasets(str(tmp_path / "lego"), "all", is_scene)
        == both
    )
    assert grid.datasets(str(tmp_path), "chair,lego", is_scene) == both
    assert grid.datasets(str(tmp_path / "lego"), ("chair", "lego"), is_scene) == both
    assert grid.datasets("chest", None, is_scene) == {"chest": "chest"}
    assert grid.datasets("chest", ("chest", "knee"), is_scene) == {"chest": "chest", "knee": "knee"}
    with pytest.raises(UserError, match="'all'"):
        grid.datasets("chest", "all", is_scene)
    with pytest.raises(UserError, match="no scene"):
        grid.datasets(str(tmp_path), "all", lambda path: False)


SHIPPED = sorted(path.stem for path in (config.folder() / "ablations").glob("*.yaml"))


def bases(ablation):
    return {
        ablation.base,
        *(str(changes["base"]) for changes in ablation.cells.values() if "base" in changes),
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_cell_can_be_run(name):
    from mednerf_kit.engine.session import resolve

    ablation = grid.read(name)
    for base in sorted(bases(ablation)):
        resolve(ablation.dataset, base, ablation.preset, [])
    planned = grid.plan(replace(ablation, seeds=(0,)), {"any": ablation.dataset}, resolve)
    assert len(planned) == len(ablation.cells) >= 2
    recipes = [json.dumps(cell.recipe, sort_keys=True) for cell in planned]
    assert len(set(recipes)) == len(recipes), "two cells are the same"


def changed(ablation):
    """The options each cell changes in the first one's recipe, without their values."""

    def unchecked(dataset, base, preset, settings):
        recipe = config.load(base)
        sizes = recipe.pop("presets", {})
        return config.with_settings(config.overlaid(recipe, sizes.get(preset, {})), list(settings))

    first, *others = grid.plan(replace(ablation, seeds=(0,)), {"any": ablation.dataset}, unchecked)
    return {
        cell.name: sorted(
            line.split(":")[0] for line in grid.differences(first.recipe, cell.recipe)
        )
        for cell in others
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_grid_compares_the_same_things_at_every_preset(name):
    ablation = grid.read(name)
    # systems at equal pictures or time: their sizes fit each other only
    if name.startswith("presets"):
        with pytest.raises(UserError, match="steps of their own"):
            grid.resized(ablation, "default")
        return
    for preset in ("quick", "default"):
        other = changed(grid.resized(ablation, preset))
        assert other == changed(ablation) and all(other.values()), preset


@pytest.mark.parametrize("preset", ["quick", "default"])
def test_local_and_importance_sampling_start_from_as_many_samples_at_every_preset(preset):
    from mednerf_kit.engine.session import resolve

    ablation = grid.resized(grid.read("samplers_llff"), preset)
    fine = {
        cell.name: cell.recipe["levels"][1]["sampler"]["n"]
        for cell in grid.plan(ablation, {"any": "blocks"}, resolve)
    }
    assert fine == {"importance": 128, "importance_51": 51, "local_5e-4": 128, "released": 128}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_ablation_says_what_it_is_and_what_it_costs(name):
    text = (config.folder() / "ablations" / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    header = [line for line in lines[:8] if line.startswith("# ")]
    assert lines[0] in header and re.search(r"\b(runs|fits|trainings)\b", " ".join(header[1:]))
    assert len(lines) <= 60 and max(map(len, lines)) <= 100


def test_one_script_runs_every_ablation():
    script = Path(__file__).resolve().parents[3] / "scripts" / "ablate"
    assert os.access(script, os.X_OK) and 'ablate "$@"' in script.read_text(encoding="utf-8")
