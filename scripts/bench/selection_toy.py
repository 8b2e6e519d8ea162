#!/usr/bin/env python3
"""Which pixels to supervise, tried in 2-D: every selector fits one image with as many rays.

    python scripts/bench/selection_toy.py [--image PICTURE] [--only random egra]
    python scripts/bench/selection_toy.py --histogram errors.png --overlay leaves.png

The field is four bilinear feature grids and a small MLP over (y, x), colour out; the loss is the
weighted mean of squared errors. A ray is one pixel whose colour is asked for, and pixels that only
a selector renders count as rays too. The script prints one Markdown table: PSNR of the whole
picture (data range 1) and of its hardest tenth (largest 3×3 spread), mean ± standard deviation over
seeds; rays until the final PSNR of `random` was passed, as a share of the budget; and the median
time in the selector per step.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import grid_sample

from mednerf_kit.core.files import atomic
from mednerf_kit.core.types import Pixels
from mednerf_kit.metrics.image import psnr_from_mse_db
from mednerf_kit.rays.selectors.base import SELECTORS, RaySelector
from mednerf_kit.rays.selectors.pixel_maps import anchors, gray, local_spread

CHECKS = 25


class Field(nn.Module):
    """Colour [N, C] at yx [N, 2] in pixels: feature grids up to a node per pixel, then an MLP."""

    def __init__(self, rows: int, cols: int, channels: int, rng: Generator) -> None:
        super().__init__()
        self.register_buffer("size", torch.tensor([rows - 1.0, cols - 1.0]))
        self.grids = nn.ParameterList(
            0.1 * torch.randn(1, 4, max(rows // k, 2), max(cols // k, 2), generator=rng)
            for k in (8, 4, 2, 1)
        )
        self.mlp = nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, channels)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=rng)
                nn.init.zeros_(layer.bias)

    def forward(self, yx: Tensor) -> Tensor:
        place = (2 * yx / self.size - 1).flip(-1)[None, None]
        features = [
            grid_sample(grid, place, align_corners=True, padding_mode="border")[0, :, 0].T
            for grid in self.grids
        ]
        return self.mlp(torch.cat(features, -1)).sigmoid()


def drawing(size: int) -> Tensor:
    """A picture [H, W, 3] of few hard places: paper, a shaded ball, and small fine patterns."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    paper = torch.stack([0.9 - 0.05 * y, 0.92 + 0 * y, 0.95 - 0.03 * x], -1)
    inside = (x + 0.35) ** 2 + (y + 0.3) ** 2 < 0.25
    paper[inside] = torch.stack([0.75 - 0.5 * x, 0.35 - 0.2 * y, 0.3 + 0.2 * x], -1)[inside].clamp(
        0, 1
    )
    fine = torch.arange(size)
    checks = (fine[:, None] // 2 + fine // 2) % 2
    rings = 0.5 + 0.5 * torch.sin(60 * ((x - 0.5) ** 2 + (y - 0.45) ** 2).sqrt())
    for pattern, mask in (
        ((checks + 0.0), (x > 0.35) & (x < 0.85) & (y > -0.8) & (y < -0.35)),
        (rings, (x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.09),
        ((fine[None] % 3 == 0) + 0 * y, (x > -0.8) & (x < -0.2) & (y > 0.5) & (y < 0.7)),
    ):
        paper[mask] = torch.stack([pattern, 0.2 + 0.6 * pattern, 1 - pattern], -1)[mask]
    dots = torch.rand(size, size, generator=Generator().manual_seed(0)) < 0.004
    paper[dots] = torch.tensor([0.05, 0.1, 0.3])
    return paper


def read(path: Path, size: int) -> Tensor:
    """A picture file as [H, W, C] in [0, 1], its longer side ``size``, over white."""
    from PIL import Image

    picture = Image.open(path)
    if picture.mode != "L":
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
            "RGB"
        )
    picture.thumbnail((size, size), Image.Resampling.BOX)
    values = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    return values if values.dim() == 3 else values[..., None]


def psnr_db(errors: Tensor) -> float:
    return float(psnr_from_mse_db(errors.mean()))


class Fit:
    """One field fitted with the pixels of one selector."""

    def __init__(self, image: Tensor, selector: RaySelector, *, seed: int, budget: int) -> None:
        self.image, self.selector, self.budget = image, selector, budget
        self.rng = Generator().manual_seed(seed)
        rows, cols, channels = image.shape
        self.field = Field(rows, cols, channels, Generator().manual_seed(seed))
        self.optimiser = torch.optim.Adam(self.field.parameters(), lr=1e-2)
        self.every = (
            torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), -1)
            .view(-1, 2)
            .float()
        )
        self.rays, self.steps = 0, 0
        self.selecting_ms: list[float] = []
        self.curve: list[tuple[int, float]] = []

    @torch.no_grad()
    def errors(self) -> Tensor:
        """Squared errors [H, W] of the whole picture, mean over channels."""
        return (self.field(self.every).view_as(self.image) - self.image).square().mean(-1)

    def run(self) -> Fit:
        while self.rays + self.selector.evaluations < self.budget:
            used = (self.rays + self.selector.evaluations) / self.budget
            if used >= len(self.curve) / CHECKS:
                self.curve.append((self.rays + self.selector.evaluations, psnr_db(self.errors())))
            self.step(used)
        self.curve.append((self.budget, psnr_db(self.errors())))
        return self

    def step(self, progress: float) -> None:
        selector, start = self.selector, time.perf_counter()
        if (
            selector.wants_full_error_every
            and self.steps % selector.wants_full_error_every == 0
            and self.steps
        ):
            selector.observe_full(self.errors()[None])
        selector.advance(progress)
        pixels = selector.select(self.steps, self.rng)
        chosen = time.perf_counter()
        y, x = pixels.yx.round().long().unbind(-1)
        yx = pixels.yx.requires_grad_(selector.wants_gradient)
        error = (self.field(yx) - self.image[y, x]).square().mean(-1)
        weight = selector.weigh(pixels, error.detach())
        loss = (weight * error).mean()
        self.optimiser.zero_grad()
        loss.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = 1e-2 * 0.1**progress
        self.optimiser.step()
        rendered = time.perf_counter()
        seen = Pixels(pixels.view, yx.detach(), weight)
        selector.observe(seen, error.detach(), None if yx.grad is None else yx.grad * len(yx))
        self.selecting_ms.append(1000 * (chosen - start + time.perf_counter() - rendered))
        self.rays, self.steps = self.rays + len(yx), self.steps + 1


