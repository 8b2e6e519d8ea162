"""Registries and recipes: small registries of variants, and YAML nodes that bind to constructors.

The constructor is the configuration: a node ``{name: local, n: 48}`` looks up ``local`` and calls
its constructor with the keyword-only argument ``n``. A constructor with many options takes them as
one frozen dataclass, a parameter named ``options``; in the node they stand side by side all the
same. Unknown names and options are answered with the nearest known one.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from .errors import UserError, unknown_name
from .former_names import current_recipe, current_setting, recipe_name

T = TypeVar("T")


class Registry(Generic[T]):
    """A registry: the variants of one kind, found by name.

    >>> SHAPES = Registry("shape")
    >>> @SHAPES.register("ball")
    ... class Ball:
    ...     '''A ball.'''
    ...     def __init__(self, *, radius_mm: float = 1.0): self.radius_mm = radius_mm
    >>> SHAPES.build({"name": "ball", "radius_mm": 2}).radius_mm
    2.0
    """

    all: dict[str, Registry] = {}

    def __init__(self, kind: str, *, home: str | None = None) -> None:
        """A registry of the kind that its error messages name.

        ``home`` is a package whose modules register themselves: a new variant is a new file there
        and nothing else.
        """
        self.kind, self.home = kind, home
        self.known: dict[str, Callable[..., T]] = {}
        Registry.all[kind] = self

    @property
    def entries(self) -> dict[str, Callable[..., T]]:
        """What is registered, by name; reads the home's modules first."""
        if self.home is not None:
            home, self.home = self.home, None
            for module in pkgutil.iter_modules(importlib.import_module(home).__path__):
                importlib.import_module(f"{home}.{module.name}")
        return self.known

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """A decorator that registers a class or a function under this name."""

        def keep(entry: Callable[..., T]) -> Callable[..., T]:
            if name in self.known:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self.known[name] = entry
            return entry

        return keep

    def __getitem__(self, name: str) -> Callable[..., T]:
        if name not in self.entries:
            raise unknown_name(self.kind, name, self.entries)
        return self.entries[name]

    def build(self, node: Mapping[str, Any] | str, **facts: Any) -> T:
        """The entry that a node names, constructed with the node's options.

        ``facts`` are what the program knows (a size, a dataset); they are no options. Errors: an
        unknown name or option, or a value of another type, is a UserError.
        """
        name, options = self._named(node)
        return bind(self[name], options, where=f"{self.kind} '{name}'", **facts)

    def check(self, node: Mapping[str, Any] | str, *facts: str) -> None:
        """Refuse what :meth:`build` would refuse, in the same words, without building.

        ``facts`` are the names of what the program will supply.
        """
        name, options = self._named(node)
        bound(self[name], options, where=f"{self.kind} '{name}'", facts=facts)

    def name_of(self, built: T) -> str:
        """The name under which what was built stands in a recipe.

        >>> SHAPES = Registry("outline")
        >>> Disc = SHAPES.register("disc")(type("Disc", (), {}))
        >>> SHAPES.name_of(Disc())
        'disc'
        """
        return next(name for name, entry in self.entries.items() if entry is type(built))

    def _named(self, node: Mapping[str, Any] | str) -> tuple[str, dict[str, Any]]:
        """The name and the options of a node."""
        options = (
            {"name": node}
            if isinstance(node, str)
            else dict(node)
            if isinstance(node, Mapping)
            else {}
        )
        name = options.pop("name", None)
        if name is None:
            raise UserError(
                f"got a {self.kind} without a name",
                f"wanted one of {', '.join(self.entries)}",
                "add 'name:'",
            )
        return str(name), options


@dataclass(frozen=True)
class Option:
    """One option of a registered entry."""

    name: str
    type: Any  # the annotation, resolved
    default: Any  # inspect.Parameter.empty where the option must be given


