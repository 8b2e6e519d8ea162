"""The order in which files of tests begin."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from longest import FIRST, first_the_longest

ROOT = Path(__file__).parents[1]


def test_the_longest_files_are_there_and_begin_first() -> None:
    assert all((ROOT / name).is_file() for name in FIRST) and len(set(FIRST)) == len(FIRST)
    names = ["tests/a.py::one", f"{FIRST[1]}::two", f"{FIRST[1]}::one", f"{FIRST[0]}::x[a::b]"]
    items = [SimpleNamespace(nodeid=name) for name in names]
    first_the_longest(items)
    assert [item.nodeid for item in items] == [names[3], names[1], names[2], names[0]]
