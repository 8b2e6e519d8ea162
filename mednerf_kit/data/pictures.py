"""Picture files as arrays: one function decodes them, by rules for bit depth and channels.

No rule turns a picture by its EXIF orientation: poses and X-ray geometry belong to the pixels as
they are stored.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

import numpy as np

from ..core.errors import UserError

if TYPE_CHECKING:  # a damaged file is refused without torch
    from PIL.Image import Image
    from torch import Tensor

T = TypeVar("T")


def decode(
    path: str | Path | IO[bytes],
    rule: Callable[[Image], T],
    *,
    damaged: Callable[[Exception], UserError],
) -> T:
    """What a rule makes of a picture file opened by Pillow.

    Whatever is wrong with the file, a size beyond Pillow's limit included, becomes the error that
    ``damaged`` makes of Pillow's.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return rule(picture)
    except (
        OSError,
        SyntaxError,  # what Pillow calls a broken chunk
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise damaged(error) from None


def unit_colours(picture: Image) -> Tensor:
    """A rule: colours in [0, 1], float32 [H, W, 3], or [H, W, 4] with straight alpha.

    The alpha is there where the file has transparency. A grey picture of 16 bits or more is
    divided by 65535.
    """
    if picture.mode.startswith("I") or picture.mode == "F":
        grey = np.array(picture, dtype=np.float32) / 65535
        return _tensor(grey)[..., None].expand(-1, -1, 3)
    is_clear = "A" in picture.getbands() or "transparency" in picture.info
    values = np.array(picture.convert("RGBA" if is_clear else "RGB"))
    return _tensor(values.astype(np.float32) / 255)


def stored_levels(picture: Image) -> Tensor:
    """A rule: the grey levels as stored, float32 [H, W]; of several channels the first."""
    values = np.array(picture, dtype=np.float32)
    return _tensor(values if values.ndim == 2 else np.ascontiguousarray(values[..., 0]))


def rows_and_cols(picture: Image) -> tuple[int, int]:
    """A rule: the size of a picture, without decoding its pixels."""
    return picture.size[1], picture.size[0]


def read_png(path: str | Path) -> Tensor:
    """An 8- or 16-bit PNG, such as this package writes, as float32 in [0, 1]: [H, W] or [H, W, 3].

    Raises UserError for anything else.
    """

    def unit_levels(picture: Image) -> Tensor:
        white = {"L": 255, "RGB": 255, "I;16": 65535, "I": 65535}.get(picture.mode)
        if white is None:
            raise UserError(
                f"got '{path}' with {picture.mode} pixels",
                "wanted grey of 8 or 16 bits, or RGB",
                "convert it to a grey PNG",
            )
        return _tensor(np.asarray(picture).astype(np.float32) / white)

    def unreadable(error: Exception) -> UserError:
        return UserError(
            f"got '{path}' ({error})", "wanted a readable PNG", "check the path or write it again"
        )

    return decode(path, unit_levels, damaged=unreadable)


def _tensor(values: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(values)