def contenders(n: int, steps: int) -> dict[str, tuple[dict, float]]:
    """Names of the rows, with the recipe's node and the share of the budget of rays."""
    side = round(n**0.5)
    plain = (
        "random",
        "shuffled",
        "latin_hypercube",
        "egra",
        "context",
        "error_map",
        "imap",
        "quadtree",
        "soft_mining",
        "mask",
    )
    rows: dict[str, dict] = {name: {} for name in plain}
    rows |= {
        f"{name}, correction {c:g}": {"correction": c}
        for name in ("context", "error_map", "imap")
        for c in (0.5, 0.0)
    }
    rows |= {
        "egra, correction 0": {"correction": 0.0},
        "egra, shift": {"shift": True},
        "error_map, exact": {"refresh": "exact", "every": 100},
        "soft_mining, edges": {"start": "edges"},
        "quadtree, correction 1": {"correction": 1.0},
        "mask, correction 1": {"correction": 1.0},
    }
    rows |= {"soft_mining, alpha 0": {"alpha": 0.0}, "soft_mining, alpha 0.3": {"alpha": 0.3}}
    for row in rows:
        if row.startswith("soft_mining"):
            # as in the public recipe: 600 of 20 000
            rows[row]["warmup_steps"] = round(0.03 * steps)
    nodes = {
        row: ({"name": row.split(",")[0], "n": n, **options}, 1.0) for row, options in rows.items()
    }
    return nodes | {
        "expansive": ({"name": "expansive", "n": 2 * n}, 1.0),
        "expansive, add": ({"name": "expansive", "n": 2 * n, "scale": "add"}, 1.0),
        "patch": ({"name": "patch", "size": side}, 1.0),
        "strided_patch": ({"name": "strided_patch", "size": side}, 1.0),
        "random, half batch": ({"name": "random", "n": n // 2}, 0.5),
        "expansive, half batch": ({"name": "expansive", "n": n}, 0.5),
    }


def histogram(image: Tensor, errors: Tensor, path: Path, share: float = 0.25) -> str:
    """Draws how many pixels have which error, and which share are anchors of `expansive`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    mask = anchors(gray(image), share=share)
    size = errors.sqrt()
    edges = np.geomspace(1e-4, 1, 41)
    pixels, marked = (
        np.histogram(values.clamp(1e-4, 1).numpy(), edges)[0]
        for values in (size.flatten(), size[mask])
    )
    figure, left = pyplot.subplots(figsize=(7, 4), layout="constrained")
    left.stairs(pixels, edges, fill=True, color="0.8", label="all pixels")
    left.stairs(
        marked,
        edges,
        fill=True,
        color="tab:orange",
        label=f"anchors ({mask.float().mean():.0%} of the pixels)",
    )
    left.set(
        xscale="log",
        xlabel="error of a pixel (root of the mean square over channels)",
        ylabel="pixels",
    )
    right = left.twinx()
    filled = pixels > 0
    right.plot(
        np.sqrt(edges[:-1] * edges[1:])[filled], marked[filled] / pixels[filled], "k.-", lw=1
    )
    right.set(ylim=(0, 1.02), ylabel="share of anchors (dots)")
    figure.legend(loc="outside upper center", ncols=2)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
    worst = errors.flatten().sort(descending=True).values[: errors.numel() // 10]
    held, tail = (float(part.sum() / errors.sum()) for part in (errors[mask], worst))
    return (
        f"anchors: {mask.float().mean():.1%} of the pixels, {held:.1%} of the squared error; "
        f"the worst tenth holds {tail:.1%}"
    )


def spread(values: list[float], form: str) -> str:
    """Mean ± standard deviation, each written in a format."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{form}} ± {deviation:{form}}"


def first_passed(fits: list[Fit], goal: float) -> float | None:
    """Rays until the mean PSNR of the fits reached ``goal`` dB; None if it never did."""
    for i, (rays, _) in enumerate(fits[0].curve):
        if statistics.mean(fit.curve[i][1] for fit in fits) >= goal:
            return rays
    return None


def overlay(image: Tensor, known: dict, n: int, budget: int, path: Path) -> None:
    """The picture of the quadtree's leaves and rays after ``budget`` rays, four times as large."""
    from imageio.v3 import imwrite

    selector = SELECTORS.build({"name": "quadtree", "n": n}, **known)
    fit = Fit(image, selector, seed=0, budget=budget).run()
    leaves = fit.selector.overlay(0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    with atomic(path) as temporary:
        imwrite(temporary, (leaves * 255).byte().numpy())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--image", type=Path, help="fit this picture instead of the drawing")
    add("--size", type=int, default=128, help="its longer side in pixels")
    add("--n", type=int, default=256, help="rays per step")
    add("--steps", type=int, default=300, help="of a plain selector: n·steps rays are the budget")
    add("--seeds", type=int, default=3)
    add("--only", nargs="*", help="rows whose name starts so; `random` always runs")
    add("--histogram", type=Path, help="write the errors after `random` and the anchors' share")
    add("--overlay", type=Path, help="write the quadtree's leaves and rays half-way")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    image = drawing(args.size) if args.image is None else read(args.image, args.size)
    rows, cols = image.shape[:2]
    edges = local_spread(gray(image))
    hard = edges >= edges.flatten().quantile(0.9)
    known = {"views": 1, "rows": rows, "cols": cols, "images": image[None]}
    known |= {"masks": hard[None].float()}
    whole, goal = args.n * args.steps, 0.0
    print("| selector | rays | PSNR dB | hardest tenth dB | rays to `random`'s final | ms/step |")
    print("|---|---|---|---|---|---|")
    for name, (node, share) in contenders(args.n, args.steps).items():
        if args.only and name != "random" and not name.startswith(tuple(args.only)):
            continue
        fits = [
            Fit(image, SELECTORS.build(node, **known), seed=seed, budget=int(whole * share)).run()
            for seed in range(args.seeds)
        ]
        last = [fit.curve[-1][1] for fit in fits]
        goal = statistics.mean(last) if name == "random" else goal
        passed = first_passed(fits, goal)
        tenth = [psnr_db(fit.errors()[hard]) for fit in fits]
        cost = statistics.median(ms for fit in fits for ms in fit.selecting_ms)
        print(
            f"| {name} | {share:g} | {spread(last, '.2f')} | {spread(tenth, '.2f')} | "
            f"{'—' if passed is None else f'{passed / whole:.2f}'} | {cost:.2f} |",
            flush=True,
        )
        if name == "random" and args.histogram:
            print(histogram(image, fits[0].errors(), args.histogram))
    if args.overlay:
        overlay(image, known, args.n, whole // 2, args.overlay)


if __name__ == "__main__":
    main()
