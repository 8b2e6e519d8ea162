"""Sets of orbits as a recipe wants them: phantoms by name and size, anything else by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import config
from ..data.orbits import OrbitSet, load_orbits


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """What a recipe's ``dataset`` node may say of a set of orbits.

    Options:
        size: pixels along a side; null: as stored.
        views: of every patient, on equally spaced angles; phantoms only.
        seed: of the split, where the set has none of its own.
        train, val, test: patients of each split; phantoms only.
        volume_size: voxels along a side of the volumes that a posed training learns from.
        limit: patients that an adversarial training learns from; null: all.
    """

    size: int | None = None
    views: int = 72
    seed: int = 0
    train: int | None = None
    val: int | None = None
    test: int | None = None
    volume_size: int = 64
    limit: int | None = None

    @property
    def cohort(self) -> dict[str, int]:
        """Patients of each split, where the recipe names them."""
        counts = {"train": self.train, "val": self.val, "test": self.test}
        return {split: n for split, n in counts.items() if n is not None}


def set_options(node: Mapping[str, Any]) -> SetOptions:
    """A recipe's ``dataset`` node."""
    return config.bind(SetOptions, node, where="dataset")


def read_set(
    dataset: str,
    node: Mapping[str, Any],
    *,
    split: str,
    limit: int | None = None,
    patients: Sequence[str] | None = None,
    progress: bool = True,
) -> OrbitSet:
    """The set that a recipe's ``dataset`` node wants.

    It holds the ``patients`` named, or the first ``limit`` of a split.
    """
    options = set_options(node)
    return load_orbits(
        dataset,
        split=split,
        size=options.size,
        seed=options.seed,
        patients=patients,
        limit=limit,
        cohort=options.cohort or None,
        views=options.views,
        progress=progress,
    )
