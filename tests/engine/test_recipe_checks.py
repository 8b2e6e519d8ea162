"""What the recipes of every task refuse alike."""

import re
import resource

import pytest
import torch

from mednerf_kit.core.errors import UserError
from mednerf_kit.engine.recipe_checks import SizeLimit, check_counts, check_first_sampler
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


@pytest.mark.parametrize(
    "recipe, setting, said",
    [
        ("tensorf", "selector.n=-5", "got -5 for selector 'random' option 'n'; wanted 0 or more"),
        ("tensorf", "task.learning_rate=.nan", "option 'learning_rate'; wanted a finite number"),
        ("tensorf", "task.final_rate=.inf", "option 'final_rate'; wanted a finite number"),
        ("chest", "task.batch=-1", "wanted"),
        ("tensorf", "fields.scene.start_voxels=100000000000", "wanted at most 1 GiB"),
        ("tensorf", "fields.scene.head_width=10000000", "wanted at most 1 GiB"),
        ("tensorf", "fields.scene.end_voxels=1000000000", "got fields.scene.end_voxels 1000000000"),
        ("tensorf", "levels.0.sampler.n=1000000000", "wanted at most 4194304"),
        ("tensorf", "selector.n=1.0e9", "wanted at most 4194304"),
        ("hash", "fields.scene.encoding={name: hash, log2_table: 60}", "a table up to 2^24"),
        ("hash", "fields.scene.encoding={name: hash, levels: 1000000000}", "wanted at most 64"),
        ("nerf", "fields.fine.depth=1000000000", "got fields.fine.depth 1000000000"),
        ("chest_mednerf", "generator.depth=1000000000", "wanted at most 1024"),
        ("chest", "task.points=1000000000", "wanted at most 4194304"),
        ("chest", "dataset.size=1000000000", "wanted at most 16384"),
        ("chest", "dataset.volume_size=1000000000", "wanted at most 1024"),
        ("chest", "discriminator={name: residual}", "residual' without 'size'"),
        ("nerf", "fields.fine.width=1000000", "wanted at most 1 GiB"),
        ("chest", "generator.width=10000000", "wanted at most 1 GiB"),
        ("chest_mednerf", "discriminator.width=10000000", "wanted at most 1 GiB"),
        ("tensorf", "fields.scene.density_ranks=[[]]", "wanted"),
        ("tensorf", "levels=[3]", "wanted"),
        ("tensorf", "task=[]", "wanted"),
    ],
)
def test_what_no_run_could_use_is_refused_before_it_is_allocated(recipe, setting, said):
    """``--dry-run`` goes the same way."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        resolve("somewhere", recipe, "default", [setting])
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    grown_gib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert grown_gib < 2


def test_tensors_are_counted_before_they_are_made():
    with SizeLimit("a recipe", 4000), pytest.raises(UserError, match="got a recipe with tensors"):
        assert torch.zeros(500).sum() == 0
        torch.nn.Linear(20, 30)
    assert torch.zeros(2000).shape == (2000,), "no limit any more"
