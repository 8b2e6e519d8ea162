"""The task of learning a prior from pictures alone: a generator against a discriminator, with no
pose and no volume to lean on.

This is the line of GRAF, MedNeRF and HyperNeRFGAN: any generator, discriminator, loss, optimiser,
patch selection and augmentation of the registries. What the recipes of this task are made of, and
how they are checked, stands in :mod:`.published`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from ..core.errors import UserError
from ..core.types import DiscriminatorOutput, FieldOutput, Pixels
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
from ..engine.optim import GanOptimizers, in_one_pass
from ..fields.coloured import ColouredField
from ..gan.augment.apply import augmented
from ..gan.discriminator import Discriminator
from ..gan.generator import PatientGenerator
from ..gan.losses import AdversarialLoss, combined, r1_penalty
from ..imaging.geometry import Geometry
from ..metrics.perceptual import Perceptual
from ..rays.render import Level
from ..rays.selectors.base import PatchSelector, sample_bilinear
from . import previews
from .cameras import Poses, ViewGain
from .distributed import agree_precision, group_size_note, keep_precision, random_patients
from .rendering import Renderer, physics


@dataclass(frozen=True)
class Reals:
    """The pictures to be learned from."""

    images: Tensor  # [N, rows, cols, C] float16 in [0, 1]
    angles_deg: Tensor | None = None  # [N] where they are known

    def to(self, device: torch.device) -> Reals:
        """The same on a device."""
        return Reals(
            self.images.to(device), None if self.angles_deg is None else self.angles_deg.to(device)
        )

    def mirrored(self) -> Reals:
        """Twice as many: each also with its columns reversed (of a view from the opposite side,
        angles lose their sense).
        """
        return Reals(torch.cat([self.images, self.images.flip(2)]))


@dataclass(frozen=True)
class GanModules:
    """What a recipe's other nodes build for the task."""

    generator: PatientGenerator
    discriminator: Discriminator
    loss: AdversarialLoss
    optimisers: GanOptimizers
    patch: PatchSelector
    augment: Any
    probability: Any
    perceptual: Perceptual
    levels: Sequence[Level]
    poses: Poses


@dataclass(frozen=True)
class Noisy:
    """A coloured field whose density is blurred by normal noise before its ReLU, so that empty
    space can learn to fill.
    """

    field: ColouredField
    std: float
    rng: Generator
    share: BatchShard

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any) -> FieldOutput:
        noise = self.std * self.share.randn(dt.shape, self.rng)
        return self.field.evaluate(x, d, dt, code, noise)


