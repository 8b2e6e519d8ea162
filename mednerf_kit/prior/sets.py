"""Sets of orbits as a recipe wants them: phantoms by name and size, anything else by path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..core import config
from ..data.ct_files import is_folder_of_cts
from ..data.orbits import OrbitSet, load_orbits
from ..imaging.geometry import DEFAULTS, Geometry
from ..recon.set_checks import set_warnings


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
        input_kind: what the pictures hold, line-integral, transmission or display; null:
            line-integral.
        invert: turn the pictures over first: bone is dark in them.
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
    input_kind: Literal["line-integral", "transmission", "display"] | None = None
    invert: bool = False

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
    checked: bool = False,
    progress: bool = True,
) -> OrbitSet:
    """The set that a recipe's ``dataset`` node wants.

    It holds the ``patients`` named, or the first ``limit`` of a split. With a ``geometry`` a folder
    of CTs is projected by that one, and a set of pictures is brought to its scale. ``checked`` adds
    what looks wrong with a set that was not made here to its notes.
    """
    options = set_options(node)
    of_cts = is_folder_of_cts(Path(dataset).expanduser())
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
        input_kind=options.input_kind,
        invert=options.invert,
        geometry=geometry if of_cts else None,
        progress=progress,
    )
    if checked and not of_cts and dataset not in DEFAULTS:
        found = replace(found, notes=(*found.notes, *set_warnings(found)))
    return found if geometry is None else found.at_scale(geometry.line_integral_scale)
