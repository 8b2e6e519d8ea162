"""``mednerf-kit list`` and ``mednerf-kit doctor``: what the package offers, and what this machine
has.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path

import click

from ..core import config
from ..core.errors import unknown_name

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
)


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_(kind: str | None, as_json: bool) -> None:
    """Show the recipes and every registered variant, or those of one KIND."""
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


def recipes() -> dict[str, str]:
    """The recipes of ``configs/`` by the name that --config takes, each with its first comment."""
    folder = config.folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): comment(path)
        for path in sorted(folder.rglob("*.yaml"))
    }


def comment(path: Path) -> str:
    """The first comment line of a YAML file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), "")


def variants() -> dict[str, dict[str, str]]:
    """Every registry with its entries, each with the first line of its docstring."""
    package = __name__.partition(".")[0]
    for layer in LAYERS:
        folder = importlib.import_module(f"{package}.{layer}")
        for module in pkgutil.walk_packages(folder.__path__, f"{folder.__name__}."):
            importlib.import_module(module.name)
    return {
        kind: {
            name: (inspect.getdoc(entry) or "").partition("\n")[0]
            for name, entry in sorted(registry.entries.items())
        }
        for kind, registry in sorted(config.Registry.all.items())
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(as_json: bool) -> None:
    """Show what this machine has: versions, device, speed, data."""
    from ..doctor import examine, in_words

    facts = examine()
    click.echo(json.dumps(facts, indent=2) if as_json else in_words(facts))
