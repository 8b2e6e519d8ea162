"""The runs of docs/results.md that need a GPU, side by side under one time limit.

    python scripts/bench/accelerator.py --data $MEDNERF_KIT_DATA --minutes 9 --mps
    python scripts/bench/accelerator.py --data $MEDNERF_KIT_DATA --timings
    python scripts/bench/accelerator.py --data $MEDNERF_KIT_DATA --rehearse --device cpu

Small runs leave most of a GPU idle between their launches, so many share it. ``--mps`` starts
CUDA's multi-process service for that, which made eight runs twice as fast as taking turns on an
H200. The steps that are timed come first, alone. A short table is printed last, in any case, of
what there is by then; OUT/results.tar.gz has everything but snapshots, OUT/*.safetensors the
averaged generators. ``--depth`` takes the file that `mednerf-kit data depth` wrote for lego's
training views. ``--rehearse`` takes three steps of everything. ``--plan`` starts nothing and prints
the commands, as any call does that wants a GPU where there is none.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

KIT = [sys.executable, "-m", "mednerf_kit"]
KEPT = {
    "cell.json",
    "metrics.json",
    "config.yaml",
    "table.md",
    "results.csv",
    "figure.png",
    "log.txt",
    "traceback.txt",
}
SHOWN = (
    "psnr_db",
    "ssim",
    "depth_l1",
    "chamfer",
    "evals_per_ray",
    "swd",
    "overfit_kimg",
    "psnr_gain_fitted_db",
    "steps",
    "images_seen",
    "seconds_per_step",
    "train_seconds",
)
TIMED = ("nerf", "lnerf", "chest_hypernerfgan", "chest_hypernerfgan:32")


@dataclass(frozen=True)
class Lane:
    """Commands of mednerf-kit that follow one another; each gets ``--device`` added."""

    name: str
    commands: Sequence[list[str]]


def command(start: str, *words: object, **changes: object) -> list[str]:
    """Words of a command line, then ``--set`` for each change; ``__`` stands for a dot."""
    sets = [("--set", f"{key.replace('__', '.')}={value}") for key, value in changes.items()]
    return [*start.split(), *map(str, words), *(word for pair in sets for word in pair)]


def lanes(data: Path, lego: Path, out: Path, steps: Callable[[int], int]) -> list[Lane]:
    """Every goal that names an accelerator, and the grids that are slow without one."""
    return [*scene_lanes(data, lego, out, steps), *prior_lanes(data, out, steps)]


def scene_lanes(data: Path, lego: Path, out: Path, steps: Callable[[int], int]) -> list[Lane]:
    """The lanes that fit posed scenes."""

    def study(cells: str, n: int) -> list[str]:
        words = f"ablate depth --preset default --jobs 4 --cells {cells}"
        folders = ("--dataset", lego, "--outdir", out / f"depth-{n}")
        return command(words, *folders, steps=steps(n), snapshot_steps=n)

    def trained(name: str, dataset: object, **changes: object) -> Lane:
        words = (dataset, "--outdir", out / name)
        scored = command("evaluate --run", out / name, "--json", "--out", out / f"{name}-scores")
        return Lane(name, [command(f"train --config {name} --dataset", *words, **changes), scored])

    small_nerf = {
        f"fields__{level}__{key}": value
        for level in ("coarse", "fine")
        for key, value in (("depth", 4), ("width", 128), ("skip", 0))
    }
    small_nerf |= {"task__learning_rate": 1e-3, "task__final_rate": 0.1}
    small_nerf |= {"steps": steps(2000), "snapshot_steps": 2000}
    local = "--preset default --cells importance,local_5e-4,released --seeds 0-2"
    samplers = (out / "samplers-lego", "--dataset", lego)
    llff = (out / "samplers_llff-fern", "--dataset", data / "nerf_llff_data/fern")
    viewing = out / "encoding_viewdirs_samples-blocks"
    tensorf = trained(
        "tensorf",
        lego,
        levels__0__sampler__n=440,
        fields__scene__masks="[0.05,0.09,0.133,0.25]",
        steps=steps(11000),
        snapshot_steps=11000,
    )
    neus = trained("neus", "blocks", steps=steps(5000), snapshot_steps=5000, task__warmup_steps=250)
    neus.commands[-1].extend(["--limit", "8"])
    on_lego = f"ablate samplers --jobs 2 {local} --outdir"
    on_blocks = command("ablate samplers --jobs 2 --outdir", out / "samplers-blocks")
    on_fern = command(f"ablate samplers_llff {local} --outdir", *llff, **small_nerf)
    return [
        Lane(
            "depth",
            [
                study("baseline,soft,hard,hybrid", 20000),
                study("baseline_8,soft_8,hard_8,hybrid_8", 4000),
            ],
        ),
        tensorf,
        Lane(
            "local",
            [command(on_lego, *samplers, **small_nerf, task__crop_steps=200), on_blocks],
        ),
        Lane(
            "local-llff",
            [on_fern, command("ablate encoding_viewdirs_samples --outdir", viewing)],
        ),
        neus,
    ]


def prior_lanes(data: Path, out: Path, steps: Callable[[int], int]) -> list[Lane]:
    """The lanes that train priors on the published chest set."""
    chest = ("--dataset", data / "mednerf_drr/chest_xrays", "--outdir")
    presets = command(
        "ablate presets_full --jobs 4 --max-minutes 6", *chest, out / "presets_full-chest"
    )
    augmentation = command(
        "ablate augmentation --jobs 6 --cells none,ada,dag,dag_ada",
        *chest,
        out / "augmentation-chest",
        dataset__size=64,
        dataset__volume_size=64,
        discriminator__size=32,
        task__gan_batch=32,
        steps=steps(3000),
        generator__width=48,
        probability__kimg=20,
    )
    one_patient = command(
        "train --config chest_hypernerfgan --limit 1",
        *chest,
        out / "one-patient",
        levels="[{name: stratified, n: 48}]",
        dataset__size=64,
        discriminator__size=32,
        discriminator__fmaps=0.25,
        task__batch=16,
        augment__xflip=0.0,
        steps=steps(3000),
        snapshot_steps=3000,
    )
    found = out / "adversary"
    adversary = command(
        "train --config chest",
        *chest,
        found,
        generator__width=128,
        generator__octaves=8,
        dataset__volume_size=96,
        calibration_patients=0,
        task__objective="hybrid",
        task__learning_rate=0.004,
        task__ray_share=0.1,
        steps=steps(8300),
        snapshot_steps=4000,
    )
    judged = [
        command(f"{how} --run", found, "--json", "--out", out / f"adversary-{how}-scores")
        for how in ("score", "evaluate")
    ]
    return [
        Lane("presets", [presets]),
        Lane("augmentation", [augmentation]),
        Lane("one-patient", [one_patient]),
        Lane("adversary", [adversary, *judged]),
    ]


def run(lane: Lane, device: str, out: Path, deadline: float) -> None:
    """One command after the other, until the time is over; what they say goes to OUT/log."""
    for k, words in enumerate(lane.commands):
        left = deadline - time.monotonic()
        if left < 5:
            return
        if words[0] in ("evaluate", "score"):  # of a folder with one run
            found = sorted(Path(words[2]).glob("0*"))
            words = [*words[:2], str(found[-1]) if found else words[2], *words[3:]]
        with open(out / "log" / f"{lane.name}-{k}.txt", "w") as log:
            worker = subprocess.Popen(
                [*KIT, *words, "--device", device],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={"OMP_NUM_THREADS": "1", **os.environ},
            )
            try:
                worker.wait(left)
            except subprocess.TimeoutExpired:
                worker.terminate()  # it saves what it has
                worker.wait()


def timed(names: Sequence[str], data: Path, device: str) -> Iterator[str]:
    """Milliseconds of a step of each recipe at its own size, alone on the device.

    Images per second too, where the recipe makes images.
    """
    from mednerf_kit.engine.device import select_device
    from mednerf_kit.engine.distributed import Ranks
    from mednerf_kit.engine.run_folder import RunConfig
    from mednerf_kit.engine.session import resolve, task_type_of

    for name in names:
        dataset = str(
            data / ("mednerf_drr/chest_xrays" if "chest" in name else "nerf_synthetic/lego")
        )
        config, _, batch = name.partition(":")
        recipe = resolve(dataset, config, "default", [f"task.batch={batch}"] if batch else [])
        run_config = RunConfig(dataset, recipe, limit=12)
        task = task_type_of(recipe).prepare(run_config, select_device(device)).task
        if hasattr(task, "set_distributed"):
            task.set_distributed(Ranks())
        spent, index = [], 0
        while len(spent) < 5 or (sum(spent[3:]) < 2.0 and len(spent) < 200):
            start = time.perf_counter()
            task.step(0.5, index)
            if device != "cpu":
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - start)
            index += 1
        step = sorted(spent[3:])[len(spent[3:]) // 2]
        rate = (
            f", {recipe['task']['batch'] / step:.0f} pictures/s"
            if "batch" in recipe["task"]
            else ""
        )
        yield f"{name}: {1e3 * step:.1f} ms a step{rate}"


def table(out: Path) -> Iterator[str]:
    """What every run came to, a line each."""
    scores = [p for name in ("metrics", "score") for p in out.glob(f"*-scores/{name}.json")]
    for path in sorted([*out.rglob("cell.json"), *scores]):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("status") == "not run":
            continue
        numbers = found.get("metrics", found)
        shown = ", ".join(
            f"{key} {numbers[key]:.4g}"
            for key in SHOWN
            if isinstance(numbers.get(key), (int, float))
        )
        status, error = found.get("status", "done"), found.get("error", "")[:200]
        yield f"{path.parent.relative_to(out)}: {status} {shown} {error}"


def pack(out: Path) -> None:
    """Small files into one archive, and the averaged generator of every prior beside it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with tarfile.open(out / "results.tar.gz", "w:gz") as archive:
        for path in sorted(out.rglob("*")):
            if path.is_file() and path.name in KEPT and path.stat().st_size < 300_000:
                archive.add(path, arcname=str(path.relative_to(out)))
    for path in {p.parent: p for p in sorted(out.rglob("snapshot-*.safetensors"))}.values():
        with safe_open(path, "pt") as file:
            kept = {
                key: file.get_tensor(key)
                for key in file.keys()  # noqa: SIM118
                if key.split(".")[0] in ("ema", "codes", "gain")
            }
            if kept:
                name = "-".join(path.relative_to(out).parts[:-2])
                save_file(kept, out / f"{name}.safetensors", metadata=file.metadata())


