"""Soft mining: rays that climb the error by Langevin Monte Carlo (Kheradmand et al., CVPR 2024)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Generator, Tensor

from ...core.errors import UserError
from ...core.types import Pixels
from . import pixel_maps
from .base import SELECTORS, RaySelector
from .drawing import cumulative, enough, in_range, invert

PUBLIC_BATCH = 4096  # rays of the public code, over which its loss is one mean


@SELECTORS.register("soft_mining")
class SoftMining(RaySelector):
    """Soft mining: each ray is a walker that climbs the error by Langevin Monte Carlo.

    A walker x in the unit square of its own view moves x ← x + (step_size/4096) · ∇log(error) +
    noise · N(0, 1), with the gradient per pixel (the public code, whose 4096 rays share one mean,
    at any n). Walkers find density in proportion to the error, and the weight Q^−α, Q = √error,
    takes back the share α of that emphasis. Weights lie between 0.2 and mean plus standard
    deviation before they are scaled to mean 1 over the batch. This is not unbiased: the walkers'
    density is known only up to its stationary law.

    Options:
        n: rays per step, rounded down to whole walkers per view.
        alpha: α, from 0 (hard mining) to 1 (plain importance sampling).
        step_size: of a walker along the gradient of the log of its error.
        noise: standard deviation of a walker's random step, in sides of its view.
        warmup_steps: training steps over which α grows linearly to its value.
        start: where walkers begin, ``uniform`` or at ``edges``.
        explore: share of the rays, the last ones, that is drawn uniformly each step.
        idle: share of the rays with the least error, which start again from an edge (chance by
            Sobel magnitude) each step, as do the walkers that left their view.
    """

    wants_gradient = True
    place: Tensor
    drift: Tensor
    idle_now: Tensor
    born: Tensor
    edge_cdf: Tensor

    def __init__(
        self,
        *,
        n: int = 1024,
        alpha: float = 0.6,
        step_size: float = 20.0,
        noise: float = 0.02,
        warmup_steps: int = 600,
        start: Literal["uniform", "edges"] = "uniform",
        explore: float = 0.1,
        idle: float = 0.1,
        images: Tensor,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("explore", explore), ("idle", idle)):
            in_range(name, value, 0, 1)
        in_range("step_size", step_size, 0, float("inf"))
        in_range("noise", noise, 0, 1)
        in_range("warmup_steps", warmup_steps, 0, float("inf"))
        self.views, self.rows, self.cols = images.shape[:3]
        self.n = enough(n, self.views, "views") // self.views * self.views
        all_pixels = self.views * self.rows * self.cols
        if self.n > all_pixels:
            raise UserError(
                f"got {self.n} walkers",
                f"wanted at most the {all_pixels} pixels there are",
                "set the selector's n lower",
            )
        self.alpha = alpha
        self.step_size = step_size
        self.noise = noise
        self.warmup_steps = warmup_steps
        self.start = start
        self.explorers = round(explore * self.n)
        self.idlers = round(idle * self.n)
        self.step = 0
        slope = pixel_maps.per_view(images, pixel_maps.sobel_magnitude)
        self.register_buffer("edge_cdf", cumulative(slope + 1e-5), persistent=False)
        self.register_buffer("place", torch.zeros(self.n, 2))
        self.register_buffer("drift", torch.zeros(self.n, 2))
        self.register_buffer("idle_now", torch.zeros(self.n, dtype=torch.bool))
        self.register_buffer("born", torch.tensor(False))

    def select(self, step: int, rng: Generator) -> Pixels:
        self.step = step
        device = rng.device
        view = torch.arange(self.n, device=device) % self.views
        anywhere = torch.rand((self.n, 2), generator=rng, device=device)
        edges = self._from_edges(view, rng)
        if bool(self.born):
            random_step = torch.randn((self.n, 2), generator=rng, device=device)
            place = self.place + self.drift + self.noise * random_step
            lost = self.idle_now | ~((place >= 0) & (place < 1)).all(-1)
            place = torch.where(lost[:, None], edges, place)
        else:
            place = edges if self.start == "edges" else anywhere
        explores = torch.arange(self.n, device=device) >= self.n - self.explorers
        place = torch.where(explores[:, None], anywhere, place)
        self.place.copy_(place)
        self.drift.zero_()
        self.idle_now.zero_()
        self.born.fill_(True)
        size = torch.tensor([self.rows, self.cols], device=device)
        yx = (place * size).floor().minimum(size - 1.0)
        return Pixels(view, yx, torch.ones(self.n, device=device))

    def _from_edges(self, view: Tensor, rng: Generator) -> Tensor:
        """A place [N, 2] in each view, with a chance that grows with the Sobel magnitude."""
        pixels = self.rows * self.cols
        u = torch.rand((3, self.n), generator=rng, device=rng.device, dtype=torch.float64)
        place = invert(self.edge_cdf, u[0], view * pixels, (view + 1) * pixels) % pixels
        y = (place // self.cols + u[1]) / self.rows
        x = (place % self.cols + u[2]) / self.cols
        return torch.stack([y, x], -1).float().clamp_max(1 - 1e-6)

    def weigh(self, pixels: Pixels, error: Tensor) -> Tensor:
        power = self.alpha
        if self.warmup_steps:
            power *= min(1.0, self.step / self.warmup_steps)
        weight = error.sqrt().clamp_min(1e-4).pow(-power)
        weight = weight.clamp_max(weight.mean() + weight.std(correction=0)).clamp_min(0.2)
        return weight / weight.mean()

    @torch.no_grad()
    def observe(self, pixels: Pixels, error: Tensor, gradient: Tensor | None = None) -> None:
        if gradient is None:
            raise ValueError("soft_mining needs the gradient of the error by the pixels' places")
        error = error.to(self.place)
        weight = pixels.weight.to(self.place)
        slope = gradient.to(self.place) / (weight * error).clamp_min(1e-8)[:, None]
        self.drift.copy_((self.step_size / PUBLIC_BATCH * slope).nan_to_num(0.0, 0.0, 0.0))
        self.idle_now.zero_()
        if self.idlers:
            self.idle_now[error.topk(self.idlers, largest=False).indices] = True
