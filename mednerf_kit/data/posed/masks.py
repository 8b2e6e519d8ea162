"""Masks: pixels of photographs that are not the scene's, such as passers-by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def mask_files(root: Path, names: Sequence[str], folder: str = "images") -> list[Path | None]:
    """The mask of each picture ``NAME`` under ``masks/``: ``NAME.png`` (COLMAP's) or ``STEM.png``.

    ``names`` are relative to the scene; a leading ``folder`` is not repeated under ``masks/``. The
    mask's suffix may be another.
    """
    home = root / "masks"
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


def unused_note(root: Path, found: Sequence[Any], split: str) -> list[str]:
    """A sentence where ``masks/`` has masks, and none is one of these training pictures."""
    if split not in ("train", "all") or any(found) or not (root / "masks").is_dir():
        return []
    return [
        f"'{root / 'masks'}' holds no mask of these pictures: the mask of images/NAME.jpg is "
        "masks/NAME.jpg.png or masks/NAME.png"
    ]


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
