"""A drawing of an X-ray set-up: sources, detectors and rays, from above and from a side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..core.files import atomic
from ..core.types import SUPPORT
from ..imaging.geometry import Geometry
from .plots import COLOURS, GRID, MARK

#: Views whose detectors and rays are drawn; of more, evenly spread ones are.
DRAWN = 12
PLANES = (("x (to the patient's left)", "y (to the back)"), ("x (to the patient's left)", "z (up)"))


def draw_setup(path: str | Path, geometry: Geometry) -> None:
    """Write a PNG of sources, detectors, and the first view's first row and column, in mm (LPS)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames = geometry.frames_of_views()
    corners = [
        frames.pixels(torch.tensor(yx, dtype=torch.float64), geometry.rows, geometry.cols).numpy()
        for yx in (
            (-0.5, -0.5),
            (-0.5, geometry.cols - 0.5),
            (geometry.rows - 0.5, geometry.cols - 0.5),
            (geometry.rows - 0.5, -0.5),
        )
    ]
    source = frames.source.numpy()
    views = np.unique(np.linspace(0, len(source) - 1, min(DRAWN, len(source))).round().astype(int))
    figure = Figure(figsize=(11, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, plane, labels in zip(figure.subplots(1, 2), ((0, 1), (0, 2)), PLANES, strict=True):
        i, j = plane
        axes.plot(source[:, i], source[:, j], ".", color=COLOURS[0], label="sources", markersize=4)
        for view in views:
            is_first = view == 0
            outline = np.array([corner[view] for corner in (*corners, corners[0])])
            colour = COLOURS[1] if is_first else MARK
            axes.plot(
                outline[:, i], outline[:, j], color=colour, linewidth=1.6 if is_first else 0.6
            )
            for corner in outline[:4] if is_first else ():
                ends = np.stack([source[view], corner])
                axes.plot(ends[:, i], ends[:, j], color=colour, linewidth=0.6)
        start = np.stack([corner[0] for corner in corners])
        axes.annotate("view 0", start.mean(0)[[i, j]], color=COLOURS[1], fontsize=9)
        axes.plot(*start[0][[i, j]], "s", color=COLOURS[1], markersize=5, label="its first pixel")
        _outline_seen(axes, geometry, plane)
        axes.plot(0, 0, "+", color="black", label="isocentre")
        axes.set(xlabel=f"{labels[0]}, mm", ylabel=f"{labels[1]}, mm", aspect="equal")
        if plane == (0, 1):
            axes.invert_yaxis()  # as an axial slice is hung, the back below
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    title = (
        f"{geometry.views} views, detector {geometry.cols}×{geometry.rows} of "
        f"{geometry.pixel_mm:g} mm, columns "
        f"{'mirrored (as on a radiograph)' if geometry.columns_flipped else 'as the source sees'}"
    )
    figure.suptitle(title, fontsize=10)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def _outline_seen(axes: object, geometry: Geometry, plane: tuple[int, int]) -> None:
    """The support cylinder across its axis, as a circle."""
    if geometry.axis == "xyz"[3 - sum(plane)]:
        from matplotlib.patches import Circle

        radius = SUPPORT * geometry.half_width_mm
        axes.add_patch(Circle((0, 0), radius, fill=False, linestyle=":", color=COLOURS[2]))  # type: ignore[attr-defined]
