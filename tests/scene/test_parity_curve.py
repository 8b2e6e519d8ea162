"""A short training curve, step by step, against a plain transcription of nerf-pytorch's training
from its formulas.

The oracle shares nothing but the drawn pixels, the jitter (generators of one seed, read in one
order) and the initial weights: rays, encoding, MLPs, inverse transform sampling, compositing, loss
and Adam are written out below. The published habits that tests/test_parity.py names are changed on
both sides alike: the last interval is finite, pixels are counted from their centres, a node stands
for what lies nearer to it than to its neighbours, and fine nodes follow all coarse weights, one a
stratum.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.engine.run_folder import RunConfig
from mednerf_kit.fields.nerf import Nerf
from mednerf_kit.scene.setup import prepare

STEPS, RAYS, OCTAVES, VIEW_OCTAVES, RATE, FINAL = 40, 128, 3, 1, 1e-2, 0.1
NERF = {
    "name": "nerf",
    "depth": 2,
    "width": 16,
    "skip": 0,
    "octaves": OCTAVES,
    "view_octaves": VIEW_OCTAVES,
}
RECIPE = {
    "task": {"name": "fit", "learning_rate": RATE, "final_rate": FINAL},
    "scene": {"size": 16, "train_views": 4, "clip": False},
    "selector": {"name": "random", "n": RAYS},
    "losses": {"mse": 1.0},
    "image_model": "emission_absorption",
    "steps": STEPS,
    "snapshot_steps": STEPS,
}


def levels(*samplers: tuple[str, int]) -> dict:
    """A network of its own for each pass."""
    passes = [
        {"sampler": {"name": name, "n": n}, "field": f"pass_{i}"}
        for i, (name, n) in enumerate(samplers)
    ]
    return {**RECIPE, "fields": {level["field"]: NERF for level in passes}, "levels": passes}


def encoded(x: Tensor, octaves: int) -> Tensor:
    """x, then sin and cos of 2^k x for each octave."""
    return torch.cat(
        [x] + [f(2.0**k * x) for k in range(octaves) for f in (torch.sin, torch.cos)], -1
    )


def borders(t: Tensor, near: float, far: float) -> Tensor:
    """Ends of the cells of sorted nodes [R, S], halfway between neighbours: [R, S + 1]."""
    ends = torch.ones(len(t), 1)
    return torch.cat([near * ends, (t[:, 1:] + t[:, :-1]) / 2, far * ends], -1)


def inverse_transform(edges: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """Where the piecewise constant density w [R, S] over edges [R, S + 1] has the share u [R, n]
    behind it.
    """
    w = torch.where(w.sum(-1, keepdim=True) > 0, w, edges.diff(dim=-1))
    cdf = torch.cat([torch.zeros(len(w), 1), torch.cumsum(w / w.sum(-1, keepdim=True), -1)], -1)
    above = (cdf[:, None, :] <= u[..., None]).sum(-1).clamp(1, w.shape[-1])
    low, high = cdf.gather(-1, above - 1), cdf.gather(-1, above)
    start, end = edges.gather(-1, above - 1), edges.gather(-1, above)
    return start + (u - low) / (high - low) * (end - start)


class Oracle:
    """NeRFs, one a pass with ``numbers`` of samples drawn in each, their rays and their Adam, in
    plain arithmetic.
    """

    def __init__(self, fields: list[Nerf], numbers: list[int], scene) -> None:
        named = [
            (f"{i}.{name}", p)
            for i, field in enumerate(fields)
            for name, p in field.named_parameters()
        ]
        self.w = {name: p.detach().clone().requires_grad_(True) for name, p in named}
        self.m = {name: torch.zeros_like(p) for name, p in self.w.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.w.items()}
        self.numbers, self.scene, self.rng = numbers, scene, torch.Generator().manual_seed(0)
        self.noise = torch.Generator().manual_seed(1)  # jitter along rays has a stream of its own

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def network(self, i: int, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        h = encoded(x, OCTAVES)
        for k in range(2):
            h = torch.relu(self.linear(f"{i}.trunk.{k}", h))
        sigma = torch.relu(self.linear(f"{i}.to_density", h)[..., 0])
        both = torch.cat([self.linear(f"{i}.to_feature", h), encoded(d, VIEW_OCTAVES)], -1)
        return sigma, torch.sigmoid(
            self.linear(f"{i}.to_color.2", torch.relu(self.linear(f"{i}.to_color.0", both)))
        )

    def seen(
        self, i: int, origin: Tensor, d: Tensor, t: Tensor, dt: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pictures of rays [R] on white by network i at nodes t [R, S] of lengths dt, and the
        nodes' weights.
        """
        x = origin[:, None] + t[..., None] * d[:, None]
        sigma, color = self.network(i, x, d[:, None].expand_as(x))
        alpha = 1 - torch.exp(-sigma * dt)
        transparent = torch.cumprod(torch.cat([torch.ones(RAYS, 1), 1 - alpha], -1), -1)[:, :-1]
        w = alpha * transparent
        return (w[..., None] * color).sum(1) + 1 - w.sum(1, keepdim=True), w

    def step(self, step: int) -> float:
        cameras = self.scene.cameras
        near, far = cameras.near, cameras.far
        u = torch.rand((RAYS, 3), generator=self.rng)
        size = torch.tensor([len(self.scene.images), cameras.rows, cameras.cols])
        view, row, col = (u * size).long().minimum(size - 1).unbind(-1)
        focal, middle = cameras.focal_px[view], cameras.centre_px[view]
        local = torch.stack(
            [
                (col - middle[:, 0]) / focal[:, 0],
                -(row - middle[:, 1]) / focal[:, 1],
                -torch.ones(RAYS),
            ],
            -1,
        )
        d = (cameras.c2w[view][:, :, :3] @ local[:, :, None])[:, :, 0]
        d = d / d.norm(dim=-1, keepdim=True)
        origin, truth = cameras.c2w[view][:, :, 3], self.scene.images[view, row, col].float()
        losses, t, w = [], torch.zeros(RAYS, 0), torch.zeros(RAYS, 0)
        for i, n in enumerate(self.numbers):
            strata = (torch.arange(n) + torch.rand((RAYS, n), generator=self.noise)) / n
            if i == 0:
                t, dt = near + strata * (far - near), torch.full((RAYS, n), (far - near) / n)
            else:
                t = (
                    torch.cat([t, inverse_transform(borders(t, near, far), w.detach(), strata)], -1)
                    .sort(-1)
                    .values
                )
                dt = borders(t, near, far).diff(dim=-1)
            image, w = self.seen(i, origin, d, t, dt)
            losses.append((image - truth).square().mean())
        loss = torch.stack(losses).sum()
        rate = RATE * FINAL ** (step / STEPS)
        for name, gradient in zip(
            self.w, torch.autograd.grad(loss, list(self.w.values())), strict=True
        ):
            self.m[name] = 0.9 * self.m[name] + 0.1 * gradient
            self.v[name] = 0.999 * self.v[name] + 0.001 * gradient**2
            corrected = (
                self.m[name] / (1 - 0.9 ** (step + 1)),
                self.v[name] / (1 - 0.999 ** (step + 1)),
            )
            with torch.no_grad():
                self.w[name] -= rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
        return float(loss.detach())


@pytest.mark.parametrize(
    "samplers",
    [[("stratified", 16)], [("stratified", 8), ("importance", 8)]],
    ids=["one pass", "coarse and fine"],
)
def test_a_training_curve_is_that_of_the_published_loop(samplers):
    task = prepare(RunConfig("blocks", levels(*samplers)), torch.device("cpu")).task
    scene = load_scene("blocks", split="train", **RECIPE["scene"])
    oracle = Oracle(list(task.model.fields.values()), [n for _, n in samplers], scene)
    ours = [task.step(i / STEPS, i)["mse"] for i in range(STEPS)]
    theirs = [oracle.step(i) for i in range(STEPS)]
    assert sum(theirs[-5:]) < 0.8 * sum(theirs[:5])
    for a, b in zip(ours, theirs, strict=True):
        assert math.isclose(a, b, rel_tol=1e-3), (ours, theirs)
