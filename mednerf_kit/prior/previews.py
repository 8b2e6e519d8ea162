"""What TensorBoard shows of a training beside its numbers: reals and fakes, a turning patient, gains and the field of view.

A task that has pictures to show has a method ``pictures(index)``: tensors by name, ``grid/NAME`` views [N, rows, cols] for a
contact sheet and ``clip/NAME`` frames [V, rows, cols] for a clip (colours last, where there are any).
"""

from __future__ import annotations

import io
import math
from typing import Any

import torch
from torch import Generator, Tensor

from ..gan.generator import SceneGenerator
from ..imaging.geometry import Geometry
from ..viz import figures
from ..invert.outputs import FRONTAL_DEG, LATERAL_DEG
from .rendering import Renderer
from ..recon.field_volume import bake, project_field

COLUMNS, FRAME_MS = 8, 100
SCENES, FRAMES, GRID = 8, 24, 48  # patients of the sheet; views of the clip; voxels along a side


def show(writer: Any, task: Any, step: int) -> None:
    """Write a task's pictures, and the field of view and gains it has fitted, to a SummaryWriter."""
    for name, images in task.pictures(step).items() if hasattr(task, "pictures") else ():
        if name.startswith("clip/"):
            write_clip(writer, name, images, step)
        else:
            writer.add_image(name, figures.strip(images, COLUMNS), step, dataformats="HWC")
    fitted = task.fitted() if hasattr(task, "fitted") else {}
    if "distance" in fitted:
        writer.add_scalar("fov_deg", 2 * math.degrees(math.atan(1 / fitted["distance"])), step)
    if "log_gain_profile" in fitted:
        gains = torch.tensor(fitted["log_gain_profile"]).exp()
        for name, value in (("mean", gains.mean()), ("least", gains.min()), ("most", gains.max())):
            writer.add_scalar(f"gain/{name}", float(value), step)


def write_clip(writer: Any, name: str, frames: Tensor, step: int) -> None:
    """Frames [V, rows, cols] (or colours) as an animated GIF, which is what TensorBoard plays (and needs no film library)."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    first, *rest = (Image.fromarray(frame) for frame in figures.to_uint8(frames))
    memory = io.BytesIO()
    first.save(memory, "gif", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
    shape = {"height": first.height, "width": first.width, "colorspace": len(first.getbands())}
    image = Summary.Image(encoded_image_string=memory.getvalue(), **shape)
    writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)


@torch.no_grad()
def radiographs(generator: SceneGenerator, images: Tensor, geometry: Geometry, distance: float) -> dict[str, Tensor]:
    """Frontal and lateral views of patients [P, V, rows, cols] and of random scenes, and one scene's orbit: line integrals.

    The same scenes every time, so that one can watch them grow.
    """
    code = generator.weights(generator.draw(SCENES, Generator().manual_seed(0)))
    values = bake(generator, code, size=GRID)
    shown = [min(range(geometry.views), key=lambda k: abs((geometry.angles_deg[k] - wanted + 180) % 360 - 180))
             for wanted in (FRONTAL_DEG, LATERAL_DEG)]  # fmt: skip
    reals = images[:SCENES, shown].float().flatten(0, 1)
    fakes = project_field(values, geometry.at(geometry.angles_deg[k] for k in shown), distance).flatten(0, 1)
    orbit = project_field(values[:1], geometry.orbit(FRAMES), distance)[0]
    return {"grid/reals": reals.cpu(), "grid/fakes": fakes.cpu(), "clip/orbit": orbit.cpu()}


@torch.no_grad()
def marched(generator: SceneGenerator, renderer: Renderer, images: Tensor, geometry: Geometry) -> dict[str, Tensor]:
    """The same where views are no sums of voxels, ray by ray at 32 px; reals are pictures [N, rows, cols, C] without patients."""
    small = geometry.resized(min(32, geometry.cols))
    code = generator.weights(generator.draw(SCENES, Generator().manual_seed(0)))
    fakes = renderer.views(generator.field, code, small.at((FRONTAL_DEG, LATERAL_DEG))).flatten(0, 1)
    orbit = renderer.views(generator.field, code.one(0), small.orbit(FRAMES))[0]
    reals = images[:: max(1, len(images) // (2 * SCENES))][: 2 * SCENES].float()
    found = {"grid/reals": reals.cpu(), "grid/fakes": fakes.cpu(), "clip/orbit": orbit.cpu()}
    return {name: views if views.shape[-1] == 3 else views[..., 0] for name, views in found.items()}
