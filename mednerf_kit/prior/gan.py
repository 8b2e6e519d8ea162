"""The task that learns a prior from pictures alone: a generator against a discriminator.

There is no pose and no volume to lean on.

This is the line of GRAF, MedNeRF and HyperNeRFGAN: any generator, discriminator, loss, optimiser,
patch selection and augmentation of the registries. What its recipes are made of, and how they are
checked, stands in :mod:`.gan_setup`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..core.errors import UserError
from ..core.types import DiscriminatorOutput, FieldOutput, Pixels
from ..engine.distributed import BatchShard, Ranks
from ..engine.loop import TASKS, Task
from ..engine.snapshots import (
    ema_update,
    optimiser_tensors,
    restore_optimiser,
    seeded_generator,
    strip_prefix,
    with_prefix,
)
from ..fields.coloured import ColouredField
from ..gan.augment.parameters import Augment
from ..gan.discriminator import Discriminator
from ..gan.generator import PatientGenerator
from ..gan.losses import AdversarialLoss, combined
from ..gan.optimisers import GanOptimizers
from ..imaging.geometry import Geometry
from ..metrics.perceptual import Perceptual
from ..rays.render import Level
from ..rays.selectors.base import PatchSelector, sample_bilinear
from . import previews
from .cameras import CameraDistribution, ViewGain
from .distributed import agree_precision, group_size_note, keep_precision, random_patients
from .gan_step import GanStep, Patches, Penalty, lazy_r1
from .options import GanOptions
from .rendering import Renderer, image_model_of


@dataclass(frozen=True)
class Reals:
    """The pictures to be learned from."""

    images: Tensor  # [N, rows, cols, C] float16 in [0, 1]
    angles_deg: Tensor | None = None  # [N] where they are known

    def to(self, device: torch.device) -> Reals:
        """The same on a device."""
        angles_deg = None if self.angles_deg is None else self.angles_deg.to(device)
        return Reals(self.images.to(device), angles_deg)

    def mirrored(self) -> Reals:
        """Twice as many: each also with its columns reversed.

        Angles lose their sense, for a mirrored picture is the view from the opposite side.
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
    augment: Augment
    probability: Any
    perceptual: Perceptual
    levels: Sequence[Level]
    cameras: CameraDistribution


@dataclass(frozen=True)
class NoisyField:
    """A coloured field with normal noise on its density before the ReLU: empty space can learn."""

    field: ColouredField
    std: float
    rng: Generator
    shard: BatchShard

    def __call__(self, x: Tensor, d: Tensor | None, dt: Tensor, code: Any) -> FieldOutput:
        noise = self.std * self.shard.randn(dt.shape, self.rng)
        return self.field.evaluate(x, d, dt, code, noise)


