"""``mednerf-kit evaluate`` on a fitted scene: scores on views it never saw.

One view is rendered at a time, so that memory does not grow with their number.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from .. import DISCLAIMER
from ..core.errors import UserError
from ..data.posed.splits import evenly
from ..data.posed.types import Scene
from ..data.posed.world import file_length
from ..engine import run_folder as run_folders
from ..metrics import scene as scene_metrics
from ..metrics.perceptual import lpips_of_colours
from . import load, outputs
from .load import Fit, load_fit
from .pose.search import align_cameras
from .surface import surface_scores
from .views import Chunks, RenderedViews, on_device, rays_at_once

SCORES = (
    "psnr_db",
    "ssim",
    "lpips",
    "mse",
    "mae",
    "edge_psnr_db",
    "depth_l1",
    "depth_rmse",
    "depth_delta",
    "depth_seen",
    "alpha_iou",
    "sharpness",
)
SPREADS = {"psnr_db": "psnr_spread_db", "ssim": "ssim_spread"}
SHARPNESS_RAYS = 2048  # of a view, evenly chosen among those that hit something


def evaluate_run(
    *,
    run: str,
    dataset: str | None = None,
    split: str = "test",
    settings: Sequence[str] = (),
    views: Sequence[int] | None = None,
    limit: int | None = None,
    out: Path | None = None,
    eight_bit: bool = False,
    lpips_net: Literal["alex", "vgg"] = "vgg",
    lpips_weights: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a fitted scene on a split; pictures, tables and curves go to ``out``.

    Options:
        run: the fitted scene.
        dataset: where the scene lies now, if not where it was trained.
        split: whose views are scored.
        settings: samplers to use instead of the fitted ones.
        views: indices of the views to score; None is all of them.
        limit: number of views to score at most, evenly chosen.
        out: folder; None is ``evaluate/`` in the run folder, with other samplers a folder named
            after these.
        eight_bit: round the renders to 8 bits first, as published tables do.
        lpips_net: network of LPIPS.
        lpips_weights: file of its weights.
    """
    fit = load_fit(run, settings=settings, dataset=dataset, device=device)
    folder = out or fit.path.parent / "-".join(
        ["evaluate", *(re.sub(r"[^\w.]+", "_", s) for s in settings)]
    )
    found = evaluate_scene(
        fit,
        split,
        views,
        limit,
        out=folder,
        eight_bit=eight_bit,
        lpips_net=lpips_net,
        lpips_path=lpips_weights,
    )
    if rows := run_folders.read_stats(fit.path.parent):
        outputs.curves(rows, folder / "curves.png")
    return found


