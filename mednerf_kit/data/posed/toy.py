"""Two small views of one ball, which every format's ``example`` writes down in its own way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...imaging.cameras import Cameras, look_at
from .depth import pixel_grid
from .solids import Ball, Paint

BALL = Ball((0.2, -0.1, 0.15), 0.9, Paint((0.9, 0.3, 0.1), (0.1, 0.4, 0.8), 0.5))


def toy_cameras() -> Cameras:
    """Two cameras of 16×12 pixels, 4 away from the origin, which they look at."""
    position = torch.tensor([[2.4, -2.4, 2.1166], [-3.0, -2.0, 1.7321]])
    poses = look_at(position, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras(
        poses, torch.full((2, 2), 20.0), torch.tensor([[7.5, 5.5]] * 2), 12, 16, 2.0, 6.0
    )


def toy_picture(cameras: Cameras, view: int) -> Tensor:
    """The ball as seen by a camera, [H, W, 4] with coverage 0 or 1."""
    origin, direction = (
        v.reshape(-1, 3) for v in cameras.take([view]).world_rays(*pixel_grid(cameras.take([view])))
    )
    enter, leave, normal = BALL.span(origin, direction)
    hit = (leave > enter)[:, None]
    color = BALL.paint(origin + enter.nan_to_num(posinf=0)[:, None] * direction) * (
        0.6 + 0.4 * normal[:, 2:]
    )
    return (torch.cat([color, torch.ones_like(hit, dtype=color.dtype)], -1) * hit).view(
        cameras.rows, cameras.cols, 4
    )


def write_toy_picture(path: Path, cameras: Cameras, view: int, *, alpha: bool = True) -> None:
    """Write the ball as a PNG, transparent around it or on black."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    values = (255 * toy_picture(cameras, view).clamp(0, 1)).round().numpy().astype(np.uint8)
    Image.fromarray(values if alpha else np.ascontiguousarray(values[..., :3])).save(path)
