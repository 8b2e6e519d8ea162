"""Several processes at one training: the same result as one, one voice, and an end that all of them
share.

Started with a folder this file is its own torchrun: it forks the processes of every scenario that
lies there (a process that has gone backward cannot fork ones that do, so pytest's own does not).
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS, SIZE, make_set
from tiny_scene import fitted, recipe_file
from torch import Generator

from mednerf_kit import cli
from mednerf_kit.core import files
from mednerf_kit.core.errors import UserError
from mednerf_kit.core.types import Rays
from mednerf_kit.engine import run_folder, session
from mednerf_kit.engine.distributed import (
    BatchShard,
    Ranks,
    RngSnapshot,
    ShardedSampler,
    started,
)
from mednerf_kit.engine.loop import Loop
from mednerf_kit.fields import hyper
from mednerf_kit.prior import posed_recipes
from mednerf_kit.prior.distributed import group_size_note
from mednerf_kit.prior.posed import PriorTask
from mednerf_kit.rays.render import Level
from mednerf_kit.rays.samplers.base import SAMPLERS
from mednerf_kit.study.ablation import run as ablation

ROOT = Path(__file__).resolve().parents[2]
STEPS = 6
HYBRID = [
    *SETTINGS,
    "task.gan_batch=8",
    "task.ray_share=0.5",
    "probability={name: adaptive, kimg: 0.04, interval: 1}",
    f"steps={STEPS}",
    "snapshot_steps=4",
    "calibration_patients=0",
]
MEDNERF = [
    "generator={name: graf, shape_dim: 4, appearance_dim: 4, width: 16, depth: 3, skip: 2, "
    "octaves: 3, view_octaves: 2}",
    "discriminator={name: selfsup, size: 16, width: 4, doublings: 1, heads: 4}",
    f"dataset={{size: {SIZE}}}",
    "levels=[{name: stratified, n: 6}, {name: importance, n: 4}]",
    "task.batch=4",
    "task.r1_gamma=1.0",
    "task.r1_interval=2",
    "augment={name: xray}",
    "steps=2",
    "snapshot_steps=9",
    "probability={name: adaptive, kimg: 0.04, interval: 1, target: -0.5}",
]
RECIPES = {"chest": HYBRID, "chest_mednerf": MEDNERF}


# The launcher: what torchrun does, as far as a training sees it


def words(name: str, dataset: Path, outdir: Path, *more: str) -> list[str]:
    settings = [part for text in RECIPES[name] for part in ("--set", text)]
    return [
        "train",
        "--dataset",
        str(dataset),
        "--config",
        name,
        "--outdir",
        str(outdir),
        "--device",
        "cpu",
        *settings,
        *more,
    ]


def launch(home: Path) -> None:
    """Run every scenario of HOME/plan.json: its processes' exit codes and what they said go to
    HOME/NAME/.
    """
    import SimpleITK  # noqa: F401  what takes seconds to import comes once, before the forks
    import torch._dynamo  # noqa: F401  of every optimiser
    import torch.distributed as dist
    import torch.utils.tensorboard  # noqa: F401

    for name, scenario in json.loads((home / "plan.json").read_text()).items():
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        (home / name).mkdir(exist_ok=True)
        children = []
        for rank in range(scenario["world"]):
            if (child := os.fork()) == 0:
                code = 99
                try:
                    code = one_process(home / name, rank, store.port, scenario)
                except SystemExit as error:
                    code = int(error.code or 0)
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        (home / name / "codes.json").write_text(json.dumps(codes))


def one_process(home: Path, rank: int, port: int, scenario: dict) -> int:
    world = scenario["world"]
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(home / f"{kind}{rank}.txt", os.O_WRONLY | os.O_CREAT), number)
    hyper.fastest_dtype = lambda device: torch.float32
    step, loop_run = PriorTask.step, Loop.run

    def acting(self, progress, index):
        numbers = step(self, progress, index)
        if (rank, index) == (scenario.get("rank"), scenario.get("index")):
            os.kill(os.getpid(), signal.Signals[scenario["signal"]])
        return numbers

    def keeping(self):
        path = loop_run(self)
        p = getattr(getattr(self.task.parts, "probability", None), "p", 0.0)  # a scene has none
        files.save_tensors(home / f"state{rank}.safetensors", self.task.state()[0], {"p": p})
        return path

    PriorTask.step, Loop.run = acting, keeping
    return cli.main(scenario["words"])


# What one process makes of the same recipes


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "tiny")


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
    subprocess.run([sys.executable, __file__, str(home)], env=environment, check=True, timeout=120)
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
    return files.load_tensors(run_folder.snapshots(folder)[-1])[0]


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
    assert [p.name for p in run_folder.snapshots(folder)] == [
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
    path, tensors, _, remarks = run_folder.newest_readable(only_run(home, "killed"))
    assert path.name == "snapshot-000004.safetensors" and remarks == [] and len(tensors) > 10


def test_a_batch_that_cannot_be_dealt_is_one_sentence_before_any_work(home):
    assert codes(home, "uneven") == [2, 2]
    (said,) = errors(home, "uneven")
    assert "task.gan_batch 3 for 2 processes" in said and "set task.gan_batch=4" in said
    assert not (home / "uneven" / "runs").exists()


def test_a_plan_shows_each_ones_part(tiny_set):
    recipe = session.resolve(str(tiny_set), "chest", "default", HYBRID)
    assert session.share_out(recipe, Ranks(0, 2)) == {
        "processes": 2,
        "per_process": {"task.batch": 2, "task.gan_batch": 4},
    }
    assert session.share_out(recipe, Ranks()) == {}


# Parts of a batch


@pytest.mark.parametrize("name", ["stratified", "importance", "local"])
def test_a_share_is_sampled_where_the_whole_batch_is(name):
    sampler, coarse = SAMPLERS.build(name), SAMPLERS.build({"name": "stratified", "n": 8})
    origin, near = torch.randn(4, 3, 3, generator=Generator().manual_seed(1)), torch.rand(4, 3)
    rays = Rays(origin, torch.nn.functional.normalize(-origin, dim=-1), near, near + 2)
    before = None if name == "stratified" else coarse(rays, None, Generator().manual_seed(2))
    weight = torch.rand(4, 3, 8, generator=Generator().manual_seed(3))

    def seen(sampler, share: BatchShard):
        rng = Generator().manual_seed(0)
        mine = Rays(*(share.take(t) for t in (rays.origin, rays.direction, rays.near, rays.far)))
        previous = before and (
            replace(before, t=share.take(before.t), dt=share.take(before.dt)),
            share.take(weight),
        )
        return sampler(mine, previous, rng), rng.get_state()

    whole, state = seen(sampler, BatchShard())
    parts = [seen(ShardedSampler(sampler, BatchShard(i, 2)), BatchShard(i, 2)) for i in (0, 1)]
    for field in ("t", "dt"):
        torch.testing.assert_close(
            torch.cat([getattr(part, field) for part, _ in parts]), getattr(whole, field)
        )
    assert all(torch.equal(after, state) for _, after in parts)


def test_one_part_is_the_batch_itself():
    (share,) = Ranks().parts(1)
    levels = [Level(SAMPLERS.build("stratified"))]
    whole = torch.rand(4, 2)
    assert share.levels(levels) is levels and torch.equal(share.take(whole), whole)
    assert [s.rows(12) for s in Ranks(1, 2).parts(3)] == [slice(6, 8), slice(8, 10), slice(10, 12)]


def test_noise_of_parts_is_the_noise_of_the_whole():
    whole = torch.randn(4, 3, 5, generator=Generator().manual_seed(0))
    parts = [BatchShard(i, 2).randn((2, 3, 5), Generator().manual_seed(0)) for i in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_moment_comes_back():
    rng, norm = (
        Generator().manual_seed(0),
        torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 4)),
    )
    moment = RngSnapshot(rng, norm)
    first = torch.rand(3, generator=rng), norm(torch.eye(4)).detach()
    later = rng.get_state()
    with moment.replayed():
        again = torch.rand(3, generator=rng), norm(torch.eye(4)).detach()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and torch.equal(
        rng.get_state(), later
    )


def test_gradients_and_numbers_of_one_process_are_its_own():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    before = parameter.grad
    Ranks().average_gradients([parameter])
    assert (
        parameter.grad is before
        and Ranks().mean_metrics({"a": math.nan}, 1.0, True)[1:] == (1.0, True)
        and Ranks().claims_report()
    )


@pytest.mark.parametrize(
    "size, world, accumulate, said",
    [
        (16, 3, 1, "task.batch 16 for 3 processes; wanted a multiple of 3: set task.batch=18"),
        (16, 2, 3, "for 2 processes with accumulate 3; wanted a multiple of 6"),
        (16, 1, 5, "for accumulate 5; wanted a multiple of 5: set task.batch=20"),
    ],
)
def test_what_cannot_be_dealt_is_refused(size, world, accumulate, said):
    with pytest.raises(UserError, match=re.escape(said)):
        Ranks(0, world).check({"task.batch": size}, accumulate)


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


def test_smaller_groups_of_pictures_are_said():
    discriminator = type("Judge", (), {"mbstd_group": 4})
    assert (
        group_size_note(discriminator, 8, 2) == []
        and "compares 2 pictures at a time instead of 4" in group_size_note(discriminator, 4, 2)[0]
    )


def test_an_environment_that_is_not_torchruns_is_one_sentence():
    assert started({}) == Ranks() == started({"WORLD_SIZE": "1", "RANK": "0"})
    for environment in ({"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "0"}):
        with pytest.raises(UserError, match="torchrun --nproc-per-node"):
            started(environment)


def test_a_task_that_cannot_be_shared_wants_one_process(monkeypatch):
    monkeypatch.setattr(
        session, "task_type_of", lambda recipe: replace(posed_recipes.TASK_TYPE, batches=None)
    )
    assert session.share_out({"task": {"name": "lonely"}}, Ranks()) == {}
    with pytest.raises(UserError, match="2 processes for task 'lonely'; wanted one"):
        session.share_out({"task": {"name": "lonely"}}, Ranks(0, 2))


def test_auto_are_all_the_devices_there_are(monkeypatch):
    for count, found in ((0, ["cpu"]), (1, ["cuda"]), (2, ["cuda:0", "cuda:1"])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda count=count: count > 0)
        assert ablation.named("auto") == found and ablation.named("cpu,cuda:1") == ["cpu", "cuda:1"]


if __name__ == "__main__":
    launch(Path(sys.argv[1]))
