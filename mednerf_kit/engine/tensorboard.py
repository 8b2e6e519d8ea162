"""What TensorBoard shows of a training beside its numbers: reals and fakes, a turning patient,
gains and the field of view.

A task's ``pictures(index)`` are tensors by name: ``grid/NAME`` are views [N, rows, cols] for a
contact sheet, ``clip/NAME`` frames [V, rows, cols] of a clip (colours last, where there are any).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

COLUMNS, FRAME_MS = 8, 100


@contextlib.contextmanager
def event_writer(folder: Path | None) -> Iterator[Any]:
    """TensorBoard's ``SummaryWriter`` for a run folder; None without a folder."""
    if folder is None:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with contextlib.closing(SummaryWriter(str(folder))) as writer:
        yield writer


def write_pictures(writer: Any, task: Any, step: int) -> None:
    """Write a task's pictures, and the field of view and gains it has fitted, for TensorBoard."""
    from ..viz import figures  # needed where there is a writer, and not to open a run

    for name, images in task.pictures(step).items():
        if name.startswith("clip/"):
            write_clip(writer, name, images, step)
        else:
            writer.add_image(name, figures.strip(images, COLUMNS), step, dataformats="HWC")
    fitted = task.fitted()
    if "distance" in fitted:
        writer.add_scalar("fov_deg", 2 * math.degrees(math.atan(1 / fitted["distance"])), step)
    if "log_gain_profile" in fitted:
        gains = torch.tensor(fitted["log_gain_profile"]).exp()
        for name, value in (("mean", gains.mean()), ("least", gains.min()), ("most", gains.max())):
            writer.add_scalar(f"gain/{name}", float(value), step)


def write_clip(writer: Any, name: str, frames: Tensor, step: int) -> None:
    """Write frames [V, rows, cols] (or colours [V, rows, cols, 3]) as an animated GIF, which
    TensorBoard plays.
    """
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    from ..viz import figures

    first, *rest = (Image.fromarray(frame) for frame in figures.to_uint8(frames))
    memory = io.BytesIO()
    first.save(memory, "gif", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
    shape = {"height": first.height, "width": first.width, "colorspace": len(first.getbands())}
    image = Summary.Image(encoded_image_string=memory.getvalue(), **shape)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
