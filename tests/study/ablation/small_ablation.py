"""A small ablation, a stand-in for the training of its cells, and made-up results."""

from __future__ import annotations

import random
from dataclasses import fields

import numpy as np

from mednerf_kit.core import config
from mednerf_kit.core.errors import UserError
from mednerf_kit.study.ablation import grid, run
from mednerf_kit.study.ablation.results import Result, Scores
from mednerf_kit.viz.figures import png_bytes

TEXT = """# What it shows.
# What it costs.
base: chest
dataset: chest
preset: quick
settings: {task.batch: 4}
size: {dataset.size: 32}
steps: 50
limit: 8
seeds: [0, 1]
cells:
  first: {}
  second: {levels.0.n: 16, task.r1_gamma: 1e-3}
  third: {task.objective: hybrid}
metrics: [psnr_db, seconds_per_step]
"""
VIEWS = 8
DRAWN = png_bytes(np.full((1, 1, 3), 7, np.uint8))


def cheap_resolve(dataset, base, preset, settings):
    """The recipe without the checks of its kind, which build models."""
    recipe = config.load(base)
    recipe.pop("presets")
    return config.with_settings(recipe, list(settings))


class Runner:
    """Stands in for training: remembers the cells it was given and answers made-up scores."""

    def __init__(self, *, fails=(), stops_at=None):
        self.ran, self.fails, self.stops_at = [], set(fails), stops_at

    def __call__(self, cell, folder, device):
        if len(self.ran) == self.stops_at:
            raise KeyboardInterrupt
        self.ran.append((cell.name, cell.scene, cell.seed))
        if cell.name in self.fails:
            raise UserError("got NaN", "wanted numbers", "lower the rate")
        noise = random.Random(f"{cell.place}")
        gain = ["first", "second", "third"].index(cell.name)
        rows = [
            {"stem": f"r_{i}", "psnr_db": 30 + i + gain + 0.1 * noise.random(), "note": "x"}
            for i in range(VIEWS)
        ]
        psnr = sum(row["psnr_db"] for row in rows) / VIEWS
        return {
            "psnr_db": psnr,
            "seconds_per_step": 0.1,
            "lpips": None,
            "seed": 0.0,  # an evaluation's own
            "per_view": rows,
            "run": "00000-chest",
        }


def ablate(spec, out, runner=None, **options):
    """Run an ablation's file with a stand-in for training."""
    asked, workers = (
        record(**{f.name: options.pop(f.name) for f in fields(record) if f.name in options})
        for record in (run.Overrides, run.Workers)
    )
    options |= {"overrides": asked, "workers": workers, "run_cell": runner or Runner()}
    return run.ablate(str(spec), outdir=out, **options)


def planned(spec):
    """The cells of an ablation's file."""
    return grid.plan(grid.read(str(spec)), {"chest": "chest"}, cheap_resolve)


def made(values, seconds=None, *, limit=None):
    """Results from {(cell, scene, seed): [score per view]}."""
    done = []
    for (name, scene, seed), scores in values.items():
        cell = grid.Cell(name, scene, seed, scene, "chest", "quick", [], {}, None, limit)
        units = {f"r_{i}": {"psnr_db": v} for i, v in enumerate(scores)}
        metrics = {
            "psnr_db": sum(scores) / len(scores),
            "seconds_per_step": (seconds or {}).get((name, seed), 0.1),
        }
        done.append(Result(cell, "done", Scores(metrics, "view", units), device="cpu"))
    return done
