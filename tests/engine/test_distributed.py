"""Several processes at one training: the same result as one, one voice, and an end that all of them
share.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import launcher
import pytest
import torch
from launcher import HYBRID, RECIPES, STEPS, words
from tiny_scene import fitted, recipe_file

from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.engine import run_folder, session, snapshots
from mednerf_kit.engine.distributed import Ranks
from mednerf_kit.fields import hyper
from mednerf_kit.prior.posed import PriorTask

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def full_precision():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hyper, "fastest_dtype", lambda device: torch.float32)
        yield


def trained(name: str, dataset: Path, outdir: Path, *settings: str, **options) -> Path:
    return session.train(
        dataset=str(dataset),
        config=name,
        settings=[*RECIPES[name], *settings],
        outdir=outdir,
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def alone(tiny_set, tmp_path_factory) -> dict[str, Path]:
    """Both recipes in one process."""
    return {name: trained(name, tiny_set, tmp_path_factory.mktemp("alone")) for name in RECIPES}


@pytest.fixture(scope="module")
def home(tiny_set, tmp_path_factory, alone) -> Path:
    """Every scenario, run: one start of python for all."""
    home = tmp_path_factory.mktemp("ranks")
    half = home / "relay" / "runs"
    with pytest.MonkeyPatch.context() as patch:
        step = PriorTask.step
        patch.setattr(
            PriorTask,
            "step",
            lambda self, progress, i: i == 3 and signal.raise_signal(2) or step(self, progress, i),
        )
        with pytest.raises(KeyboardInterrupt):
            trained("chest", tiny_set, half)
    at = {"rank": 1, "index": 4, "world": 2}
    plan = {
        "hybrid": {"world": 2, "words": words("chest", tiny_set, home / "hybrid" / "runs")},
        "mednerf": {
            "world": 2,
            "words": words("chest_mednerf", tiny_set, home / "mednerf" / "runs"),
        },
        "relay": {**at, "signal": "SIGTERM", "words": words("chest", tiny_set, half, "--resume")},
        "killed": {
            **at,
            "signal": "SIGKILL",
            "words": words("chest", tiny_set, home / "killed" / "runs"),
        },
        "scene": {
            "world": 2,
            "words": [
                "train",
                "--dataset",
                "blocks",
                "--config",
                recipe_file(home),
                "--device",
                "cpu",
                "--outdir",
                str(home / "scene" / "runs"),
            ],
        },
        "uneven": {
            "world": 2,
            "words": words(
                "chest", tiny_set, home / "uneven" / "runs", "--set", "task.gan_batch=3"
            ),
        },
    }
    (home / "plan.json").write_text(json.dumps(plan))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [sys.executable, launcher.__file__, str(home)], env=environment, check=True, timeout=120
    )
    return home


def codes(home: Path, name: str) -> list[int]:
    return json.loads((home / name / "codes.json").read_text())


def errors(home: Path, name: str) -> list[str]:
    """Every line that says what went wrong, of all processes."""
    said = "\n".join(path.read_text() for path in sorted((home / name).glob("err*.txt")))
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("Error: ")]


def only_run(home: Path, name: str) -> Path:
    (folder,) = (home / name / "runs").iterdir()
    return folder


def last(folder: Path) -> dict[str, torch.Tensor]:
    return files.load_tensors(snapshots.snapshot_files(folder)[-1])[0]


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Equal beyond rounding: random states bit for bit, the rest within a thousandth of each
    tensor's size.
    """
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        if tensor.dtype == torch.uint8:
            assert torch.equal(found[name], tensor), name
        else:
            torch.testing.assert_close(
                found[name],
                tensor,
                rtol=1e-3,
                atol=1e-3 * float(tensor.abs().max()) + 1e-7,
                msg=name,
            ) if tensor.numel() and not name.startswith("optim") else None


