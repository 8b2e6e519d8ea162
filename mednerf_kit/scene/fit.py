"""The task of fitting one scene: pixels → rays → levels → losses → one step, on the renderer
everything shares.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..core.errors import RunError, UserError
from ..core.resampling import area_resized
from ..core.types import Pixels, Rays
from ..data.posed.types import Scene
from ..engine.checkpoint import (
    optimiser_tensors,
    restore_optimiser,
    seeded_generator,
    set_rng_state,
    strip_prefix,
    with_prefix,
)
from ..engine.distributed import BatchShard, Ranks
from ..engine.loop import TASKS, Task
from ..imaging.cameras import Cameras
from ..imaging.motion import about, apart, exp_se3
from ..metrics.image import psnr_from_mse_db
from ..rays.render import LevelRendering
from ..rays.selectors.base import RaySelector
from .losses import Loss, Outcome
from .model import Model, evaluations, on_device, out_of_memory, render_cameras, smaller_chunk

CHECKS, CHECK_EVERY = (100, 200), 400  # steps after which the pictures are looked at for a collapse
MOST_RESTARTS = 3
BOARD_PX = 128  # longest side of the pictures on the board
LAST_RESTART = 0.5  # of the training: what begins later is not worth having


@dataclass(frozen=True)
class FitParts:
    """What a scene recipe's other nodes build for the task."""

    make: Callable[[], Model]  # a new model, from torch's global seed
    selector: RaySelector
    losses: dict[str, Loss]


@dataclass(frozen=True)
class Seen:
    """What a step saw, without gradients."""

    image: Tensor  # [R, C] of the finest level
    truth: Tensor  # [R, C]
    importance: Tensor  # [R]
    n_evaluated: Tensor  # samples evaluated, all levels together