def plan(lanes: Sequence[Lane]) -> Iterator[str]:
    """What every lane would run, a line for each command."""
    yield f"timed: {', '.join(TIMED)}"
    for lane in lanes:
        for words in lane.commands:
            yield f"{lane.name}: mednerf-kit {shlex.join(words)}"


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--out", type=Path, default=Path("out/accelerator"))
    words.add_argument("--minutes", type=float, default=9.0)
    words.add_argument("--depth", type=Path)
    words.add_argument("--device", default="cuda")
    words.add_argument("--mps", action="store_true")
    words.add_argument("--rehearse", action="store_true")
    words.add_argument("--only", help="names of lanes, with commas between")
    words.add_argument("--timings", action="store_true", help="the timed steps alone, printed")
    words.add_argument("--plan", action="store_true", help="print the commands, start nothing")
    chosen = words.parse_args()
    out, lego = chosen.out, chosen.out / "lego"
    ready = lanes(chosen.data, lego, out, (lambda n: 3) if chosen.rehearse else (lambda n: n))
    names = chosen.only.split(",") if chosen.only else [lane.name for lane in ready]
    ready = [lane for lane in ready if lane.name in names]
    without = chosen.device.startswith("cuda") and not torch.cuda.is_available()
    if chosen.plan or without:
        print("No CUDA device here: nothing was started." if without else "Nothing was started.")
        print("\n".join(plan(ready)))
        return
    if chosen.timings:
        print("\n".join(timed(TIMED, chosen.data, chosen.device)))
        return
    deadline = time.monotonic() + 60 * chosen.minutes
    (out / "log").mkdir(parents=True, exist_ok=True)
    shutil.copytree(chosen.data / "nerf_synthetic/lego", lego, dirs_exist_ok=True)
    if chosen.depth:
        shutil.copy(chosen.depth, lego / "depth_train.npz")
    if not chosen.rehearse:
        alone = [
            sys.executable,
            __file__,
            "--timings",
            "--data",
            str(chosen.data),
            "--device",
            chosen.device,
        ]
        (out / "log" / "timed.txt").write_bytes(
            subprocess.run(alone, stdout=subprocess.PIPE, check=False).stdout
        )
    if chosen.mps:
        places = {
            "CUDA_MPS_PIPE_DIRECTORY": str(out.resolve() / "mps"),
            "CUDA_MPS_LOG_DIRECTORY": str(out.resolve() / "mps"),
        }
        os.environ |= places
        (out / "mps").mkdir(exist_ok=True)
        subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True)
    workers = [
        threading.Thread(target=run, args=(lane, chosen.device, out, deadline)) for lane in ready
    ]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        if chosen.mps:
            subprocess.run(["nvidia-cuda-mps-control"], input=b"quit\n", check=False)
        pack(out)
        timings = out / "log" / "timed.txt"
        lines = [*(timings.read_text().splitlines() if timings.is_file() else ()), *table(out)]
        (out / "table.txt").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
