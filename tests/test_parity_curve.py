"""A short training curve, step by step, against a plain transcription of nerf-pytorch's training from its formulas.

The oracle shares nothing but the drawn pixels, the jitter (generators of one seed, read in one order) and the initial
weights: rays, encoding, MLP, compositing, loss and Adam are written out below. Two published habits are left out on both sides,
as tests/test_parity.py explains: the last interval is finite, and pixels are counted from their centres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mednerf_kit.data.posed.scene import load_scene
from mednerf_kit.fields.nerf import Nerf
from mednerf_kit.train.scenes.session import prepare

STEPS, RAYS, SAMPLES, OCTAVES, VIEW_OCTAVES, RATE, FINAL = 40, 128, 16, 3, 1, 1e-2, 0.1
RECIPE = {
    "task": {"name": "fit", "learning_rate": RATE, "final_rate": FINAL},
    "scene": {"size": 16, "train_views": 4, "clip": False},
    "fields": {"scene": {"name": "nerf", "depth": 2, "width": 16, "skip": 0, "octaves": OCTAVES, "view_octaves": VIEW_OCTAVES}},
    "levels": [{"sampler": {"name": "stratified", "n": SAMPLES}, "field": "scene"}],
    "selector": {"name": "random", "n": RAYS},
    "losses": {"mse": 1.0},
    "picture": "emission_absorption",
    "steps": STEPS,
    "snapshot_steps": STEPS,
}


def encoded(x: Tensor, octaves: int) -> Tensor:
    """x, then sin and cos of 2^k x for each octave."""
    return torch.cat([x] + [f(2.0**k * x) for k in range(octaves) for f in (torch.sin, torch.cos)], -1)


class Oracle:
    """One NeRF, its rays and its Adam, in plain arithmetic."""

    def __init__(self, field: Nerf, scene) -> None:
        self.w = {name: p.detach().clone().requires_grad_(True) for name, p in field.named_parameters()}
        self.m = {name: torch.zeros_like(p) for name, p in self.w.items()}
        self.v = {name: torch.zeros_like(p) for name, p in self.w.items()}
        self.scene, self.random = scene, torch.Generator().manual_seed(0)
        self.noise = torch.Generator().manual_seed(1)  # jitter along rays has a stream of its own

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def network(self, x: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        h = encoded(x, OCTAVES)
        for i in range(2):
            h = torch.relu(self.linear(f"trunk.{i}", h))
        sigma = torch.relu(self.linear("to_density", h)[..., 0])
        both = torch.cat([self.linear("to_feature", h), encoded(d, VIEW_OCTAVES)], -1)
        return sigma, torch.sigmoid(self.linear("to_color.2", torch.relu(self.linear("to_color.0", both))))

    def step(self, t: int) -> float:
        cameras = self.scene.cameras
        u = torch.rand((RAYS, 3), generator=self.random)
        size = torch.tensor([len(self.scene.images), cameras.rows, cameras.cols])
        view, row, col = (u * size).long().minimum(size - 1).unbind(-1)
        focal, middle = cameras.focal_px[view], cameras.centre_px[view]
        local = torch.stack([(col - middle[:, 0]) / focal[:, 0], -(row - middle[:, 1]) / focal[:, 1], -torch.ones(RAYS)], -1)
        d = (cameras.c2w[view][:, :, :3] @ local[:, :, None])[:, :, 0]
        d = d / d.norm(dim=-1, keepdim=True)
        step = (cameras.far - cameras.near) / SAMPLES
        z = cameras.near + (torch.arange(SAMPLES) + torch.rand((RAYS, SAMPLES), generator=self.noise)) * step
        x = cameras.c2w[view][:, None, :, 3] + z[..., None] * d[:, None]
        sigma, color = self.network(x, d[:, None].expand_as(x))
        alpha = 1 - torch.exp(-sigma * step)
        transparent = torch.cumprod(torch.cat([torch.ones(RAYS, 1), 1 - alpha], -1), -1)[:, :-1]
        w = alpha * transparent
        image = (w[..., None] * color).sum(1) + 1 - w.sum(1, keepdim=True)  # on white
        loss = (image - self.scene.images[view, row, col].float()).square().mean()
        rate = RATE * FINAL ** (t / STEPS)
        for name, gradient in zip(self.w, torch.autograd.grad(loss, list(self.w.values())), strict=True):
            self.m[name] = 0.9 * self.m[name] + 0.1 * gradient
            self.v[name] = 0.999 * self.v[name] + 0.001 * gradient**2
            corrected = self.m[name] / (1 - 0.9 ** (t + 1)), self.v[name] / (1 - 0.999 ** (t + 1))
            with torch.no_grad():
                self.w[name] -= rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
        return float(loss.detach())


def test_a_training_curve_is_that_of_the_published_loop():
    choice = {"recipe": RECIPE, "dataset": "blocks", "seed": 0, "split": "train", "limit": None}
    task = prepare(choice, torch.device("cpu")).task
    oracle = Oracle(task.model.fields["scene"], load_scene("blocks", split="train", **RECIPE["scene"]))
    ours = [task.step(i / STEPS, i)["mse"] for i in range(STEPS)]
    theirs = [oracle.step(i) for i in range(STEPS)]
    assert sum(theirs[-5:]) < 0.8 * sum(theirs[:5])
    for a, b in zip(ours, theirs, strict=True):
        assert math.isclose(a, b, rel_tol=1e-3), (ours, theirs)
