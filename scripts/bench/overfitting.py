#!/usr/bin/env python3
"""When a discriminator overfits: what it says of pictures it learned from, and of unseen patients'.

    python scripts/bench/overfitting.py SET [--cells none,ada] [--seeds 0,1,2] [--rows FILE.jsonl]
    python scripts/bench/overfitting.py --rows FILE.jsonl     # the table and the figure once more

Trains cells of an ablation of priors on the training patients of SET and adds a row to FILE every
``--every`` steps: thousands of real pictures shown (kimg); r_t = E[sign D] of the batches since the
row before, as trained on (arXiv 2006.06676, section 3.1); E[sign D] of all training pictures, of
all pictures of SET's test patients and of random patients; how often a training picture has a
higher logit than a test picture (by_heart: ½ where nothing is learned by heart, 1 where all known
pictures are told from unseen patients'), and a test picture a higher one than a fake (unseen_real:
½ where unseen patients look like fakes); and the sliced Wasserstein distance of random patients to
the test patients, × 1000. Pictures are judged as they are, by the patch that fills them.

The table has, over seeds, the least SWD of a run and the mean of its last fifth; r_t, by_heart and
p are of that fifth too. FILE.png shows the first three over the pictures seen.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from mednerf_kit.engine.device import select_device
from mednerf_kit.engine.distributed import Ranks
from mednerf_kit.engine.run_folder import RunConfig
from mednerf_kit.engine.session import resolve, task_type_of
from mednerf_kit.prior.load import Prior
from mednerf_kit.prior.sets import read_set
from mednerf_kit.study.ablation import grid
from mednerf_kit.study.generation.random_patients import draw
from mednerf_kit.study.generation.score import Side, compare, side_of

FAKES, VIEWS = 96, 8  # pictures of random patients, and at most of each of them
CURVES = {
    "r_t": "r_t",
    "by_heart": "training above unseen",
    "swd": "SWD",
}  # panels of the figure
Row = dict[str, Any]


@torch.no_grad()
def judged(task: Any, pictures: Tensor) -> Tensor:
    """Logits [N] of pictures [N, rows, cols] as the discriminator's first head has them."""
    stride = pictures.shape[-1] // task.parts.discriminator.size
    images = pictures.float()[:, None, ::stride, ::stride]
    return torch.cat(
        [task.parts.discriminator(some, heads=1).heads[:, 0] for some in images.split(64)]
    )


def share_above(a: Tensor, b: Tensor) -> float:
    """P(a > b) of numbers a [N] and b [M]: the area under a ROC curve.

    >>> share_above(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.5]))
    0.75
    """
    return float((a[:, None] > b).float().mean())


def state_of(task: Any, meta: Mapping[str, Any], real: Side, sets: Mapping[str, Tensor]) -> Row:
    """What a row says of the networks as they are."""
    generator = task.finished() if hasattr(task, "finished") else task.ema
    none_known = torch.zeros(0, generator.latent_dim)
    prior = Prior(generator, task.geometry, none_known, dict(meta) | task.fitted(), Path())
    drawn = draw(
        prior,
        {},
        count=FAKES,
        views=min(VIEWS, task.geometry.views),
        keep=FAKES,
        orbits=1,
        orbit_deg=[0.0],
        rng=Generator().manual_seed(0),
    )
    logits = {name: judged(task, pictures) for name, pictures in sets.items()}
    logits["fakes"] = judged(task, drawn.pictures)
    found = compare(real, Side({}, drawn.pictures, drawn.count), 0)
    return {
        **{f"sign_{name}": float(values.sign().mean()) for name, values in logits.items()},
        "by_heart": share_above(logits["train"], logits["test"]),
        "unseen_real": share_above(logits["test"], logits["fakes"]),
        "swd": found["swd"],
    }


