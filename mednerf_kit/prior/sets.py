"""Sets of orbits as a recipe wants them: phantoms by name and size, anything else by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import config
from ..data.ct_files import is_folder_of_cts
from ..data.orbits import OrbitSet, load_orbits
from ..imaging.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """What a recipe's ``dataset`` node may say of a set of orbits.

    Options:
        size: pixels along a side; null: as stored.
        views: of every patient, on equally spaced angles; phantoms and CTs only.
        anatomy: of a folder of CTs, chest or knee; null takes what its name says, else chest.
        seed: of the split, where the set has none of its own.
        train, val, test: patients of each split; phantoms only.
        volume_size: voxels along a side of the volumes that a posed training learns from.
        variants: varied copies of every patient that a posed training learns from as well.
        limit: patients that an adversarial training learns from; null: all.
    """

    size: int | None = None
    views: int = 72
    anatomy: str | None = None
    seed: int = 0
    train: int | None = None
    val: int | None = None
    test: int | None = None
    volume_size: int = 64
    variants: int = 0
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
    geometry: Geometry | None = None,
    progress: bool = True,
) -> OrbitSet:
    """The set that a recipe's ``dataset`` node wants.

    It holds the ``patients`` named, or the first ``limit`` of a split. With a ``geometry`` a folder
    of CTs is projected by that one, and a set of pictures is brought to its scale.
    """
    options = set_options(node)
    found = load_orbits(
        dataset,
        split=split,
        size=options.size,
        seed=options.seed,
        patients=patients,
        limit=limit,
        cohort=options.cohort or None,
        views=options.views,
        anatomy=options.anatomy,
        geometry=geometry if is_folder_of_cts(Path(dataset).expanduser()) else None,
        progress=progress,
    )
    return found if geometry is None else found.at_scale(geometry.line_integral_scale)
