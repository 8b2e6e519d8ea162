"""Scene recipes: which keys they have, what refuses a bad one, what makes one ready to run, and
runs opened again.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from .. import DISCLAIMER
from ..core import config
from ..core.errors import UserError
from ..data.posed.types import Scene
from ..engine.loop import TASKS, Loop, PreparedRun, TaskType
from ..engine.recipe_checks import check_counts
from ..engine.run_folder import RunConfig
from ..fields.base import FIELDS
from ..metrics.image import psnr_from_mse_db
from ..rays.render import IMAGE_MODELS
from ..rays.samplers.base import SAMPLERS
from ..rays.selectors.base import SELECTORS
from .fit import FitParts, FitTask, is_flat
from .load import Fit, load_fit, read_scene, render_views
from .losses import build_losses
from .model import Model, build_model, needs, peak_mib
from .pose.search import aligned

RECIPE_KEYS = frozenset(
    (
        "task",
        "scene",
        "fields",
        "levels",
        "selector",
        "losses",
        "image_model",
        "steps",
        "snapshot_steps",
    )
)
UNIT_BOX = torch.tensor([[-1.0] * 3, [1.0] * 3])


def check(recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe whose names, options or numbers nothing can work with, before any work
    starts.
    """
    for key, kind in {
        "task": dict,
        "scene": dict,
        "fields": dict,
        "levels": list,
        "losses": dict,
    }.items():
        config.checked(recipe[key], kind, where=f"recipe key '{key}'")
    TASKS.check(recipe["task"], "parts", "scene", "seed", "device")
    for node in recipe["fields"].values():
        FIELDS.check(node, "box", "channels")
    if not recipe["levels"] or not recipe["fields"]:
        raise UserError(
            "got no level or no field",
            "wanted at least one of each",
            "start from a file of configs/",
        )
    for node in recipe["levels"]:
        if isinstance(node, Mapping) and "sampler" in node:
            SAMPLERS.check(node["sampler"], "box", "field")
    SELECTORS.check(recipe["selector"], "views", "rows", "cols", "images", "masks")
    IMAGE_MODELS[recipe["image_model"]]
    losses = build_losses(recipe["losses"])
    if not any(loss.sees_picture for loss in losses.values()):
        raise UserError(
            f"got losses {', '.join(losses) or 'none'}, of which none looks at the picture",
            "wanted mse or photometric_l1 too",
            "add losses.mse=1.0",
        )
    check_counts(recipe)
    build_model(recipe, box=UNIT_BOX, channels=3, background=0.0, device=torch.device("cpu"))


def prepare(run_config: RunConfig, device: torch.device) -> PreparedRun:
    """The fit of one scene: read it, build the task."""
    recipe, dataset, seed = run_config.recipe, run_config.dataset, run_config.seed
    scene = read_scene(dataset, recipe, run_config.split, run_config.limit)
    channels = 0 if scene.quantity == "line_integral" else scene.images.shape[-1]
    if (channels == 0) != (recipe["image_model"] == "line_integral"):
        raise UserError(
            f"got image model '{recipe['image_model']}' for a scene of "
            f"{scene.quantity.replace('_', ' ')}s",
            "wanted line_integral for radiographs and emission_absorption for photographs",
            "choose a recipe of that kind with --config",
        )
    losses = build_losses(recipe["losses"])

    def make() -> Model:
        return build_model(
            recipe, box=scene.box, channels=channels, background=scene.background, device=device
        )

    refuse_what_is_missing(scene, make(), losses)
    facts = {
        "views": len(scene.images),
        "rows": scene.cameras.rows,
        "cols": scene.cameras.cols,
        "images": scene.images,
        "masks": scene.alpha,
    }
    parts = FitParts(make, SELECTORS.build(recipe["selector"], **facts), losses)
    task = TASKS.build(recipe["task"], parts=parts, scene=scene, seed=seed, device=str(device))
    meta = {
        "recipe": dict(recipe),
        "dataset": dataset,
        "scene": scene.name,
        "format": scene.format,
        "box": scene.box.tolist(),
        "channels": channels,
        "background": scene.background,
        "quantity": scene.quantity,
        "split": run_config.split,
        "stems": list(scene.stems),
        "seed": seed,
    }
    opening = (
        f"{scene.format} scene {scene.name}: {len(scene.images)} views of "
        f"{scene.cameras.cols}×{scene.cameras.rows}, "
        f"device {device}",
        *(f"note: {note}" for note in scene.notes),
    )

    def finish(loop: Loop) -> dict[str, Any]:
        return look_back(loop, device)

    return PreparedRun(task, meta, opening, finish)


