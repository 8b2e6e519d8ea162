"""Sets of orbits as a recipe wants them: phantoms by name and size, anything else by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core.errors import unknown_name
from ..data.orbits import OrbitSet, load_orbits
from ..imaging.geometry import DEFAULTS


def read_set(
    dataset: str,
    node: Mapping[str, Any],
    *,
    split: str,
    limit: int | None = None,
    patients: Sequence[str] | None = None,
    progress: bool = True,
) -> OrbitSet:
    """A set at the recipe's size: phantoms by name, anything else by path."""
    options = dict(node)
    cohort: dict[str, int] = {
        part: int(options.pop(part)) for part in ("train", "val", "test") if part in options
    }
    for not_of_reading in ("volume_size", "limit"):  # what training makes of the set
        options.pop(not_of_reading, None)
    unknown = set(options) - {"size", "views", "seed"}
    if unknown:
        known = ["size", "views", "seed", "train", "val", "test", "volume_size", "limit"]
        raise unknown_name("option of dataset", unknown.pop(), known)
    if dataset not in DEFAULTS:
        options.pop("views", None)
    return load_orbits(
        dataset,
        split=split,
        limit=limit,
        patients=patients,
        cohort=cohort or None,
        progress=progress,
        **options,
    )