@TASKS.register("adversarial")
class AdversarialTask(Task):
    """Plays a generator against a discriminator; a step trains both on the same fakes."""

    def __init__(
        self,
        options: GanOptions,
        *,
        parts: GanModules,
        reals: Reals,
        geometry: Geometry,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.options = options
        self.parts = parts
        self.geometry = geometry
        self.device = torch.device(device)
        self.reals = reals.to(self.device)
        self.ranks = Ranks()
        image_model = image_model_of(options.image_model, options.background)
        self.renderer = Renderer(parts.levels, image_model, parts.cameras)
        self.channels = 3 if parts.generator.field_outputs == 4 else 1
        self.rng = Generator().manual_seed(seed)  # choices: the same on every device
        # jitter and noise along rays, made where they are used
        self.ray_rng = seeded_generator(self.device, seed)
        self.ema = copy.deepcopy(parts.generator).requires_grad_(False)
        self.gain = ViewGain(options.view_gain).to(self.device)
        if options.view_gain:
            rate = parts.optimisers.generator.param_groups[0]["peak"]
            parts.optimisers.generator.add_param_group(
                {"params": list(self.gain.parameters()), "peak": rate}
            )
        self.gan_step = self._gan_step()

    def _gan_step(self) -> GanStep:
        """The game's two phases, with the penalties that the recipe asks for."""
        o, p = self.options, self.parts
        redraws = getattr(p.discriminator, "decodes", False)
        penalties = [Penalty("redraw", 1.0, 1, self._redraw_distance)] if redraws else []
        if o.r1_gamma > 0:
            penalties.append(
                lazy_r1(p.discriminator, gamma=o.r1_gamma, interval=o.r1_interval, share=1 / 4)
            )
        return GanStep(
            discriminator=p.discriminator,
            optimiser=p.optimisers.discriminator,
            loss=p.loss,
            penalties=penalties,
            augment=p.augment,
            probability=p.probability,
            batch=o.batch,
            accumulate=o.accumulate,
            rng=self.rng,
            ray_rng=self.ray_rng,
            draws_margin=True,
            redraws=redraws,
        )

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Share every batch with other processes; returns what is worth knowing about that."""
        o, p = self.options, self.parts
        parts = ranks.world_size * o.accumulate
        ranks.check_divisible({"task.batch": o.batch}, o.accumulate)
        if parts > 1 and getattr(p.loss, "batch_mean", False):
            raise UserError(
                f"got compat.batch_mean_hinge for a batch in {parts} parts",
                "wanted it whole, to take its mean",
                "train in one process with task.accumulate=1",
            )
        self.ranks = ranks
        agree_precision(ranks, p.generator, self.ema)
        remarks = [f"precision {p.generator.precision}"]
        return remarks + group_size_note(p.discriminator, o.batch, parts)

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step of the discriminator, then one of the generator."""
        p, logged = self.parts, {"p": self.parts.probability.p}
        p.optimisers.at(index)
        p.patch.advance(progress)
        p.optimisers.generator.zero_grad(set_to_none=True)
        logged |= self.gan_step(
            lambda shard: (self._draw_reals(index, shard), self._draw_fakes(index, shard)),
            index=index,
            ranks=self.ranks,
        )
        self.ranks.average_gradients([*p.generator.parameters(), *self.gain.parameters()])
        p.optimisers.generator.step()
        ema_update(self.ema, p.generator, self._keep(index))
        return logged | {"kimg": (index + 1) * self.options.batch / 1000}

    def _keep(self, index: int) -> float:
        """What the running average keeps of itself at a step."""
        o = self.options
        half_life = 1000 * o.ema_kimg
        if o.ema_ramp is not None:
            half_life = min(half_life, index * o.batch * o.ema_ramp)
        return 0.5 ** (o.batch / max(half_life, 1e-8))

    def _choose_pixels(self, index: int, shard: BatchShard) -> Pixels:
        """A part of a batch of patches, on the device."""
        chosen = self.parts.patch.patches(self.options.batch, index, self.rng)
        view, yx, weight = (
            shard.take(rows).to(self.device) for rows in (chosen.view, chosen.yx, chosen.weight)
        )
        return Pixels(view, yx, weight)

    def _draw_reals(self, index: int, shard: BatchShard) -> Patches:
        """Patches of random pictures."""
        pixels, size = self._choose_pixels(index, shard), self.parts.discriminator.size
        values = sample_bilinear(self.reals.images, pixels).float()
        images = values.movedim(-1, 1).unflatten(-1, (size, size))
        angles_deg = self.reals.angles_deg
        return Patches(
            images.expand(-1, self.channels, -1, -1),
            None if angles_deg is None else angles_deg[pixels.view[:, 0]],
        )

    def _draw_fakes(self, index: int, shard: BatchShard) -> Patches:
        """Patches of random patients seen by random cameras."""
        g, size, batch = self.parts.generator, self.parts.discriminator.size, self.options.batch
        cameras = self.renderer.cameras
        angles_deg = shard.take(cameras.draw(batch, self.rng)).to(self.device)
        yx = self._choose_pixels(index, shard).yx
        code = g.weights(random_patients(g, batch, shard, self.rng))
        rays = cameras.rays(self.geometry, angles_deg, yx, g.field.support)
        renderer = replace(self.renderer, levels=shard.levels(self.renderer.levels))
        azimuth_deg = angles_deg[:, 0]
        colours = renderer.image(self._training_field(index, shard), rays, code, self.ray_rng)
        colours = colours * self.gain(azimuth_deg)[:, None, None]
        return Patches(colours.movedim(-1, 1).unflatten(-1, (size, size)), azimuth_deg)

    def _training_field(self, index: int, shard: BatchShard) -> Any:
        """The generator's field, with this step's noise."""
        o, field = self.options, self.parts.generator.field
        left = 1.0
        if o.density_noise_steps is not None:
            left = max(0.0, 1 - index / max(1, o.density_noise_steps))
        std = o.density_noise * left
        if std > 0 and isinstance(field, ColouredField):
            return NoisyField(field, std, self.ray_rng, shard)
        return field

    def _redraw_distance(self, _: Patches, output: DiscriminatorOutput) -> Tensor:
        """How far the discriminator's drawings of the reals, whole and in part, are from them."""
        per_head = self._perceptual(output, "whole") + self._perceptual(output, "part")
        return combined(per_head, self.parts.discriminator.dag_weight).mean()

    def _perceptual(self, output: DiscriminatorOutput, name: str) -> Tensor:
        """Perceptual distance between a drawing and its model, per picture and head [B, K]."""
        drawn, wanted = output.extras[name], output.extras[f"{name}_target"]
        found = self.parts.perceptual(drawn.flatten(0, 1), wanted.flatten(0, 1))
        return found.unflatten(0, drawn.shape[:2]).T

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a continued run and a prior need: named tensors, and plain values."""
        p = self.parts
        tensors, values = self.gan_step.state()
        tensors |= with_prefix("model", p.generator.state_dict())
        tensors |= with_prefix("ema", self.ema.state_dict())
        tensors |= with_prefix("gain", self.gain.state_dict())
        tensors |= with_prefix("optim.generator", optimiser_tensors(p.optimisers.generator))
        tensors |= {"codes": torch.zeros(0, p.generator.latent_dim)}
        precision = p.generator.precision
        values |= {"precision": precision}
        return tensors, {"task_state": values, "precision": precision, **self.fitted()}

    def fitted(self) -> dict[str, Any]:
        """What a prior needs beside the generator: the source distance, and learned gains."""
        found: dict[str, Any] = {"distance": self.geometry.distance}
        if self.gain.orders:
            angles = torch.tensor(self.geometry.angles_deg, device=self.device)
            found["log_gain_profile"] = self.gain.log(angles).detach().tolist()
        return found

    def pictures(self, index: int) -> dict[str, Tensor]:
        """Reals, random patients and one of them turning, for TensorBoard."""
        return previews.ray_marched(self.ema, self.renderer, self.reals.images, self.geometry)

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        p = self.parts
        p.generator.load_state_dict(strip_prefix("model", tensors))
        self.ema.load_state_dict(strip_prefix("ema", tensors))
        self.gain.load_state_dict(strip_prefix("gain", tensors))
        self.gan_step.load(tensors, meta)
        restore_optimiser(p.optimisers.generator, strip_prefix("optim.generator", tensors))
        keep_precision(meta, p.generator, self.ema)