def evaluate_scene(
    fit: Fit,
    split: str = "test",
    views: Sequence[int] | None = None,
    limit: int | None = None,
    *,
    out: Path | None = None,
    eight_bit: bool = False,
    lpips_net: Literal["alex", "vgg"] = "vgg",
    lpips_path: str | Path | None = None,
    chunk: int | None = None,
) -> dict[str, Any]:
    """Render views of a split and score them -> one JSON-ready object.

    What could not be computed is None, never NaN. With ``out`` the pictures of each view go to
    ``out/SPLIT/`` as they are made, and ``metrics.json`` and ``per_view.csv`` to ``out`` at the
    end. Where the scene knows its exact surface, the field's is scored against it
    (:func:`~.surface.surface_scores`). Depth and sharpness are lengths of the scene's files; the
    averaging rules are in
    :data:`scene_metrics.CONVENTIONS`; options are those of :func:`evaluate_run`.
    """
    scene, chosen = _scored_scene(fit, split, views, limit)
    length = file_length(scene)
    if scene.depth is not None:
        scene = replace(scene, depth=length * scene.depth)
    rows: list[dict[str, Any]] = []
    costs: list[RenderingCost] = []
    note = window = None
    for i in tqdm(chosen, desc=f"{split} views", file=sys.stderr, disable=None):
        seen = load.render_views(fit, scene.cameras.take(torch.tensor([i])), chunk=chunk)
        seen = replace(where_counted(seen, scene, i), depth=length * seen.depth)
        scores = score_view(seen, scene, i, eight_bit=eight_bit)
        if scene.quantity == "colour":
            scores["sharpness"] = length * surface_width(fit, scene, i, seen.opacity[0])
        both = (seen.image.clamp(0, 1), scene.images[i : i + 1].float())
        ours, truth = (as_colours(image).to(fit.device) for image in both)
        lpips, note = lpips_of_colours(ours, truth, lpips_path, net=lpips_net)
        if lpips is not None:
            scores["lpips"] = lpips
        rows.append({"stem": scene.stems[i], **{k: finite(v) for k, v in scores.items()}})
        costs.append(RenderingCost(seen.seconds, seen.evals_per_ray, seen.peak_mib))
        if out is not None:
            window = window or outputs.depth_window(scene.depth, seen)
            outputs.write_view(Path(out) / split, scene, i, seen, window)
    found = {
        **view_means(rows),
        **surface_scores(fit, scene),
        "lpips_note": note,
        "lpips_net": lpips_net if note is None else None,
        "n_views": len(rows),
        "data_range": 1.0,
        "train_seconds": fit.meta.get("seconds"),
        "wall_seconds": run_folders.wall_seconds(fit.path.parent, fit.meta),
        **total_cost(costs, scene.cameras.rows * scene.cameras.cols),
        "split": split,
        "eight_bit": eight_bit,
        "poses_aligned": fit.twist is not None,
        "per_view": rows,
        "samplers": [level["sampler"] for level in fit.meta["recipe"]["levels"]],
        "conventions": scene_metrics.CONVENTIONS,
        **({"note": DISCLAIMER} if scene.quantity == "line_integral" else {}),
    }
    if out is not None:
        outputs.write_scores(Path(out), found)
    return found


def _scored_scene(
    fit: Fit, split: str, views: Sequence[int] | None, limit: int | None
) -> tuple[Scene, list[int]]:
    """The scene of a split, and the indices of the views to score.

    Where training poses were refined, the files' poses of unseen views are off too. What is scored
    is the scene (BARF, §4.1), so these are refined first.
    """
    scene = fit.scene(split)
    chosen = scored_views(len(scene.stems), views, limit)
    if fit.twist is None:
        return scene, chosen
    scene = scene.take(chosen)
    cameras = align_cameras(fit.model, scene.cameras, scene.images.float(), device=fit.device)
    return replace(scene, cameras=cameras), list(range(len(chosen)))


@dataclass(frozen=True)
class RenderingCost:
    """What one rendered view cost."""

    seconds: float
    evals_per_ray: float
    peak_mib: float


def total_cost(costs: Sequence[RenderingCost], rays: int) -> dict[str, float]:
    """Evaluations a ray, memory and speed of rendering views of ``rays`` rays each."""
    seconds = max(sum(cost.seconds for cost in costs), 1e-9)
    return {
        "evals_per_ray": sum(cost.evals_per_ray for cost in costs) / len(costs),
        "peak_mib": max(cost.peak_mib for cost in costs),
        "rays_per_second": len(costs) * rays / seconds,
        "frames_per_second": len(costs) / seconds,
    }


def scored_views(count: int, views: Sequence[int] | None, limit: int | None) -> list[int]:
    """Indices of the views to score: those given, or all; at most ``limit`` of them, evenly chosen.

    >>> scored_views(10, None, 4), scored_views(10, [3, 5], None)
    ([0, 2, 5, 7], [3, 5])
    """
    chosen = list(range(count)) if views is None else list(views)
    if wrong := [i for i in chosen if not 0 <= i < count]:
        raise UserError(
            f"got view {wrong[0]}",
            f"wanted one of the split's {count} views, counted from 0",
            "correct --views",
        )
    if limit is not None and limit < 1:
        raise UserError(f"got a limit of {limit} views", "wanted at least 1", "correct --limit")
    if not chosen:
        raise UserError("got no view to score", "wanted at least one", "choose another --split")
    return chosen if limit is None else evenly(chosen, min(limit, len(chosen)))


