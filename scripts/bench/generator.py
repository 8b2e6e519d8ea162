#!/usr/bin/env python3
"""One generator step, forward and backward, against a plain loop over the same arithmetic.

    python scripts/bench/generator.py [--size 64] [--threads 2]

A batch of NeRFs whose weights a hypernetwork makes is evaluated. The plain loop is what a
straightforward implementation does: for each sample of the batch its weights, then chunks of points
through ``sin``/``cos`` per octave, ``linear`` and ``relu`` under autograd in fp32. It is timed with
all points of a sample at once and at the best of several chunk sizes. Ours is ``HyperGenerator`` in
the device's fastest precision. Both answer the same densities.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear, softplus

from mednerf_kit.fields.hyper import MlpWeights, fastest_dtype
from mednerf_kit.gan.generator import HyperGenerator


def plain_density(g: HyperGenerator, x: Tensor, code: MlpWeights, chunk: int) -> Tensor:
    """The same field, one sample and one chunk at a time."""
    assert code.pose is not None
    rows = []
    for b in range(code.batch):
        one = code.one(b)
        assert one.pose is not None
        parts = []
        for piece in x[b].split(chunk):
            anatomy = one.pose.to_anatomy(piece[None])[0]
            waves = [
                f(anatomy * 2.0**k) for k in range(g.field.octaves) for f in (torch.sin, torch.cos)
            ]
            h = torch.cat([anatomy, *waves], -1)
            for i, (w, bias) in enumerate(one.layers):
                h = linear(h, w[0, :, : h.shape[-1]], bias[0])
                h = torch.relu(h) if i < len(one.layers) - 1 else h
            inside = piece[:, :2].square().sum(-1) < g.field.support**2
            parts.append(softplus(h[:, 0] - 1) * one.pose.window(piece[None])[0] * inside)
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def seconds(step: Callable[[], Tensor], repeats: int) -> float:
    """Median wall time of a step, after one to warm up."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=64, help="the patch is size × size")
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    g = HyperGenerator(width=128, depth=8, rank=10, octaves=10)
    latent = g.draw(args.batch, torch.Generator().manual_seed(0))
    n = args.size**2 * args.nodes
    x = torch.rand(args.batch, n, 3) * 2 - 1

    def ours(points: Tensor = x) -> Tensor:
        g.zero_grad(set_to_none=True)
        density = g.field.density(
            points, g.weights(g.draw(args.batch, torch.Generator().manual_seed(0)))
        )
        density.mean().backward()
        return density.detach()

    def plain(points: Tensor, chunk: int) -> Tensor:
        g.zero_grad(set_to_none=True)
        density = plain_density(
            g, points, g.weights(g.draw(args.batch, torch.Generator().manual_seed(0))), chunk
        )
        density.mean().backward()
        return density.detach()

    few = x[:, : min(n, 65_536)]
    sweep = {
        chunk: seconds(lambda c=chunk: plain(few, c), 1)
        for chunk in (1024, 2048, 4096, 8192, 16_384, 65_536)
    }  # type: ignore[misc]
    best = min(sweep, key=sweep.__getitem__)
    with torch.no_grad():
        code = g.weights(latent)
        difference = float(
            (g.field.density(few, code) - plain_density(g, few, code, best)).abs().max()
        )
    row = {
        "points": args.batch * n,
        "dtype": str(fastest_dtype(x.device)),
        "threads": args.threads,
        "best_chunk": best,
        "ours_s": seconds(ours, args.repeats),
        "plain_whole_s": seconds(lambda: plain(x, n), args.repeats),
        "plain_best_s": seconds(lambda: plain(x, best), args.repeats),
        "largest_difference": difference,
    }
    row["speedup"] = row["plain_whole_s"] / row["ours_s"]
    row["speedup_over_best"] = row["plain_best_s"] / row["ours_s"]
    print(json.dumps(row))
    for key, value in row.items():
        print(f"{key:20s} {value:.3g}" if isinstance(value, float) else f"{key:20s} {value}")


if __name__ == "__main__":
    main()
