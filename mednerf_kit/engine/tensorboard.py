"""What TensorBoard shows of a training beside its numbers: reals and fakes, a turning patient,
gains and the field of view.

A task's ``pictures(index)`` are tensors by name: ``grid/NAME`` are views [N, rows, cols] for a
contact sheet, ``clip/NAME`` frames [V, rows, cols] of a clip (colours last, where there are any).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.files import GrowingFile

COLUMNS, FRAME_MS = 8, 100


class EventWriter:
    """Appends events to a run folder's ``events.out.tfevents…`` file, each whole or not at all.

    torch's ``SummaryWriter`` writes from a thread, whose errors (a full disk) nobody can catch.
    """

    def __init__(self, file: GrowingFile) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.file = file
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """A number."""
        from torch.utils.tensorboard import summary

        self.add_summary(summary.scalar(name, value), step)

    def add_image(self, name: str, image: Any, step: int) -> None:
        """A picture [H, W, 3]."""
        from torch.utils.tensorboard import summary

        self.add_summary(summary.image(name, image, dataformats="HWC"), step)

    def add_summary(self, summary: Any, step: int) -> None:
        """A summary as TensorBoard defines it."""
        from tensorboard.compat.proto.event_pb2 import Event

        self._append(Event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self.file.append(record.getvalue())


@contextlib.contextmanager
def event_writer(folder: Path | None) -> Iterator[EventWriter | None]:
    """A writer of a new file of events in a run folder; None without a folder."""
    if folder is None:
        yield None
        return
    start, host = f"{time.time():.6f}", platform.node()
    with GrowingFile(folder / f"events.out.tfevents.{start}.{host}.{os.getpid()}") as file:
        yield EventWriter(file)


def write_pictures(
    writer: EventWriter, task: Any, step: int, *, folder: Path | None = None
) -> None:
    """Write a task's pictures, and the field of view and gains it has fitted, for TensorBoard.

    ``folder`` gets the contact sheets as NAME-STEP.png, but for the reals, which stay the same.
    """
    from ..viz import figures  # needed where there is a writer, and not to open a run

    for name, images in task.pictures(step).items():
        if name.startswith("clip/"):
            write_clip(writer, name, images, step)
        else:
            sheet = figures.strip(images, COLUMNS)
            writer.add_image(name, sheet, step)
            kind = name.removeprefix("grid/")
            if folder is not None and kind != "reals":
                figures.write_png8(folder / f"{kind}-{step:06d}.png", sheet)
    fitted = task.fitted()
    if "distance" in fitted:
        writer.add_scalar("fov_deg", 2 * math.degrees(math.atan(1 / fitted["distance"])), step)
    if "log_gain_profile" in fitted:
        gains = torch.tensor(fitted["log_gain_profile"]).exp()
        for name, value in (("mean", gains.mean()), ("least", gains.min()), ("most", gains.max())):
            writer.add_scalar(f"gain/{name}", float(value), step)


def write_clip(writer: EventWriter, name: str, frames: Tensor, step: int) -> None:
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
    writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