@TASKS.register("adversarial")
class AdversarialTask(Task):
    """Plays the game; ``step`` is one step of the discriminator and one of the generator on the
    same fakes.

    ``r1_gamma`` is as published, for pictures in [−1, 1] (a quarter of it acts on ours, in [0, 1]),
    applied every ``r1_interval`` steps and weighted accordingly; 0 leaves it out. ``density_noise``
    falls linearly to 0 over ``density_noise_steps`` (null: stays). The average that is kept has a
    half-life of ``ema_kimg`` thousand pictures, at first ``ema_ramp`` of those seen. ``view_gain``
    orders of a gain that pictures have by their azimuth are learned too
    (:class:`~mednerf_kit.prior.cameras.ViewGain`). ``accumulate`` parts of a batch are computed one
    after the other, which takes so much less memory and changes nothing else; the generator's
    pictures are then rendered twice, once for the discriminator and once for its own gradient.
    """

    def __init__(
        self,
        *,
        image_model: Literal[
            "line_integral", "transmission", "emission_absorption"
        ] = "line_integral",
        background: float = 0.0,
        batch: int = 4,
        density_noise: float = 1.0,
        density_noise_steps: int | None = None,
        r1_gamma: float = 0.5,
        r1_interval: int = 16,
        ema_kimg: float = 20.0,
        ema_ramp: float | None = 0.05,
        view_gain: int = 0,
        accumulate: int = 1,
        parts: GanModules,
        reals: Reals,
        geometry: Geometry,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.parts, self.geometry, self.device = parts, geometry, torch.device(device)
        self.reals = reals.to(self.device)
        self.batch, self.r1_gamma, self.r1_interval = batch, r1_gamma, r1_interval
        self.density_noise, self.density_noise_steps = density_noise, density_noise_steps
        self.ema_kimg, self.ema_ramp, self.accumulate, self.ranks = (
            ema_kimg,
            ema_ramp,
            accumulate,
            Ranks(),
        )
        self.renderer = Renderer(parts.levels, physics(image_model, background), parts.poses)
        self.channels = 3 if parts.generator.field_outputs == 4 else 1
        self.rng = Generator().manual_seed(seed)  # choices: the same on every device
        # jitter and noise along rays, made where they are used
        self.ray_rng = seeded_generator(self.device, seed)
        self.ema = copy.deepcopy(parts.generator).requires_grad_(False)
        self.gain = ViewGain(view_gain).to(self.device)
        if view_gain:
            rate = parts.optimisers.generator.param_groups[0]["peak"]
            parts.optimisers.generator.add_param_group(
                {"params": list(self.gain.parameters()), "peak": rate}
            )

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Share every batch with other processes; answers what is worth knowing about that."""
        parts = ranks.world_size * self.accumulate
        ranks.check_divisible({"task.batch": self.batch}, self.accumulate)
        if parts > 1 and getattr(self.parts.loss, "batch_mean", False):
            raise UserError(
                f"got compat.batch_mean_hinge for a batch in {parts} parts",
                "wanted it whole, to take its mean",
                "train in one process with task.accumulate=1",
            )
        self.ranks = ranks
        agree_precision(ranks, self.parts.generator, self.ema)
        if ranks.world_size > 1:
            in_one_pass(self.parts.optimisers.generator, self.parts.optimisers.discriminator)
        remarks = [f"precision {self.parts.generator.precision}"]
        return remarks + group_size_note(self.parts.discriminator, self.batch, parts)

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step of the discriminator, then one of the generator."""
        p, ranks, k = self.parts, self.ranks, self.accumulate
        p.optimisers.at(index)
        p.patch.advance(progress)
        start, logged, logits, g_losses = RngSnapshot(self.rng, self.ray_rng), [], [], []
        p.discriminator.requires_grad_(True)
        p.optimisers.discriminator.zero_grad(set_to_none=True)
        for share in ranks.shards(k, self.rng, self.ray_rng, p.discriminator):
            reals, real_angles = self._draw_reals(index, share)
            with torch.set_grad_enabled(k == 1):
                fakes, fake_angles = self._draw_fakes(index, share)
            d_loss, numbers, real_logits = self._discriminator_loss(
                reals, real_angles, fakes.detach(), fake_angles, index, share
            )
            (d_loss / k).backward()
            logged.append(numbers)
            logits.append(real_logits)
        ranks.average_gradients(p.discriminator.parameters())
        p.optimisers.discriminator.step()
        p.probability.observe(ranks.all_gather(torch.cat(logits)))
        p.discriminator.requires_grad_(False)
        p.optimisers.generator.zero_grad(set_to_none=True)
        for share in ranks.shards(k, self.rng, p.discriminator):
            if k > 1:  # one part's graph at a time: made again, of the same numbers
                with start.replayed():
                    self._draw_reals(index, share)
                    fakes, fake_angles = self._draw_fakes(index, share)
            g_loss = p.loss.generator(
                self._discriminate(fakes, fake_angles, share).heads, p.discriminator.dag_weight
            ).mean()
            (g_loss / k).backward()
            g_losses.append({"g_loss": float(g_loss.detach())})
        ranks.average_gradients([*p.generator.parameters(), *self.gain.parameters()])
        p.optimisers.generator.step()
        ema_update(self.ema, p.generator, self._keep(index))
        return {**mean_of(logged), **mean_of(g_losses), "kimg": (index + 1) * self.batch / 1000}

    def _keep(self, index: int) -> float:
        """What the average keeps of itself at a step."""
        images = 1000 * self.ema_kimg
        if self.ema_ramp is not None:
            images = min(images, index * self.batch * self.ema_ramp)
        return 0.5 ** (self.batch / max(images, 1e-8))

    def _draw_reals(self, index: int, share: BatchShard) -> tuple[Tensor, Tensor | None]:
        """Patches of random pictures [B, C, n, n], and their angles."""
        chosen, size = self._patches(index, share), self.parts.discriminator.size
        values = sample_bilinear(self.reals.images, chosen).float()
        images = values.movedim(-1, 1).unflatten(-1, (size, size)).expand(-1, self.channels, -1, -1)
        return images, None if self.reals.angles_deg is None else self.reals.angles_deg[
            chosen.view[:, 0]
        ]

    def _patches(self, index: int, share: BatchShard) -> Pixels:
        """A share of a batch of patches, on the device."""
        chosen = self.parts.patch.patches(self.batch, index, self.rng)
        return Pixels(
            *(share.take(rows).to(self.device) for rows in (chosen.view, chosen.yx, chosen.weight))
        )

    def _draw_fakes(self, index: int, share: BatchShard) -> tuple[Tensor, Tensor]:
        """Patches of random scenes from random poses [B, C, n, n], and their azimuths."""
        g, size = self.parts.generator, self.parts.discriminator.size
        poses = share.take(self.renderer.poses.draw(self.batch, self.rng)).to(self.device)
        yx = self._patches(index, share).yx
        code = g.weights(random_patients(g, self.batch, share, self.rng))
        rays = self.renderer.poses.rays(self.geometry, poses, yx, g.field.support)
        renderer = replace(self.renderer, levels=share.levels(self.renderer.levels))
        images = (
            renderer.image(self._seen(index, share), rays, code, self.ray_rng)
            * self.gain(poses[:, 0])[:, None, None]
        )
        return images.movedim(-1, 1).unflatten(-1, (size, size)), poses[:, 0]

    def _seen(self, index: int, share: BatchShard) -> Any:
        """The generator's field, with this step's noise."""
        field = self.parts.generator.field
        left = (
            1.0
            if self.density_noise_steps is None
            else max(0.0, 1 - index / max(1, self.density_noise_steps))
        )
        std = self.density_noise * left
        return (
            Noisy(field, std, self.ray_rng, share)
            if std > 0 and isinstance(field, ColouredField)
            else field
        )

    def _discriminate(
        self, images: Tensor, angles_deg: Tensor | None, share: BatchShard, **options: Any
    ) -> DiscriminatorOutput:
        """The verdict on augmented pictures."""
        drawn = self.parts.augment.draw(
            self.batch, tuple(images.shape[1:]), self.parts.probability.p, self.rng
        )
        return self.parts.discriminator(
            augmented(images, drawn.rows(share.rows(self.batch))), angles_deg, **options
        )

    def _discriminator_loss(
        self,
        reals: Tensor,
        real_angles: Tensor | None,
        fakes: Tensor,
        fake_angles: Tensor,
        index: int,
        share: BatchShard,
    ) -> tuple[Tensor, dict[str, float], Tensor]:
        """What the discriminator minimises, what to log of it, and the first head's logits of the
        reals.
        """
        p, discriminator = self.parts, self.parts.discriminator
        decodes = getattr(discriminator, "decodes", False)
        verdict = self._discriminate(
            reals, real_angles, share, **({"rng": self.rng} if decodes else {})
        )
        u = float(torch.rand((), generator=self.rng))
        loss = p.loss.discriminator(
            verdict.heads,
            self._discriminate(fakes, fake_angles, share).heads,
            discriminator.dag_weight,
            u,
        ).mean()
        logged = {
            "d_loss": float(loss.detach()),
            "r_t": float(verdict.heads[:, 0].detach().sign().mean()),
            "p": p.probability.p,
        }
        if decodes:
            off = combined(
                self._redrawn(verdict, "whole") + self._redrawn(verdict, "part"),
                discriminator.dag_weight,
            ).mean()
            loss = loss + off
            logged["redraw"] = float(off.detach())
        if self.r1_gamma > 0 and index % self.r1_interval == 0:
            exact = reals.detach().clone().requires_grad_(True)
            penalty = (
                r1_penalty(discriminator(exact, real_angles, heads=1).heads[:, 0], exact).mean() / 4
            )
            loss = loss + 0.5 * self.r1_gamma * self.r1_interval * penalty
            logged["r1"] = float(penalty.detach())
        return loss, logged, verdict.heads[:, 0].detach()

    def _redrawn(self, verdict: DiscriminatorOutput, name: str) -> Tensor:
        """How different what the discriminator drew looks from what it saw, per picture and head
        [B, K].
        """
        drawn, wanted = verdict.extras[name], verdict.extras[f"{name}_target"]
        return (
            self.parts.perceptual(drawn.flatten(0, 1), wanted.flatten(0, 1))
            .unflatten(0, drawn.shape[:2])
            .T
        )

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a continued run needs, and what a prior needs: named tensors, and plain
        values.
        """
        p = self.parts
        tensors = with_prefix("model", p.generator.state_dict()) | with_prefix(
            "ema", self.ema.state_dict()
        )
        tensors |= with_prefix("discriminator", p.discriminator.state_dict())
        tensors |= with_prefix("optim.generator", optimiser_tensors(p.optimisers.generator))
        tensors |= with_prefix("optim.discriminator", optimiser_tensors(p.optimisers.discriminator))
        tensors |= {"rng": self.rng.get_state(), "ray_rng": self.ray_rng.get_state()}
        tensors |= {"codes": torch.zeros(0, p.generator.latent_dim)} | with_prefix(
            "gain", self.gain.state_dict()
        )
        precision = p.generator.precision
        state = {"probability": p.probability.state(), "precision": precision}
        return tensors, {"task_state": state, "precision": precision, **self.fitted()}

    def fitted(self) -> dict[str, Any]:
        """What a prior needs beside the generator: the source distance, and each view's gain where
        it is learned.
        """
        found: dict[str, Any] = {"distance": self.geometry.distance}
        if self.gain.orders:
            angles = torch.tensor(self.geometry.angles_deg, device=self.device)
            found["log_gain_profile"] = self.gain.log(angles).detach().tolist()
        return found

    def pictures(self, index: int) -> dict[str, Tensor]:
        """Reals, fakes and a turning fake, for the board."""
        return previews.marched(self.ema, self.renderer, self.reals.images, self.geometry)

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        p = self.parts
        p.generator.load_state_dict(strip_prefix("model", tensors))
        self.ema.load_state_dict(strip_prefix("ema", tensors))
        p.discriminator.load_state_dict(strip_prefix("discriminator", tensors))
        self.gain.load_state_dict(strip_prefix("gain", tensors))
        restore_optimiser(p.optimisers.generator, strip_prefix("optim.generator", tensors))
        restore_optimiser(p.optimisers.discriminator, strip_prefix("optim.discriminator", tensors))
        set_rng_state(self.rng, tensors["rng"])
        set_rng_state(self.ray_rng, tensors["ray_rng"])
        p.probability.load(meta["probability"])
        keep_precision(meta, p.generator, self.ema)