def options_of(entry: Callable, facts: Iterable[str] = ()) -> list[Option]:
    """The options of a registered entry in the order of its signature.

    They are the fields of the dataclass that annotates its parameter ``options``, or else its
    keyword-only parameters. ``facts`` are the names of parameters that the program supplies.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class BallOptions:
    ...     radius_mm: float = 1.0
    ...     label: str | None = None
    >>> class Ball:
    ...     def __init__(self, options: BallOptions, *, device: str): ...
    >>> [(option.name, option.default) for option in options_of(Ball)]
    [('radius_mm', 1.0), ('label', None)]
    """
    record = options_class(entry)
    source = entry if record is None else record
    hints = _hints(source)
    return [
        Option(name, hints.get(name, Any), p.default)
        for name, p in inspect.signature(source).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in facts
    ]


def bind(entry: Callable[..., T], options: Mapping[str, Any], *, where: str, **facts: Any) -> T:
    """Call ``entry`` with options from a recipe, checked against their types.

    The options are its keyword-only arguments, or the dataclass that its parameter ``options``
    wants. Facts that it has no parameter for are left out.
    """
    parameters = inspect.signature(entry).parameters
    values = bound(entry, options, where=where, facts=facts)
    record = options_class(entry)
    if record is not None:
        values = {"options": record(**values)}
    return entry(**values, **{key: value for key, value in facts.items() if key in parameters})


def bound(
    entry: Callable, options: Mapping[str, Any], *, where: str, facts: Iterable[str]
) -> dict[str, Any]:
    """The options of a node, converted to the types they are declared with.

    An unknown name is answered with the nearest one; an option without a default must be there.
    """
    declared = options_of(entry, facts)
    known = {option.name: option.type for option in declared}
    values = {}
    for key, value in options.items():
        if key not in known:
            raise unknown_name(f"option of {where}", key, known)
        values[key] = checked(value, known[key], where=f"{where} option '{key}'")
        if isinstance(values[key], int) and values[key] < 0:  # they count something
            raise UserError(
                f"got {value} for {where} option '{key}'",
                "wanted 0 or more",
                "correct the recipe or --set",
            )
    for option in declared:
        if option.default is inspect.Parameter.empty and option.name not in values:
            raise UserError(
                f"got {where} without '{option.name}'",
                f"wanted that option; it has {', '.join(known)}",
                "add it to the recipe or with --set",
            )
    return values


def options_class(entry: Callable) -> type | None:
    """The dataclass that holds the entry's options; None where they are its own parameters."""
    if "options" not in inspect.signature(entry).parameters:
        return None
    hint = _hints(entry).get("options")
    return hint if inspect.isclass(hint) and dataclasses.is_dataclass(hint) else None


def _hints(entry: Callable) -> dict[str, Any]:
    return typing.get_type_hints(entry.__init__ if inspect.isclass(entry) else entry)


