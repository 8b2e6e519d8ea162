"""What lies on a film beside the patient: blades, letters, metal. Pure functions of a shape.

Pictures are [H, W]; positions count from the top left corner.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.config import Registry

#: Thickness of metal in mm [H, W], drawn about the middle of the film.
IMPLANTS: Registry[Tensor] = Registry("implant")

MARKER_SHARE, CAPTION_SHARE = 0.09, 0.045  # height of the letters, of the film's
MARGIN_SHARE = 0.03


def aperture(rows: int, cols: int, blades: tuple[float, float, float, float]) -> Tensor:
    """The field that four blades leave open, [rows, cols] bool.

    ``blades`` are how far they reach in from left, top, right and bottom, in shares of the film.

    >>> aperture(2, 4, (0.25, 0.0, 0.5, 0.5)).int().tolist()
    [[0, 1, 0, 0], [0, 0, 0, 0]]
    """
    left, top, right, bottom = blades
    y, x = (torch.arange(n) + 0.5 for n in (rows, cols))
    open_rows = (y >= top * rows) & (y <= (1 - bottom) * rows)
    open_cols = (x >= left * cols) & (x <= (1 - right) * cols)
    return open_rows[:, None] & open_cols


def letters(rows: int, cols: int, *, marker: str = "", caption: str = "") -> Tensor:
    """Letters burned into a film, [rows, cols] in [0, 1], 1 where they are opaque.

    ``marker`` (the L or R of a lead letter) stands in the upper right corner, where the patient's
    left hangs; ``caption``, a line of small text, along the lower edge.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("L", (cols, rows))
    draw = ImageDraw.Draw(page)
    margin = MARGIN_SHARE * min(rows, cols)
    for text, share, anchor, place in (
        (marker, MARKER_SHARE, "rt", (cols - margin, margin)),
        (caption, CAPTION_SHARE, "lb", (margin, rows - margin)),
    ):
        if text:
            font = ImageFont.load_default(size=max(6, round(share * rows)))
            draw.text(place, text, fill=255, font=font, anchor=anchor)
    return torch.from_numpy(np.array(page)).float() / 255


@IMPLANTS.register("rod")
def rod(*, rows: int, cols: int, pixel_mm: float, diameter_mm: float = 6.0) -> Tensor:
    """A straight rod along the spine, half the film long.

    Options:
        diameter_mm: of the rod.
    """
    y, x = _millimetres(rows, cols, pixel_mm)
    inside = (y.abs() < rows * pixel_mm / 4) & (x.abs() < cols * pixel_mm)
    return _chord(x + 0.06 * cols * pixel_mm, diameter_mm / 2) * inside


@IMPLANTS.register("screw")
def screw(
    *, rows: int, cols: int, pixel_mm: float, diameter_mm: float = 8.0, pitch_mm: float = 6.0
) -> Tensor:
    """A threaded screw across the film, a fifth of its width long.

    Options:
        diameter_mm: of the shaft; the thread adds a quarter at its crests.
        pitch_mm: of the thread.
    """
    y, x = _millimetres(rows, cols, pixel_mm)
    along, across = (x + 0.4 * y) / 1.16**0.5, (y - 0.4 * x) / 1.16**0.5
    thread = 1 + 0.125 * (1 + torch.cos(2 * torch.pi * along / pitch_mm))
    return _chord(across, 0.5 * diameter_mm * thread) * (along.abs() < 0.1 * cols * pixel_mm)


@IMPLANTS.register("pacemaker")
def pacemaker(*, rows: int, cols: int, pixel_mm: float, thickness_mm: float = 8.0) -> Tensor:
    """A pacemaker's round can beside the upper left chest, with a lead down to the heart.

    Options:
        thickness_mm: of metal in the can.
    """
    y, x = _millimetres(rows, cols, pixel_mm)
    width, height = cols * pixel_mm, rows * pixel_mm
    x_can, y_can = x - 0.22 * width, y + 0.24 * height
    can = ((x_can / 25) ** 2 + (y_can / 22) ** 2 < 1) * thickness_mm
    # the lead: a quarter of an ellipse from the can to the apex of the heart
    across = (((x + 0.02 * width) / (0.24 * width)) ** 2 + (y_can / (0.36 * height)) ** 2) ** 0.5
    lead = _chord((across - 1) * 0.24 * width, 1.5) * ((x < 0.22 * width) & (y_can > 0))
    lead = lead * (x > -0.02 * width)
    return can + lead


def _millimetres(rows: int, cols: int, pixel_mm: float) -> tuple[Tensor, Tensor]:
    """Distances [rows, 1] down and [1, cols] right of the middle of the film."""
    y, x = ((torch.arange(n) - (n - 1) / 2) * pixel_mm for n in (rows, cols))
    return y[:, None], x[None]


def _chord(away_mm: Tensor, radius_mm: float | Tensor) -> Tensor:
    """What a ray that passes a cylinder's axis at this distance meets of it, in mm."""
    return 2 * (torch.as_tensor(radius_mm) ** 2 - away_mm**2).clamp_min(0).sqrt()