def where_counted(seen: RenderedViews, scene: Scene, i: int) -> RenderedViews:
    """One rendered view [1, H, W, ...] with the truth where masks cover view ``i`` of the scene."""
    if scene.valid is None:
        return seen
    image = torch.where(scene.valid[i, ..., None], seen.image[0], scene.images[i].float())
    return replace(seen, image=image[None])


def score_view(
    seen: RenderedViews, scene: Scene, i: int, *, eight_bit: bool = False
) -> dict[str, Tensor]:
    """Every score [1] of one rendered view [1, H, W, ...] against view ``i`` of the scene.

    Scores that have no truth are left out.

    Opacity and depth are those of a surface, which a line integral does not have.
    """
    image, truth = seen.image.float().clamp(0, 1), scene.images[i : i + 1].float()
    if eight_bit:
        image = scene_metrics.eight_bit(image)
    alpha = None if scene.alpha is None else scene.alpha[i : i + 1]
    valid = None if scene.valid is None else scene.valid[i : i + 1]
    scores = scene_metrics.image_scores(image, truth, valid)
    band = scene_metrics.edge_band(truth, alpha)
    scores["edge_psnr_db"] = scene_metrics.masked_psnr_db(
        image, truth, band if valid is None else band & valid
    )
    if scene.quantity == "line_integral":
        return scores
    if scene.depth is not None:
        depth = scene.depth[i : i + 1]
        depth = depth if valid is None else torch.where(valid, depth, torch.nan)
        scores |= scene_metrics.depth_scores(seen.depth, depth, seen.opacity)
    if alpha is not None:
        counts = 1.0 if valid is None else valid.float()
        scores["alpha_iou"] = scene_metrics.opacity_iou(seen.opacity * counts, alpha * counts)
    return scores


@torch.no_grad()
def surface_width(fit: Fit, scene: Scene, i: int, opacity: Tensor) -> Tensor:
    """Mean 10–90 % rise of opacity along rays of view ``i`` that hit something; nan without any.

    A ray hits where ``opacity`` [H, W] is above 0.5.
    """
    hit = opacity > scene_metrics.OPAQUE
    yx = (hit if scene.valid is None else hit & scene.valid[i]).nonzero()
    if not len(yx):
        return torch.tensor(torch.nan)
    yx = yx[:: math.ceil(len(yx) / SHARPNESS_RAYS)]

    def widths(rows: slice) -> Tensor:
        rays = scene.cameras.rays(torch.full((len(yx[rows]),), i), yx[rows].float())
        seen = fit.model.render(on_device(rays, fit.device))[-1]
        return scene_metrics.rise_width(seen.rendering.w, seen.samples.t, seen.samples.dt)

    return torch.cat(Chunks(rays_at_once(fit.device))(len(yx), widths)).mean()


def view_means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the views that have a score, and the spreads of PSNR and SSIM over views.

    A spread is the population standard deviation.

    >>> found = view_means([{"stem": "a", "psnr_db": 20.0}, {"stem": "b", "psnr_db": 30.0}])
    >>> found["psnr_db"], found["psnr_spread_db"], found["ssim"], found["ssim_spread"]
    (25.0, 5.0, None, None)
    """
    columns = {key: [row[key] for row in rows if row.get(key) is not None] for key in SCORES}
    found: dict[str, Any] = {
        key: sum(values) / len(values) if values else None for key, values in columns.items()
    }
    for key, spread in SPREADS.items():
        found[spread] = statistics.pstdev(columns[key]) if columns[key] else None
    return found


def as_colours(image: Tensor) -> Tensor:
    """Pictures [V, H, W, 1 or 3] as [V, 3, H, W]."""
    return image.movedim(-1, 1).expand(-1, 3, -1, -1)


def finite(value: Tensor) -> float | None:
    """A score of one view as JSON has it; None for NaN."""
    number = float(value)
    return number if math.isfinite(number) else None
