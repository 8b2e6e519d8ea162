"""``mednerf-kit data depth``: a trained scene teaches another one depth, with how far each value can be trusted.

The teacher has seen the training views only; where the test views come with depth, it is itself scored on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...core import files
from ...core.errors import UserError
from .build import Views
from .evaluate import evaluate_scene
from .runs import Fit, load_fit, render_views

TRUSTED = 0.02  # shares of the box's diagonal: a surface spread over more than this is hardly believed


def write_depth(*, run: str | Path, split: str = "train", out: Path | None = None, limit: int | None = None,
                device: str = "auto") -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Render the median depth of a split's views with its confidence into ``depth_SPLIT.npz``; returns the path and the score.

    ``out`` is the folder to write to (default: the scene's own). The score is the teacher's own depth error on the test views,
    empty where those come without depth.
    """
    fit = load_fit(run, device=device)
    scene = fit.scene(split)
    dataset = Path(fit.meta["dataset"])
    folder = out or dataset
    if out is None and not dataset.is_dir():
        raise UserError(f"got no --out for scene '{dataset}', which is no folder", "wanted where to write", "give --out DIR")
    arrays: dict[str, np.ndarray] = {}
    for i in tqdm(range(min(limit or len(scene.stems), len(scene.stems))), desc="depth", disable=None):
        camera = scene.cameras.take([i])
        seen = render_views(fit, camera)
        arrays[scene.stems[i]] = seen.median_depth[0].float().numpy()
        arrays[f"{scene.stems[i]}.conf"] = confidence(seen, fit)[0].numpy()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"depth_{split}.npz"
    with files.atomic(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    return path, own_score(fit)


def confidence(seen: Views, fit: Fit) -> Tensor:
    """opacity · exp(−(spread / (TRUSTED · diagonal))²), 0 where nothing is hit: [V, H, W]."""
    box = torch.tensor(fit.meta["box"])
    scale = TRUSTED * float((box[1] - box[0]).norm())
    return (seen.opacity * torch.exp(-(seen.spread / scale).square())).nan_to_num(0.0).clamp(0, 1)


def own_score(fit: Fit) -> dict[str, Any]:
    """Depth errors of the teacher on a few test views, where these have depth."""
    try:
        if fit.scene("test").depth is None:
            return {}
    except UserError:
        return {}
    found = evaluate_scene(fit, "test", limit=5)
    return {key: found[key] for key in ("depth_l1", "depth_rmse", "depth_delta", "n_views")}
