"""A short part of `scripts/fuzz`: damaged files of every kind are answered in one sentence."""

from __future__ import annotations

import json

import fuzz as fuzz_bench
import numpy as np
import pytest
import torch
from fuzz import Outcome, fuzz, places, read_apart
from fuzz_corpus import Target, targets

from mednerf_kit.core.errors import UserError

CASES = 2
SLOW = ("run: ", "snapshot", "latent", "import: ", "recipe: chest")
QUICK = [target for target in targets() if not target.name.startswith(SLOW)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.mark.parametrize("target", QUICK, ids=lambda target: target.name)
def test_damaged_files_are_answered(target, corpus, monkeypatch):
    monkeypatch.setenv("MEDNERF_KIT_CACHE", str(corpus / "cache"))
    found = fuzz(target, corpus, CASES, seed=1)
    assert len(found) == CASES
    assert [outcome for outcome in found if outcome.fault] == []


def fails(error):
    def read(folder):
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (UserError("got a", "wanted b", "do c"), ""),
        (KeyError("step"), "not foreseen"),
        (EOFError("no data left"), "not foreseen"),
        (KeyboardInterrupt(), "exit code 130"),
        (MemoryError(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_misses_is_found(error, fault, tmp_path):
    assert read_apart(fails(error), tmp_path).fault == fault


def test_a_reader_that_takes_too_much_memory_is_stopped(tmp_path):
    found = read_apart(lambda folder: np.ones(3 << 30, np.uint8), tmp_path)
    assert found.code == 1 and found.gib < 3 and "too little memory" in found.said


def test_a_reader_waits_for_no_thread_of_its_parents(tmp_path, monkeypatch):
    """A forked process that asks the pool of its parent for work waits for ever."""
    monkeypatch.setattr(fuzz_bench, "PATIENCE_S", 5)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.ones(1 << 20).exp().sum() > 1 << 20  # large enough for both
        found = read_apart(lambda folder: torch.ones(1 << 20).exp().sum(), tmp_path)
    finally:
        torch.set_num_threads(before)
    assert found.code == 0


def test_two_sentences_are_too_many():
    assert Outcome(2, "Error: a\nError: b\n", 0.1, 0.1).fault == "not one sentence"
    assert Outcome(0, "", 11.0, 0.1).fault.startswith("11.0 s")


def test_the_same_seed_makes_the_same_damage(tmp_path):
    content = json.dumps({"frames": [{"fl_x": 3.5}, {"fl_x": 4}]})
    assert list(places({"a": [1, {"b": 2}]})) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b")]
    seen = []

    def read(folder):
        with open(tmp_path / "seen", "ab") as file:
            file.write((folder / "t.json").read_bytes() + b"\n--\n")

    target = Target("json", lambda home: (home / "t.json").write_text(content), read)
    for k in (1, 1, 2):
        (tmp_path / "seen").write_bytes(b"")
        fuzz(target, tmp_path / f"{k}", 6, seed=k)
        seen.append((tmp_path / "seen").read_bytes())
    assert seen[0] == seen[1] != seen[2]
