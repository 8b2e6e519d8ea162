"""Scripts that no test runs: what they take from the package is there, and what they start."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import accelerator
import pytest
import torch

from mednerf_kit.engine.session import resolve, task_type_of

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(path):
    taken = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mednerf_kit")
        for alias in node.names
    ]
    for module, name in taken:
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")


def test_without_a_gpu_the_runs_are_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["accelerator.py", "--data", "D", "--out", str(tmp_path / "o")])
    accelerator.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "No CUDA device here: nothing was started."
    started = {line.split(": ")[0] for line in said[1:]}
    assert {"timed", "depth", "tensorf", "neus", "augmentation", "adversary"} <= started
    assert any(line.startswith("adversary: mednerf-kit train --config chest ") for line in said)
    assert not (tmp_path / "o").exists()


def test_every_training_has_a_recipe(tmp_path):
    trained = [
        words
        for lane in accelerator.lanes(tmp_path, tmp_path / "lego", tmp_path, lambda n: n)
        for words in lane.commands
        if words[0] == "train"
    ]
    assert len(trained) >= 4
    for words in trained:
        config, dataset = (words[words.index(key) + 1] for key in ("--config", "--dataset"))
        settings = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
        recipe = resolve(str(dataset), config, "default", settings)
        assert task_type_of(recipe)
