"""Which files below a folder may be CTs: volumes, multi-frame DICOM, folders of DICOM slices."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from ..imaging.scans.dicom import MEDIA_DIRECTORY, VOLUMES, is_dicom, is_multi_frame
from .drr import ct_name
from .set_folder import check_cts

VOXELS = (".raw", ".zraw", ".raw.gz")  # what .mhd and .nhdr keep beside them


@dataclass(frozen=True)
class CtFile:
    """A volume file, or a folder of DICOM slices, that may be a CT."""

    path: Path
    relative: str  # below the folder that was searched
    name: str  # of the patient
    state: dict[str, int | str]  # by which a changed scan is known


def find_cts(root: Path) -> tuple[list[CtFile], list[tuple[str, str]]]:
    """What may be a CT below a folder, by name, and (file, why not) of the other files."""
    check_cts(root)
    found: list[Path] = []
    strangers: list[tuple[str, str]] = []
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        paths = [Path(folder) / name for name in sorted(names) if not name.startswith(".")]
        volumes = [path for path in paths if path.name.lower().endswith(VOLUMES)]
        others = [path for path in paths if path not in volumes]
        found += volumes
        first_two = list(islice(filter(holds_slices, others), 2))
        if len(first_two) == 2 and is_multi_frame(first_two[0]):
            found += filter(holds_slices, others)  # each of them a scan
        elif first_two:
            found.append(Path(folder))
        elif others:
            kept = [path for path in others if not path.name.lower().endswith(VOXELS)]
            strangers += [(_below(root, path), "this is no format of CTs") for path in kept]
    names = _patient_names(root, found)
    return [
        CtFile(path, _below(root, path), name, _state(root, path))
        for path, name in zip(found, names, strict=True)
    ], strangers


def holds_slices(path: Path) -> bool:
    """Whether a file is DICOM or calls itself so, and is no directory of a medium."""
    if path.name.upper() == "DICOMDIR" or not is_dicom(path):
        return False
    with open(path, "rb") as file:
        return MEDIA_DIRECTORY.encode() not in file.read(1024)


def is_folder_of_cts(root: Path) -> bool:
    """Whether a folder holds what may be CTs, and no set of pictures or scene.

    A set keeps its patients' volumes too: pictures beside them say that it is one.
    """
    if not root.is_dir() or (root / "geometry.json").exists():
        return False
    if any(root.glob("*.png")) or any(root.glob("*/*.png")):
        return False
    return bool(find_cts(root)[0])


def _patient_names(root: Path, paths: list[Path]) -> list[str]:
    """A name for every scan: its own, after those of the folders around it where two are alike."""
    parts = [[clean_name(part) for part in path.relative_to(root).parts[:-1]] for path in paths]
    own = [clean_name(ct_name(path) if path.is_file() else path.resolve().name) for path in paths]
    names = list(own)
    for depth in range(1, 1 + max(map(len, parts), default=0)):
        alike = Counter(names)
        names = [
            "_".join([*parts[k][-depth:], own[k]]) if alike[name] > 1 else name
            for k, name in enumerate(names)
        ]
    for k, name in enumerate(names):  # scan.nii beside scan.mha
        more = (f"{name}-{n}" for n in count(2))
        names[k] = next(n for n in chain([name], more) if n not in names[:k])
    return names


def clean_name(name: str) -> str:
    """A name with only what a patient's may have.

    >>> clean_name("Anna Maria (2)")
    'Anna-Maria-2'
    """
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.+") or "patient"


def _state(root: Path, path: Path) -> dict[str, int | str]:
    """Where a scan lies, and the size and the latest time of its files."""
    parts = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    if path.suffix.lower() in (".mhd", ".nhdr"):
        parts += [p for p in path.parent.glob(f"{path.stem}.*") if p != path]
    facts = [part.stat() for part in parts]
    return {
        "path": _below(root, path),
        "files": len(facts),
        "bytes": sum(fact.st_size for fact in facts),
        "modified_ns": max(fact.st_mtime_ns for fact in facts),
    }


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
