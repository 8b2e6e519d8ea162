"""An ablation file, read and planned: its cells, what each changes, on which scenes and seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ...core import config
from ...core.errors import UserError, unknown_name

# dataset, recipe's name, preset, settings -> recipe
Resolve = Callable[[str, str, str, Sequence[str]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What a file of ``configs/ablations/`` says.

    ``cells`` maps a name to dotted settings of the recipe ``base``; ``base: NAME`` among them
    starts from another recipe. ``settings`` are what every cell shares: values the comparison rests
    on. ``preset``, ``size`` (more settings), ``steps``, ``max_minutes`` and ``limit`` (patients or
    views scored) are how large it is run; another preset takes their place. ``scenes`` are
    datasets, or folders beside each other under ``dataset``, or ``all`` of these. ``compare`` pairs
    a cell with its reference; without it every cell is compared with the first.
    """

    name: str
    about: str
    base: str
    dataset: str
    cells: dict
    scenes: tuple | str | None = None
    preset: str = "default"
    settings: dict = field(default_factory=dict)
    size: dict = field(default_factory=dict)
    steps: int | None = None
    max_minutes: float | None = None
    limit: int | None = None
    seeds: tuple = (0,)
    compare: tuple | None = None
    metrics: tuple = ("psnr_db", "ssim", "evals_per_ray", "seconds_per_step", "train_seconds")

    def pairs(self) -> list[tuple[str, str]]:
        """(cell, reference) for every comparison."""
        if self.compare is not None:
            return [(str(cell), str(reference)) for cell, reference in self.compare]
        first, *others = self.cells
        return [(cell, first) for cell in others]

    def common(self) -> list[str]:
        """The settings that every cell shares, those of its size after the others."""
        return (
            as_settings(self.settings)
            + as_settings(self.size)
            + ([] if self.steps is None else [f"steps={self.steps}"])
        )


@dataclass(frozen=True)
class Cell:
    """One run of the grid, complete.

    It holds what a worker needs, and what a finished run is recognised by.
    """

    name: str
    scene: str
    seed: int
    dataset: str
    base: str
    preset: str
    settings: list[str]
    recipe: dict[str, Any]  # what the settings come to
    max_minutes: float | None
    limit: int | None

    @property
    def place(self) -> Path:
        """Its folder, inside that of the ablation."""
        return Path(self.scene) / self.name / f"seed{self.seed}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find(name_or_path: str) -> Path:
    """The file of an ablation: by path, or by its name in ``configs/ablations/``."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(
                f"got ablation '{path}'",
                "wanted a YAML file",
                "check the path or give a name of `mednerf-kit list`",
            )
        return path
    name = name_or_path.removeprefix("ablations/")
    known = {p.stem: p for p in (config.folder() / "ablations").glob("*.yaml")}
    if name not in known:
        raise unknown_name("ablation", name, known)
    return known[name]


def read(name_or_path: str) -> Ablation:
    """Read and check an ablation file; the recipes it names are looked at by :func:`plan`."""
    path = find(name_or_path)
    where = f"ablation '{path.stem}'"
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"got {where} that does not parse ({first})", "wanted YAML", "correct that line"
        ) from None
    node = node if isinstance(node, dict) else {}
    for key in ("base", "dataset", "cells"):
        if not node.get(key):
            raise UserError(
                f"got {where} without '{key}'",
                "wanted base, dataset and cells",
                "start from configs/ablations/",
            )
    about = " ".join(line.lstrip("# ") for line in _opening(text))
    ablation = config.bind(Ablation, node, where=where, name=path.stem, about=about)
    return checked(
        replace(ablation, cells={k: dict(v) for k, v in _mappings(node["cells"], where)})
    )


def _opening(text: str) -> Iterator[str]:
    """The comment lines a file begins with."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        yield line


