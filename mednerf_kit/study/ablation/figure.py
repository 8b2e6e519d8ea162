"""The figure of an ablation: a panel for each metric and scene, a row for each cell.

A dot is one seed, a bar the mean over seeds.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from .grid import Ablation
from .results import Result

DOT, BAR, REFERENCE = "#0072b2", "#000000", "#999999"  # colour-blind safe (Okabe & Ito 2008)
MOST_METRICS = 4


def as_png(ablation: Ablation, results: Sequence[Result]) -> bytes:
    """``figure.png``, the bytes of a PNG: the first metrics that any finished cell reports.

    Each scene has a line of panels. The dashed line is the mean of the first cell; where there are
    no dots the panel says why.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    reported = {name for r in results if r.status == "done" for name in r.scores.metrics}
    metrics = [name for name in ablation.metrics if name in reported][:MOST_METRICS] or list(
        ablation.metrics[:1]
    )
    scenes = list(dict.fromkeys(r.cell.scene for r in results))
    cells = list(ablation.cells)
    size = (1.9 + 2.6 * len(metrics), len(scenes) * (0.75 + 0.27 * len(cells)) + 0.45)
    figure, axes = pyplot.subplots(
        len(scenes), len(metrics), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for row, scene in zip(axes, scenes, strict=True):
        for panel, metric in zip(row, metrics, strict=True):
            draw(panel, [r for r in results if r.cell.scene == scene], cells, metric)
        row[0].set_yticks(range(len(cells)), cells)
        row[0].set_ylim(len(cells) - 0.4, -0.6)
        row[0].set_ylabel(scene if len(scenes) > 1 else "")
    for panel, metric in zip(axes[-1], metrics, strict=True):
        panel.set_xlabel(metric)
    seeds = len(ablation.seeds)
    figure.suptitle(
        f"{ablation.name}: a dot per seed ({seeds}), bar = mean, dashed = {cells[0]}", fontsize=9
    )
    try:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=130)
        return file.getvalue()
    finally:
        pyplot.close(figure)


def draw(panel: Any, results: Sequence[Result], cells: Sequence[str], metric: str) -> None:
    """One scene and metric: dots, means, and a word for the cells without."""
    panel.tick_params(labelsize=8)
    panel.grid(axis="x", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.locator_params(axis="x", nbins=5)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    for y, cell in enumerate(cells):
        mine = [r for r in results if r.cell.name == cell]
        values = [
            r.scores.metrics[metric]
            for r in mine
            if r.status == "done" and metric in r.scores.metrics
        ]
        if not values:
            word = "failed" if any(r.status == "failed" for r in mine) else "not run"
            word = "–" if any(r.status == "done" for r in mine) else word
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            across = panel.get_yaxis_transform()
            panel.text(
                0.02,
                y,
                word,
                transform=across,
                color="#777777",
                fontsize=7,
                va="center",
                style="italic",
                bbox=box,
            )
            continue
        mean = sum(values) / len(values)
        if y == 0:
            panel.axvline(mean, color=REFERENCE, linewidth=0.9, linestyle="--", zorder=1)
        panel.plot(
            [mean, mean],
            [y - 0.32, y + 0.32],
            color=BAR,
            linewidth=2,
            solid_capstyle="butt",
            zorder=2,
        )
        panel.plot(
            values,
            [y] * len(values),
            "o",
            color=DOT,
            markersize=5,
            alpha=0.75,
            markeredgewidth=0,
            zorder=3,
        )
