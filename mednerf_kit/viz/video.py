"""Videos and animated GIFs of views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from .. import DISCLAIMER
from ..core.errors import RunError
from ..core.files import atomic
from ..core.resampling import area_resized
from .figures import to_uint8

GIF_WIDTH_PX = 960  # at most


def write_mp4(path: str | Path, frames: Tensor, fps: float = 20) -> None:
    """Write views [V, H, W] (or [V, H, W, 3]) in [0, 1] as an MP4 (H.264, yuv420p), atomically.

    Odd sizes get one more row or column, a copy of the last. Raises :class:`RunError` when ffmpeg
    is missing or fails.
    """
    import imageio.v3

    pictures = to_uint8(frames)
    height, width = pictures.shape[1:3]
    padding = [(0, 0), (0, height % 2), (0, width % 2)] + [(0, 0)] * (pictures.ndim - 3)
    pictures = np.pad(pictures, padding, mode="edge")
    extra = ["-metadata", f"comment={DISCLAIMER}", "-movflags", "+faststart"]
    with atomic(path, frames=len(pictures)) as temporary:
        try:
            imageio.v3.imwrite(
                temporary,
                pictures,
                plugin="FFMPEG",
                is_batch=True,
                fps=fps,
                codec="libx264",
                pixelformat="yuv420p",
                quality=8,
                macro_block_size=2,
                ffmpeg_log_level="quiet",  # what it wrote is read back, see core/written.py
                output_params=extra,
            )
        except (RuntimeError, ImportError, ValueError) as error:  # imageio without ffmpeg
            raise RunError(
                f"could not write '{path}' ({error})",
                "wanted ffmpeg with libx264",
                "install it with: pip install 'imageio[ffmpeg]'",
            ) from error
        except OSError as error:
            raise OSError(f"ffmpeg ended early: {str(error).splitlines()[0]}") from error


def write_gif(path: str | Path, frames: Tensor, fps: float = 20) -> None:
    """Write views [V, H, W] (or [V, H, W, 3]) in [0, 1] as a GIF that repeats, atomically.

    It is at most GIF_WIDTH_PX wide and needs no ffmpeg.
    """
    import imageio.v3

    if frames.shape[2] > GIF_WIDTH_PX:
        rows = round(frames.shape[1] * GIF_WIDTH_PX / frames.shape[2])
        colours = frames if frames.ndim == 4 else frames[..., None]
        frames = area_resized(colours.movedim(-1, 1), rows, GIF_WIDTH_PX).movedim(1, -1)
        frames = frames if frames.shape[-1] == 3 else frames[..., 0]
    # in memory first: on a full disk the library's writer would complain once more when it goes
    content = imageio.v3.imwrite(
        "<bytes>",
        to_uint8(frames),
        plugin="pillow",
        extension=".gif",
        duration=1000 / fps,
        loop=0,
    )
    with atomic(path) as temporary:
        temporary.write_bytes(content)
