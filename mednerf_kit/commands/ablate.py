"""``mednerf-kit ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..core.errors import UserError
from ..core.parent import end_with_parent
from .base import FOLDER, PRESETS, Numbers, Work

ORPHAN_GRACE_S = 60.0  # for a cell to finish its step and keep it


class Devices(click.ParamType):
    """One device or several, such as cuda:0,cuda:1."""

    name = "devices"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        for device in str(value).split(","):
            kind, _, index = device.partition(":")
            if kind not in ("auto", "cpu", "cuda") or (
                ":" in device and not (kind == "cuda" and index.isdecimal())
            ):
                self.fail(
                    f"got {device!r}; wanted auto, cpu, cuda or cuda:N, separated by commas.",
                    param,
                    ctx,
                )
        return str(value)


@click.command(cls=Work)
@click.argument("recipe", metavar="NAME|FILE", required=False)
@click.option(
    "--dataset",
    metavar="NAME|PATH",
    show_default="the file's",
    help="A dataset, or a folder of scenes.",
)
@click.option(
    "--scenes",
    metavar="all|A,B",
    show_default="the file's",
    help="Scenes under or beside --dataset; all: every one there is.",
)
@click.option(
    "--cells",
    metavar="A,B",
    show_default="all",
    help="Run these cells only; the others stay as they are.",
)
@click.option(
    "--seeds", type=Numbers(), show_default="the file's", help="Seeds of every cell, such as 0-2."
)
@click.option(
    "--preset",
    type=click.Choice(PRESETS),
    show_default="the file's own size",
    help="Run the base at this size instead.",
)
@click.option(
    "--set",
    "settings",
    metavar="KEY.PATH=VALUE",
    multiple=True,
    help="Change one value in every cell (repeatable).",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    show_default="the file's",
    help="Training time of a run.",
)
@click.option(
    "--limit-minutes",
    type=click.FloatRange(min=0, min_open=True),
    show_default="no limit",
    help="Begin no run after this time; the rest is marked as not run.",
)
@click.option(
    "--device",
    type=Devices(),
    default="auto",
    help="auto (all there are), cpu, cuda, or several such as cuda:0,cuda:1.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    show_default="one per device",
    help="Runs at a time, each a process.",
)
@click.option(
    "--outdir", type=FOLDER, show_default="runs/ablate-NAME", help="Where runs and tables go."
)
@click.option(
    "-n", "--dry-run", is_flag=True, help="List the cells and what they change, and stop."
)
@click.option("--cell", type=FOLDER, hidden=True)
def ablate(
    *, recipe: str | None, cells: str | None, cell: Path | None, device: str, **options: Any
) -> None:
    """Compare variants of a recipe: cells × seeds × scenes, a table, a figure and paired tests.

    Started again, it goes on: finished cells are kept, failed and interrupted ones are tried again.
    The last line on stdout is the folder with results.csv, table.md and figure.png.
    """
    from dataclasses import fields

    from ..study.ablation import run

    if cell is not None:
        end_with_parent(grace_s=ORPHAN_GRACE_S)
        run.work_on(cell, device)
        return
    if recipe is None:
        raise UserError(
            "got no ablation",
            "wanted a name or a file",
            "write for example `mednerf-kit ablate samplers`",
        )
    options["overrides"] = run.Overrides(
        **{f.name: options.pop(f.name) for f in fields(run.Overrides)}
    )
    workers = {name: options.pop(name) for name in ("jobs", "limit_minutes")}
    folder = run.ablate(
        recipe,
        cells=cells.split(",") if cells else (),
        workers=run.Workers(device=device, **workers),
        **options,
    )
    if folder is not None:
        click.echo(folder)
