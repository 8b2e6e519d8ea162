"""Masks: pixels of photographs that are not the scene's, such as passers-by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor


def mask_files(root: Path, names: Sequence[str], folder: str = "images") -> list[Path | None]:
    """The mask of each picture ``NAME`` under ``masks/``: ``NAME.png`` (COLMAP's) or ``STEM.png``.

    ``names`` are relative to the scene; a leading ``folder`` is not repeated under ``masks/``.
    """
    found = []
    for name in names:
        path = Path(name)
        inner = path.relative_to(folder) if path.is_relative_to(folder) else path
        places = [
            root / "masks" / tail
            for tail in (f"{inner.as_posix()}.png", inner.with_suffix(".png"), inner)
        ]
        found.append(next((place for place in places if place.is_file()), None))
    return found


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
