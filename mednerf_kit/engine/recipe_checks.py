"""What the recipes of every task refuse alike, each in one sentence and before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import config
from ..core.errors import UserError
from ..rays.samplers.base import SAMPLERS, Sampler


def check_counts(recipe: Mapping[str, Any], *task_options: str) -> None:
    """Refuse ``steps``, ``snapshot_steps`` and the named options of the task (where they are given)
    unless they are whole numbers of at least 1.

    >>> check_counts({"task": {"batch": 4}, "steps": 100, "snapshot_steps": 50}, "batch")
    """
    task = recipe["task"]
    counts = {f"task.{name}": task[name] for name in task_options if name in task}
    for key, value in (counts | {k: recipe[k] for k in ("steps", "snapshot_steps")}).items():
        if config.checked(value, int, where=f"recipe key '{key}'") < 1:
            raise UserError(
                f"got {key} {value}", "wanted at least 1", "correct the recipe or --set"
            )


def check_first_sampler(sampler: Sampler) -> None:
    """Refuse a sampler on the first level that follows a coarser one."""
    if sampler.refines:
        raise UserError(
            f"got sampler '{SAMPLERS.name_of(sampler)}' on the first level",
            "wanted a coarser level before it",
            "put 'stratified' first",
        )
