"""Files of a fitted scene: renders with error and depth maps, videos, comparisons, curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import DISCLAIMER
from ..core import files
from ..core.errors import UserError
from ..metrics import scene as scene_metrics
from ..viz import colours, figures, plots, video
from . import load

if TYPE_CHECKING:
    from ..data.posed.types import Scene
    from ..imaging.cameras import Cameras
    from .load import Fit
    from .views import RenderedViews

ERROR_LIMIT = 0.2  # the same in every map, so that maps can be compared
DEPTH_STOPS = tuple(reversed(colours.HEAT))  # near is bright
LEGEND_PX = 8


def write_view(
    folder: Path, scene: Scene, i: int, seen: RenderedViews, window: tuple[float, float]
) -> None:
    """Write the picture, its truth, error map and depth map of one rendered view [1, H, W, ...].

    They are ``STEM.png``, ``STEM_truth.png``, ``STEM_error.png`` and, of a scene with surfaces,
    ``STEM_depth.png``.

    The error is signed for one channel and the mean magnitude over channels for colours, on one
    scale for every map; depth fades to white where nothing is hit, on the scale ``window``.
    """
    image, truth = seen.image[0].clamp(0, 1), scene.images[i].float()
    stem = scene.stems[i].replace("/", "_")
    note = DISCLAIMER if scene.quantity == "line_integral" else ""
    figures.write_png8(folder / f"{stem}.png", as_picture(image), note)
    figures.write_png8(folder / f"{stem}_truth.png", as_picture(truth), note)
    figures.write_png8(folder / f"{stem}_error.png", error_map(image, truth), note)
    if scene.quantity == "colour":
        figures.write_png8(
            folder / f"{stem}_depth.png", depth_map(seen.depth[0], seen.opacity[0], window), note
        )


def write_scores(out: Path, found: Mapping[str, Any]) -> None:
    """``scene.json`` and ``per_view.csv`` of what :func:`~.evaluate.evaluate_scene` found."""
    files.write_json(out / "metrics.json", found)
    rows = found["per_view"]
    files.write_text(out / "per_view.csv", files.csv_text(rows))


def as_picture(image: Tensor) -> Tensor:
    """[..., H, W, 1] as grey [..., H, W]; colours stay."""
    return image[..., 0] if image.shape[-1] == 1 else image


def error_map(image: Tensor, truth: Tensor) -> np.ndarray:
    """Render [H, W, C] against truth as a map with its scale below, uint8 [H', W, 3].

    The error is signed for C = 1, the mean |error| for colours.
    """
    if image.shape[-1] == 1:
        limits = (-ERROR_LIMIT, ERROR_LIMIT)
        return with_scale(
            figures.signed_error_picture(image[..., 0], truth[..., 0], ERROR_LIMIT),
            limits,
            colours.SIGNED,
            "error",
        )
    size = (image - truth).abs().mean(-1)
    return with_scale(
        figures.coloured(size, (0.0, ERROR_LIMIT), colours.HEAT),
        (0.0, ERROR_LIMIT),
        colours.HEAT,
        "|error|",
    )


def depth_map(depth: Tensor, opacity: Tensor, window: tuple[float, float]) -> np.ndarray:
    """Depth [H, W] as a map with its scale below, uint8 [H', W, 3].

    It fades to white as opacity goes to 0.
    """
    shown = figures.coloured(depth, window, DEPTH_STOPS).astype(np.float32)
    cover = opacity.clamp(0, 1).cpu().float().numpy()[..., None]
    return with_scale(
        (cover * shown + (1 - cover) * 255 + 0.5).astype(np.uint8), window, DEPTH_STOPS, "depth"
    )


def with_scale(
    picture: np.ndarray, window: tuple[float, float], stops: colours.Stops, name: str
) -> np.ndarray:
    """A uint8 picture [H, W, 3] above its colour scale, labelled with its name and ends."""
    low, high = window
    ramp = figures.coloured(
        torch.linspace(low, high, picture.shape[1]).expand(LEGEND_PX, -1), window, stops
    )
    scale = figures.strip(
        torch.from_numpy(ramp)[None] / 255, 1, [f"{name} {low:.3g} to {high:.3g}"]
    )
    return np.concatenate([picture, scale])


def depth_window(depth: Tensor | None, seen: RenderedViews) -> tuple[float, float]:
    """The scale of depth maps: 1 to 99 % of the true depths, or else of the rendered ones.

    Of the rendered ones those count that hit something.
    """
    values = seen.depth[seen.opacity > scene_metrics.OPAQUE]
    if depth is not None and bool(depth.isfinite().any()):
        values = depth
    values = values[values.isfinite()].flatten()
    if not len(values):
        return 0.0, 1.0
    ordered = values[:: max(1, len(values) // 100_000)].sort().values
    low, high = (float(ordered[round(q * (len(ordered) - 1))]) for q in (0.01, 0.99))
    return (low, high) if high > low else (low, low + 1e-3)


def write_video(
    fit: Fit,
    cameras: Cameras,
    out: str | Path,
    *,
    fps: float = 20,
    chunk: int | None = None,
    length: float = 1.0,
) -> RenderedViews:
    """Render a path of cameras to ``orbit.mp4`` and ``depth.mp4``; returns the frames.

    The depth, times ``length``, is written for a scene with surfaces.
    """
    out = Path(out)
    seen = load.render_views(fit, cameras, chunk=chunk)
    seen = replace(seen, depth=length * seen.depth)
    video.write_mp4(out / "orbit.mp4", as_picture(seen.image), fps)
    if fit.meta["quantity"] == "colour":
        window = depth_window(None, seen)
        frames = [depth_map(d, o, window) for d, o in zip(seen.depth, seen.opacity, strict=True)]
        video.write_mp4(out / "depth.mp4", torch.from_numpy(np.stack(frames)) / 255, fps)
    return seen


def write_comparison(
    frames: Mapping[str, Tensor], out: str | Path, *, fps: float = 20
) -> tuple[Path, Path]:
    """Write frames [V, H, W] or [V, H, W, C] in [0, 1] side by side under their labels.

    The files are ``out`` as .mp4 and as .gif.

    All must have the same number and size of frames. The GIF is at most 960 px wide and repeats for
    ever.
    """
    shapes = {label: tuple(views.shape[:3]) for label, views in frames.items()}
    if len(set(shapes.values())) != 1:
        raise UserError(
            "got frames of "
            f"{', '.join(f'{label}: {shape}' for label, shape in shapes.items()) or 'nothing'}",
            "wanted the same number and size from each",
            "render them along one path",
        )
    colours = [three_channels(views) for views in frames.values()]
    sheet = [
        figures.strip(torch.stack(list(moment)), len(frames), list(frames))
        for moment in zip(*colours, strict=True)
    ]
    clip = torch.from_numpy(np.stack(sheet)) / 255
    mp4, gif = (Path(out).with_suffix(suffix) for suffix in (".mp4", ".gif"))
    video.write_mp4(mp4, clip, fps)
    video.write_gif(gif, clip, fps)
    return mp4, gif


def three_channels(views: Tensor) -> Tensor:
    """Grey [V, H, W] or [V, H, W, 1], or colours, as [V, H, W, 3]."""
    views = views if views.ndim == 4 else views[..., None]
    return views.float().expand(*views.shape[:3], 3)


def curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot a run's logged rows against the step.

    There are plots of the PSNR of training rays, of losses and of evaluations per ray.
    """
    if not rows:
        raise UserError(
            "got a run without logged steps", "wanted rows of stats.jsonl", "train it first"
        )
    logged = dict.fromkeys(key for row in rows for key in row)
    steps = {key: [row["step"] for row in rows if key in row] for key in logged}
    apart = {"step", "seconds", "rate", "restarts", "psnr_db", "evals_per_ray"}
    panels = [
        ("PSNR of the rays, dB", ["psnr_db"], False),
        ("log10 loss", sorted(set(steps) - apart), True),
        ("evaluations per ray", ["evals_per_ray"], False),
    ]
    drawn = []
    for label, keys, logarithmic in panels:
        lines = {}
        for key in keys:
            values = running_mean(np.array([row[key] for row in rows if key in row], dtype=float))
            if len(values):
                lines[key] = (
                    steps[key],
                    list(np.log10(np.maximum(values, 1e-12)) if logarithmic else values),
                )
        if lines:
            drawn.append(decoded(plots.curve_plot(lines, "step", label)))
    figures.write_png8(path, np.concatenate(drawn), "")


def running_mean(values: np.ndarray) -> np.ndarray:
    """The running mean over the last hundredth of a curve, of what is there at its beginning.

    >>> running_mean(np.array([1.0, 3.0])).tolist()
    [1.0, 3.0]
    """
    width = max(1, len(values) // 100)
    total = np.concatenate([[0.0], values.cumsum()])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - width, 0)
    return (total[end] - total[start]) / (end - start)


def decoded(png: bytes) -> np.ndarray:
    """A PNG in memory as uint8 [H, W, 3]."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as file:
        return np.asarray(file.convert("RGB"))
