"""A scene fit so small that it takes a second: TensoRF on the procedural scene ``blocks``."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from mednerf_kit.engine.run_folder import RunConfig
from mednerf_kit.engine.session import resolve, task_type_of, train

RECIPE = {
    "task": {"name": "fit", "learning_rate": 0.02, "beta2": 0.99, "restart_rate": True},
    "scene": {"size": 24, "train_views": 6},
    "fields": {
        "scene": {
            "name": "tensorf",
            "density_ranks": 4,
            "appearance_ranks": 6,
            "features": 6,
            "head_width": 16,
            "start_voxels": 4096,
            "end_voxels": 13824,
            "upsample": [0.4],
            "masks": [0.6],
        }
    },
    "levels": [{"sampler": {"name": "stratified", "n": 24}, "field": "scene"}],
    "selector": {"name": "random", "n": 128},
    "losses": {"mse": 1.0, "density_l1": 1.0e-5},
    "image_model": "emission_absorption",
    "steps": 100,
    "snapshot_steps": 50,
}


def recipe_file(folder: Path, **changes) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return str(path)


def fitted(
    folder: Path, *, dataset: str = "blocks", resume: str | None = None, settings=(), **changes
) -> Path:
    config = recipe_file(folder, **changes)
    run = train(
        dataset=dataset,
        config=config,
        outdir=folder / "runs",
        device="cpu",
        resume=resume,
        settings=settings,
    )
    assert run is not None
    return run


def prepared(folder: Path, **changes):
    """The task of a recipe, not yet trained."""
    folder.mkdir(exist_ok=True)
    recipe = resolve("blocks", recipe_file(folder, **changes), "default", [])
    return task_type_of(recipe).prepare(RunConfig("blocks", recipe), torch.device("cpu")).task
