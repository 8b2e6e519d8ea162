"""The task of learning a prior: codes of known patients through one generator, and an adversary for
the space between them.

Three terms share the generator. *Volume*: density at random points against each patient's volume,
the cheapest teacher (a point is a target; a ray costs dozens). *Rays*: line integrals of random
pixels against the DRRs, what is scored. *Adversary*: patches of random patients against patches of
real DRRs at the same angles, judged by a DAG discriminator. ``objective`` chooses: ``posed`` is the
first two, ``gan`` the last, ``hybrid`` all.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from ..core.types import Pixels, Rays
from ..engine.checkpoint import (
    ema_update,
    optimiser_tensors,
    restore_optimiser,
    seeded_generator,
    set_rng_state,
    strip_prefix,
    with_prefix,
)
from ..engine.distributed import (
    BatchShard,
    Ranks,
    RngSnapshot,
    mean_of,
)
from ..engine.loop import TASKS, Task
from ..engine.optim import in_one_pass, on_gpu
from ..fields.hyper import SHARP_EDGE
from ..gan.augment.apply import augmented
from ..gan.discriminator import Discriminator
from ..gan.generator import POSE_DIM, HyperGenerator, Latent
from ..gan.losses import nonsaturating_d, nonsaturating_g, r1_penalty
from ..imaging.geometry import Geometry
from ..rays.render import IMAGE_MODELS, Level, render
from ..rays.selectors.base import sample_bilinear
from ..rays.selectors.patches import StridedPatch
from ..rays.selectors.uniform import RandomRays
from . import previews
from .distributed import agree_precision, group_size_note, keep_precision, random_patients
from .training_volumes import TrainingVolumes

# Field units over which a scan ends, above and below, at the start of a training: a soft end lets
# patients be moved along the axis.
SOFT_EDGE = 0.15


@dataclass(frozen=True)
class PosedModules:
    """What a recipe's other nodes build for the task."""

    generator: HyperGenerator
    discriminator: Discriminator
    augment: Any
    probability: Any
    levels: list[Level]


