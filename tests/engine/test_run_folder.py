"""Run folders: what was written under former names is read under the present ones."""

from __future__ import annotations

import torch
import yaml

from mednerf_kit.core import files
from mednerf_kit.engine import run_folder

FORMER = {"task": {"name": "fit"}, "picture": "emission_absorption"}
PRESENT = {"task": {"name": "fit"}, "image_model": "emission_absorption"}


def test_a_run_of_before_is_read_and_resumed_under_the_present_names(tmp_path):
    folder = tmp_path / "00000-blocks"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": "blocks", "recipe": FORMER}))
    path = run_folder.save_snapshot(folder, 3, {"x": torch.ones(1)}, {"recipe": FORMER})
    assert files.load_tensors(path)[1]["recipe"] == FORMER, "the file itself stays as it is"
    choice = {"dataset": "blocks", "recipe": PRESENT}
    assert run_folder.read_run_config(folder) == choice
    assert run_folder.latest_matching(tmp_path, choice) == folder
    assert run_folder.latest_matching(tmp_path, {**choice, "dataset": "lego"}) is None
    assert run_folder.load_snapshot(path)[1]["recipe"] == PRESENT
    assert run_folder.newest_readable(folder)[2]["recipe"] == PRESENT


def test_a_snapshot_without_a_recipe_is_read_as_it_is(tmp_path):
    path = tmp_path / "latent.safetensors"
    files.save_tensors(path, {"w": torch.zeros(2)}, {"prior": "abc"})
    assert run_folder.load_snapshot(path)[1] == {"prior": "abc"}
