"""Scene recipes: their keys, the checks that refuse a bad one, and a task made from a good one."""

from __future__ import annotations

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
from ..rays.render import IMAGE_MODELS
from ..rays.samplers.base import SAMPLERS
from ..rays.selectors.base import SELECTORS
from .fit import FitParts
from .losses import build_losses
from .model import Model, build_model, needs

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
    """Refuse unusable names, options and numbers of a recipe before any work starts."""
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
    """Read the scene and build the task that fits it."""
    recipe, dataset, seed = run_config.recipe, run_config.dataset, run_config.seed
    # a recipe is checked without any reader of scenes
    from ..data.posed.check import check_seen
    from ..data.posed.scene import load_scene

    options = dict(recipe["scene"])
    if run_config.limit is not None:
        options["views"] = run_config.limit
    scene = load_scene(dataset, split=run_config.split, **options)
    check_seen(scene)
    channels = 0 if scene.quantity == "line_integral" else scene.images.shape[-1]
    if (channels == 0) != (recipe["image_model"] == "line_integral"):
        raise UserError(
            f"got image model '{recipe['image_model']}' for a scene of "
            f"{scene.quantity.replace('_', ' ')}s",
            "wanted line_integral for radiographs and emission_absorption for photographs",
            "choose a recipe of that kind with --config",
        )
    losses = build_losses(recipe["losses"])
    empty = scene.alpha is not None or "backdrop" in scene.facts
    faint_color = 1.0 if empty and scene.background < 0.5 else 0.0

    def make() -> Model:
        return build_model(
            recipe,
            box=scene.box,
            channels=channels,
            background=scene.background,
            device=device,
            faint_color=faint_color,
        )

    check_inputs(scene, make(), losses)
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
        "faint_color": faint_color,
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
        # what comes after a training is loaded then
        from .preview import write_preview

        return write_preview(loop, device)

    return PreparedRun(task, meta, opening, finish)


def check_inputs(scene: Scene, model: Model, losses: Mapping[str, Any]) -> None:
    """Refuse samplers and losses that need depth or alpha which the scene does not have."""
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


def plan(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of what a recipe would fit: parameters, and rays a step.

    The rays are None where the selector sets them by patches.
    """
    model = build_model(
        recipe, box=UNIT_BOX, channels=3, background=0.0, device=torch.device("cpu")
    )
    node = recipe["selector"]
    name = node if isinstance(node, str) else node["name"]
    defaults = {option.name: option.default for option in config.options_of(SELECTORS[name])}
    return {
        "parameters": sum(p.numel() for p in model.fields.parameters()),
        "rays_per_step": batches(recipe).get("selector.n", defaults.get("n")),
        "note": DISCLAIMER,
    }


def batches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What several processes share: the rays of a step, where the recipe gives their number."""
    node = recipe["selector"]
    return {"selector.n": node["n"]} if isinstance(node, Mapping) and "n" in node else {}


TASK_TYPE = TaskType(RECIPE_KEYS, check, prepare, plan, batches)
