"""The task that learns a prior from known patients: a code per patient, and an adversary.

Three terms share the generator. *Volume*: density at random points against each patient's volume,
the cheapest teacher (a point is a number to compare with; a ray costs dozens of points). *Rays*:
line integrals through random pixels against the DRRs, which is what is scored. *Adversary*: patches
of random and of known patients against patches of real DRRs at the same angles, judged by a
discriminator. Its gradient is a fixed share of that of the known patients at the generator's last
layer, whatever the two losses are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..core.types import Rays
from ..engine.distributed import BatchShard, Ranks, mean_of
from ..engine.loop import TASKS, Task
from ..engine.snapshots import (
    ema_update,
    optimiser_tensors,
    restore_optimiser,
    seeded_generator,
    strip_prefix,
    with_prefix,
)
from ..fields.hyper import SHARP_EDGE, MlpWeights
from ..gan.augment.parameters import Augment
from ..gan.discriminator import Discriminator
from ..gan.generator import POSE_DIM, HyperGenerator, Latent
from ..gan.losses import NonSaturating
from ..imaging.geometry import Geometry
from ..rays.render import IMAGE_MODELS, Level, render
from ..rays.selectors.patches import StridedPatch
from ..rays.selectors.uniform import RandomRays
from . import previews
from .detail import PATIENTS, detail_gains
from .distributed import agree_precision, group_size_note, keep_precision
from .gan_step import GanStep, Patches, lazy_r1
from .options import PosedOptions
from .posed_patches import PatchSource
from .training_volumes import TrainingVolumes, principal_codes

# Field units over which a scan ends, above and below, at the start of a training: a soft end lets
# patients be moved along the axis.
SOFT_EDGE = 0.15
WARM_UP_STEPS = 100
CODE_SIZE = 0.3  # root mean square of the numbers of a code at first
RAY_WEIGHT = 10.0  # of a ray's squared error against a point's
FIT_PRIOR_EVERY = 50  # adversarial steps between two fits of the codes' Gaussian


@dataclass(frozen=True)
class PosedModules:
    """What a recipe's other nodes build for the task."""

    generator: HyperGenerator
    discriminator: Discriminator
    augment: Augment
    probability: Any
    levels: list[Level]