def refuse_what_is_missing(scene: Scene, model: Model, losses: Mapping[str, Any]) -> None:
    """Samplers and losses that need depth or alpha do not start without."""
    if scene.depth is None and (wanting := needs(model.levels, losses)):
        raise UserError(
            f"got {', '.join(wanting)} on scene '{scene.name}', which has no depth",
            "wanted depth_train.npz or depth/*.png",
            "make it from a trained run with `mednerf-kit data depth --run RUN`, or choose "
            "another sampler",
        )
    if scene.alpha is None and any(getattr(loss, "needs_alpha", False) for loss in losses.values()):
        raise UserError(
            f"got a mask loss on scene '{scene.name}', which has no alpha",
            "wanted RGBA pictures or masks",
            "drop that loss",
        )


def look_back(loop: Loop, device: torch.device) -> dict[str, Any]:
    """A preview of one view, unseen where there is one, and its PSNR for the log: the score of the
    test views is `evaluate`'s.

    Where poses were refined, the files' poses of unseen views are off too: the view is also scored
    once its own is refined.
    """
    from ..viz.figures import write_png8

    fit = load_fit(loop.folder, device=str(device))
    scene, known = one_view(fit)
    truth = scene.images.float()

    def psnr_db(image: torch.Tensor) -> float:
        return float(psnr_from_mse_db((image.clamp(0, 1) - truth).square().mean()))

    seen = render_views(fit, scene.cameras)
    found = {"preview_psnr_db": psnr_db(seen.image)}
    preview = loop.folder / "previews" / "view.png"
    loop.log(
        f"view {scene.stems[0]}, {known}: {found['preview_psnr_db']:.2f} dB (preview {preview})"
    )
    if is_flat(seen.image.flatten(0, -2), truth.flatten(0, -2)):
        loop.log("this view is one flat colour: the fit has collapsed, or has hardly begun")
    task = loop.task
    if isinstance(task, FitTask) and task.poses is not None:
        found |= task.poses.change(task.scene.cameras)
        seen = render_views(fit, aligned(fit.model, scene.cameras, truth, device=fit.device))
        found["preview_psnr_aligned_db"] = psnr_db(seen.image)
        loop.log(
            f"training poses corrected by {found['pose_rotation_deg']:.3f}° and "
            f"{found['pose_shift']:.4f} units on average; "
            f"{found['preview_psnr_aligned_db']:.2f} dB with the view's own pose refined too"
        )
    pair = torch.cat([truth[0], seen.image[0].clamp(0, 1)], 1)
    write_png8(preview, pair[..., 0] if pair.shape[-1] == 1 else pair)
    return {**found, "peak_mib": peak_mib(device)}


def one_view(fit: Fit) -> tuple[Scene, str]:
    """The first view that was held out, or else the first there is, and which of the two it is."""
    for split in ("val", "test"):
        try:
            return fit.scene(split).take([0]), "not trained on" if fit.meta["split"] not in (
                split,
                "all",
            ) else "trained on"
        except UserError:  # a scene without such views, or with a damaged one, was still fitted
            continue
    return fit.scene(fit.meta["split"]).take([0]), "trained on"


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of what a recipe would fit: parameters, and rays per step (None where the selector sets
    them by patches).
    """
    model = build_model(
        recipe, box=UNIT_BOX, channels=3, background=0.0, device=torch.device("cpu")
    )
    node = recipe["selector"]
    known = inspect.signature(SELECTORS[node if isinstance(node, str) else node["name"]]).parameters
    rays = (
        node["n"]
        if "n" in node and not isinstance(node, str)
        else known["n"].default
        if "n" in known
        else None
    )
    return {
        "parameters": sum(p.numel() for p in model.fields.parameters()),
        "rays_per_step": rays,
        "note": DISCLAIMER,
    }


def batches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What several processes share: the rays of a step, where the recipe says how many."""
    node = recipe["selector"]
    return {"selector.n": node["n"]} if isinstance(node, Mapping) and "n" in node else {}


TASK_TYPE = TaskType(RECIPE_KEYS, check, prepare, plan, batches)
