"""Snapshots written under former names continue as those written today."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launcher import RECIPES
from tiny import make_set
from tiny_scene import fitted

from mednerf_kit.core import files
from mednerf_kit.engine import run_folder, session, snapshots

RNG = {"rng": "random", "ray_rng": "dust"}
FORMER = {
    "chest": {
        "discriminator.": "judge.",
        "running_ema.": "slow.",
        "optim.generator.": "optim.g.",
        "optim.discriminator.": "optim.d.",
        **RNG,
    },
    "chest_mednerf": {
        "discriminator.": "judge.",
        "optim.generator.": "optim.maker.",
        "optim.discriminator.": "optim.judge.",
        **RNG,
    },
    "fit": {
        "rng": "random",
        "ray_rng": "noise",
        "pose.twist": "poses.twist",
        "pose.optim.0.": "poses.optim.",
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A short run of every task."""
    home = tmp_path_factory.mktemp("runs")
    dataset = make_set(home / "tiny")
    adversarial = {"chest": ["task.gan_start=0.0"], "chest_mednerf": []}
    found = {
        name: session.train(
            dataset=str(dataset),
            config=name,
            settings=[*RECIPES[name], *adversarial[name], "steps=2"],
            outdir=home / name,
            device="cpu",
        )
        for name in RECIPES
    }
    return found | {"fit": fitted(home, steps=2, settings=["task.refine_poses=1e-3"])}


def under_former_names(path: Path, former: dict[str, str]) -> None:
    """Write a snapshot as it was written before its tensors were renamed."""
    tensors, meta = files.load_tensors(path)
    renamed = {}
    for name, tensor in tensors.items():
        fits = [new for new in former if name.startswith(new) and (new[-1] == "." or name == new)]
        new = fits[0] if fits else ""
        renamed[former.get(new, "") + name.removeprefix(new)] = tensor
    assert all(any(name.startswith(old) for name in renamed) for old in former.values())
    files.save_tensors(path, renamed, meta)


@pytest.mark.parametrize("name", FORMER)
def test_a_snapshot_of_former_names_continues(name, runs):
    folder = runs[name]
    path, wanted, _, _ = snapshots.newest_readable(folder)
    under_former_names(path, FORMER[name])
    config = run_folder.read_run_config(folder)
    task = session.task_type_of(config.recipe).prepare(config, torch.device("cpu")).task
    _, tensors, meta, remarks = snapshots.newest_readable(folder)
    task.load(tensors, meta["task_state"])
    found, _ = task.state()
    assert remarks == [] and set(found) == set(wanted)
    assert [key for key in wanted if not torch.equal(found[key].cpu(), wanted[key])] == []


def test_a_run_of_former_names_is_the_latest_of_the_present_ones(runs):
    folder = runs["fit"]
    config = run_folder.read_run_config(folder)
    text = (folder / "config.yaml").read_text()
    assert "density_l1" in text
    (folder / "config.yaml").write_text(text.replace("density_l1", "l1"))
    assert run_folder.read_run_config(folder) == config
    assert snapshots.latest_matching(folder.parent, config) == folder
    losses = {**config.recipe["losses"], "density_l1": 0.5}
    other = replace(config, recipe={**config.recipe, "losses": losses})
    assert snapshots.latest_matching(folder.parent, other) is None
    assert snapshots.latest_matching(folder.parent / "nowhere", config) is None
