"""The reference of every registered variant and its options, written from the code itself."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from ..core import config

#: By kind, the parameters that the program supplies: no recipe sets them.
SUPPLIED = {
    "discriminator": {"channels", "rng"},
    "field": {"box", "channels"},
    "image model": {"background"},
    "implant": {"cols", "pixel_mm", "rows"},
    "encoding": {"box"},
    "optimiser": {"d_interval", "discriminator", "generator"},
    "phantom": {"seed"},
    "sampler": {"box", "field"},
    "selector": {"cols", "images", "masks", "rows", "views"},
    "tomography method": {"fit", "prior"},
    "task": {
        "device",
        "distance",
        "generator",
        "geometry",
        "parts",
        "reals",
        "scene",
        "seed",
        "variation",
        "volumes",
        "water",
    },
}
INTRODUCTION = """# Reference

Every variant that a recipe can name and every option it takes, with its default; written by
`mednerf-kit list --docs`. In a recipe a variant is a node `{name: importance, n: 64}`; on the
command line `--set levels.1.sampler.n=64` changes one option.
"""


def reference(recipes: dict[str, str], registries: dict[str, config.Registry]) -> str:
    """The whole page as Markdown: the recipes with their purpose, then each kind of variant."""
    rows = [f"| `{name}` | {_cell(purpose)} |" for name, purpose in recipes.items()]
    parts = [INTRODUCTION, "## Recipes\n", "| recipe | purpose, cost, number to expect |"]
    parts += ["|---|---|", *rows]
    for kind, registry in sorted(registries.items()):
        parts.append(f"\n## {kind[:1].upper()}{kind[1:]}")
        shown: dict[tuple[str, ...], tuple[str, list[config.Option]]] = {}
        for name, entry in sorted(registry.entries.items()):
            taken = options(kind, entry)
            first, known = shown.setdefault(tuple(o.name for o in taken), (name, []))
            parts += ["", *variant(name, entry, [o for o in taken if o not in known])]
            if taken and first != name:
                parts += ["", f"Its other options are those of `{first}`."]
            known += [o for o in taken if first == name]
    return "\n".join(parts) + "\n"


def variant(name: str, entry: Callable, taken: list[config.Option]) -> list[str]:
    """One variant: its first paragraph and a table of these options, line by line."""
    lines = [f"### `{name}`", "", first_paragraph(entry)]
    texts = option_texts(entry)
    rows = [
        f"| `{option.name}` | {_type(option.type)} | {_default(option.default)} "
        f"| {_cell(texts.get(option.name, ''))} |"
        for option in taken
    ]
    table = ["", "| option | type | default | meaning |", "|---|---|---|---|", *rows]
    return lines + (table if rows else [])


def options(kind: str, entry: Callable) -> list[config.Option]:
    """The options that a recipe may set, in the order of the signature."""
    return config.options_of(entry, SUPPLIED.get(kind, ()))


def undocumented(registries: dict[str, config.Registry]) -> list[str]:
    """Options without a text in their docstring's ``Options:`` list, as ``kind name.option``."""
    return [
        f"{kind} {name}.{option.name}"
        for kind, registry in sorted(registries.items())
        for name, entry in sorted(registry.entries.items())
        for option in options(kind, entry)
        if option.name not in option_texts(entry)
    ]


def first_paragraph(entry: Callable) -> str:
    """The beginning of an entry's docstring, on one line."""
    return _markdown(" ".join((inspect.getdoc(entry) or "").partition("\n\n")[0].split()))


def option_texts(entry: Callable) -> dict[str, str]:
    """The ``Options:`` list of a docstring, or of the docstring of the record of options.

    >>> class Ball:
    ...     '''A ball.
    ...
    ...     Options:
    ...         radius_mm: half its width, where the
    ...             ball is widest.
    ...         label: its name.
    ...     '''
    >>> option_texts(Ball)
    {'radius_mm': 'half its width, where the ball is widest.', 'label': 'its name.'}
    """
    record = config.options_class(entry)
    found = dict(_options_list(inspect.getdoc(entry) or ""))
    return found | (dict(_options_list(inspect.getdoc(record) or "")) if record else {})


def _options_list(doc: str) -> Iterator[tuple[str, str]]:
    """Names and texts below ``Options:`` in a docstring."""
    _, found, rest = doc.partition("Options:\n")
    name, text = "", ""
    for line in rest.splitlines() if found else []:
        if not line.startswith("    "):
            if line.strip():
                break
            continue
        if start := re.fullmatch(r"    (\w+(?:, \w+)*): (.*)", line):
            yield from ((part, text) for part in name.split(", ") if part)
            name, text = start[1], start[2]
        else:
            text += f" {line.strip()}"
    yield from ((part, text) for part in name.split(", ") if part)


def _type(hint: Any) -> str:
    """An annotation in a word or two."""
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(_type(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "null"
    if hint is Any:
        return "any"
    return getattr(typing.get_origin(hint) or hint, "__name__", str(hint))


def _default(value: Any) -> str:
    """A default as YAML writes it."""
    if value is inspect.Parameter.empty:
        return "must be given"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"`{_cell(str(list(value) if isinstance(value, tuple) else value))}`"


def _cell(text: str) -> str:
    """Text of a docstring as Markdown that does not break a table."""
    return _markdown(text).replace("|", "\\|")


def _markdown(text: str) -> str:
    """A docstring's marks as Markdown's: code, and names of classes without their role."""
    return re.sub(r"(?::\w+:)?`{1,2}[~.]*([^`]*)`{1,2}", r"`\1`", text)