def trained(recipe: Mapping[str, Any], dataset: str, seed: int, every: int) -> Iterator[Row]:
    """Train a recipe; what there is to say every so many steps."""
    prepared = task_type_of(recipe).prepare(
        RunConfig(dataset, dict(recipe), seed=seed), select_device("cpu")
    )
    task, steps = prepared.task, recipe["steps"]
    task.set_distributed(Ranks())
    sets = {
        split: read_set(dataset, recipe["dataset"], split=split).images
        for split in ("train", "test")
    }
    views = min(VIEWS, task.geometry.views)
    real = side_of(sets["test"], {}, views, 10_000, Generator().manual_seed(0), "cpu")
    shown = {name: images.flatten(0, 1) for name, images in sets.items()}
    logged, spent, started = [], 0.0, time.process_time()
    for index in range(steps):
        logged.append(task.step(index / steps, index))
        if (index + 1) % every == 0:
            spent += time.process_time() - started
            yield {
                "kimg": logged[-1]["kimg"],
                "r_t": statistics.fmean(line["r_t"] for line in logged),
                "p": logged[-1]["p"],
                **state_of(task, prepared.meta, real, shown),
                "seconds": spent,
            }
            logged, started = [], time.process_time()


def by_cell(rows: Sequence[Row]) -> dict[str, list[list[Row]]]:
    """The rows of every run, cell by cell."""
    runs: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        runs.setdefault(row["cell"], {}).setdefault(row["seed"], []).append(row)
    return {cell: list(seeds.values()) for cell, seeds in runs.items()}


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a Markdown table, a cell each: mean ± standard deviation over seeds."""

    def over(runs: list[list[Row]], value: Callable[[list[Row]], float], digits: int) -> str:
        values = [value(run) for run in runs]
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.{digits}f}{spread}"

    def late(key: str) -> Callable[[list[Row]], float]:
        return lambda run: statistics.fmean(row[key] for row in run[-max(1, len(run) // 5) :])

    yield "| cell | runs | least SWD | at kimg | SWD at the end | r_t | by heart | p |"
    yield "|---|---|---|---|---|---|---|---|"
    for cell, runs in by_cell(rows).items():
        shown = (
            over(runs, lambda run: min(row["swd"] for row in run), 1),
            over(runs, lambda run: min(run, key=lambda row: row["swd"])["kimg"], 1),
            over(runs, late("swd"), 1),
            over(runs, late("r_t"), 2),
            over(runs, late("by_heart"), 2),
            over(runs, late("p"), 2),
        )
        yield f"| {cell} | {len(runs)} | {' | '.join(shown)} |"


def figure(rows: Sequence[Row], path: Path) -> None:
    """Curves of every cell over the pictures seen: the mean over seeds, and their range for the
    first.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    canvas, panels = pyplot.subplots(1, len(CURVES), figsize=(9.6, 2.9), layout="constrained")
    for panel, (key, label) in zip(panels, CURVES.items(), strict=True):
        for k, (cell, runs) in enumerate(by_cell(rows).items()):
            length = min(map(len, runs))  # one may be under way
            values = torch.tensor([[row[key] for row in run[:length]] for run in runs])
            kimg = [row["kimg"] for row in runs[0][:length]]
            style = {"color": "black", "linewidth": 2} if k == 0 else {"linewidth": 1.2}
            panel.plot(kimg, values.mean(0), label=cell, **style)
            if k == 0:
                panel.fill_between(kimg, values.amin(0), values.amax(0), color="#dddddd")
        panel.set_xlabel("thousands of real pictures", fontsize=8)
        panel.set_title(label, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(color="#dddddd", linewidth=0.6)
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right", fontsize=8)
    canvas.savefig(path, dpi=110)
    pyplot.close(canvas)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", nargs="?", help="a set with training and test patients")
    parser.add_argument("--rows", type=Path, default=Path("out/overfitting.jsonl"))
    parser.add_argument("--ablation", default="augmentation_few")
    parser.add_argument("--cells", default="none", help="with commas between")
    parser.add_argument("--seeds", default="0", help="with commas between")
    parser.add_argument("--every", type=int, default=30, help="steps between two rows")
    parser.add_argument("--set", action="append", default=[], help="as ablate takes it")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    if args.dataset:
        plan = grid.plan(grid.read(args.ablation), {args.dataset: args.dataset}, resolve, args.set)
        recipes = {cell.name: cell.recipe for cell in plan}
        for seed, cell in itertools.product(args.seeds.split(","), args.cells.split(",")):
            for row in trained(recipes[cell], args.dataset, int(seed), args.every):
                numbers = {name: round(value, 4) for name, value in row.items()}
                with args.rows.open("a") as file:
                    file.write(json.dumps({"cell": cell, "seed": int(seed), **numbers}) + "\n")
    rows = [json.loads(line) for line in args.rows.read_text().splitlines()]
    print("\n".join(table(rows)))
    figure(rows, args.rows.with_suffix(".png"))


if __name__ == "__main__":
    main()
