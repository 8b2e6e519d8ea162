"""What a fit forgets: the error of pixels that were easy early on, over the snapshots of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from ..engine import snapshots
from ..metrics.image import psnr_from_mse_db
from .load import Fit, load_fit
from .views import on_device

PIXELS = 4096  # of the training views, the same at every snapshot


def forgetting(run: Path, *, device: str = "auto", pixels: int = PIXELS) -> dict[str, Any]:
    """How well easy and hard training pixels are known over a run's snapshots.

    Empty for a run with fewer than two.

    Easy is the half with the lower error at the first snapshot. ``easy_psnr_db`` and
    ``hard_psnr_db`` are those at the last; ``easy_drop_db`` is the most that the easy half has ever
    lost against its best time before, ``easy_forgotten`` the share of its pixels whose squared
    error more than doubles from the first snapshot to the last; ``course`` has the numbers over
    time.
    """
    kept = snapshots.snapshot_files(run)
    if len(kept) < 2:
        return {}
    errors = torch.stack([squared_errors(load_fit(path, device=device), pixels) for path in kept])
    return {
        **forgetting_scores(errors),
        "course_steps": [int(path.stem.rsplit("-", 1)[-1]) for path in kept],
    }


@torch.no_grad()
def squared_errors(fit: Fit, pixels: int) -> Tensor:
    """Mean squared error over channels at evenly drawn pixels of the training views, [pixels]."""
    scene, rng = fit.scene("train"), Generator().manual_seed(0)
    views, rows, cols = scene.images.shape[:3]
    view, y, x = (torch.randint(n, (pixels,), generator=rng) for n in (views, rows, cols))
    cameras = fit.model.narrowed(scene.cameras)
    found = []
    for some in torch.arange(pixels).split(1024):
        rays = on_device(
            cameras.rays(view[some], torch.stack([y[some], x[some]], -1).float()), fit.device
        )
        seen = fit.model.render(rays)[-1].rendering.image.cpu().clamp(0, 1)
        found.append((seen - scene.images[view[some], y[some], x[some]].float()).square().mean(-1))
    return torch.cat(found)


def forgetting_scores(errors: Tensor) -> dict[str, Any]:
    """The scores of :func:`forgetting` from squared errors [T, N] of T snapshots.

    >>> easy, hard = torch.tensor([0.01, 0.001, 0.1]), torch.tensor([1.0, 0.1, 0.1])
    >>> found = forgetting_scores(torch.stack([easy, hard], 1))
    >>> round(found["easy_drop_db"], 3), found["easy_forgotten"], round(found["hard_psnr_db"], 3)
    (20.0, 1.0, 10.0)
    """
    easy = errors[0].argsort()[: errors.shape[1] // 2]
    is_easy = torch.zeros(errors.shape[1], dtype=torch.bool).index_fill(0, easy, True)
    easy_db = psnr_from_mse_db(errors[:, is_easy].mean(1))
    hard_db = psnr_from_mse_db(errors[:, ~is_easy].mean(1))
    return {
        "easy_psnr_db": float(easy_db[-1]),
        "hard_psnr_db": float(hard_db[-1]),
        "easy_drop_db": float((easy_db.cummax(0).values - easy_db).max()),
        "easy_forgotten": float(
            (errors[-1, is_easy] > 2 * errors[0, is_easy].clamp_min(1e-6)).float().mean()
        ),
        "course": {"easy_psnr_db": easy_db.tolist(), "hard_psnr_db": hard_db.tolist()},
    }
