"""Fitting a surface: recipes, and a fit that learns one."""

from __future__ import annotations

import json

import pytest

from mednerf_kit.data.posed.dtu import Dtu
from mednerf_kit.engine.session import resolve, train


@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
@pytest.mark.parametrize("name", ["neus", "neus_dtu"])
def test_recipes_are_whole(name, preset):
    recipe = resolve("blocks", name, preset, [])
    assert recipe["fields"]["scene"]["name"] == "neus" and recipe["losses"]["eikonal"] > 0


TINY = [
    "steps=12",
    "snapshot_steps=12",
    "selector.n=64",
    "fields.scene.width=16",
    "fields.scene.scatter=64",
    "task.warmup_steps=0",
]


def first_and_last(run):
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return rows[0], rows[-1]


@pytest.mark.parametrize("selector", ["random", "error_map"])
def test_a_fit_learns_a_surface(tmp_path, selector):
    small = [
        "scene.size=32",
        "scene.downscale=1",
        "scene.train_views=6",
        f"selector.name={selector}",
        "steps=40",
    ]
    run = train(
        dataset="blocks",
        config="neus",
        preset="quick",
        settings=TINY + small,
        outdir=tmp_path,
        device="cpu",
    )
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert {"photometric_l1", "eikonal", "mask"} <= rows[0].keys()
    run_training, ended = (
        sum(row["mask"] for row in some) / len(some) for some in (rows[:3], rows[-10:])
    )
    assert ended < 0.75 * run_training


def test_a_fit_of_dtu_may_do_without_masks(tmp_path):
    dataset = str(Dtu.example(tmp_path / "scan"))
    unmasked = [
        "scene.masked=false",
        "scene.clip=false",
        "scene.far=20",
        "losses.mask=0",
        "fields.scene.anneal=0.5",
        "levels.0.sampler.outside=8",
        "fields.scene.background={name: nerf, depth: 1, width: 8, skip: 0}",
    ]
    for settings in ([], unmasked):
        run = train(
            dataset=dataset,
            config="neus_dtu",
            preset="quick",
            settings=[*TINY, "scene.downscale=1", *settings],
            outdir=tmp_path / "runs",
            device="cpu",
        )
        first, last = first_and_last(run)
        assert last["photometric_l1"] < first["photometric_l1"] and ("mask" in last) == (
            not settings
        )
