"""Former names and their present ones: what was written with an old name is still read.

Recipes, ``--set`` paths, run folders and snapshots that carry a former name are read as if they
carried the present one.

This is the only module that knows an old name, so ``mednerf-kit list`` shows new names only. To
rename something, add a line to a table here. No new name is the old name of something else, so
what is read twice stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

#: Recipes, by the name that ``--config`` and ``base:`` take.
RECIPES = {
    "lego_nerf": "nerf",
    "lego_lnerf": "lnerf",
    "lego_tensorf": "tensorf",
    "lego_hash": "hash",
    "lego_neus": "neus",
    "fern_nerf": "nerf_ndc",
    "fern_lnerf": "lnerf_ndc",
    "fern_tensorf": "tensorf_ndc",
    "lego_tensorf_egra": "tensorf_egra",
    "lego_tensorf_softmining": "tensorf_softmining",
    "lego_tensorf_errormap": "tensorf_errormap",
    "lego_tensorf_imap": "tensorf_imap",
    "lego_tensorf_quadtree": "tensorf_quadtree",
    "lego_tensorf_expansive": "tensorf_expansive",
    "lego_tensorf_lhs": "tensorf_lhs",
    "nsvf_tensorf": "tensorf_nsvf",
    "tt_tensorf": "tensorf_tt",
    "dtu_neus": "neus_dtu",
}

#: Keys of a recipe, at its top level and in its ``task``.
KEYS = {"picture": "image_model"}

#: Registered variants, by the kind of their registry.
VARIANTS = {
    ("loss", "l1"): "density_l1",
    ("loss", "l1_colour"): "photometric_l1",
    ("inversion", "relaxed"): "fine_tuning",
}

#: Options of a registered variant, by kind and present name: ``{former option: present option}``.
OPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("field", "hash"): {"views": "view_encoding"},
    ("field", "tensorf"): {"views": "view_encoding"},
    ("selector", "egra"): {
        "p": "edge_chance",
        "flat": "flat_chance",
        "low": "canny_low",
        "high": "canny_high",
    },
    ("selector", "quadtree"): {"n0": "closed_rays", "prior": "context_share"},
    ("selector", "soft_mining"): {"a": "step_size", "b": "noise"},
}

#: Tensors in a snapshot: whole names, and beginnings of names where they end with a dot.
TENSORS = {
    "judge.": "discriminator.",
    "optim.maker.": "optim.generator.",
    "optim.judge.": "optim.discriminator.",
    "optim.g.": "optim.generator.",
    "optim.d.": "optim.discriminator.",
    "slow.": "running_ema.",
    "random": "rng",
    "dust": "ray_rng",
    "noise": "ray_rng",
    "poses.twist": "pose.twist",
    "poses.optim.": "pose.optim.0.",
}

# The kind of the nodes under a recipe key; under any other key they are of the kind around it.
KINDS = {
    "levels": "sampler",
    "sampler": "sampler",
    "fields": "field",
    "encoding": "encoding",
    "patch": "selector",
    "losses": "loss",
    "loss": "adversarial loss",
    "probability": "augment probability",
    "perceptual": "perceptual distance",
}


def recipe_name(name: str) -> str:
    """The present name of a recipe.

    >>> recipe_name("lego_nerf"), recipe_name("chest")
    ('nerf', 'chest')
    """
    return RECIPES.get(name, name)


def current_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, with its presets, under the present names; the input stays as it is.

    Where a node has an option under both names, the one that stands last counts: it was laid over
    the other.

    >>> current_recipe({"task": {"name": "fit"}, "losses": {"mse": 1.0}})
    {'task': {'name': 'fit'}, 'losses': {'mse': 1.0}}
    """
    return _recipe(recipe, recipe)


def current_setting(key: str, recipe: Mapping[str, Any] | None = None) -> str:
    """The present form of a dotted ``--set`` path.

    ``recipe`` tells which variant an option belongs to.

    >>> current_setting("levels.0.sampler.n")
    'levels.0.sampler.n'
    """
    parts = key.split(".")
    tree: Any = None
    for part in reversed(parts):
        tree = {part: tree}
    tree, path = _recipe(tree, recipe or {}), []
    for _ in parts:
        ((part, tree),) = tree.items()
        path.append(part)
    return ".".join(path)


def current_tensors(tensors: Mapping[str, T]) -> dict[str, T]:
    """The named tensors of a snapshot under the present beginnings of their names.

    >>> current_tensors({"judge.head.weight": 1, "ema.head.weight": 2})
    {'discriminator.head.weight': 1, 'ema.head.weight': 2}
    """
    return {_tensor_name(name): tensor for name, tensor in tensors.items()}


def _tensor_name(name: str) -> str:
    for old, new in TENSORS.items():
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name.removeprefix(old)
    return name


def _recipe(tree: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, or what is laid over the recipe ``whole``."""
    result = {}
    for former, value in tree.items():
        key = _key(former)
        if key == "presets" and isinstance(value, Mapping):
            result[key] = {
                name: _recipe(preset, whole) if isinstance(preset, Mapping) else preset
                for name, preset in value.items()
            }
        else:
            result[key] = _node(value, KINDS.get(key, key), None, _below(whole, former, key))
    return result


def _node(node: Any, kind: str, variant: str | None, under: Any) -> Any:
    """A node of a kind under its present names.

    ``variant`` is its name where it says none, ``under`` the node that it is laid over.
    """
    if isinstance(node, str):
        return _variant(kind, node)
    if isinstance(node, list):
        return [_node(item, kind, None, None) for item in node]
    if not isinstance(node, Mapping):
        return node
    named = node.get("name", under.get("name") if isinstance(under, Mapping) else None) or variant
    renamed = OPTIONS.get((kind, _variant(kind, str(named))), {})
    result = {}
    for former, value in node.items():
        key: str = renamed.get(former) or former
        if kind == "task":
            key = _key(key)
        elif kind == "loss" and variant is None:  # the keys of `losses` are the names of losses
            key = _variant(kind, key)
        below = _below(under, former, key)
        if key in KINDS:
            result[key] = _node(value, KINDS[key], None, below)
        elif key == "name" and isinstance(value, str):
            result[key] = _variant(kind, value)
        elif isinstance(value, str):  # the value of an option, not the name of a variant
            result[key] = value
        else:
            result[key] = _node(value, kind, key if kind == "loss" else None, below)
    return result


def _key(key: str) -> str:
    return KEYS.get(key, key)


def _variant(kind: str, name: str) -> str:
    return VARIANTS.get((kind, name), name)


def _below(under: Any, former: str, key: str) -> Any:
    """What stands at a key, under either name, in the node that another is laid over."""
    if isinstance(under, list) and str(key).isdecimal() and int(key) < len(under):
        return under[int(key)]
    return under.get(former, under.get(key)) if isinstance(under, Mapping) else None
