"""Photographs of one kind of thing without poses: a folder that a generator learns from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.resampling import area_resized
from .pictures import decode, unit_colours

ENDINGS = (".png", ".jpg", ".jpeg")
NO_PHOTOGRAPH = ("_depth", "_normal", "_alpha")  # what Blender sets keep beside their pictures


def read_photographs(
    *, root: str, size: int = 128, background: float = 0.0, limit: int | None = None
) -> tuple[Tensor, list[str]]:
    """The photographs of a folder, in colour: [N, size, size, 3] float16 in [0, 1].

    Where the folder has a ``train`` folder, that one is read.

    What is transparent shows ``background`` (1 white); what is not square is cropped to its middle;
    the area filter resizes. The second answer says what was assumed, a sentence each. Raises
    UserError for no folder, no picture or an unreadable one.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"got dataset '{root}', which is no folder",
            "wanted a folder of pictures",
            "check the path",
        )
    folder = folder / "train" if (folder / "train").is_dir() else folder
    paths = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() in ENDINGS and not p.stem.endswith(NO_PHOTOGRAPH)
    )[:limit]
    if not paths:
        raise UserError(
            f"got '{folder}' without PNG or JPEG pictures",
            "wanted a folder of pictures",
            "check the path",
        )
    images = torch.empty(len(paths), size, size, 3, dtype=torch.float16)
    notes = set()
    for slot, path in zip(images, paths, strict=True):
        picture = read_colour(path, background)
        height, width = picture.shape[:2]
        side = min(height, width)
        if height != width:
            notes.add("pictures that are not square: their middle is used")
        top, left = (height - side) // 2, (width - side) // 2
        square = picture[top : top + side, left : left + side].movedim(-1, 0)
        slot.copy_(area_resized(square, size, size).movedim(0, -1))
    return images, sorted(notes)


def read_colour(path: Path, background: float) -> Tensor:
    """A picture as [H, W, 3] in [0, 1], over the background where it is transparent."""

    def unreadable(error: Exception) -> UserError:
        return UserError(
            f"got '{path}', which cannot be read ({error})",
            "wanted a PNG or JPEG",
            "remove or repair it",
        )

    values = decode(path, unit_colours, damaged=unreadable)
    if values.shape[-1] == 3:
        return values
    alpha = values[..., 3:]
    return values[..., :3] * alpha + background * (1 - alpha)