def _mappings(cells: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, changes in cells.items():
        if isinstance(name, bool):  # what YAML makes of off and on
            raise UserError(
                f"got a cell named {name} in {where}",
                "wanted a name that is text",
                "put quotes around it",
            )
        if not re.fullmatch(r"\w[\w.+-]*", str(name)):
            raise UserError(
                f"got cell '{name}' in {where}",
                "wanted letters, digits and _.+- only",
                "rename the cell",
            )
        if not isinstance(changes, Mapping) and changes is not None:
            raise UserError(
                f"got cell '{name}' = {changes!r} in {where}",
                "wanted dotted settings",
                "write {key.path: value}",
            )
        yield str(name), changes or {}


def checked(ablation: Ablation) -> Ablation:
    """The same ablation, with seeds, comparisons and numbers looked at."""
    where = f"ablation '{ablation.name}'"
    if not ablation.seeds or any(
        isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in ablation.seeds
    ):
        raise UserError(
            f"got seeds {list(ablation.seeds)} in {where}",
            "wanted whole numbers from 0",
            "write seeds: [0, 1, 2]",
        )
    for key in ("steps", "max_minutes", "limit"):
        value = getattr(ablation, key)
        if value is not None and value <= 0:
            raise UserError(f"got {key} {value:g} in {where}", "wanted more than 0", "correct it")
    for pair in ablation.compare or ():
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or pair[0] == pair[1]:
            raise UserError(
                f"got compare {pair!r} in {where}",
                "wanted [cell, reference], two cells",
                "correct it",
            )
        for name in pair:
            if str(name) not in ablation.cells:
                raise unknown_name("cell", str(name), ablation.cells)
    return ablation


def resized(ablation: Ablation, preset: str) -> Ablation:
    """The same cells at the size of one of the base's presets, instead of the file's own size.

    Cells that say how many steps they take have sizes that only fit each other: their file is
    refused.
    """
    if any("steps" in changes for changes in ablation.cells.values()):
        raise UserError(
            f"got --preset {preset} for ablation '{ablation.name}', whose cells have steps of "
            "their own",
            "wanted the size of its file",
            "leave --preset out",
        )
    return replace(ablation, preset=preset, size={}, steps=None, max_minutes=None, limit=None)


def as_settings(changes: Mapping[str, Any]) -> list[str]:
    """Dotted paths and YAML values as ``--set`` items.

    >>> as_settings({"levels.1.sampler": {"name": "local", "threshold": 1.0e-5}, "steps": 10})
    ['levels.1.sampler={name: local, threshold: 1.0e-05}', 'steps=10']
    """

    def text(value: Any) -> str:
        dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
        return dumped.removesuffix("...\n").strip()

    return [f"{path}={text(value)}" for path, value in changes.items()]


def datasets(
    dataset: str, scenes: Sequence[str] | str | None, is_scene: Callable[[Path], bool]
) -> dict[str, str]:
    """The datasets of a grid by a short name.

    They are ``dataset`` itself or ``scenes``: folders under it, folders beside it, or datasets of
    their own. ``all`` are the scene folders under ``dataset``, or those beside it when it is a
    scene.
    """
    home = Path(dataset)
    if scenes is None or not scenes:
        return {_label(dataset): dataset}
    roots = [home, home.parent] if home.is_dir() else []
    if scenes == "all":
        if not home.is_dir():
            raise UserError(
                f"got scenes 'all' of dataset '{dataset}'",
                "wanted a folder of scenes",
                "give --dataset FOLDER",
            )
        root = home.parent if is_scene(home) else home
        found = [str(path) for path in sorted(root.iterdir()) if path.is_dir() and is_scene(path)]
        if not found:
            raise UserError(
                f"got no scene in '{root}'",
                "wanted folders of a known format",
                "name a folder of scenes",
            )
    else:
        names = scenes.split(",") if isinstance(scenes, str) else [str(name) for name in scenes]
        found = [
            next((str(root / name) for root in roots if (root / name).is_dir()), name)
            for name in names
        ]
    named = {_label(path): path for path in found}
    if len(named) < len(found):
        raise UserError(
            f"got scenes {', '.join(found)}",
            "wanted different last names",
            "rename a folder or run them apart",
        )
    return named


def _label(dataset: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", Path(dataset).name) or "dataset"


def plan(
    ablation: Ablation, sets: Mapping[str, str], resolve: Resolve, settings: Sequence[str] = ()
) -> list[Cell]:
    """Every run of the grid, a seed at a time.

    So a grid that ends early has all cells of its first seeds. ``settings`` come after the file's
    and before the cell's own. Raises UserError for a cell that no recipe can be made of.
    """

    def cell(name: str, scene: str) -> Cell:
        changes = ablation.cells[name]
        base = str(changes.get("base", ablation.base))
        lines = [
            *ablation.common(),
            *settings,
            *as_settings({path: value for path, value in changes.items() if path != "base"}),
        ]
        try:
            recipe = resolve(sets[scene], base, ablation.preset, lines)
        except UserError as error:
            raise UserError(
                f"got cell '{name}' that cannot be run ({str(error).rstrip('.?')})",
                f"wanted settings that recipe '{base}' knows",
                "correct the cell",
            ) from None
        return Cell(
            name,
            scene,
            ablation.seeds[0],
            sets[scene],
            base,
            ablation.preset,
            lines,
            recipe,
            ablation.max_minutes,
            ablation.limit,
        )

    first = [cell(name, scene) for scene in sets for name in ablation.cells]
    return [replace(one, seed=seed) for seed in ablation.seeds for one in first]


def differences(base: Any, other: Any, path: str = "") -> list[str]:
    """What differs between two recipes, leaf by leaf.

    >>> differences({"n": 1, "levels": [{"k": 2}]}, {"n": 1, "levels": [{"k": 3, "m": 4}]})
    ['levels.0.k: 2 -> 3', 'levels.0.m: - -> 4']
    """
    parts = []
    for node in (base, other):
        parts.append(dict(enumerate(node)) if isinstance(node, list) else node)
    one, two = parts
    if not (isinstance(one, dict) and isinstance(two, dict)):
        return [] if base == other else [f"{path}: {_leaf(base)} -> {_leaf(other)}"]
    found = []
    for key in [*one, *(key for key in two if key not in one)]:
        found += differences(
            one.get(key, "-"), two.get(key, "-"), f"{path}.{key}" if path else str(key)
        )
    return found


def _leaf(value: Any) -> str:
    return (
        "-"
        if value == "-"
        else yaml.safe_dump(value, default_flow_style=True, width=math.inf)
        .removesuffix("...\n")
        .strip()
    )
