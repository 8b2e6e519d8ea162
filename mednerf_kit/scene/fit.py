"""The task of fitting one scene: pixels → rays → levels → losses → one step of the optimiser."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..core.errors import RunError, UserError, is_out_of_memory
from ..core.resampling import area_resized
from ..core.types import Pixels, Rays
from ..data.posed.types import Scene
from ..engine.distributed import BatchShard, Ranks
from ..engine.loop import TASKS, Task
from ..engine.snapshots import (
    optimiser_tensors,
    restore_optimiser,
    seeded_generator,
    set_rng_state,
    strip_prefix,
    with_prefix,
)
from ..imaging.cameras import Cameras
from ..metrics.image import psnr_from_mse_db
from ..rays.render import LevelRendering
from ..rays.selectors.base import RaySelector
from .losses import Loss, Outcome
from .model import Model
from .pose_corrections import PoseCorrections
from .views import evaluations, on_device, render_cameras, smaller_chunk

CHECKS, CHECK_EVERY = (100, 200), 400  # steps after which pictures are checked for a collapse
MOST_RESTARTS = 3
LAST_RESTART = 0.5  # of the training: a fit that begins later has too little time left
CROP_AFTER_RESTART = 500  # steps
BOARD_PX = 128  # longest side of the pictures on the board


@dataclass(frozen=True)
class FitParts:
    """What a scene recipe's other nodes build for the task."""

    make: Callable[[], Model]  # a new model, from torch's global seed
    selector: RaySelector
    losses: dict[str, Loss]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a scene's fields are fitted.

    Options:
        learning_rate: Adam's rate, before each field's own factor.
        final_rate: share of the rate that is left at the end of an exponential fall.
        warmup_steps: steps over which the rate rises linearly.
        beta2: Adam's decay of the mean squared gradient.
        restart_rate: the rate's fall starts again when a field replaces its parameters (TensoRF's
            up-sampling).
        crop_steps: first steps, which look at the middle of the pictures only.
        crop: share of the pictures' sides that these steps look at.
        refine_poses: Adam's rate, in radians, of corrections of the training poses
            (:class:`~.pose_corrections.PoseCorrections`), which follows the same curve; 0 leaves
            the poses alone.
    """

    learning_rate: float = 5e-4
    final_rate: float = 0.1
    warmup_steps: int = 0
    beta2: float = 0.999
    restart_rate: bool = False
    crop_steps: int = 0
    crop: float = 0.5
    refine_poses: float = 0.0

    def __post_init__(self) -> None:
        if self.refine_poses < 0:
            raise UserError(
                f"got refine_poses {self.refine_poses:g}",
                "wanted a learning rate from 0 on",
                "0 leaves the poses alone",
            )

    def rate_at(self, progress: float, index: int) -> float:
        """Share of the learning rate at step ``index``, ``progress`` in [0, 1] after its start.

        >>> FitOptions(final_rate=0.25, warmup_steps=9).rate_at(0.5, 0)
        0.05
        """
        warm = min(1.0, (index + 1) / (self.warmup_steps + 1))
        return warm * self.final_rate**progress


@dataclass(frozen=True)
class SeenBatch:
    """What a step saw of its rays, without gradients."""

    image: Tensor  # [R, C] of the finest level
    truth: Tensor  # [R, C]
    importance: Tensor  # [R]
    n_evaluated: Tensor  # samples evaluated, all levels together


@TASKS.register("fit")
class FitTask(Task):
    """Fits a scene's fields to its pictures.

    A picture that is one flat colour, or empty, while the truth is not, restarts the fit with a new
    seed and a crop to the middle. Of several processes each renders its rows of a batch that all
    have chosen alike; noise along the rays is each one's own.
    """

    def __init__(
        self,
        options: FitOptions,
        *,
        parts: FitParts,
        scene: Scene,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.options = options
        self.parts, self.scene, self.seed, self.device = parts, scene, seed, device
        self.rng = Generator().manual_seed(seed)  # choices: the same on every device
        self.ray_rng = seeded_generator(device, seed)  # along the rays, made where it is used
        self.ranks, self.shard = Ranks(), BatchShard()
        self.restarts, self.rate_start, self.crop_until = 0, 0.0, options.crop_steps
        self.faint_color: float | None = None  # after a restart: what stands out from the flat one
        self.rays_at_once = sys.maxsize  # until memory runs out
        self.strata = None
        if scene.valid is not None:  # few scenes have masks
            from ..rays.selectors.drawing import Strata

            self.strata = Strata(scene.valid)
        self.begin()

    def begin(self) -> None:
        """Make a new model, and an optimiser for it."""
        torch.manual_seed(self.seed + 1000 * self.restarts)
        self.model = self.parts.make()
        for field in self.model.scene_fields():
            field.rng = self.ray_rng
        self.use_faint_color()
        rate = self.options.refine_poses
        self.poses = PoseCorrections(self.scene, rate=rate) if rate else None
        self.new_optimiser()

    def use_faint_color(self) -> None:
        """Give samples too faint to be asked for their colour that of the last restart."""
        if self.faint_color is not None:
            for field in self.model.scene_fields():
                field.faint_color = self.faint_color

    @property
    def cameras(self) -> Cameras:
        """The training cameras, corrected where poses are refined."""
        return self.poses.applied(self.scene.cameras) if self.poses else self.scene.cameras

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Become one of several processes."""
        self.ranks = ranks
        (self.shard,) = ranks.shards(1)
        if ranks.world_size > 1:
            self.ray_rng = seeded_generator(self.device, self.seed, ranks.rank)
            for field in self.model.scene_fields():
                field.rng = self.ray_rng
        return []

    def new_optimiser(self) -> None:
        """Adam over the fields' groups, each at its share of the rate."""
        rate = self.options.learning_rate
        groups = [
            {"params": group["params"], "peak": rate * group["rate"]}
            for field in self.model.scene_fields()
            for group in field.groups()
        ]
        betas = (0.9, self.options.beta2)
        self.optimiser = torch.optim.Adam(groups, lr=rate, betas=betas, fused=True)

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step at ``progress`` in [0, 1] through the training; returns what to log."""
        self.advance(progress, index)
        rate = self.options.rate_at(progress - self.rate_start, index)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        selector = self.parts.selector
        chosen = self.counted(self.cropped(selector.select(index, self.rng), index))
        pixels = self.own_rows(chosen)
        if selector.wants_gradient:
            pixels = replace(pixels, yx=pixels.yx.requires_grad_(True))
        losses, seen = self.gradients(chosen, pixels, progress)
        learned = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.ranks.average_gradients(learned + ([self.poses.twist] if self.poses else []))
        self.optimiser.step()
        if self.poses:
            self.poses.step(rate)
        error = (seen.image - seen.truth).square().mean(-1)
        if selector.observes:
            self.report_errors(chosen, pixels, seen, error)
        measured = {
            **losses,
            "psnr_db": psnr_from_mse_db(error.mean()),
            "evals_per_ray": seen.n_evaluated / len(error),
        }
        logged = as_floats(measured) | {"rate": rate, "restarts": float(self.restarts)}
        if index + 1 in CHECKS or (index + 1) % CHECK_EVERY == 0:
            self.check_collapse(seen, index, progress)
        return logged | (self.poses.change(self.scene.cameras) if self.poses else {})

    def advance(self, progress: float, index: int) -> None:
        """Bring model, optimiser and selector to this point of the training."""
        replaced = self.model.advance(progress)
        for field in self.model.scene_fields():
            if field.note:
                self.log(f"step {index + 1}: {field.note}")
                field.note = None
        if replaced:
            self.rate_start = progress if self.options.restart_rate else self.rate_start
            self.new_optimiser()
        self.model.observe(index)
        selector = self.parts.selector
        selector.advance(progress)
        every = selector.wants_full_error_every
        if index and every and index % every == 0:
            selector.observe_full(self.errors_everywhere())

    def report_errors(self, chosen: Pixels, pixels: Pixels, seen: SeenBatch, error: Tensor) -> None:
        """Let the selector learn from the errors of the whole batch, and from their slopes."""
        weight, errors = (self.ranks.all_gather(rows.cpu()) for rows in (seen.importance, error))
        slope = pixels.yx.grad
        if slope is not None:
            slope = self.ranks.all_gather(slope * len(error))
        self.parts.selector.observe(replace(chosen, weight=weight), errors, slope)

    def cropped(self, pixels: Pixels, index: int) -> Pixels:
        """The pixels, drawn towards the middle of the pictures while the crop lasts."""
        if index >= self.crop_until:
            return pixels
        middle = torch.tensor([self.scene.cameras.rows - 1, self.scene.cameras.cols - 1]) / 2
        return replace(pixels, yx=(middle + self.options.crop * (pixels.yx - middle)).round())

    def counted(self, pixels: Pixels) -> Pixels:
        """The pixels, those that a mask covers replaced by others at random that none covers.

        Of pixels drawn evenly this leaves pixels drawn evenly among those that count.
        """
        if self.strata is None or self.scene.valid is None:
            return pixels
        from ..rays.selectors.drawing import at, uniform

        y, x = pixels.yx.round().long().unbind(-1)
        masked = ~self.scene.valid[pixels.view, y, x]
        u = uniform(len(masked), self.rng)
        other = at(
            self.strata.draw(torch.ones_like(masked), u),
            self.scene.cameras.rows,
            self.scene.cameras.cols,
            torch.ones_like(pixels.weight),
        )
        return Pixels(
            torch.where(masked, other.view, pixels.view),
            torch.where(masked[:, None], other.yx, pixels.yx),
            torch.where(masked, other.weight, pixels.weight),
        )

    def own_rows(self, chosen: Pixels) -> Pixels:
        """This process's rows of a batch."""
        self.ranks.check_divisible({"a step's rays": len(chosen.view)})
        return Pixels(*(self.shard.take(rows) for rows in (chosen.view, chosen.yx, chosen.weight)))

    def gradients(
        self, chosen: Pixels, pixels: Pixels, progress: float
    ) -> tuple[dict[str, Tensor], SeenBatch]:
        """The losses of this process's ``pixels`` and what was seen; gradients are left behind.

        Pixels that do not fit into memory together are halved for good, which a line on stderr
        says: gradients of the parts add up, and a loss is the mean of its parts.
        """
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            pixels.yx.grad = None
            try:
                return self.gradients_by_parts(chosen, pixels, progress)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                # the others would wait for this one
                if self.ranks.world_size > 1 and is_out_of_memory(error):
                    raise RunError(
                        f"got no memory for {len(pixels.view)} rays in each of "
                        f"{self.ranks.world_size} processes",
                        "wanted room for a step",
                        "lower selector.n, or start fewer processes on a machine",
                    ) from None
                self.rays_at_once = smaller_chunk(min(self.rays_at_once, len(pixels.view)), error)

    def gradients_by_parts(
        self, chosen: Pixels, pixels: Pixels, progress: float
    ) -> tuple[dict[str, Tensor], SeenBatch]:
        """:meth:`gradients` in parts of ``rays_at_once``."""
        count, size = len(pixels.view), self.rays_at_once
        parts = [pixels_at(pixels, slice(k, k + size)) for k in range(0, count, size)]
        weights: Sequence[Tensor | None] = [None]
        if len(parts) > 1:
            weights = self.weights_before(chosen, parts).split(size)
        totals: dict[str, Tensor] = {}
        seen: list[SeenBatch] = []
        for part, weight in zip(parts, weights, strict=True):
            outcome = self.outcome(chosen, part, progress, weight)
            share = len(outcome.truth) / count
            losses = {name: share * loss(outcome) for name, loss in self.parts.losses.items()}
            weighed = [
                self.parts.losses[name].weight_at(progress) * loss for name, loss in losses.items()
            ]
            torch.stack(weighed).sum().backward()
            totals = {name: loss.detach() + totals.get(name, 0.0) for name, loss in losses.items()}
            image = outcome.rendered[-1].rendering.image.detach()
            n_evaluated = torch.stack([evaluations(level) for level in outcome.rendered]).sum()
            seen.append(SeenBatch(image, outcome.truth, outcome.importance, n_evaluated))
        return totals, SeenBatch(
            image=torch.cat([s.image for s in seen]),
            truth=torch.cat([s.truth for s in seen]),
            importance=torch.cat([s.importance for s in seen]),
            n_evaluated=torch.stack([s.n_evaluated for s in seen]).sum(),
        )

    @torch.no_grad()
    def weights_before(self, chosen: Pixels, parts: Sequence[Pixels]) -> Tensor:
        """Weights of this process's rows where they come in parts.

        A selector that weighs by errors must know all of them first, so all parts are rendered once
        more.
        """
        errors = []
        for part in parts if self.parts.selector.weighs else ():
            levels, _, truth = self.rendered(part)
            errors.append(squared_error(levels[-1], truth))
        return self.weights(chosen, errors)

    def weights(self, chosen: Pixels, errors: Sequence[Tensor]) -> Tensor:
        """Weights of this process's rows, by their errors where the selector weighs with them."""
        weight = chosen.weight
        if self.parts.selector.weighs:
            known = self.ranks.all_gather(torch.cat(list(errors)).cpu())
            weight = self.parts.selector.weigh(chosen, known)
        return self.shard.take(weight).to(self.device)

    def rendered(self, pixels: Pixels) -> tuple[list[LevelRendering], Rays, Tensor]:
        """What the model shows at pixels, their rays, and what they should show [R, C]."""
        scene, view = self.scene, pixels.view
        y, x = pixels.yx.detach().round().long().unbind(-1)
        rays: Rays = on_device(self.model.narrowed(self.cameras).rays(view, pixels.yx), self.device)
        if scene.depth is not None:
            rays = replace(rays, depth=scene.depth[view, y, x].to(self.device))
        truth = scene.images[view, y, x].float().to(self.device)
        return self.model.render(rays, self.ray_rng), rays, truth

    def outcome(
        self, chosen: Pixels, pixels: Pixels, progress: float, weight: Tensor | None = None
    ) -> Outcome:
        """Render ``pixels`` of this process, and look up what they should show.

        Without a ``weight`` they are all of its rows of the ``chosen`` ones, weighed by their own
        errors where the selector wants that.
        """
        scene, view = self.scene, pixels.view
        y, x = pixels.yx.detach().round().long().unbind(-1)

        def at(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[view, y, x].float().to(self.device)

        rendered, rays, truth = self.rendered(pixels)
        if weight is None:
            weight = self.weights(chosen, [squared_error(rendered[-1], truth)])
        return Outcome(
            rendered,
            self.model.levels,
            rays,
            truth,
            weight,
            progress,
            at(scene.alpha),
            at(scene.confidence),
            [field.regularisers() for field in self.model.scene_fields()],
        )

    def pictures(self, index: int) -> dict[str, Tensor]:
        """What TensorBoard shows: one training view as it is, and as the model has it, small."""
        cameras = self.cameras.take([0])
        scale = math.ceil(max(cameras.rows, cameras.cols) / BOARD_PX)
        small = cameras.resized(max(1, cameras.rows // scale), max(1, cameras.cols // scale))
        with torch.no_grad():
            seen = render_cameras(self.model, small, device=self.device, progress=False).image
        planes = self.scene.images[:1].float().movedim(-1, 1)
        truth = area_resized(planes, small.rows, small.cols).movedim(1, -1)
        views = torch.cat([truth, seen.clamp(0, 1)])
        return {"grid/truth_and_model": views if views.shape[-1] == 3 else views[..., 0]}

    def errors_everywhere(self) -> Tensor:
        """Squared error of every pixel of the training views, [V, H, W], for exact error maps."""
        seen = render_cameras(
            self.model, self.cameras, depth=self.scene.depth, device=self.device, progress=False
        )
        error = (seen.image - self.scene.images.float()).square().mean(-1)
        return error if self.scene.valid is None else error * self.scene.valid

    def check_collapse(self, seen: SeenBatch, index: int, progress: float) -> None:
        """Start again when the pictures have collapsed to one colour or to nothing.

        Raises RunError where it is too late for that.
        """
        flat = {"flat": float(is_flat(seen.image, seen.truth))}
        everywhere, _, _ = self.ranks.mean_metrics(flat, 0.0, False)
        if everywhere["flat"] < 1:
            return
        level = "white" if float(seen.image.mean()) > 0.5 else "black"
        if progress > LAST_RESTART:
            raise RunError(
                f"got pictures that turned flat {level} by step {index + 1}, too late to start "
                "again",
                "wanted a scene that keeps its shape",
                "train anew with --config hash; snapshots written before are kept",
            )
        if self.restarts == MOST_RESTARTS:
            raise RunError(
                f"got flat pictures after {MOST_RESTARTS} restarts",
                "wanted a scene that takes shape",
                "check near, far and the bounding box with `mednerf-kit data check`, or fit it "
                "with --config hash",
            )
        self.restarts += 1
        self.faint_color = 0.0 if level == "white" else 1.0
        self.crop_until = index + CROP_AFTER_RESTART
        self.log(
            f"step {index + 1}: every picture is flat {level}; starting again with another "
            "seed and a centre crop"
        )
        self.begin()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything a continued run needs: named tensors, and plain values."""
        tensors = {
            **self.model.state(),
            "rng": self.rng.get_state(),
            "ray_rng": self.ray_rng.get_state(),
        }
        tensors |= with_prefix("optim", optimiser_tensors(self.optimiser))
        tensors |= with_prefix("selector", self.parts.selector.state_dict())
        tensors |= self.poses.state() if self.poses else {}
        state = {
            "restarts": self.restarts,
            "since": self.rate_start,
            "crop_until": self.crop_until,
            "faint_color": self.faint_color,
        }
        return tensors, {"task_state": state}

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.restarts, self.rate_start = meta["restarts"], meta["since"]
        self.crop_until, self.faint_color = meta["crop_until"], meta.get("faint_color")
        self.use_faint_color()
        self.model.load(tensors)
        self.new_optimiser()
        restore_optimiser(self.optimiser, strip_prefix("optim", tensors))
        set_rng_state(self.rng, tensors["rng"])
        set_rng_state(self.ray_rng, tensors["ray_rng"])
        self.parts.selector.load_state_dict(strip_prefix("selector", tensors))
        if self.poses:
            self.poses.load(tensors)


def pixels_at(pixels: Pixels, span: slice) -> Pixels:
    """Some of the pixels; a gradient of their places reaches all."""
    return Pixels(pixels.view[span], pixels.yx[span], pixels.weight[span])


def is_flat(image: Tensor, truth: Tensor) -> bool:
    """Whether pixels [R, C] show one colour where the truth [R, C] does not."""
    return float(image.std(0).max()) < 0.005 and float(truth.std(0).max()) > 0.05


def as_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars as floats, brought from their device together: a GPU is waited for once.

    >>> as_floats({"a": torch.tensor(1.0), "b": torch.tensor(2)})
    {'a': 1.0, 'b': 2.0}
    """
    together = torch.stack([value.detach().double() for value in values.values()])
    return dict(zip(values, together.tolist(), strict=True))


def squared_error(seen: LevelRendering, truth: Tensor) -> Tensor:
    """Mean over channels of the squared error of rays, [R], without gradient."""
    return (seen.rendering.image.detach() - truth).square().mean(-1)
