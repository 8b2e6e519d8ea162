#!/usr/bin/env python3
"""Time, evaluations and memory of a training step of several scene runs, side by side.

    python scripts/bench/scene_steps.py RUN RUN ... [--rounds 15]

The runs' steps take turns in one process. Each run goes on from its last snapshot (nothing is
written), so that what its sampler does is what it does on a trained field. Memory is the most that
a step had resident above what lay there before it (Linux; freed blocks go back to the system at
once).
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from pathlib import Path

import torch

from mednerf_kit.engine import run_folder, snapshots
from mednerf_kit.engine.session import task_type_of

MMAP_THRESHOLD = -3  # mallopt's name of the size from which a block is a mapping of its own


def resident_mib(key: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (the most since the last reset) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="run folders; the first is the one the others are compared with",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 16)
    tasks = []
    for folder in args.runs:
        run_config = run_folder.read_run_config(folder)
        task = task_type_of(run_config.recipe).prepare(run_config, torch.device("cpu")).task
        _, tensors, meta, _ = snapshots.newest_readable(folder)
        task.load(tensors, meta["task_state"])
        tasks.append(task)
    seconds: list[list[float]] = [[] for _ in tasks]
    evaluations: list[list[float]] = [[] for _ in tasks]
    memory: list[list[float]] = [[] for _ in tasks]
    for turn in range(args.rounds + 2):  # the first two warm up
        for i, task in enumerate(tasks):
            idle_mib = resident_mib("VmRSS")
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            start = time.perf_counter()
            numbers = task.step(1.0, 10**6 + turn)
            if turn >= 2:
                seconds[i].append(time.perf_counter() - start)
                evaluations[i].append(numbers["evals_per_ray"])
                memory[i].append(resident_mib("VmHWM") - idle_mib)
    base_ms, base_evals = 1e3 * statistics.median(seconds[0]), statistics.mean(evaluations[0])
    base_mib = statistics.median(memory[0])
    print(
        f"{'run':40s} {'evals/ray':>10s} {'ratio':>6s} {'ms/step':>9s} {'ratio':>6s} "
        f"{'MiB':>7s} {'ratio':>6s}"
    )
    for folder, times, counts, most in zip(args.runs, seconds, evaluations, memory, strict=True):
        ms, evals, mib = (
            1e3 * statistics.median(times),
            statistics.mean(counts),
            statistics.median(most),
        )
        print(
            f"{'/'.join(folder.parts[-3:]):40s} {evals:10.1f} {evals / base_evals:6.3f} "
            f"{ms:9.1f} {ms / base_ms:6.3f} "
            f"{mib:7.1f} {mib / base_mib:6.3f}"
        )


if __name__ == "__main__":
    main()
