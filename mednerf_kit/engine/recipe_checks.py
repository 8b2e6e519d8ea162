"""What the recipes of every task refuse alike, each in one sentence and before any work starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..core import config
from ..core.errors import UserError
from ..rays.samplers.base import SAMPLERS, Sampler

#: Bytes of the tensors of a recipe at most; those of the package take 0.3 GiB at most.
MOST_BYTES = 1 << 30
#: Operators whose first argument is the size of what they make.
FACTORIES = {"empty", "zeros", "ones", "full", "rand", "randn", "empty_strided"}

#: Options that pictures, volumes, samples or layers grow with, and the most that makes sense. What
#: is made only while training goes on would else be refused by the machine, hours later.
MOST = {
    name: most
    for most, names in {
        1 << 6: "levels octaves view_octaves feature_octaves view_degree doublings",
        1 << 10: "depth max_depth head_depth volume_size resolution planes grid blocks",
        1 << 14: "size pixels patch_px",
        1 << 16: "batch gan_batch accumulate views variants samples candidates azimuths",
        1 << 22: "n rays points refine outside scatter closed_rays guide_rays nodes",
        1 << 28: "end_voxels",
    }.items()
    for name in names.split()
}


def check_sizes(node: Any, where: str = "") -> None:
    """Refuse numbers anywhere in a recipe that exceed :data:`MOST`.

    >>> check_sizes({"selector": {"n": 4096}, "levels": [{"n": 10**9}]})
    Traceback (most recent call last):
    mednerf_kit.core.errors.UserError: got levels.0.n 1000000000; wanted at most 4194304: choose \
smaller sizes.
    """
    if not isinstance(node, (Mapping, list)):
        return
    for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
        place = f"{where}.{key}".lstrip(".")
        most = MOST.get(str(key), math.inf)
        if isinstance(value, (int, float)) and value > most:
            raise UserError(
                f"got {place} {value}", f"wanted at most {most}", "choose smaller sizes"
            )
        check_sizes(value, place)


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


class SizeLimit(TorchDispatchMode):
    """Inside the block tensors are made of at most so many bytes together.

    The next one is refused in a sentence about ``what``, before it is made.

    >>> with SizeLimit("recipe 'large'", 1000):
    ...     small, large = torch.zeros(10), torch.zeros(10**6, 10**6)
    Traceback (most recent call last):
    mednerf_kit.core.errors.UserError: got recipe 'large' with tensors of more than 3725 GiB; \
wanted at most 0 GiB: choose smaller sizes.
    """

    def __init__(self, what: str, most_bytes: int = MOST_BYTES) -> None:
        super().__init__()
        self.what, self.most_bytes, self.made_bytes = what, most_bytes, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.overloadpacket.__name__ in FACTORIES and args:
            dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            self.made_bytes += math.prod(args[0]) * dtype.itemsize
            if self.made_bytes > self.most_bytes:
                raise UserError(
                    f"got {self.what} with tensors of more than {self.made_bytes / 2**30:.0f} GiB",
                    f"wanted at most {self.most_bytes / 2**30:.0f} GiB",
                    "choose smaller sizes",
                )
        return func(*args, **(kwargs or {}))
