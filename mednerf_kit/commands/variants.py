"""Every registered variant with its purpose, read from the source: nothing of it is imported.

``mednerf-kit list`` answers from it at once. A variant is registered at the top of a module, by a
decorator or by a call, and the first line of its docstring says what it is for::

    @SAMPLERS.register("local")
    class LocalSampler: ...

    AUGMENTATIONS.register("none")(preset("Nothing, until an option asks for it."))

In the second form that line is the first argument of what makes the variant.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def variants() -> dict[str, dict[str, str]]:
    """Every registry by its kind, with its entries, each with the first line of its docstring."""
    trees = dict(_modules())
    kinds = {place: kind for path, tree in trees.items() for place, kind in _defined(path, tree)}
    found: dict[str, dict[str, str]] = {kind: {} for kind in kinds.values()}
    for path, tree in trees.items():
        home = dict(_imported(path, tree))
        for registry, name, text in _registered(tree):
            found[kinds[home.get(registry, (path, registry))]][name] = text
    return {kind: dict(sorted(found[kind].items())) for kind in sorted(found)}


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    """The modules in which something registers, or is registered."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if ".register(" in source or "Registry(" in source:
            yield path, ast.parse(source)


def _defined(path: Path, tree: ast.Module) -> Iterator[tuple[tuple[Path, str], str]]:
    """The registries that a module defines, by module and name, each with its kind."""
    for node in tree.body:
        match node:
            case ast.AnnAssign(
                target=ast.Name(id=name),
                value=ast.Call(
                    func=ast.Name(id="Registry"), args=[ast.Constant(value=str(kind)), *_]
                ),
            ):
                yield (path, name), kind


def _imported(path: Path, tree: ast.Module) -> Iterator[tuple[str, tuple[Path, str]]]:
    """The names that a module imports from others of the package: where each was defined."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            origin = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                yield alias.asname or alias.name, (origin.with_suffix(".py"), alias.name)


def _registered(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """What a module registers: the registry's name there, the variant's name and its purpose."""
    for node in tree.body:
        calls: list[ast.expr] = []
        text = ""
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                calls, text = node.decorator_list, ast.get_docstring(node) or ""
            case ast.Expr(
                ast.Call(func=call, args=[ast.Call(args=[ast.Constant(value=str(about)), *_])])
            ):
                calls, text = [call], about
        for call in calls:
            match call:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=registry), attr="register"),
                    args=[ast.Constant(value=str(name))],
                ):
                    yield registry, name, text.partition("\n")[0]
