#!/usr/bin/env python3
"""Time per image of a prior's training: one process on one or two threads, and two processes.

    python scripts/bench/ranks.py [--blocks 5] [--objectives posed hybrid]

The recipe is the chest's quick one on phantoms (made when absent). A block is 20 steps that stand
for a whole training: progress goes from 0 to 1, so that volume, ray and adversarial steps come in
their shares. The three take turns, block by block; medians are compared. Each of two processes has
one thread. What a process exchanges with the other is on the clock: gradients, logits, logged
numbers, the agreement to go on.

Wall time means something on idle cores only. Processor time (of the busiest process) is printed
too: on a busy machine it bounds what idle cores would give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch
import torch._dynamo  # what every optimiser imports comes once, before the forks
import torch.distributed

from mednerf_kit.engine.distributed import Ranks, init_process_group
from mednerf_kit.engine.session import resolve
from mednerf_kit.fields.hyper import fastest_dtype
from mednerf_kit.prior.posed_setup import build_task
from mednerf_kit.prior.sets import read_set
from mednerf_kit.prior.training_volumes import make_training_volumes

STEPS = 20
PAIR = "two processes"
WAYS = {"one thread": (1, 1), "two threads": (1, 2), PAIR: (2, 1)}
GOALS = {"one thread": 0.6, "two threads": 1.15}  # of their wall time


def worker(task: Callable, environment: dict[str, str], threads: int, orders: Connection) -> None:
    """Runs a block whenever it is told to and answers its seconds (wall, processor).

    It ends with an order that is false.
    """
    torch.set_num_threads(threads)
    ranks: Ranks = init_process_group(environment)
    trained = task()
    trained.set_distributed(ranks)
    first = 0
    while orders.recv():
        start = time.perf_counter(), time.process_time()
        for i in range(STEPS):
            numbers = trained.step((i + 0.5) / STEPS, first + i)
            ranks.mean_metrics(numbers, 0.0, False)
        orders.send((time.perf_counter() - start[0], time.process_time() - start[1]))
        first += STEPS
    ranks.leave()


def employed(task: Callable, processes: int, threads: int) -> list[Connection]:
    """Forked workers, waiting."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    stores.append(store)
    lines = []
    for rank in range(processes):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        mine, theirs = Pipe()
        if os.fork() == 0:
            for line in [mine, *lines, *opened]:  # else a worker would keep the others' pipes open
                line.close()
            try:
                worker(task, environment, threads, theirs)
            except EOFError:
                pass
            finally:
                os._exit(0)
        theirs.close()
        lines.append(mine)
    opened.extend(lines)
    return lines


def block(lines: list[Connection]) -> list[float]:
    """Seconds of a block, wall and processor, by the slowest of its processes."""
    for line in lines:
        line.send(True)
    return [max(times) for times in zip(*(line.recv() for line in lines), strict=True)]


stores: list = []  # of the processes that are still at it
opened: list[Connection] = []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--patients", type=int, default=16)
    parser.add_argument("--objectives", nargs="+", default=["posed", "hybrid"])
    parser.add_argument(
        "--without-threads",
        action="store_true",
        help="leave out two threads, which a busy machine slows most",
    )
    args = parser.parse_args()
    ways = [way for way in WAYS if not (args.without_threads and way == "two threads")]
    torch.set_num_threads(1)
    dtype = fastest_dtype(torch.device("cpu"))
    recipe = resolve("chest", "chest", "quick", [])
    orbits = read_set("chest", recipe["dataset"], split="train", limit=args.patients)
    volumes = make_training_volumes(orbits, size=recipe["dataset"]["volume_size"])
    crews = {}
    for objective in args.objectives:
        own = {**recipe, "task": {**recipe["task"], "objective": objective}}
        for way in ways:
            processes, threads = WAYS[way]
            crews[objective, way] = employed(
                lambda own=own: build_task(own, orbits, volumes, seed=0, device="cpu"),
                processes,
                threads,
            )
    seconds: dict[tuple[str, str], list[list[float]]] = {key: [] for key in crews}
    for turn in range(args.blocks + 1):  # the first one warms up
        for key, lines in crews.items():
            taken = block(lines)
            if turn:
                seconds[key].append(taken)
    for lines in crews.values():
        for line in lines:
            line.send(False)
    images, rows = STEPS * recipe["task"]["batch"], []
    for objective in args.objectives:
        for k, clock in enumerate(("wall", "processor")):
            ms = {
                way: 1e3 * statistics.median(times[k] for times in seconds[objective, way]) / images
                for way in ways
            }
            ratios = {way: round(ms[PAIR] / ms[way], 3) for way in ways if way in GOALS}
            rows.append(
                {"objective": objective, "clock": clock, "ms_per_image": ms, "ratios": ratios}
            )
            print(
                f"{objective}, {clock}: "
                + ", ".join(f"{way} {value:.2f} ms per image" for way, value in ms.items())
            )
            print(
                "  the pair takes "
                + ", ".join(f"{r:.2f} of {way} (wanted {GOALS[way]})" for way, r in ratios.items())
            )
    print(
        json.dumps(
            {"dtype": str(dtype), "blocks": args.blocks, "cores": os.cpu_count(), "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
