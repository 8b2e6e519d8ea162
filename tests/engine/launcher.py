"""A torchrun of the tests' own: started with a folder it forks the processes of every scenario that
lies there. (A process that has gone backward cannot fork ones that do, so pytest's own does not.)
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from tiny import SETTINGS, SIZE

from mednerf_kit import cli
from mednerf_kit.core import files
from mednerf_kit.engine.loop import Loop
from mednerf_kit.fields import hyper
from mednerf_kit.prior.posed import PriorTask

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


if __name__ == "__main__":
    launch(Path(sys.argv[1]))
