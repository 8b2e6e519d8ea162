"""Which views of a scene belong to a split, and which of them are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from ...core.errors import UserError

T = TypeVar("T")


class NoViews(UserError):
    """A split of a scene without views."""


def held_out(items: Sequence[T], split: str, hold: int) -> list[T]:
    """Every ``hold``-th item, from the first on, for val and test; the others for train.

    >>> held_out("abcdefghij", "test", 8), held_out("abc", "train", 8)
    (['a', 'i'], ['b', 'c'])
    """
    if split == "all":
        return list(items)
    apart = range(0, len(items), hold) if hold > 0 else range(0)
    return [item for i, item in enumerate(items) if (i in apart) != (split == "train")]


def chosen_views(items: Sequence[T], split: str, views: int | None, where: str | Path) -> list[T]:
    """The views of a split that are read: all, or for train ``views`` of them, evenly chosen.

    >>> chosen_views("abcdefgh", "train", 3, "x")
    ['a', 'c', 'f']
    """
    if not items:
        raise NoViews(
            f"got '{where}', whose {split} split has no views left",
            "wanted at least one",
            "choose another split, or hold fewer views out",
        )
    if views is None or split != "train":
        return list(items)
    if views > len(items):
        raise UserError(
            f"got views {views}",
            f"wanted at most the {len(items)} training views of '{where}'",
            "lower it",
        )
    return evenly(items, views)


def evenly(items: Sequence[T], n: int) -> list[T]:
    """``n`` of the items at equal steps, from the first on.

    The last is not among them: of a closed orbit both ends would be neighbours.

    >>> evenly("abcdefgh", 3)
    ['a', 'c', 'f']
    """
    return [items[i * len(items) // n] for i in range(n)]