@TASKS.register("prior")
class PriorTask(Task):
    """Fits a generator to patients whose volumes and views are known.

    A step is one of the generator's optimiser, with one of the discriminator's where it is
    adversarial.
    """

    def __init__(
        self,
        options: PosedOptions,
        *,
        parts: PosedModules,
        volumes: TrainingVolumes,
        geometry: Geometry,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.options = options
        self.parts = parts
        self.geometry = geometry
        self.device = device
        self.training = volumes.to(device)
        self.batch = min(options.batch, len(volumes.images))
        self.ranks = Ranks()
        self.image_model = IMAGE_MODELS[options.image_model]
        self.rng = Generator().manual_seed(seed)  # choices: the same on every device
        self.ray_rng = seeded_generator(device, seed)  # jitter along rays, made where it is used
        g, patients = parts.generator, len(volumes.images)
        code = torch.randn(patients, g.code_dim, generator=self.rng) * CODE_SIZE
        known = principal_codes(volumes.volumes, g.code_dim, CODE_SIZE)
        code[:, : known.shape[1]] = known
        self.codes = nn.Parameter(torch.cat([code, torch.zeros(patients, POSE_DIM)], 1).to(device))
        self.log_gains = nn.Parameter(volumes.log_gains.clone().to(device))
        self.log_distance = nn.Parameter(volumes.distance.log().to(device))
        self.ema = copy.deepcopy(g).requires_grad_(False)
        shape = {"views": geometry.views, "rows": geometry.rows, "cols": geometry.cols}
        self.pixels = RandomRays(n=self.batch * options.rays, **shape)
        self.patches = None if options.objective == "posed" else self._patch_source(shape)
        self.optimiser = self._generator_optimiser()
        self.gan_step = self._gan_step()
        self.gan_steps = 0

    def _generator_optimiser(self) -> torch.optim.Adam:
        """Adam on the generator, the codes, and gains and distances of views scaled one by one."""
        o, g = self.options, self.parts.generator
        view_rate = 1e-3 * self.training.per_view_scale
        groups = [
            {"params": list(g.parameters()), "peak": o.learning_rate},
            {"params": [self.codes], "peak": o.code_rate},
            {"params": [self.log_gains], "peak": view_rate},
            {"params": [self.log_distance], "peak": view_rate},
        ]
        return torch.optim.Adam(groups, lr=o.learning_rate, betas=(0.9, 0.99), fused=True)

    def _patch_source(self, shape: dict[str, int]) -> PatchSource:
        """Where the adversary's patches come from, in views of this shape."""
        patches = StridedPatch(size=self.parts.discriminator.size, **shape)
        o = self.options
        return PatchSource(self.training, self.geometry, patches, o.gan_views, o.gan_known)

    def _gan_step(self) -> GanStep:
        """The adversary, whose Adam knows that its penalty is lazy (Karras et al. 2020)."""
        o, p = self.options, self.parts
        lazy = o.r1_interval / (o.r1_interval + 1)
        optimiser = torch.optim.Adam(
            p.discriminator.parameters(),
            lr=o.d_rate * lazy,
            betas=(0.0, 0.99**lazy),
            fused=True,
        )
        return GanStep(
            discriminator=p.discriminator,
            optimiser=optimiser,
            loss=NonSaturating(),
            penalties=[lazy_r1(p.discriminator, gamma=o.r1_gamma, interval=o.r1_interval)],
            augment=p.augment,
            probability=p.probability,
            batch=o.gan_batch,
            accumulate=o.accumulate,
            rng=self.rng,
            ray_rng=self.ray_rng,
        )

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Share every batch with other processes; returns what is worth knowing about that."""
        o = self.options
        sizes = {"task.batch": self.batch, "task.gan_batch": o.gan_batch}
        ranks.check_divisible(used_batches(o.objective, sizes), o.accumulate)
        if o.objective != "posed":
            whole = {"task.gan_batch / task.gan_views": o.gan_batch // o.gan_views}
            ranks.check_divisible(whole, o.accumulate)
        self.ranks = ranks
        agree_precision(ranks, self.parts.generator, self.ema)
        remarks = [f"precision {self.parts.generator.precision}"]
        if o.objective == "posed":
            return remarks
        parts = ranks.world_size * o.accumulate
        return remarks + group_size_note(self.parts.discriminator, o.gan_batch, parts)

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step at ``progress`` in [0, 1] through the training."""
        o, g = self.options, self.parts.generator
        edge = max(SHARP_EDGE, SOFT_EDGE * (1 - 2 * progress))
        phase = o.gan_start if o.objective == "hybrid" else 1.0
        rate = rate_share(progress, index, phase=phase, again=o.gan_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        logged = {"rate": rate}
        if o.objective != "gan":
            logged |= self._posed_gradient(by_rays=progress >= 1 - o.ray_share, edge=edge)
        joined = progress >= o.gan_start and index % o.gan_interval == 0
        if o.objective == "gan" or (o.objective == "hybrid" and joined):
            logged |= self._adversarial_gradient(edge)
        self.ranks.average_gradients(self._learned())
        nn.utils.clip_grad_norm_(g.parameters(), 1.0, foreach=True)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        keep = min(0.5 ** (1 / o.ema_steps), (index + 1) / (index + 10))
        ema_update(self.ema, g, keep)
        return logged

    def _learned(self) -> list[nn.Parameter]:
        """Everything that the generator's optimiser moves."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def _take_gradients(self) -> list[Tensor | None]:
        """The gradients so far, averaged over the processes, which begin anew."""
        self.ranks.average_gradients(self._learned())
        taken = [p.grad for p in self._learned()]
        self.optimiser.zero_grad(set_to_none=True)
        return taken

    def _balance(self, posed: Sequence[Tensor | None]) -> dict[str, float]:
        """Add the posed gradients to the adversarial ones, if there are any, which get a weight."""
        learned, last = self._learned(), self.parts.generator.shared[-1]
        self.ranks.average_gradients(learned)
        known = next(g for p, g in zip(learned, posed, strict=True) if p is last)
        logged, factor = {}, 1.0
        if known is not None and last.grad is not None:
            factor = adaptive_weight(known, last.grad, self.options.gan_weight)
            logged["gan_factor"] = factor
        for parameter, before in zip(learned, posed, strict=True):
            parts = [factor * parameter.grad] if parameter.grad is not None else []
            parts += [before] if before is not None else []
            parameter.grad = sum(parts[1:], parts[0]) if parts else None
        return logged

    def _posed_gradient(self, *, by_rays: bool, edge: float) -> dict[str, float]:
        """Add the gradient of one posed batch; returns its squared error."""
        o, g = self.options, self.parts.generator
        name, weight = ("ray_mse", RAY_WEIGHT) if by_rays else ("volume_mse", 1.0)
        errors = []
        for shard in self.ranks.shards(o.accumulate, self.rng, self.ray_rng):
            order = torch.randperm(len(self.codes), generator=self.rng)
            ids = shard.take(order[: self.batch]).to(self.device)
            u = self.codes[ids]
            noise = shard.take(torch.randn(self.batch, g.code_dim, generator=self.rng)).to(u)
            style = g.map(u[:, : g.code_dim] + o.code_noise * noise)
            code = g.weights(Latent(style, u[:, g.code_dim :]), edge=edge)
            error = (self._ray_error if by_rays else self._volume_error)(ids, code, shard)
            penalty = o.code_penalty * u.square().sum(1).mean() / 8
            ((error * weight + penalty) / o.accumulate).backward()
            errors.append({name: float(error.detach())})
        return mean_of(errors)

    def _volume_error(self, ids: Tensor, code: MlpWeights, shard: BatchShard) -> Tensor:
        """Mean squared error of these patients' densities at random points."""
        field = self.parts.generator.field
        points = cylinder_points(self.batch, self.options.points, field.support, self.rng)
        x = shard.take(points).to(self.device)
        return (field.density(x, code) - self.training.values_at(ids, x)).square().mean()

    def _ray_error(self, ids: Tensor, code: MlpWeights, shard: BatchShard) -> Tensor:
        """Mean squared error of random pixels, with each patient's own gains and distance."""
        pixels, shape = self.pixels.select(0, self.rng), (self.batch, self.options.rays)
        view = shard.take(pixels.view.view(shape)).to(self.device)
        yx = shard.take(pixels.yx.view(*shape, 2)).to(self.device)
        rays = self._rays(view, yx, self.log_distance[ids].exp()[:, None])
        image = self._image(rays, code, shard) * self.log_gains[ids].gather(1, view).exp()
        row, column = yx.long().unbind(-1)
        truth = self.training.images[ids[:, None], view, row, column].float()
        return (image - truth).square().mean()

    def _rays(self, view: Tensor, yx: Tensor, distance: Tensor) -> Rays:
        """Rays through pixels yx [B, R, 2] of views [B, R], of sources this far [B, 1]."""
        support = self.parts.generator.field.support
        return self.geometry.view_rays(view, yx, distance=distance, support=support)

    def _image(self, rays: Rays, code: MlpWeights, shard: BatchShard) -> Tensor:
        """Grey values [B, R] of a part's rays."""
        rendered = render(
            rays,
            self.parts.generator.field,
            shard.levels(self.parts.levels),
            image_model=self.image_model,
            code=code,
            rng=self.ray_rng,
        )
        return rendered[-1].rendering.image.mean(-1)

    def _draw_patches(self, shard: BatchShard, edge: float) -> tuple[Patches, Patches]:
        """Patches of known patients, and of generated ones from there: [B, 1, size, size]."""
        o, g, source = self.options, self.parts.generator, self.patches
        assert source is not None  # every objective with an adversary has one
        places = source.places(o.gan_batch, shard, self.rng)
        codes = self.codes.detach()[: 0 if o.objective == "gan" else None]
        latent = source.patients(g, codes, places.ids, o.gan_batch, shard, self.rng)
        code = g.weights(latent, edge=edge)
        distance = self.log_distance.detach()[places.ids].exp()
        nodes = sum(level.sampler.n for level in self.parts.levels)
        if o.image_model == "line_integral" and source.baking_pays(nodes):
            fakes = source.projected(g, code, distance, places)
        else:
            each = torch.arange(len(places.ids)).repeat_interleave(o.gan_views).to(distance.device)
            rays = self._rays(places.pixels.view, places.pixels.yx, distance[each, None])
            fakes = self._image(rays, code.take(each), shard)
        if self.training.per_view_scale:
            ids = places.ids.repeat_interleave(o.gan_views)[:, None]
            fakes = fakes * self.log_gains.detach()[ids, places.pixels.view].exp()
        shape = (-1, 1, self.parts.discriminator.size, self.parts.discriminator.size)
        angles_deg = torch.tensor(self.geometry.angles_deg).to(fakes)[places.pixels.view[:, 0]]
        reals = Patches(source.reals(places).view(shape), angles_deg)
        return reals, Patches(fakes.view(shape), angles_deg)

    def _adversarial_gradient(self, edge: float) -> dict[str, float]:
        """Step the discriminator, and unless it learns alone add the generator's gradient."""
        o = self.options
        posed = self._take_gradients()
        if self.gan_steps % FIT_PRIOR_EVERY == 0 and o.objective != "gan":
            self.parts.generator.fit_prior(self.codes.detach())
        logged = self.gan_step(
            lambda shard: self._draw_patches(shard, edge),
            index=self.gan_steps,
            ranks=self.ranks,
            alone=o.objective == "hybrid" and self.gan_steps < o.gan_lead,
        )
        logged |= self._balance(posed)
        self.gan_steps += 1
        kimg = self.gan_steps * o.gan_batch / 1000
        return logged | {"p": self.parts.probability.p, "kimg": kimg}

    @torch.no_grad()
    def finished(self) -> HyperGenerator:
        """The averaged generator with the latent prior of its patients."""
        ema = copy.deepcopy(self.ema)
        if self.options.objective != "gan":
            ema.fit_prior(self.codes.detach())
        return ema

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a continued run needs: named tensors, and plain values."""
        g = self.parts.generator
        tensors, values = self.gan_step.state()
        tensors |= with_prefix("model", g.state_dict())
        tensors |= with_prefix("ema", self.finished().state_dict())
        tensors |= with_prefix("running_ema", self.ema.state_dict())
        tensors |= with_prefix("optim.generator", optimiser_tensors(self.optimiser))
        tensors |= {name: getattr(self, name) for name in ("codes", "log_gains", "log_distance")}
        values |= {"gan_steps": self.gan_steps, "precision": g.precision}
        found = self.fitted() | {"detail": self._detail()}
        return tensors, {"task_state": values, "precision": g.precision, **found}

    @torch.no_grad()
    def _detail(self) -> list[float]:
        """Which detail its patients lack, where it knows patients and they are line integrals."""
        o, known = self.options, self.codes[:PATIENTS]
        if o.objective == "gan" or o.image_model != "line_integral":
            return []
        code = self.ema.weights(self.ema.coded(known))
        learned = replace(self.training, log_gains=self.log_gains, distance=self.log_distance.exp())
        return detail_gains(self.ema, code, learned, self.geometry)

    def fitted(self) -> dict[str, Any]:
        """What a prior needs beside the generator: the source distance, mean gains, and peaks."""
        found: dict[str, Any] = {"distance": float(self.log_distance.detach().median().exp())}
        if self.training.per_view_scale:
            found["log_gain_profile"] = self.log_gains.detach().mean(0).tolist()
            found["view_peak"] = float(self.training.images.amax((-1, -2)).float().mean())
        return found

    def pictures(self, index: int) -> dict[str, Tensor]:
        """Reals, random patients and one of them turning, for TensorBoard."""
        return previews.radiographs(
            self.finished(), self.training.images, self.geometry, self.fitted()["distance"]
        )

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.parts.generator.load_state_dict(strip_prefix("model", tensors))
        self.ema.load_state_dict(strip_prefix("running_ema", tensors))
        with torch.no_grad():
            for name in ("codes", "log_gains", "log_distance"):
                getattr(self, name).copy_(tensors[name])
        self.gan_step.load(tensors, meta)
        restore_optimiser(self.optimiser, strip_prefix("optim.generator", tensors))
        self.gan_steps = meta["gan_steps"]
        keep_precision(meta, self.parts.generator, self.ema)


def adaptive_weight(posed: Tensor, adversarial: Tensor, share: float) -> float:
    """The factor share · |posed| / |adversarial| of two gradients of one layer.

    It is λ of VQGAN (Esser et al. 2021, eq. 7), at most 10⁴ as there.

    >>> adaptive_weight(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0]), 0.5)
    0.25
    """
    ratio = posed.norm() / adversarial.norm().clamp_min(1e-12)
    return share * min(1e4, float(ratio))


def used_batches(objective: str, sizes: dict[str, int]) -> dict[str, int]:
    """Of the posed and the adversarial batch, those that an objective has.

    >>> used_batches("posed", {"task.batch": 16, "task.gan_batch": 4})
    {'task.batch': 16}
    """
    unused = {"gan": "task.batch", "posed": "task.gan_batch"}.get(objective)
    return {key: n for key, n in sizes.items() if key != unused}


def rate_share(progress: float, index: int, *, phase: float = 1.0, again: float = 1.0) -> float:
    """What share of its peak a learning rate has: a linear warm-up, then a cosine to 1 %.

    A ``phase`` at the end of the training, from there on, has a cosine of its own, which begins at
    ``again``: what the training before it has reached does not depend on it.

    >>> [round(rate_share(progress, index), 3) for progress, index in ((0, 0), (0.5, 99), (1, 999))]
    [0.02, 0.51, 0.01]
    >>> [round(rate_share(p, 999, phase=0.8, again=0.4), 3) for p in (0.4, 0.799, 0.8, 0.9, 1)]
    [0.51, 0.01, 0.41, 0.21, 0.01]
    """
    if progress < phase or phase == 1:
        peak, share = 1.0, progress / phase
    else:
        peak, share = again, (progress - phase) / (1 - phase)
    cosine = peak * (0.5 + 0.5 * math.cos(math.pi * share))
    return min(1.0, (index + 1) / WARM_UP_STEPS) * cosine + 0.01


def cylinder_points(
    batch: int, n: int, radius: float, rng: Generator, *, half_height: float = 1.15
) -> Tensor:
    """Points spread evenly over the support cylinder, [B, N, 3] in field units."""
    u = torch.rand(batch, n, 3, generator=rng)
    r, a = radius * u[..., 0].sqrt(), 2 * math.pi * u[..., 1]
    return torch.stack([r * a.cos(), r * a.sin(), (2 * u[..., 2] - 1) * half_height], -1)