def assert_same_course(found: Path, wanted: Path) -> None:
    ours, theirs = run_folder.read_stats(found), run_folder.read_stats(wanted)
    assert [set(row) for row in ours] == [set(row) for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for key in set(one) - {"seconds"}:
            assert one[key] == pytest.approx(other[key], rel=2e-3, abs=1e-6), (one["step"], key)


# The same training


@pytest.mark.parametrize("name, recipe", [("hybrid", "chest"), ("mednerf", "chest_mednerf")])
def test_two_processes_make_what_one_makes_of_the_whole_batch(name, recipe, home, alone):
    assert codes(home, name) == [0, 0] and errors(home, name) == []
    folder = only_run(home, name)
    assert_close(last(folder), last(alone[recipe]))
    assert_same_course(folder, alone[recipe])
    assert len({row["p"] for row in run_folder.read_stats(folder) if "p" in row}) > 1, (
        "the probability of augmentation moved"
    )


@pytest.mark.parametrize("name", ["hybrid", "mednerf"])
def test_all_processes_end_with_the_same_weights_and_probability(name, home):
    (one, first), (other, second) = (
        files.load_tensors(home / name / f"state{rank}.safetensors") for rank in (0, 1)
    )
    assert (
        [key for key in one if not torch.equal(one[key], other[key])] == []
        and first == second
        and first["p"] > 0
    )


def test_a_scene_is_fitted_by_two_as_by_one(home, tmp_path):
    """Each has its own jitter along the rays; pixels, gradients and parameters are shared."""
    assert codes(home, "scene") == [0, 0] and errors(home, "scene") == []
    (one, _), (other, _) = (
        files.load_tensors(home / "scene" / f"state{rank}.safetensors") for rank in (0, 1)
    )
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    ours, theirs = (
        run_folder.read_stats(folder) for folder in (only_run(home, "scene"), fitted(tmp_path))
    )
    assert ours[0]["psnr_db"] == pytest.approx(theirs[0]["psnr_db"], abs=0.05)
    ends = [sum(row["psnr_db"] for row in rows[-20:]) / 20 for rows in (ours, theirs)]
    assert ends[0] == pytest.approx(ends[1], abs=1.0) and ends[0] > ours[0]["psnr_db"] + 3


def test_only_the_first_writes_and_speaks(home):
    folder = only_run(home, "hybrid")
    assert [p.name for p in snapshots.snapshot_files(folder)] == [
        "snapshot-000004.safetensors",
        "snapshot-000006.safetensors",
    ]
    assert len(list(folder.glob("events.out.tfevents*"))) == 1 and [
        r["step"] for r in run_folder.read_stats(folder)
    ] == [*range(1, 7)]
    log = (folder / "log.txt").read_text()
    assert (
        log.count("2 processes, each with a part of every batch") == 1
        and log.count("wrote snapshot-000006") == 1
    )
    assert (folder / "previews" / "samples.png").is_file() and json.loads(
        (folder / "metrics.json").read_text()
    )["steps"] == STEPS
    assert [(home / "hybrid" / f"out{rank}.txt").read_text().strip() for rank in (0, 1)] == [
        str(folder),
        "",
    ]


def test_a_run_goes_on_with_another_number_of_processes(home, alone, tiny_set):
    """One was stopped, two went on until they were stopped, one goes on: the course of the one that
    never stopped.
    """
    folder = only_run(home, "relay")
    assert trained("chest", tiny_set, folder.parent, resume="latest") == folder
    assert_close(last(folder), last(alone["chest"]))
    assert_same_course(folder, alone["chest"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_accumulated_parts_make_what_the_whole_batch_makes(recipe, alone, tiny_set, tmp_path):
    folder = trained(recipe, tiny_set, tmp_path, "task.accumulate=2")
    assert_close(last(folder), last(alone[recipe]))
    assert_same_course(folder, alone[recipe])


# The same end


def test_a_signal_to_one_stops_all_with_a_snapshot(home):
    assert codes(home, "relay") == [130, 130] and errors(home, "relay") == ["Error: interrupted."]
    log = (only_run(home, "relay") / "log.txt").read_text()
    assert (
        "from snapshot-000004.safetensors" in log
        and "step 5: wrote snapshot-000005.safetensors" in log
    )


def test_a_killed_process_ends_the_others_with_one_sentence_and_a_whole_snapshot(home):
    assert codes(home, "killed") == [1, -signal.SIGKILL]
    (said,) = errors(home, "killed")
    assert "another of 2 processes" in said and "--resume" in said
    path, tensors, _, remarks = snapshots.newest_readable(only_run(home, "killed"))
    assert path.name == "snapshot-000004.safetensors" and remarks == [] and len(tensors) > 10


def test_a_batch_that_cannot_be_dealt_is_one_sentence_before_any_work(home):
    assert codes(home, "uneven") == [2, 2]
    (said,) = errors(home, "uneven")
    assert "task.gan_batch 3 for 2 processes" in said and "set task.gan_batch=4" in said
    assert not (home / "uneven" / "runs").exists()


def test_a_plan_shows_each_ones_part(tiny_set):
    recipe = session.resolve(str(tiny_set), "chest", "default", HYBRID)
    assert session.batch_per_process(recipe, Ranks(0, 2)) == {
        "processes": 2,
        "per_process": {"task.batch": 2, "task.gan_batch": 4},
    }
    assert session.batch_per_process(recipe, Ranks()) == {}


@pytest.mark.parametrize(
    "settings, said",
    [
        (["task.accumulate=0"], "task.accumulate 0"),
        (["task.accumulate=3"], "task.batch 4 for accumulate 3"),
        (["task.batch=8", "task.accumulate=8"], "task.batch 4 for accumulate 8|multiple of 8"),
    ],
)
def test_accumulating_what_does_not_divide_is_one_sentence(settings, said, tiny_set, tmp_path):
    with pytest.raises(UserError, match=said):
        trained("chest", tiny_set, tmp_path, "task.objective=posed", *settings)


def test_the_published_hinge_wants_its_batch_whole(tiny_set, tmp_path):
    with pytest.raises(UserError, match="batch_mean_hinge for a batch in 2 parts"):
        trained(
            "chest_mednerf",
            tiny_set,
            tmp_path,
            "compat={batch_mean_hinge: true}",
            "task.accumulate=2",
        )