def checked(value: Any, hint: Any, *, where: str) -> Any:
    """A YAML value as the annotated type; whole numbers pass for floats, lists for tuples.

    No option is infinite or NaN.

    >>> checked(3, float, where="x")
    3.0
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(
            f"got {value} for {where}", "wanted a finite number", "correct the recipe or --set"
        )
    choices = (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )
    if hint is Any or (value is None and type(None) in choices):
        return value
    for choice in choices:
        origin = typing.get_origin(choice) or choice
        if origin is typing.Literal and value in typing.get_args(choice):
            return value
        if origin is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        if origin is tuple and isinstance(value, (list, tuple)):
            return tuple(value)
        if (
            inspect.isclass(origin)
            and isinstance(value, origin)
            and not (origin is int and isinstance(value, bool))
        ):
            return value
    known = [
        str(v)
        for c in choices
        if typing.get_origin(c) is typing.Literal
        for v in typing.get_args(c)
    ]
    if known:
        raise unknown_name(f"value of {where}", str(value), known)
    names = " or ".join(getattr(c, "__name__", str(c)) for c in choices)
    raise UserError(f"got {value!r} for {where}", f"wanted {names}", "correct the recipe or --set")


def folder() -> Path:
    """Where the recipes live: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def load(name_or_path: str, *, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """A recipe by its name in ``configs/`` or by the path of its file, under the present names.

    The recipe that its ``base: NAME`` names is read first, and this one laid over it. ``above``
    are the recipes on whose behalf it is read.
    """
    if name_or_path in above:
        raise UserError(
            f"got recipe '{name_or_path}', which is its own base",
            "wanted a base that ends",
            "correct its 'base:'",
        )
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = folder() / f"{name_or_path}.yaml"
        if not path.is_file():
            path = folder() / f"{recipe_name(name_or_path)}.yaml"
        if not path.is_file():
            raise unknown_name("recipe", name_or_path, (p.stem for p in folder().glob("*.yaml")))
    if not path.is_file():
        raise UserError(
            f"got recipe '{path}'",
            "wanted a YAML file",
            "check the path or give a name of `mednerf-kit list`",
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"got recipe '{path}' that does not parse ({first})", "wanted YAML", "correct that line"
        ) from None
    if not isinstance(recipe, dict):
        raise UserError(
            f"got recipe '{path}' without keys",
            "wanted a YAML mapping",
            "start from a file of configs/",
        )
    base = recipe.pop("base", None)
    recipe = current_recipe(recipe)
    if base:
        # once more: an option of a node without a name belongs to the variant that the base names
        recipe = current_recipe(overlaid(load(str(base), above=(*above, name_or_path)), recipe))
    return recipe


def overlaid(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, node by node.

    A node that names another variant replaces the old one whole.

    >>> overlaid({"a": {"name": "x", "n": 1}, "b": 2}, {"a": {"n": 3}})
    {'a': {'name': 'x', 'n': 3}, 'b': 2}
    """
    result = copy.deepcopy(base)
    for key, value in over.items():
        old = result.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(old, dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            result[key] = overlaid(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def with_settings(recipe: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The recipe with ``--set a.b=c`` items applied, in their order; the input stays as it is.

    Values are YAML, and 5e-4 counts as a number. A whole number in the path is the index of a list.
    Former names of keys and options are understood.

    >>> with_settings({"sampler": {"name": "local"}}, ["sampler.threshold=5e-4"])
    {'sampler': {'name': 'local', 'threshold': 0.0005}}
    >>> with_settings({"levels": [{"n": 40}, {"n": 8}]}, ["levels.1.n=16"])
    {'levels': [{'n': 40}, {'n': 16}]}
    """
    result = current_recipe(copy.deepcopy(recipe))
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign or not key:
            raise UserError(
                f"got --set '{setting}'",
                "wanted key.path=value",
                "write for example --set sampler.n=32",
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(
                f"got --set '{setting}'",
                "wanted a YAML value after the =",
                "quote it or close its brackets",
            ) from None
        if isinstance(value, str) and re.fullmatch(
            r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.IGNORECASE
        ):
            value = float(value)
        *path, last = current_setting(key, result).split(".")
        if not path and last not in result:
            raise unknown_name("recipe key", last, result)
        node: dict[str, Any] | list[Any] = result
        for part in path:
            node = (
                node[_place(node, part, setting)]
                if isinstance(node, list)
                else node.setdefault(part, {})
            )
            if not isinstance(node, (dict, list)):
                raise UserError(
                    f"got --set '{setting}'",
                    f"wanted a node at '{part}'",
                    "look at the recipe with --dry-run",
                )
        if isinstance(node, list):
            node[_place(node, last, setting)] = value
        else:
            node[last] = value
    return current_recipe(result)


def _place(entries: list[Any], part: str, setting: str) -> int:
    """The index that a part of a dotted path means in a list."""
    if not part.isdecimal() or int(part) >= len(entries):
        here = (
            f"an index from 0 to {len(entries) - 1}"
            if entries
            else "no index, for the list is empty,"
        )
        raise UserError(
            f"got --set '{setting}'",
            f"wanted {here} at '{part}'",
            "look at the recipe with --dry-run",
        )
    return int(part)
