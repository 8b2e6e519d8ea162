"""Run folders: how they are named and found; former names are read as the present ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import run_folder, snapshots
from mednerf_kit.engine.run_folder import RunConfig

FORMER = {"task": {"name": "fit"}, "picture": "emission_absorption"}
PRESENT = {"task": {"name": "fit"}, "image_model": "emission_absorption"}


def test_a_run_of_before_is_read_and_resumed_under_the_present_names(tmp_path):
    folder = tmp_path / "00000-blocks"
    folder.mkdir()
    run_folder.write_run_config(folder, RunConfig("blocks", FORMER, seed=1))
    path = snapshots.save_snapshot(folder, 3, {"x": torch.ones(1)}, {"recipe": FORMER})
    assert files.load_tensors(path)[1]["recipe"] == FORMER, "the file itself stays as it is"
    present = RunConfig("blocks", PRESENT, seed=1)
    assert run_folder.read_run_config(folder) == present
    assert snapshots.latest_matching(tmp_path, present) == folder
    assert snapshots.latest_matching(tmp_path, replace(present, dataset="lego")) is None
    assert snapshots.load_snapshot(path)[1]["recipe"] == PRESENT
    assert snapshots.newest_readable(folder)[2]["recipe"] == PRESENT


def test_a_snapshot_without_a_recipe_is_read_as_it_is(tmp_path):
    path = tmp_path / "latent.safetensors"
    files.save_tensors(path, {"w": torch.zeros(2)}, {"prior": "abc"})
    assert snapshots.load_snapshot(path)[1] == {"prior": "abc"}


def test_a_config_that_no_run_has_is_one_sentence_and_matches_nothing(tmp_path):
    folder = tmp_path / "00000-other"
    folder.mkdir()
    with pytest.raises(UserError, match="which has no config.yaml"):
        run_folder.read_run_config(folder)
    snapshots.save_snapshot(folder, 3, {"x": torch.ones(1)}, {})
    for text in ("", "- 1", "colour: red"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(UserError, match="wanted dataset, recipe, seed, split, limit"):
            run_folder.read_run_config(folder)
        assert snapshots.latest_matching(tmp_path, RunConfig("other", PRESENT)) is None


DAMAGE = {
    "utf-16": "dataset: blocks".encode("utf-16"),
    "no YAML": b"dataset: [",
    "a tab": b"dataset:\tblocks\n\t- x",
    "cut": b"dataset: blocks\nrecipe:",
    "no recipe": b"dataset: blocks\nrecipe: 3\n",
    "a seed of text": b"dataset: blocks\nrecipe: {}\nseed: many\n",
    "a list": b"- dataset",
    "empty": b"",
}


@pytest.mark.parametrize("harm", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_run_is_named_and_blocks_no_other(tmp_path, harm):
    wanted = RunConfig("blocks", PRESENT)
    whole, bad = tmp_path / "00000-blocks", tmp_path / "00001-blocks"
    for folder in (whole, bad):
        folder.mkdir()
        run_folder.write_run_config(folder, wanted)
        snapshots.save_snapshot(folder, 3, {"x": torch.ones(1)}, {})
    assert snapshots.latest_matching(tmp_path, wanted) == bad
    (bad / "config.yaml").write_bytes(harm)
    with pytest.raises(UserError, match="00001-blocks/config.yaml") as caught:
        run_folder.read_run_config(bad)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    said = []
    assert snapshots.latest_matching(tmp_path, wanted, said.append) == whole
    assert all("passed over" in line and "00001-blocks" in line for line in said)


def test_the_latest_run_has_a_readable_snapshot(tmp_path):
    wanted = RunConfig("blocks", PRESENT)
    for name in ("00000-blocks", "00001-blocks"):
        (tmp_path / name).mkdir()
        run_folder.write_run_config(tmp_path / name, wanted)
        snapshots.save_snapshot(tmp_path / name, 3, {"x": torch.ones(9)}, {})
    path = tmp_path / "00001-blocks" / "snapshot-000003.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    said = []
    assert snapshots.latest_matching(tmp_path, wanted, said.append) == tmp_path / "00000-blocks"
    assert len(said) == 1 and "00001-blocks" in said[0]


@pytest.mark.parametrize(
    "meta",
    [
        *({"step": "3"}, {"step": -1}, {"step": None}, {"seconds": "a"}, {"task_state": [1]}),
        *({"recipe": {"task": "fit"}}, {"recipe": {"task": None}}),
    ],
)
def test_a_snapshot_with_metadata_of_another_type_is_passed_over(tmp_path, meta):
    good = {"seconds": 1.5, "task_state": {}}
    snapshots.save_snapshot(tmp_path, 2, {"x": torch.ones(1)}, good)
    path = tmp_path / "snapshot-000004.safetensors"
    files.save_tensors(path, {"x": torch.ones(1)}, {"step": 4, **good, **meta})
    found, _, _, remarks = snapshots.newest_readable(tmp_path)
    assert found.name == "snapshot-000002.safetensors"
    assert len(remarks) == 1 and path.name in remarks[0]


@pytest.mark.parametrize("line", ['{"step": "a"}', "[1]", "3", "{", "\ufffd", '{"loss": 1}'])
def test_damaged_lines_of_numbers_are_left_out(tmp_path, line):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    run_folder.write_stats(tmp_path, rows)
    path = tmp_path / "stats.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    assert run_folder.read_stats(tmp_path) == rows
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    assert run_folder.read_stats(tmp_path) == rows


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"steps": 3}', '{"wall_seconds": "a", "steps": 3}', ""]
)
def test_damaged_metrics_do_not_end_a_run(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    assert run_folder.wall_seconds(tmp_path, {"step": 3, "wall_seconds": 7.0}) == 7.0


def test_run_folders_are_numbered_and_named(tmp_path):
    names = [
        run_folder.new_folder(tmp_path, *args).name
        for args in (("chest", None), ("/data/my set/", "two"), ("a/b.c-d", None))
    ]
    assert names == ["00000-chest", "00001-my_set-two", "00002-b.c-d"]
    assert run_folder.new_folder(tmp_path / "more", "chest", "a/b c").parent == tmp_path / "more", (
        "a description is one word of the name"
    )
    (tmp_path / "00041-old").mkdir()
    (tmp_path / "notes").mkdir()
    assert run_folder.new_folder(tmp_path, "chest", None).name == "00042-chest"


def test_a_unique_beginning_names_a_run(tmp_path):
    for name in ("00000-chest", "00001-chest", "00010-knee"):
        (tmp_path / name).mkdir()
    assert (
        run_folder.find_folder("00001", tmp_path).name == "00001-chest"
        and run_folder.find_folder(tmp_path / "00010").name == "00010-knee"
    )
    with pytest.raises(UserError, match="2 folders begin with"):
        run_folder.find_folder("0000", tmp_path)
    with pytest.raises(UserError, match="did you mean '00010-knee'"):
        run_folder.find_folder("00010-kne3", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        run_folder.find_folder("00000", tmp_path / "empty")
