"""One cell of an ablation as an ordinary run, scored: what a worker does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.types import FieldOutput, Rays
from ...engine.run_folder import read_stats, snapshot_files
from ...imaging.geometry import FRONTAL_DEG, nearest_view
from ...rays.render import Level, render
from ...rays.samplers.base import SAMPLERS
from .grid import Cell

# r_t above it: the discriminator knows four in five real pictures by heart, and ADA (which aims at
# 0.6) has lost
OVERFITTED = 0.8
FAKES, VIEWS_OF_ONE = 128, 8  # pictures of random patients: enough to rank cells, not to quote


def train_and_score(cell: Cell, folder: Path, device: str) -> dict[str, Any]:
    """Train a cell's recipe and score it as ``evaluate`` does.

    An interrupted run goes on from its last snapshot.
    """
    from ...engine.session import train

    run = train(
        dataset=cell.dataset,
        config=cell.base,
        preset=cell.preset,
        settings=cell.settings,
        outdir=folder,
        resume="latest",
        seed=cell.seed,
        device=device,
        max_minutes=cell.max_minutes,
    )
    assert run is not None
    trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    found = (score_prior if "generator" in cell.recipe else score_scene)(cell, run, device)
    return (
        found
        | trained
        | {"run": run.name, "seconds_per_step": trained["train_seconds"] / max(trained["steps"], 1)}
    )


def score_prior(cell: Cell, run: Path, device: str) -> dict[str, Any]:
    """Scores of a prior: unseen patients from one view, and random patients' realism.

    The view given is the one nearest to the frontal.

    ``swd_best`` is the least SWD of the snapshots that the run kept: below ``swd``, that of the
    last, where the training has turned.
    """
    from ...invert.evaluate import evaluate
    from ...prior.load import load_prior

    angles_deg = load_prior(run).geometry.angles_deg  # of few views none may be frontal
    given = (angles_deg[nearest_view(angles_deg, FRONTAL_DEG)],)
    drawn = [drawn_scores(path, run, cell.seed, device) for path in snapshot_files(run)]
    found = evaluate(
        run=str(run), input_angles=given, seed=cell.seed, device=device, limit=cell.limit
    )
    length = kimg_before_overfitting(read_stats(run))
    best = {"swd_best": min(scores["swd"] for scores in drawn)}
    nodes = {"evals_per_ray": evaluations_per_ray(cell.recipe["levels"])}
    return drawn[-1] | found | length | best | nodes


def drawn_scores(snapshot: Path, run: Path, seed: int, device: str) -> dict[str, Any]:
    """How real the random patients of a snapshot are; the pictures of the newest stay."""
    from ..generation.score import Sizes, score

    return score(
        run=str(snapshot),
        sizes=Sizes(fakes=FAKES, views=VIEWS_OF_ONE, samples=FAKES // VIEWS_OF_ONE),
        out=run / "score",
        seed=seed,
        device=device,
    )


def kimg_before_overfitting(
    rows: Sequence[Mapping[str, float]], *, limit: float = OVERFITTED, share: float = 0.05
) -> dict[str, float]:
    """Thousands of real images seen before the discriminator overfits.

    That is when r_t, averaged over a window of ``share`` of the training, stays above ``limit``.
    r_t = E[sign D(real)] (arXiv 2006.06676, section 3.1). All that were seen, where it never
    does; nothing without a discriminator.

    >>> rows = [{"kimg": k / 10, "r_t": 0.2 if k < 60 else 1.0} for k in range(1, 101)]
    >>> kimg_before_overfitting(rows)
    {'overfit_kimg': 6.3}
    """
    seen = [(row["kimg"], row["r_t"]) for row in rows if "r_t" in row and "kimg" in row]
    if not seen:
        return {}
    window = max(1, round(share * len(seen)))
    length = seen[-1][0]
    for end in range(len(seen), window - 1, -1):
        if sum(r for _, r in seen[end - window : end]) / window <= limit:
            break
        length = seen[end - 1][0]
    return {"overfit_kimg": length}


def score_scene(cell: Cell, run: Path, device: str) -> dict[str, Any]:
    """Scores of a fit on its test views.

    Where it kept snapshots on the way, also what it forgot of its training views.
    """
    from ...scene.evaluate import evaluate_scene
    from ...scene.forgetting import forgetting
    from ...scene.load import load_fit

    found = evaluate_scene(load_fit(run, device=device), limit=cell.limit, out=run / "evaluate")
    return found | forgetting(run, device=device)


class Bell:
    """A field with one soft surface, for counting samples."""

    def density(self, x: Tensor, code: Any = None) -> Tensor:
        return 20 * torch.exp(-(((x[..., 2] - 0.5) / 0.1) ** 2))

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any = None) -> FieldOutput:
        return FieldOutput(self.density(x) * dt, None)


def evaluations_per_ray(levels: Sequence[Mapping[str, Any]]) -> int:
    """How often a prior's field is evaluated along one ray of its training, over all levels.

    >>> evaluations_per_ray([{"name": "stratified", "n": 16}, {"name": "importance", "n": 8}])
    40
    """
    ray = Rays(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1), torch.ones(1))
    seen = render(ray, None, [Level(SAMPLERS.build(node), Bell()) for node in levels])
    return sum(int((level.samples.dt > 0).sum()) for level in seen)