class PoseCorrections:
    """One twist per training view, learned with the scene (as in BARF, Lin et al. 2021): exp(ξ_v)
    moves view v's camera.

    Motions are of the world about the middle of the scene, shifts counted in the cameras' mean
    distance from it. A motion common to all views would only move the scene: the mean twist is
    taken away after each step, which to first order leaves the files' frame in place.
    """

    def __init__(self, scene: Scene, *, rate: float = 0.0, twist: Tensor | None = None) -> None:
        cameras = scene.cameras
        self.middle = torch.zeros(3) if cameras.ndc else scene.box.mean(0)
        self.unit = (
            1.0 if cameras.ndc else float((cameras.position - self.middle).norm(dim=-1).mean())
        )
        self.rate = rate
        self.twist = (
            torch.zeros(cameras.count, 6) if twist is None else twist.clone()
        ).requires_grad_(True)
        self.optimiser = torch.optim.Adam([self.twist])

    def applied(self, cameras: Cameras) -> Cameras:
        """The training cameras, corrected; differentiable in the twists."""
        scale = self.twist.new_tensor([1.0] * 3 + [self.unit] * 3)
        return cameras.moved(about(exp_se3(self.twist * scale), self.middle))

    def step(self, share: float) -> None:
        """One step at a share of the rate."""
        self.optimiser.param_groups[0]["lr"] = self.rate * share
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.twist -= self.twist.mean(0)

    @torch.no_grad()
    def change(self, cameras: Cameras) -> dict[str, float]:
        """How far the corrections are from none: mean rotation in degrees, mean way of the centres
        in scene units.
        """
        turn, shift = apart(self.applied(cameras).c2w, cameras.c2w)
        return {"pose_rotation_deg": float(turn.mean()), "pose_shift": float(shift.mean())}

    def state(self) -> dict[str, Tensor]:
        """The twists, and their optimiser's memory."""
        memory = with_prefix("pose.optim", optimiser_tensors(self.optimiser))
        return {"pose.twist": self.twist} | memory

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from :meth:`state`."""
        self.twist.data.copy_(tensors["pose.twist"])
        restore_optimiser(self.optimiser, strip_prefix("pose.optim", tensors))


@TASKS.register("fit")
class FitTask(Task):
    """Fits a scene's fields to its pictures.

    The rate warms up over ``warmup_steps`` and falls exponentially to ``final_rate`` of
    ``learning_rate``; with ``restart_rate`` it starts again when a field replaces its parameters
    (TensoRF's up-sampling). The first ``crop_steps`` look at the middle ``crop`` of the pictures. A
    picture that is one flat colour, or empty, while the truth is not, restarts the fit with a new
    seed and such a crop. With ``refine_poses`` above 0 the training poses are corrected meanwhile
    (:class:`PoseCorrections`), by an Adam of that rate, in radians, which follows the same curve.

    Of several processes each renders its rows of a batch that all have chosen alike; noise along
    the rays is each one's own.
    """

    def __init__(
        self,
        *,
        learning_rate: float = 5e-4,
        final_rate: float = 0.1,
        warmup_steps: int = 0,
        beta2: float = 0.999,
        restart_rate: bool = False,
        crop_steps: int = 0,
        crop: float = 0.5,
        refine_poses: float = 0.0,
        parts: FitParts,
        scene: Scene,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.learning_rate, self.final_rate, self.warmup_steps, self.beta2 = (
            learning_rate,
            final_rate,
            warmup_steps,
            beta2,
        )
        self.restart_rate, self.crop_steps, self.crop = restart_rate, crop_steps, crop
        if refine_poses < 0:
            raise UserError(
                f"got refine_poses {refine_poses:g}",
                "wanted a learning rate from 0 on",
                "0 leaves the poses alone",
            )
        self.refine_poses = refine_poses
        self.parts, self.scene, self.seed, self.device = parts, scene, seed, device
        self.rng = Generator().manual_seed(seed)  # choices: the same on every device
        self.noise = seeded_generator(device, seed)  # along the rays, made where it is used
        self.ranks, self.shard = Ranks(), BatchShard()
        self.restarts, self.since, self.crop_until = 0, 0.0, crop_steps
        self.rays_at_once = sys.maxsize  # until memory says otherwise
        self.begin()

    def begin(self) -> None:
        """A new model, and an optimiser for it."""
        torch.manual_seed(self.seed + 1000 * self.restarts)
        self.model = self.parts.make()
        for field in self.model.scene_fields():
            field.rng = self.noise
        self.poses = (
            PoseCorrections(self.scene, rate=self.refine_poses) if self.refine_poses else None
        )
        self.new_optimiser()

    @property
    def cameras(self) -> Cameras:
        """The training cameras, corrected where poses are refined."""
        return self.poses.applied(self.scene.cameras) if self.poses else self.scene.cameras

    def set_distributed(self, ranks: Ranks) -> list[str]:
        """Become one of several processes."""
        self.ranks = ranks
        (self.shard,) = ranks.shards(1)
        if ranks.world_size > 1:
            self.noise = seeded_generator(self.device, self.seed, ranks.rank)
            for field in self.model.scene_fields():
                field.rng = self.noise
        return []

    def new_optimiser(self) -> None:
        """Adam over the fields' groups, each at its share of the rate."""
        groups = [
            {"params": g["params"], "peak": self.learning_rate * g["rate"]}
            for f in self.model.scene_fields()
            for g in f.groups()
        ]
        self.optimiser = torch.optim.Adam(
            groups, lr=self.learning_rate, betas=(0.9, self.beta2), fused=True
        )

    def step(self, progress: float, index: int) -> dict[str, float]:
        """One step at ``progress`` in [0, 1] through the training."""
        replaced = self.model.advance(progress)
        for field in self.model.scene_fields():
            if field.note:
                self.log(f"step {index + 1}: {field.note}")
                field.note = None
        if replaced:
            self.since = progress if self.restart_rate else self.since
            self.new_optimiser()
        self.model.observe(index)
        selector = self.parts.selector
        selector.advance(progress)
        if (
            index
            and selector.wants_full_error_every
            and index % selector.wants_full_error_every == 0
        ):
            selector.observe_full(self.errors_everywhere())
        rate = min(1.0, (index + 1) / (self.warmup_steps + 1)) * self.final_rate ** (
            progress - self.since
        )
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        chosen = self.cropped(selector.select(index, self.rng), index)
        pixels = self.mine(chosen)
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
            weight, every = (self.ranks.all_gather(rows.cpu()) for rows in (seen.importance, error))
            slope = (
                None
                if pixels.yx.grad is None
                else self.ranks.all_gather(pixels.yx.grad * len(error))
            )
            selector.observe(replace(chosen, weight=weight), every, slope)
        psnr_db = psnr_from_mse_db(error.mean())
        logged = numbers(
            {**losses, "psnr_db": psnr_db, "evals_per_ray": seen.n_evaluated / len(error)}
        ) | {
            "rate": rate,
            "restarts": float(self.restarts),
        }
        if index + 1 in CHECKS or (index + 1) % CHECK_EVERY == 0:
            self.look(seen, index, progress)
        return logged | (self.poses.change(self.scene.cameras) if self.poses else {})

    def cropped(self, pixels: Pixels, index: int) -> Pixels:
        """Pixels drawn towards the middle while the crop lasts."""
        if index >= self.crop_until:
            return pixels
        middle = torch.tensor([self.scene.cameras.rows - 1, self.scene.cameras.cols - 1]) / 2
        return replace(pixels, yx=(middle + self.crop * (pixels.yx - middle)).round())

    def mine(self, chosen: Pixels) -> Pixels:
        """This process's rows of a batch."""
        self.ranks.check_divisible({"a step's rays": len(chosen.view)})
        return Pixels(*(self.shard.take(rows) for rows in (chosen.view, chosen.yx, chosen.weight)))

    def gradients(
        self, chosen: Pixels, pixels: Pixels, progress: float
    ) -> tuple[dict[str, Tensor], Seen]:
        """The losses of this process's ``pixels``, their gradients left in what is learned, and
        what was seen.

        Pixels that do not fit into memory together are halved, for good, and it says so: gradients
        of the parts add up, and a loss is the mean of its parts.
        """
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            pixels.yx.grad = None
            try:
                return self.by_parts(chosen, pixels, progress)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                # the others would wait for this one
                if self.ranks.world_size > 1 and out_of_memory(error):
                    raise RunError(
                        f"got no memory for {len(pixels.view)} rays in each of "
                        f"{self.ranks.world_size} processes",
                        "wanted room for a step",
                        "lower selector.n, or start fewer processes on a machine",
                    ) from None
                self.rays_at_once = smaller_chunk(min(self.rays_at_once, len(pixels.view)), error)

    def by_parts(
        self, chosen: Pixels, pixels: Pixels, progress: float
    ) -> tuple[dict[str, Tensor], Seen]:
        """:meth:`gradients` in parts of ``rays_at_once``."""
        count = len(pixels.view)
        spans = [
            slice(start, start + self.rays_at_once) for start in range(0, count, self.rays_at_once)
        ]
        weight = None
        if len(spans) > 1:  # weights by errors want all errors first
            with torch.no_grad():
                rendered = (
                    [self.rendered(pixels_at(pixels, span)) for span in spans]
                    if self.parts.selector.weighs
                    else []
                )
            weight = self.weights(
                chosen, [squared_error(levels[-1], truth) for levels, _, truth in rendered]
            )
        totals: dict[str, Tensor] = {}
        found: list[Seen] = []
        for span in spans:
            outcome = self.outcome(
                chosen, pixels_at(pixels, span), progress, None if weight is None else weight[span]
            )
            share = len(outcome.truth) / count
            losses = {name: share * loss(outcome) for name, loss in self.parts.losses.items()}
            torch.stack(
                [
                    self.parts.losses[name].weight_at(progress) * value
                    for name, value in losses.items()
                ]
            ).sum().backward()
            totals = {
                name: value.detach() + totals.get(name, 0.0) for name, value in losses.items()
            }
            n_evaluated = torch.stack([evaluations(level) for level in outcome.rendered]).sum()
            found.append(
                Seen(
                    outcome.rendered[-1].rendering.image.detach(),
                    outcome.truth,
                    outcome.importance,
                    n_evaluated,
                )
            )
        image, truth, importance = (
            torch.cat(rows)
            for rows in zip(*((s.image, s.truth, s.importance) for s in found), strict=True)
        )
        return totals, Seen(
            image, truth, importance, torch.stack([s.n_evaluated for s in found]).sum()
        )

    def weights(self, chosen: Pixels, errors: Sequence[Tensor]) -> Tensor:
        """Weights of this process's rows, by their errors where the selector weighs with them."""
        weight = chosen.weight
        if self.parts.selector.weighs:
            weight = self.parts.selector.weigh(
                chosen, self.ranks.all_gather(torch.cat(list(errors)).cpu())
            )
        return self.shard.take(weight).to(self.device)

    def rendered(self, pixels: Pixels) -> tuple[list[LevelRendering], Rays, Tensor]:
        """What the model shows at pixels, their rays, and what they should show."""
        scene, view = self.scene, pixels.view
        y, x = pixels.yx.detach().round().long().unbind(-1)
        rays: Rays = on_device(self.model.narrowed(self.cameras).rays(view, pixels.yx), self.device)
        if scene.depth is not None:
            rays = replace(rays, depth=scene.depth[view, y, x].to(self.device))
        return (
            self.model.render(rays, self.noise),
            rays,
            scene.images[view, y, x].float().to(self.device),
        )

    def outcome(
        self, chosen: Pixels, pixels: Pixels, progress: float, weight: Tensor | None = None
    ) -> Outcome:
        """Render ``pixels`` of this process, and look up what they should be.

        Without a ``weight`` they are all of its rows of the ``chosen`` ones, weighed by their own
        errors where the selector asks.
        """
        scene, view = self.scene, pixels.view
        y, x = pixels.yx.detach().round().long().unbind(-1)

        def at(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[view, y, x].float().to(self.device)

        rendered, rays, truth = self.rendered(pixels)
        return Outcome(
            rendered,
            self.model.levels,
            rays,
            truth,
            self.weights(chosen, [squared_error(rendered[-1], truth)])
            if weight is None
            else weight,
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
        truth = area_resized(
            self.scene.images[:1].float().movedim(-1, 1), small.rows, small.cols
        ).movedim(1, -1)
        views = torch.cat([truth, seen.clamp(0, 1)])
        return {"grid/truth_and_model": views if views.shape[-1] == 3 else views[..., 0]}

    def errors_everywhere(self) -> Tensor:
        """Squared error of every pixel of the training views, [V, H, W]: what an exact error map is
        refreshed with.
        """
        seen = render_cameras(
            self.model, self.cameras, depth=self.scene.depth, device=self.device, progress=False
        )
        return (seen.image - self.scene.images.float()).square().mean(-1)

    def look(self, seen: Seen, index: int, progress: float) -> None:
        """Start again when the pictures have collapsed to one colour or to nothing; stop where it
        is too late for that.
        """
        if (
            self.ranks.mean_metrics({"flat": float(is_flat(seen.image, seen.truth))}, 0.0, False)[
                0
            ]["flat"]
            < 1
        ):
            return
        level = "white" if float(seen.image.mean()) > 0.5 else "black"
        if progress > LAST_RESTART:
            raise RunError(
                f"got pictures that turned flat {level} by step {index + 1}, too late to start "
                "again",
                "wanted a scene that keeps its shape",
                "lower the learning rate and train anew; snapshots written before are kept",
            )
        if self.restarts == MOST_RESTARTS:
            raise RunError(
                f"got flat pictures after {MOST_RESTARTS} restarts",
                "wanted a scene that takes shape",
                "check near, far and the bounding box with `mednerf-kit data check`, or lower the "
                "learning rate",
            )
        self.restarts += 1
        self.crop_until = index + 500
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
            "ray_rng": self.noise.get_state(),
        }
        tensors |= with_prefix("optim", optimiser_tensors(self.optimiser))
        tensors |= with_prefix("selector", self.parts.selector.state_dict())
        tensors |= self.poses.state() if self.poses else {}
        return tensors, {
            "task_state": {
                "restarts": self.restarts,
                "since": self.since,
                "crop_until": self.crop_until,
            }
        }

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.restarts, self.since, self.crop_until = (
            meta["restarts"],
            meta["since"],
            meta["crop_until"],
        )
        self.model.load(tensors)
        self.new_optimiser()
        restore_optimiser(self.optimiser, strip_prefix("optim", tensors))
        set_rng_state(self.rng, tensors["rng"])
        set_rng_state(self.noise, tensors["ray_rng"])
        self.parts.selector.load_state_dict(strip_prefix("selector", tensors))
        if self.poses:
            self.poses.load(tensors)


def pixels_at(pixels: Pixels, span: slice) -> Pixels:
    """Some of the pixels; a gradient of their places reaches all."""
    return Pixels(pixels.view[span], pixels.yx[span], pixels.weight[span])


def is_flat(image: Tensor, truth: Tensor) -> bool:
    """Whether pixels [R, C] show one colour where the truth [R, C] does not."""
    return float(image.std(0).max()) < 0.005 and float(truth.std(0).max()) > 0.05


def numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars as plain numbers, brought from their device together: a GPU is waited for once.

    >>> numbers({"a": torch.tensor(1.0), "b": torch.tensor(2)})
    {'a': 1.0, 'b': 2.0}
    """
    return dict(
        zip(
            values,
            torch.stack([value.detach().double() for value in values.values()]).tolist(),
            strict=True,
        )
    )


def squared_error(seen: LevelRendering, truth: Tensor) -> Tensor:
    """Mean over channels of the squared error of rays, [R], without gradient."""
    return (seen.rendering.image.detach() - truth).square().mean(-1)
