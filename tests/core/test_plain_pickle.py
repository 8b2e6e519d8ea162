"""Pickles of plain data are read at every protocol; nothing in one is ever executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_pickles import pickled, run

from mednerf_kit.core.errors import UserError
from mednerf_kit.core.plain_pickle import NotPlain, plain, read_plain_pickle

ARRAY = "array = np.arange(12, dtype=np.float32).reshape(3, 4)"
DATA = """{
    "array": array,
    "the same": array,
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i2"),
    "empty": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "values": [None, True, -5, 2**70, 1.5, "\\xfc", b"\\x00ab", (), (1, 2), (1, 2, 3, 4, 5), []],
    "train": {"angles": np.linspace(0, 1, 3), "projections": np.ones((3, 2, 2))},
}"""
PROTOCOLS = range(6)
#: A class whose pickle makes a folder when it is loaded.
TRAP = """class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("{path}",)"""


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_is_what_was_pickled(protocol: int) -> None:
    names: dict[str, Any] = {"np": np}
    exec(ARRAY, names)
    assert same(eval(DATA, names), plain(pickled(DATA, protocol, ARRAY)))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_runs_code_is_refused_and_not_run(protocol: int, tmp_path: Path) -> None:
    path, trap = tmp_path / "p.pickle", tmp_path / "made"
    lines = TRAP.format(path=trap)
    path.write_bytes(pickled("{'train': [RunsCode()]}", protocol, lines))
    with pytest.raises(UserError, match="mkdir' in it; wanted plain arrays only: where you trust"):
        read_plain_pickle(path)
    assert not trap.exists()
    run("import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))", str(path))  # the trap works
    assert trap.exists()


@pytest.mark.parametrize("protocol", [0, 5])
@pytest.mark.parametrize(
    "value",
    ["np.array([{}], dtype=object)", "collections.Counter('aa')", "os.getcwd", "np.ndarray"],
)
def test_objects_are_refused(value: str, protocol: int) -> None:
    with pytest.raises(NotPlain):
        plain(pickled(value, protocol))


@pytest.mark.parametrize("cut", [0, 1, 2, 40, 200])
def test_a_cut_pickle_is_refused_in_a_sentence(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "p.pickle"
    path.write_bytes(pickled(DATA, 4, ARRAY)[:cut])
    with pytest.raises(UserError, match="cannot be read as a pickle"):
        read_plain_pickle(path)