@TASKS.register("prior")
class PriorTask(Task):
    """Fits the generator; ``step`` is one optimiser step and returns what to log.

    The last ``ray_share`` of the steps learn from rays, those before from volumes; from
    ``gan_start`` of the way on, every ``gan_interval``-th step is adversarial. ``learning_rate``
    falls along a cosine; codes have their own rate. A batch is computed in ``accumulate`` parts,
    one after the other, which takes so much less memory and changes nothing else.
    """

    def __init__(
        self,
        *,
        objective: Literal["gan", "posed", "hybrid"] = "hybrid",
        image_model: str = "line_integral",
        batch: int = 16,
        points: int = 768,
        rays: int = 96,
        ray_share: float = 0.25,
        learning_rate: float = 2e-3,
        code_rate: float = 1e-2,
        code_noise: float = 0.05,
        code_penalty: float = 1e-4,
        gan_start: float = 0.7,
        gan_interval: int = 4,
        gan_batch: int = 4,
        gan_weight: float = 2e-3,
        d_rate: float = 2e-3,
        r1_gamma: float = 0.5,
        r1_interval: int = 16,
        ema_steps: float = 50.0,
        accumulate: int = 1,
        parts: PosedModules,
        targets: TrainingVolumes,
        geometry: Geometry,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.objective, self.batch, self.points, self.rays = (
            objective,
            min(batch, len(targets.images)),
            points,
            rays,
        )
        self.ray_share, self.gan_start, self.gan_interval = ray_share, gan_start, gan_interval
        self.code_noise, self.code_penalty = code_noise, code_penalty
        self.gan_batch, self.gan_weight = gan_batch, gan_weight
        self.r1_gamma, self.r1_interval, self.ema_steps = r1_gamma, r1_interval, ema_steps
        self.accumulate, self.ranks = accumulate, Ranks()
        self.parts, self.targets, self.geometry, self.device = (
            parts,
            targets.to(device),
            geometry,
            device,
        )
        self.image_model = IMAGE_MODELS[image_model]
        self.rng = Generator().manual_seed(seed)  # choices: the same on every device
        self.ray_rng = seeded_generator(device, seed)  # jitter along rays, made where it is used
        g, patients, views = parts.generator, len(targets.images), geometry.views
        code = torch.randn(patients, g.code_dim, generator=self.rng) * 0.3
        self.codes = nn.Parameter(torch.cat([code, torch.zeros(patients, POSE_DIM)], 1).to(device))
        self.log_gains = nn.Parameter(targets.log_gains.clone().to(device))
        self.log_distance = nn.Parameter(targets.distance.log().to(device))
        self.ema = copy.deepcopy(g).requires_grad_(False)
        self.angles_deg = torch.tensor(geometry.angles_deg, device=device)
        shape = {"views": views, "rows": geometry.rows, "cols": geometry.cols}
        self.pixels = RandomRays(n=self.batch * rays, **shape)
        self.patches = StridedPatch(size=parts.discriminator.size, **shape)
        view_rates = [
            {"params": [self.log_gains], "peak": 1e-3 * targets.per_view_scale},
            {"params": [self.log_distance], "peak": 1e-3 * targets.per_view_scale},
        ]
        self.g_optimiser = torch.optim.Adam(
            [
                {"params": list(g.parameters()), "peak": learning_rate},
                {"params": [self.codes], "peak": code_rate},
                *view_rates,
            ],
            lr=learning_rate,
            betas=(0.9, 0.99),
            fused=on_gpu(g.parameters()),
        )
        # Karras et al. 2020: what a lazily applied penalty does to Adam's constants
        lazy = r1_interval / (r1_interval + 1)
        self.d_optimiser = torch.optim.Adam(
            parts.discriminator.parameters(),
            lr=d_rate * lazy,
            betas=(0.0, 0.99**lazy),
            fused=on_gpu(parts.discriminator.parameters()),
        )
        self.gan_steps = 0

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Share every batch with other processes; answers what is worth knowing about that."""
        sizes = {"posed": {"task.batch": self.batch}, "gan": {"task.gan_batch": self.gan_batch}}
        ranks.check_divisible(
            sizes.get(self.objective, sizes["posed"] | sizes["gan"]), self.accumulate
        )
        self.ranks = ranks
        agree_precision(ranks, self.parts.generator, self.ema)
        if ranks.world_size > 1:
            in_one_pass(self.g_optimiser, self.d_optimiser)
        remarks = [f"precision {self.parts.generator.precision}"]
        if self.objective == "posed":
            return remarks
        parts = ranks.world_size * self.accumulate
        return remarks + group_size_note(self.parts.discriminator, self.gan_batch, parts)

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step at ``progress`` in [0, 1] through the training."""
        g = self.parts.generator
        edge = max(SHARP_EDGE, SOFT_EDGE * (1 - 2 * progress))
        rate = min(1.0, (index + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 0.01
        for group in self.g_optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        adversarial = self.objective == "gan" or (
            self.objective == "hybrid"
            and progress >= self.gan_start
            and index % self.gan_interval == 0
        )
        logged = {"rate": rate}
        if self.objective != "gan":
            logged |= self._posed(by_rays=progress >= 1 - self.ray_share, edge=edge)
        if adversarial:
            logged |= self._adversarial(edge)
        self.ranks.average_gradients(
            p for group in self.g_optimiser.param_groups for p in group["params"]
        )
        nn.utils.clip_grad_norm_(g.parameters(), 1.0, foreach=True)
        self.g_optimiser.step()
        self.g_optimiser.zero_grad(set_to_none=True)
        keep = min(0.5 ** (1 / self.ema_steps), (index + 1) / (index + 10))
        ema_update(self.ema, g, keep)
        return logged

    def _posed(self, *, by_rays: bool, edge: float) -> dict[str, float]:
        """Gradient of one posed batch."""
        g, k, losses, name = (
            self.parts.generator,
            self.accumulate,
            [],
            "ray_mse" if by_rays else "volume_mse",
        )
        for share in self.ranks.shards(k, self.rng, self.ray_rng):
            ids = share.take(torch.randperm(len(self.codes), generator=self.rng)[: self.batch]).to(
                self.device
            )
            u = self.codes[ids]
            noise = self.code_noise * share.take(
                torch.randn(self.batch, g.code_dim, generator=self.rng)
            ).to(u)
            latent = Latent(g.map(u[:, : g.code_dim] + noise), u[:, g.code_dim :])
            code = g.weights(latent, edge=edge)
            if by_rays:
                loss = self._ray_loss(ids, code, share)
            else:
                x = share.take(
                    cylinder_points(self.batch, self.points, g.field.support, self.rng)
                ).to(self.device)
                loss = (g.field.density(x, code) - self.targets.values_at(ids, x)).square().mean()
            penalty = self.code_penalty * u.square().sum(1).mean() / 8
            ((loss * (10 if by_rays else 1) + penalty) / k).backward()
            losses.append({name: float(loss.detach())})
        return mean_of(losses)

    def _ray_loss(self, ids: Tensor, code: Any, share: BatchShard) -> Tensor:
        """Squared error of random pixels of these patients, rendered with each patient's own gains
        and distance.
        """
        pixels, shape = self.pixels.select(0, self.rng), (self.batch, self.rays)
        view, yx = (
            share.take(rows).to(self.device)
            for rows in (pixels.view.view(shape), pixels.yx.view(*shape, 2))
        )
        rays = self._rays(view, yx, self.log_distance[ids].exp()[:, None])
        image = self._image(rays, code, share) * self.log_gains[ids].gather(1, view).exp()
        truth = self.targets.images[
            ids[:, None], view, yx[..., 0].long(), yx[..., 1].long()
        ].float()
        return (image - truth).square().mean()

    def _rays(self, view: Tensor, yx: Tensor, distance: Tensor) -> Rays:
        return self.geometry.field_rays(
            self.angles_deg[view], yx, distance, self.parts.generator.field.support
        )

    def _image(self, rays: Rays, code: Any, share: BatchShard) -> Tensor:
        levels = share.levels(self.parts.levels)
        rendered = render(
            rays,
            self.parts.generator.field,
            levels,
            image_model=self.image_model,
            code=code,
            rng=self.ray_rng,
        )
        return rendered[-1].rendering.image.mean(-1)

    def _patches(self, share: BatchShard, edge: float) -> tuple[Tensor, Tensor]:
        """Patches of real views, and of random patients seen from there: [B, 1, n, n] each."""
        g, n, size = self.parts.generator, self.gan_batch, self.parts.discriminator.size
        ids = share.take(torch.randint(len(self.codes), (n,), generator=self.rng)).to(self.device)
        picked = self.patches.patches(n, 0, self.rng)
        view, yx, weight = (
            share.take(rows).to(self.device) for rows in (picked.view, picked.yx, picked.weight)
        )
        every = self.targets.images.flatten(0, 1)
        reals = sample_bilinear(
            every, Pixels(ids[:, None] * self.geometry.views + view, yx, weight)
        ).float()
        reals = reals.view(-1, 1, size, size)
        code = g.weights(random_patients(g, n, share, self.rng), edge=edge)
        rays = self._rays(view, yx, self.log_distance.detach()[ids].exp()[:, None])
        fakes = self._image(rays, code, share).view_as(reals)
        if self.targets.per_view_scale:
            fakes = fakes * self.log_gains.detach()[ids[:, None], view].exp().view_as(fakes)
        return reals, fakes

    def _discriminate(self, images: Tensor, share: BatchShard) -> Tensor:
        """Logits of augmented pictures, per head."""
        drawn = self.parts.augment.draw(
            self.gan_batch, tuple(images.shape[1:]), self.parts.probability.p, self.rng
        )
        return self.parts.discriminator(
            augmented(images, drawn.rows(share.rows(self.gan_batch)))
        ).heads

    def _discriminator_loss(
        self, reals: Tensor, fakes: Tensor, share: BatchShard
    ) -> tuple[Tensor, dict[str, float], Tensor]:
        """What the discriminator minimises, what to log of it, and the first head's logits of the
        reals.
        """
        discriminator = self.parts.discriminator
        real_heads = self._discriminate(reals, share)
        loss = nonsaturating_d(
            real_heads, self._discriminate(fakes, share), discriminator.dag_weight
        ).mean()
        logged = {
            "d_loss": float(loss.detach()),
            "r_t": float(real_heads[:, 0].detach().sign().mean()),
        }
        if self.gan_steps % self.r1_interval == 0:
            exact = reals.requires_grad_(True)
            penalty = r1_penalty(discriminator(exact, heads=1).heads[:, 0], exact).mean()
            loss = loss + 0.5 * self.r1_gamma * self.r1_interval * penalty
            logged["r1"] = float(penalty.detach())
        return loss, logged, real_heads[:, 0].detach()

    def _adversarial(self, edge: float) -> dict[str, float]:
        """One discriminator step, then the generator's gradient."""
        discriminator, ranks, k, probability = (
            self.parts.discriminator,
            self.ranks,
            self.accumulate,
            self.parts.probability,
        )
        if self.gan_steps % 50 == 0 and self.objective != "gan":
            self.parts.generator.fit_prior(self.codes.detach())
        start, logged, logits, g_losses = RngSnapshot(self.rng, self.ray_rng), [], [], []
        discriminator.requires_grad_(True)
        self.d_optimiser.zero_grad(set_to_none=True)
        for share in ranks.shards(k, self.rng, self.ray_rng, discriminator):
            with torch.set_grad_enabled(k == 1):
                reals, fakes = self._patches(share, edge)
            d_loss, numbers, real_logits = self._discriminator_loss(reals, fakes.detach(), share)
            (d_loss / k).backward()
            logged.append(numbers)
            logits.append(real_logits)
        ranks.average_gradients(discriminator.parameters())
        self.d_optimiser.step()
        probability.observe(ranks.all_gather(torch.cat(logits)))
        discriminator.requires_grad_(False)
        weight = 1.0 if self.objective == "gan" else self.gan_weight
        for share in ranks.shards(k, self.rng, discriminator):
            if k > 1:  # one part's graph at a time: made again, of the same numbers
                with start.replayed():
                    _, fakes = self._patches(share, edge)
            g_loss = nonsaturating_g(
                self._discriminate(fakes, share), discriminator.dag_weight
            ).mean()
            (weight * g_loss / k).backward()
            g_losses.append({"g_loss": float(g_loss.detach())})
        self.gan_steps += 1
        return (
            mean_of(logged)
            | {"p": probability.p, "kimg": self.gan_steps * self.gan_batch / 1000}
            | mean_of(g_losses)
        )

    @torch.no_grad()
    def finished(self) -> HyperGenerator:
        """The averaged generator with the latent prior of its patients."""
        ema = copy.deepcopy(self.ema)
        if self.objective != "gan":
            ema.fit_prior(self.codes.detach())
        return ema

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a continued run needs: named tensors, and plain values."""
        p = self.parts
        tensors = with_prefix("model", p.generator.state_dict()) | with_prefix(
            "ema", self.finished().state_dict()
        )
        tensors |= with_prefix("discriminator", p.discriminator.state_dict()) | with_prefix(
            "running_ema", self.ema.state_dict()
        )
        tensors |= {
            "codes": self.codes,
            "log_gains": self.log_gains,
            "log_distance": self.log_distance,
        }
        tensors |= {"rng": self.rng.get_state(), "ray_rng": self.ray_rng.get_state()}
        tensors |= with_prefix("optim.generator", optimiser_tensors(self.g_optimiser))
        tensors |= with_prefix("optim.discriminator", optimiser_tensors(self.d_optimiser))
        precision = p.generator.precision
        state = {
            "gan_steps": self.gan_steps,
            "probability": p.probability.state(),
            "precision": precision,
        }
        return tensors, {"task_state": state, "precision": precision, **self.fitted()}

    def fitted(self) -> dict[str, Any]:
        """What was fitted beside the generator and a prior needs: the source distance and each
        view's mean gain.
        """
        found: dict[str, Any] = {"distance": float(self.log_distance.detach().median().exp())}
        if self.targets.per_view_scale:
            found["log_gain_profile"] = self.log_gains.detach().mean(0).tolist()
        return found

    def pictures(self, index: int) -> dict[str, Tensor]:
        """Reals, fakes and a turning fake, for the board."""
        return previews.radiographs(
            self.finished(), self.targets.images, self.geometry, self.fitted()["distance"]
        )

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.parts.generator.load_state_dict(strip_prefix("model", tensors))
        self.parts.discriminator.load_state_dict(strip_prefix("discriminator", tensors))
        self.ema.load_state_dict(strip_prefix("running_ema", tensors))
        with torch.no_grad():
            for name in ("codes", "log_gains", "log_distance"):
                getattr(self, name).copy_(tensors[name])
        set_rng_state(self.rng, tensors["rng"])
        set_rng_state(self.ray_rng, tensors["ray_rng"])
        restore_optimiser(self.g_optimiser, strip_prefix("optim.generator", tensors))
        restore_optimiser(self.d_optimiser, strip_prefix("optim.discriminator", tensors))
        self.gan_steps = meta["gan_steps"]
        self.parts.probability.load(meta["probability"])
        keep_precision(meta, self.parts.generator, self.ema)


def cylinder_points(
    batch: int, n: int, radius: float, rng: Generator, *, half_height: float = 1.15
) -> Tensor:
    """Points spread evenly over the support cylinder, [B, N, 3]."""
    u = torch.rand(batch, n, 3, generator=rng)
    r, a = radius * u[..., 0].sqrt(), 2 * math.pi * u[..., 1]
    return torch.stack([r * a.cos(), r * a.sin(), (2 * u[..., 2] - 1) * half_height], -1)
