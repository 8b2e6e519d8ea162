"""Joseph projector against 3-D grid-sample ray marching, at equal error, in one run.

    python scripts/bench/drr.py [--threads 2] [--rounds 7]

One view of 128² pixels through 128³ voxels, forward and forward + backward to the volume, averaged
over six angles. The truth is the closed form of three spheres. The marching baseline stands below;
it is tuned before it is timed: rays that miss the volume are dropped, the others clipped to its
box, and the number of samples (the fewest that come within 5 % of Joseph's error), the rays per
call and the parts that torch may spread over its threads are searched. Neither side's ray set-up is
on the clock; each keeps the volume in the layout it likes best, except in the rows that say
otherwise. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample

from mednerf_kit.imaging.geometry import Geometry
from mednerf_kit.imaging.projector import Projector, project_volume

ANGLES_DEG = (0.0, 30.0, 45.0, 60.0, 90.0, 137.0)
# centre and radius mm, mu per mm
SPHERES = (((0, 0, 0), 90, 0.02), ((30, -20, 25), 30, 0.02), ((-35, 25, -30), 25, -0.01))
GEOMETRY = Geometry(
    source_to_isocentre_mm=1000, source_to_detector_mm=1500, rows=128, cols=128, pixel_mm=3.75
)
SIZE, SPACING_MM = 128, 2.0
SAMPLES, RAYS_PER_CALL, PARTS = (
    (48, 64, 80, 96, 112, 128, 160, 192, 256),
    (1024, 4096, 1 << 14),
    (1, 2, 4, 16),
)
GOAL = 6.0


def phantom(finer: int = 4) -> Tensor:
    """The spheres as voxel averages of finer³ points, [128, 128, 128]."""
    c = (torch.arange(SIZE * finer) - (SIZE * finer - 1) / 2) * SPACING_MM / finer
    slabs = []
    for z in c.split(finer):
        inside = sum(
            mu
            * (
                ((c - x0) ** 2 + ((c - y0) ** 2)[:, None] + ((z - z0) ** 2)[:, None, None]) <= r * r
            ).float()
            for (x0, y0, z0), r, mu in SPHERES
        )
        slabs.append(avg_pool3d(inside[None], finer)[0])
    return torch.cat(slabs)


def chords(angle_deg: float) -> Tensor:
    """mu times chord of every ray in every sphere, [128, 128]."""
    rays = GEOMETRY.rays(torch.tensor(angle_deg), GEOMETRY.pixel_grid())
    total = torch.zeros(rays.near.shape)
    for centre, radius, mu in SPHERES:
        to = torch.tensor(centre) - rays.origin
        apart = to.square().sum(-1) - (to * rays.direction).sum(-1) ** 2
        total += 2 * mu * (radius**2 - apart).clamp_min(0).sqrt()
    return total


@dataclass(frozen=True)
class Clipped:
    """The part of each ray inside the volume's box, in grid_sample's units.

    Rays that miss the box are left out.
    """

    enter: Tensor  # [R, 3]
    way: Tensor  # [R, 3] from entry to exit
    length_mm: Tensor  # [R]
    hit: Tensor  # [rows * cols] bool

    @classmethod
    def of(cls, angle_deg: float) -> Clipped:
        rays = GEOMETRY.rays(torch.tensor(angle_deg), GEOMETRY.pixel_grid().flatten(0, 1))
        half = SIZE * SPACING_MM / 2
        one, other = (-half - rays.origin) / rays.direction, (half - rays.origin) / rays.direction
        near, far = torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)
        hit = far > near
        origin, direction, near, far = rays.origin[hit], rays.direction[hit], near[hit], far[hit]
        return cls(
            (origin + near[:, None] * direction) / half,
            (far - near)[:, None] * direction / half,
            far - near,
            hit,
        )


def march(values: Tensor, rays: Clipped, samples: int, rays_per_call: int, parts: int) -> Tensor:
    """The baseline: midpoints of equal steps between entry and exit, trilinear, [128, 128]."""
    at = ((torch.arange(samples) + 0.5) / samples)[:, None]
    found = []
    for enter, way, length_mm in zip(
        *(t.split(rays_per_call) for t in (rays.enter, rays.way, rays.length_mm)), strict=True
    ):
        # torch spreads the leading axis, and only that, over its threads
        ragged = -len(enter) % parts
        if ragged:
            enter, way = (torch.cat([t, t[:ragged]]) for t in (enter, way))
        points = torch.addcmul(enter[:, None], at, way[:, None]).view(parts, -1, samples, 1, 3)
        seen = grid_sample(values.expand(parts, 1, -1, -1, -1), points, align_corners=False)
        found.append(seen.view(-1, samples)[: len(length_mm)].sum(1) * length_mm / samples)
    return (
        torch.zeros(rays.hit.shape)
        .masked_scatter(rays.hit, torch.cat(found))
        .view(GEOMETRY.rows, GEOMETRY.cols)
    )


def nrmse(images: list[Tensor], truths: list[Tensor]) -> float:
    """Root mean square error over the truth's range, averaged over views."""
    return statistics.mean(
        float((a - b).square().mean().sqrt() / (b.max() - b.min()))
        for a, b in zip(images, truths, strict=True)
    )


def milliseconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - began)


def with_gradient(run: Callable[[Tensor], Tensor], values: Tensor) -> Callable[[], None]:
    """Forward and backward to the volume, with a gradient that differs from pixel to pixel."""
    weight = torch.rand(GEOMETRY.rows, GEOMETRY.cols, generator=torch.Generator().manual_seed(0))

    def both() -> None:
        leaf = values.detach().requires_grad_()
        (run(leaf) * weight).sum().backward()

    return both


def tuned(values: Tensor, rays: Clipped, samples: int, *, backward: bool) -> tuple[int, int]:
    """The fastest (rays per call, parts) of the baseline at one angle."""
    times = {}
    for per_call, parts in itertools.product(RAYS_PER_CALL, PARTS):

        def run(v: Tensor, per_call: int = per_call, parts: int = parts) -> Tensor:
            return march(v, rays, samples, per_call, parts)

        one = with_gradient(run, values) if backward else lambda run=run: run(values)
        times[per_call, parts] = min(milliseconds(one) for _ in range(3))
    return min(times, key=times.get)


def contenders(values: Tensor, samples: int) -> dict[str, list[Callable[[], object]]]:
    """Each contender as one call per angle."""
    clipped = [Clipped.of(a) for a in ANGLES_DEG]
    fast, other = (
        [Projector(values.shape, (SPACING_MM,) * 3, GEOMETRY.at([a])) for a in ANGLES_DEG]
        for _ in range(2)
    )
    angles = [torch.tensor([a]) for a in ANGLES_DEG]
    ways = {back: tuned(values, clipped[1], samples, backward=back) for back in (False, True)}
    print(
        f"baseline tuned to {samples} samples, (rays per call, parts) {ways[False]} forward, "
        f"{ways[True]} with backward"
    )
    return {
        "marching": [lambda r=r: march(values, r, samples, *ways[False]) for r in clipped],
        "joseph": [lambda a=a: a(values) for a in fast],
        "joseph, a new volume": [lambda a=a: a(values[...]) for a in other],
        "joseph, rays and volume new": [
            lambda a=a: project_volume(values, (SPACING_MM,) * 3, GEOMETRY, a) for a in angles
        ],
        "marching + backward": [
            with_gradient(lambda v, r=r: march(v, r, samples, *ways[True]), values) for r in clipped
        ],
        "joseph + backward": [with_gradient(a, values) for a in fast],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    values, truths = phantom(), [chords(a) for a in ANGLES_DEG]
    ours = nrmse(
        [
            project_volume(values, (SPACING_MM,) * 3, GEOMETRY, torch.tensor([a]))[0]
            for a in ANGLES_DEG
        ],
        truths,
    )
    errors = {
        n: nrmse([march(values, Clipped.of(a), n, 4096, 2) for a in ANGLES_DEG], truths)
        for n in SAMPLES
    }
    samples = next((n for n in SAMPLES if errors[n] <= 1.05 * ours), SAMPLES[-1])
    print(
        f"NRMSE %: joseph {100 * ours:.4f}, marching "
        + ", ".join(f"{n}: {100 * e:.4f}" for n, e in errors.items())
    )

    runs = contenders(values, samples)
    times: dict[str, list[float]] = {name: [float("inf")] * len(ANGLES_DEG) for name in runs}
    for _ in range(options.rounds):  # in turns, so that a busy machine is busy for all
        for (name, calls), i in itertools.product(runs.items(), range(len(ANGLES_DEG))):
            times[name][i] = min(times[name][i], milliseconds(calls[i]))
    mean = {name: statistics.mean(each) for name, each in times.items()}
    print(
        f"{'ms per view':>28} {'mean':>7}  "
        + " ".join(f"{a:>6g}°" for a in ANGLES_DEG)
        + "   times faster than marching"
    )
    for name, each in times.items():
        base = mean["marching + backward" if "backward" in name else "marching"]
        print(
            f"{name:>28} {mean[name]:7.1f}  "
            + " ".join(f"{t:7.1f}" for t in each)
            + f"   {base / mean[name]:.1f}"
        )
    ratio = mean["marching"] / mean["joseph"]
    print(
        json.dumps(
            {
                "bench": "drr",
                "threads": options.threads,
                "nrmse_joseph": round(ours, 6),
                "nrmse_marching": round(errors[samples], 6),
                "marching_samples": samples,
                "ms": {name: round(ms, 2) for name, ms in mean.items()},
                "ratio_forward": round(ratio, 2),
                "ratio_forward_backward": round(
                    mean["marching + backward"] / mean["joseph + backward"], 2
                ),
                "passed": ratio >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
