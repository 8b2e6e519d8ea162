#!/usr/bin/env python3
"""What a signed distance and its normal cost, in microseconds a point.

    python scripts/bench/surface.py --width 64 --depth 4

The normal is computed twice: written out, as in fields/neus.py, and by autograd.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mednerf_kit.fields.neus import Neus, NeusOptions

BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])


def by_autograd(
    field: Neus, x: Tensor, activation: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Distance, normal and feature through ``autograd.grad`` with its graph kept."""
    x = x.detach().requires_grad_()
    h = field.inputs(x)
    for layer in field.trunk:
        h = activation(layer(h))
    out = field.to_distance(h)
    (normal,) = torch.autograd.grad(out[:, 0].sum(), x, create_graph=True)
    return out[:, 0], normal, out[:, 1:]


def taught(found: tuple[Tensor, Tensor, Tensor]) -> None:
    """A way back through all three."""
    distance, normal, feature = found
    (
        distance.square().mean()
        + (normal.norm(dim=-1) - 1).square().mean()
        + feature.square().mean()
    ).backward()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--points", type=int, default=16384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    field = Neus(NeusOptions(width=args.width, depth=args.depth, skip=0), box=BOX)
    x = 2 * torch.rand(args.points, 3) - 1
    ways: dict[str, Callable[[], object]] = {
        "distance alone, no way back": torch.no_grad()(lambda: field.sdf(x)),
        "normal written out": lambda: taught(field.at(x)),
        "normal by autograd, softplus": lambda: taught(
            by_autograd(field, x, lambda z: softplus(z, 100))
        ),
        "normal by autograd, ReLU": lambda: taught(by_autograd(field, x, torch.relu)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds + 1):  # the first warms up
        for name, way in ways.items():
            field.zero_grad(set_to_none=True)
            start = time.process_time()
            way()
            if turn:
                seconds[name].append(time.process_time() - start)
    for name, values in seconds.items():
        print(f"{name:32s} {1e6 * min(values) / args.points:6.2f} us a point")


if __name__ == "__main__":
    main()
