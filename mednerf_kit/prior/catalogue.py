"""Which priors there are: in run folders, in snapshots and in the package, found without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UserError, unknown_name
from ..engine.run_folder import load_meta, read_meta

# beside the snapshots: the uncertainty's factors, fitted after training
CALIBRATION = "calibration.json"
# beside the snapshots: a generator of answers to X-rays that learned from the same patients
CONDITIONAL = "conditional.safetensors"
BUNDLED = Path(__file__).resolve().parent.parent / "bundled"


@dataclass(frozen=True)
class Entry:
    """A prior as its files name it; :func:`~mednerf_kit.prior.load.load_prior` opens it."""

    path: Path  # of the snapshot
    meta: dict[str, Any]  # recipe, geometry, training patients; ``calibration`` where it lies there
    conditional: Path | None  # the conditional generator that goes with it


def bundled_names() -> list[str]:
    """The priors of the package, without the conditional generators beside them."""
    paths = BUNDLED.glob("*.safetensors")
    return sorted(p.stem for p in paths if not p.name.endswith(f"_{CONDITIONAL}"))


def find_prior(run: str | Path) -> Entry:
    """The prior that a run folder (or a unique prefix), a snapshot or ``bundled[:NAME]`` names.

    A body part of which the package has no prior of real patients is that of phantoms. The tensors
    are not looked at, only that the file is whole.

    >>> find_prior("bundled:phantom-knee").path.name
    'phantom-knee.safetensors'
    """
    name = str(run)
    if name.split(":")[0] == "bundled":
        path = _bundled(name.partition(":")[2] or "chest")
        meta, conditional = load_meta(path), path.with_name(f"{path.stem}_{CONDITIONAL}")
    else:
        path, meta = read_meta(run)
        conditional = path.parent / CONDITIONAL
    if "angle_deg" in meta:
        raise UserError(
            f"got '{path}', a conditional generator, which alone is no prior",
            "wanted a prior that it stands beside",
            "train one, then the generator with --set task.beside=RUN",
        )
    if (beside := path.parent / CALIBRATION).is_file():
        try:
            meta["calibration"] = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(
                f"got '{beside}', which is no JSON ({error})",
                "wanted calibration factors",
                "delete it",
            ) from None
    return Entry(path, meta, conditional if conditional.is_file() else None)


def _bundled(anatomy: str) -> Path:
    path = BUNDLED / f"{anatomy}.safetensors"
    phantoms = BUNDLED / f"phantom-{anatomy}.safetensors"
    if phantoms.is_file() and not path.is_file():
        path = phantoms
    if not path.is_file():
        known = bundled_names()
        if known:
            raise unknown_name("bundled prior", anatomy, known)
        raise UserError(
            "got no bundled prior in this installation",
            "wanted mednerf_kit/bundled/*.safetensors",
            "train one with `mednerf-kit train` and give --run",
        )
    return path
