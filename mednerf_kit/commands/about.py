"""``mednerf-kit list`` and ``mednerf-kit doctor``: what the package and this machine offer."""

from __future__ import annotations

import importlib
import itertools
import json
import pkgutil
from pathlib import Path

import click

from ..core import config
from ..core.errors import unknown_name
from ..core.files import write_text
from .variants import variants

# where variants register themselves
LAYERS = (
    "core",
    "imaging",
    "rays",
    "fields",
    "gan",
    "data",
    "metrics",
    "engine",
    "recon",
    "prior",
    "scene",
    "invert",
    "study",
    "view",
)


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option(
    "--docs",
    is_flag=False,
    flag_value="docs/reference.md",
    metavar="[FILE]",
    help="Write the reference of every option as Markdown (docs/reference.md unless told).",
)
def list_(kind: str | None, as_json: bool, docs: str | None) -> None:
    """Show the recipes and every registered variant, or those of one KIND."""
    if docs is not None:
        from .reference import reference

        write_text(docs, reference(recipes(whole=True), registries()))
        click.echo(docs)
        return
    known = {"recipe": recipes(), **variants()}
    if kind is not None and kind not in known:
        raise unknown_name("kind", kind, known)
    chosen = known if kind is None else {kind: known[kind]}
    if as_json:
        click.echo(json.dumps(chosen, indent=2))
        return
    for name, entries in chosen.items():
        click.echo(f"{name}:")
        for entry, text in entries.items():
            click.echo(f"  {entry:24s} {text}")


def recipes(*, whole: bool = False) -> dict[str, str]:
    """The recipes of ``configs/`` by the name that --config takes, each with its purpose.

    That is the first line of its first comment, or with ``whole`` all of that comment.
    """
    folder = config.folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): " ".join(comment(path, whole=whole))
        for path in sorted(folder.rglob("*.yaml"))
    }


def comment(path: Path, *, whole: bool = False) -> list[str]:
    """The lines of the comment that a YAML file begins with; the first alone unless ``whole``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    begun = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return [line.lstrip("# ") for line in begun][: None if whole else 1]


def registries() -> dict[str, config.Registry]:
    """Every registry of the package, by kind; reads all modules in which variants may register."""
    package = __name__.partition(".")[0]
    for layer in LAYERS:
        folder = importlib.import_module(f"{package}.{layer}")
        for module in pkgutil.walk_packages(folder.__path__, f"{folder.__name__}."):
            importlib.import_module(module.name)
    return {kind: r for kind, r in config.Registry.all.items() if kind not in ("shape", "outline")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(as_json: bool) -> None:
    """Show what this machine has: versions, device, speed, data."""
    from ..doctor import examine, in_words

    facts = examine()
    click.echo(json.dumps(facts, indent=2) if as_json else in_words(facts))
