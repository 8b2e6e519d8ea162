"""What the commands share: groups that import lazily, the disclaimer, options and their types."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import DISCLAIMER
from ..core.errors import UserError, unknown_name

BUNDLED = "bundled:chest"
PRESETS = ["quick", "default", "paper"]
SPLITS = ["train", "val", "test", "all"]


class LazyGroup(click.Group):
    """Commands by name, imported when they are asked for.

    ``table`` maps a name to ``("module:function", short help)``.
    """

    def __init__(self, *args: Any, table: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = table

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _, function = self.table[cmd_name][0].partition(":")
        return getattr(importlib.import_module(f"{__package__}.{module}"), function)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.table:
            raise unknown_name("command", args[0], self.table)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


class Work(click.Command):
    """A command whose output could be mistaken for a scan: it says that it is none."""

    def invoke(self, ctx: click.Context) -> Any:
        click.echo(DISCLAIMER, err=True)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(DISCLAIMER)


class Numbers(click.ParamType):
    """Whole numbers and ranges, ends included.

    >>> Numbers().convert("0,4-6", None, None)
    [0, 4, 5, 6]
    """

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        numbers: list[int] = []
        try:
            for part in str(value).split(","):
                first, _, last = part.partition("-")
                numbers.extend(range(int(first), int(last or first) + 1))
        except ValueError:
            numbers = []
        if not numbers:
            self.fail(f"got {value!r}; wanted whole numbers and ranges such as 0,4-6.", param, ctx)
        return numbers


class View(click.ParamType):
    """A named film or an angle in degrees.

    >>> View().convert("pa", None, None), View().convert("265", None, None)
    ('PA', 265.0)
    """

    name = "view"
    films = ("PA", "AP", "lateral", "left-lateral")

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | float:
        for film in self.films:
            if str(value).lower() == film.lower():
                return film
        try:
            return float(value)
        except ValueError:
            self.fail(
                f"got {value!r}; wanted {', '.join(self.films)} or an angle in degrees.", param, ctx
            )


def chosen(
    context: click.Context, options: Mapping[str, Any], known: set[str], wanted: str
) -> dict[str, Any]:
    """The options that this kind of run takes.

    Raises UserError for another one that was written on the command line: it would do nothing.
    """
    for name in options:
        if name not in known and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = next(p.opts[0] for p in context.command.params if p.name == name)
            raise UserError(
                f"got {flag}", f"wanted {wanted} for it", "leave it out or choose another --run"
            )
    return {name: value for name, value in options.items() if name in known}


FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)

#: What the grey values of a set of DRRs are: those of `train`, `tomography` and `evaluate`.
SET_KINDS = (
    click.option(
        "--input-kind",
        type=click.Choice(["line-integral", "transmission", "display"]),
        default="line-integral",
        help="DRRs: what their grey values are; display is a film, which has no scale.",
    ),
    click.option(
        "--invert", is_flag=True, help="DRRs: bone is dark in them; black and white are exchanged."
    ),
)


def set_kind_options(command: Any) -> Any:
    """Give a command the options of :data:`SET_KINDS`."""
    for option in reversed(SET_KINDS):
        command = option(command)
    return command


run_option = click.option(
    "--run",
    metavar="RUN",
    default=BUNDLED,
    help="A run folder (or the beginning of its name), a snapshot or a bundled prior.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same result."
)
samplers_option = click.option(
    "--set",
    "settings",
    metavar="KEY.PATH=VALUE",
    multiple=True,
    help="Scenes: change samplers, and nothing else, as levels.0.sampler.n=128 (repeatable).",
)
dicom_option = click.option(
    "--dicom",
    is_flag=True,
    help="Also each volume as a DICOM file (Enhanced CT, derived, for research).",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    show_default="the recipe's, else auto",
    help="Priors: what networks are computed in; auto is what is faster here.",
)
minutes_option = click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    show_default="no limit",
    help="Stop in good order after this time.",
)
