"""Curves in the project's style, as the bytes of a PNG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import UserError

COLOURS = ("#1f5fa8", "#c4572b", "#3a8a5c", "#7b5aa6", "#8a7a2f", "#5f6b7a")  # of curves, in turn
MARK, GRID = "#5f6b7a", "#e4e8ee"


def curve_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    *,
    marks: Iterable[float] = (),
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> bytes:
    """Named curves (x, y) in one plot, as the bytes of a PNG.

    Options:
        marks: values of x at which a dotted vertical stands.
        bands: (low, high) at the points of the curve of that name, shaded.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for k, (name, (x, y)) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        axes.plot(x, y, label=name, color=colour, linewidth=1.8, marker="o" if len(x) == 1 else "")
        if bands and name in bands:
            axes.fill_between(x, *bands[name], color=colour, alpha=0.15, linewidth=0)
    for mark in marks:
        axes.axvline(mark, color=MARK, linewidth=1, linestyle=":")
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1 or bands:
        axes.legend(frameon=False, fontsize=9)
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return memory.getvalue()


def error_by_angle_plot(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, str] | None = None,
    y_label: str = "PSNR, dB",
    input_angles_deg: Iterable[float] = (),
) -> bytes:
    """The mean over patients at every view angle, as the bytes of a PNG.

    The first column is shaded from the worst to the best patient. ``rows`` are those of
    error_by_angle.csv: each holds ``angle_deg`` and the columns that are drawn, as numbers or as
    the text of a CSV; empty cells are left out.

    Options:
        columns: what is drawn, a column to its name in the legend; ``psnr_db`` alone by default.
        y_label: of the vertical axis.
        input_angles_deg: dotted; the views that were given are never scored.
    """
    table = [dict(row) for row in rows]
    curves: dict[str, tuple[list[float], list[float]]] = {}
    bands: dict[str, tuple[list[float], list[float]]] = {}
    for column, name in (columns or {"psnr_db": "mean"}).items():
        at: dict[float, list[float]] = {}
        for row in table:
            if row.get(column) not in (None, ""):
                at.setdefault(float(row["angle_deg"]), []).append(float(row[column]))
        if not at:
            raise UserError(
                f"got a table without values of '{column}'",
                f"wanted rows of angle_deg and {column}",
                "check the CSV",
            )
        angles = sorted(at)
        if not curves and any(len(values) > 1 for values in at.values()):
            name += " (shaded: worst to best patient)"
            bands[name] = ([min(at[a]) for a in angles], [max(at[a]) for a in angles])
        curves[name] = (angles, [float(np.mean(at[a])) for a in angles])
    return curve_plot(
        curves, "view angle, degrees (dotted: input)", y_label, marks=input_angles_deg, bands=bands
    )
