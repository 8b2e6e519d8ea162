"""What the recipes of every task refuse alike."""

import re

import pytest

from mednerf_kit.core.errors import UserError
from mednerf_kit.engine.recipe_checks import check_counts, check_first_sampler
from mednerf_kit.engine.session import resolve
from mednerf_kit.rays.samplers.base import SAMPLERS

WHOLE = {"task": {"name": "prior", "batch": 4}, "steps": 10, "snapshot_steps": 5}


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"steps": 0}, "got steps 0; wanted at least 1: correct the recipe or --set."),
        ({"snapshot_steps": -1}, "got snapshot_steps -1; wanted at least 1"),
        ({"steps": 2.5}, "recipe key 'steps'"),
        ({"task": {"batch": 0}}, "got task.batch 0; wanted at least 1"),
    ],
)
def test_counts_are_whole_numbers_from_one_on(changed, said):
    check_counts(WHOLE, "batch", "accumulate")
    with pytest.raises(UserError, match=re.escape(said)):
        check_counts({**WHOLE, **changed}, "batch", "accumulate")


def test_an_option_that_is_not_asked_for_may_be_anything():
    check_counts({**WHOLE, "task": {"gan_weight": 0.0}}, "batch")


def test_the_first_sampler_follows_nothing():
    check_first_sampler(SAMPLERS.build("stratified"))
    with pytest.raises(UserError, match="'importance' on the first level.*put 'stratified' first"):
        check_first_sampler(SAMPLERS.build("importance"))


@pytest.mark.parametrize(
    "recipe, setting",
    [
        ("chest", "levels=[{name: importance}]"),
        ("chest_mednerf", "levels=[{name: importance}]"),
        ("nerf", "levels.0.sampler.name=importance"),
    ],
)
def test_every_task_refuses_it_before_any_work(recipe, setting):
    with pytest.raises(UserError, match="'importance' on the first level"):
        resolve("somewhere", recipe, "default", [setting])
