"""Masks: pixels of photographs that are not the scene's, such as passers-by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.files import natural_key

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
#: Folders beside the pictures that are read, or hold pictures of other splits.
READ = ("images", "image", "rgb", "masks", "mask", "depth", "depths", "train", "val", "test")
SHRUNKEN = re.compile(r"(images|masks?)_\d+")
#: What follows a picture's name in that of a file beside it.
ENDING = re.compile(r"[._-](masks?|alpha|matte|seg|depth)\.\w+$")


def mask_folder(root: Path) -> Path | None:
    """The folder of a scene's masks: masks/ or mask/, or of shrunken ones the largest (masks_2/).

    Masks are brought to the size of their pictures.
    """
    shrunken = (path for path in root.glob("mask*_*") if SHRUNKEN.fullmatch(path.name))
    folders = (root / "masks", root / "mask", *sorted(shrunken, key=natural_key))
    return next((path for path in folders if path.is_dir()), None)


def mask_files(root: Path, names: Sequence[str], folder: str = "images") -> list[Path | None]:
    """The mask of each picture ``NAME`` in the folder of masks: ``NAME.png`` (COLMAP's) or
    ``STEM.png``.

    ``names`` are relative to the scene; a leading ``folder`` is not repeated under ``masks/``. The
    mask's suffix may be another.
    """
    home = mask_folder(root)
    if home is None:
        return [None] * len(names)
    there = {
        path.relative_to(home).with_suffix("").as_posix(): path
        for path in sorted(home.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    }
    found = []
    for name in names:
        path = Path(name)
        inner = path.relative_to(folder) if path.is_relative_to(folder) else path
        keys = (inner.as_posix(), inner.with_suffix("").as_posix())
        found.append(next((there[key] for key in keys if key in there), None))
    return found


def unread_notes(root: Path, paths: Sequence[Path], found: Sequence[Any], split: str) -> list[str]:
    """Sentences on masks of no training picture, and on pictures that nothing reads.

    ``found`` are the masks of the pictures at ``paths``. Pictures that bear the names of those of
    the scene, in a folder or with an ending (``STEM_mask.png``), may be masks or depth.
    """
    if split not in ("train", "all"):
        return []
    notes, home = [], mask_folder(root)
    if home is not None and not any(found):
        notes.append(
            f"'{home}' holds no mask of these pictures: the mask of images/NAME.jpg is "
            f"{home.name}/NAME.jpg.png or {home.name}/NAME.png"
        )
    stems = {path.stem for path in paths}
    unread = [
        f"{folder.relative_to(root).as_posix()}/"
        for folder in sorted(path for path in root.iterdir() if path.is_dir())
        if not (folder.name in READ or SHRUNKEN.fullmatch(folder.name) or folder.name[0] == ".")
        and not any(folder in path.parents for path in paths)
        and 2 * len(stems & {plain_stem(path) for path in folder.iterdir()}) > len(stems)
    ]
    unread += sorted(
        {
            f"{folder.relative_to(root).as_posix()}/*{ending[0]}"
            for folder in {path.parent for path in paths if root in path.parents}
            for path in folder.iterdir()
            if (ending := ENDING.search(path.name)) and plain_stem(path) in stems
        }
    )
    if unread:
        notes.append(
            f"{', '.join(unread)} bear the names of pictures and are not read: masks are read from "
            "masks/NAME.png, depth from depth/NAME.png with its depth.json"
        )
    return notes


def plain_stem(path: Path) -> str:
    """The name of the picture that a file belongs to: without suffixes and endings such as _mask.

    >>> [plain_stem(Path(name)) for name in ("a.1.jpg.png", "a.1_mask.png", "a.1.png")]
    ['a.1', 'a.1', 'a.1']
    """
    stem = Path(ENDING.sub("", path.name))
    while stem.suffix.lower() in (*SUFFIXES, ".exr", ".npy"):
        stem = stem.with_suffix("")
    return stem.name


def is_photograph_of_holes(alpha: Tensor) -> bool:
    """Whether transparency [H, W] is a hole in a photograph and not what lies about an object.

    Round an object cut out of its picture most of the border is transparent.
    """
    border = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
    opaque = sum(float((side > 0.5).float().sum()) for side in border)
    return opaque > 0.5 * sum(side.numel() for side in border) and bool((alpha < 0.5).any())


def mask_note(valid: Tensor | None) -> list[str]:
    """A sentence on pixels that are left out."""
    if valid is None:
        return []
    share = 1 - float(valid.float().mean())
    return [
        f"masks cover {100 * share:.1f} % of the pixels, which are neither supervised nor scored "
        "(masks: background takes them for empty space, masks: off for the scene)"
    ]
