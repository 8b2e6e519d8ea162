"""``mednerf-kit data depth``: depth with confidence for views that have none, from a trained scene.

The teacher has seen the training views only, and what it says of scored views is not written beside
them; where the test views come with depth, it is itself scored on it. Monocular maps are brought to
the teacher's scale instead of being replaced by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError
from ..data.posed.depth import fit_scale_shift, pixel_grid, read_map, resized_nearest, save_depth
from ..data.posed.world import Frame, world_scale
from ..imaging.cameras import Cameras
from .evaluate import evaluate_scene
from .load import Fit, load_fit, render_views
from .views import RenderedViews

# shares of the box's diagonal: a surface spread over more than this is hardly believed
TRUSTED = 0.02
# of a view's greatest confidence: from here on the teacher's pixels count in a monocular map's fit
CERTAIN = 0.5


def write_depth(
    *,
    run: str | Path,
    split: str = "train",
    mono: Path | None = None,
    mono_kind: Literal["inverse", "depth"] = "inverse",
    out: Path | None = None,
    limit: int | None = None,
    frame: Frame = "file",
    device: str = "auto",
) -> tuple[Path, dict[str, Any]]:
    """Write depth and confidence of a split's views; returns the file and the teacher's score.

    The file is ``depth_SPLIT.npz``. Distances are in lengths of the scene's files, as they are read
    back, or with ``frame`` ``normalised`` in those of the space it was fitted in.

    The depth is the median depth the run renders; or, with ``mono``, the map STEM.png or STEM.npy
    of that folder brought to it (:func:`monocular`). ``out`` is the folder to write to (default:
    the scene's own). The score is the teacher's own depth error on the test views, empty where
    those come without depth.

    Raises UserError for radiographs, for a teacher that learned from other than training views, for
    other splits without an ``out`` of their own (the depth of scored views must not come from a
    fit), and for a missing map.
    """
    fit = load_fit(run, device=device)
    dataset = Path(fit.meta["dataset"])
    check_target(fit, split, out, frame)
    scene = fit.scene(split)
    length = world_scale(scene.to_world) if frame == "file" else 1.0
    stems = scene.stems[:limit]
    depths, confidences = [], []
    for i, stem in enumerate(tqdm(stems, desc="depth", disable=None)):
        camera = scene.cameras.take([i])
        seen = render_views(fit, camera)
        distance, trust = (
            camera.from_ray(*pixel_grid(camera), seen.median_depth),
            confidence(seen, fit),
        )
        if mono is not None:
            distance, trust = monocular(
                resized_nearest(read_map(mono, stem), camera.rows, camera.cols)[None],
                distance,
                trust,
                camera,
                inverse=mono_kind == "inverse",
            )
        depths.append(length * distance)
        confidences.append(trust)
    folder = out or dataset
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"depth_{split}.npz"
    save_depth(path, stems, torch.cat(depths), torch.cat(confidences))
    return path, own_score(fit)


def check_target(fit: Fit, split: str, out: Path | None, frame: Frame) -> None:
    """Raise UserError for a run that gives no depth, and for a place that is to keep its own."""
    dataset = Path(fit.meta["dataset"])
    if fit.meta["split"] != "train":
        raise UserError(
            f"got a teacher that learned from split '{fit.meta['split']}'",
            "wanted one that never saw a scored view",
            "train it with --split train",
        )
    if fit.meta["quantity"] != "colour":
        raise UserError(
            "got a run of radiographs",
            "wanted a scene of photographs: a line integral has no depth",
            "give a run made on a scene",
        )
    if out is None and not dataset.is_dir():
        raise UserError(
            f"got no --out for scene '{dataset}', which is no folder",
            "wanted where to write",
            "give --out DIR",
        )
    if split != "train" and (out is None or out.resolve() == dataset.resolve()):
        raise UserError(
            f"got --split {split} into the scene's own folder",
            "wanted scored views to keep the depth they came with",
            "give another folder with --out DIR",
        )
    if frame == "normalised" and (out is None or out.resolve() == dataset.resolve()):
        raise UserError(
            "got --frame normalised into the scene's own folder",
            "wanted depth in lengths of the scene's files there",
            "give another folder with --out DIR, or leave --frame out",
        )


def confidence(seen: RenderedViews, fit: Fit) -> Tensor:
    """opacity · exp(−(spread / (TRUSTED · diagonal))²), 0 where nothing is hit: [V, H, W]."""
    box = torch.tensor(fit.meta["box"])
    scale = TRUSTED * float((box[1] - box[0]).norm())
    return (seen.opacity * torch.exp(-(seen.spread / scale).square())).nan_to_num(0.0).clamp(0, 1)


def monocular(
    relative: Tensor, distance: Tensor, trust: Tensor, camera: Cameras, *, inverse: bool = True
) -> tuple[Tensor, Tensor]:
    """A monocular map of one view [1, H, W] as distances along its rays, with confidence.

    Both have the shape [1, H, W].

    Networks give planar depth, or its inverse, up to a scale and a shift (MiDaS, Ranftl et al.
    2020): both are fitted to the ``distance`` of a teacher where it is most certain. The whole map
    gets one confidence, the share R² of the teacher's variance that it explains there; where it
    comes out behind the camera, or the teacher sees too little to tell, it stays unknown.
    """
    factor = camera.planar_factor(*pixel_grid(camera))
    reference = distance / factor
    reference = 1 / reference if inverse else reference
    mask = (
        (trust > 0) & (trust >= CERTAIN * trust.max()) & reference.isfinite() & relative.isfinite()
    )
    if relative[mask].unique().numel() < 2:
        return torch.full_like(distance, torch.nan), torch.zeros_like(distance)
    scale, shift = fit_scale_shift(relative, reference, mask)
    fitted = scale * relative + shift
    known, found = reference[mask], fitted[mask]
    explained = 1 - float(
        (found - known).square().mean() / known.var(correction=0).clamp_min(1e-12)
    )
    planar = torch.where(fitted > 0, 1 / fitted if inverse else fitted, torch.nan)
    return planar * factor, torch.full_like(distance, max(0.0, explained))


def own_score(fit: Fit) -> dict[str, Any]:
    """Depth errors of the teacher on a few test views, where these have depth."""
    try:
        if fit.scene("test").depth is None:
            return {}
    except UserError:
        return {}
    found = evaluate_scene(fit, "test", limit=5)
    return {key: found[key] for key in ("depth_l1", "depth_rmse", "depth_delta", "n_views")}
