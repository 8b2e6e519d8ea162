"""Fitted scenes opened again: from a run folder to pictures, densities and colours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import config
from ..core.errors import UserError, reader
from ..data.posed.scene import load_scene
from ..data.posed.types import Scene
from ..engine import snapshots
from ..engine.device import select_device
from ..engine.run_folder import task_name
from ..imaging.cameras import Cameras
from .model import Model, build_model
from .pose_corrections import PoseCorrections
from .views import RenderedViews, render_cameras

# what may be changed in a recipe that was fitted
SAMPLER = re.compile(r"levels\.\d+\.sampler(\.\w+)*")


@dataclass(frozen=True)
class Fit:
    """A fitted scene, ready to be rendered."""

    model: Model
    meta: dict[str, Any]
    path: Path
    device: torch.device
    twist: Tensor | None = None  # [V, 6] corrections of the training poses, where they were refined

    def scene(self, split: str = "test") -> Scene:
        """A split of the scene that was fitted; training views stand where the fit put them."""
        scene = load_scene(self.meta["dataset"], split=split, **self.meta["recipe"]["scene"])
        # views of other splits may have the same names
        if self.twist is None or split != self.meta["split"]:
            return scene
        index = [scene.stems.index(stem) for stem in self.meta["stems"]]
        c2w = scene.cameras.c2w.clone()
        c2w[index] = (
            PoseCorrections(scene.take(index), twist=self.twist)
            .applied(scene.take(index).cameras)
            .c2w.detach()
        )
        return replace(scene, cameras=replace(scene.cameras, c2w=c2w))


@reader("wanted the run of a scene", "use the snapshot before it, or another run")
def load_fit(
    run: str | Path,
    *,
    settings: Sequence[str] = (),
    dataset: str | Path | None = None,
    device: str = "auto",
) -> Fit:
    """A fitted scene from a run folder, a unique prefix of its name, or a snapshot.

    ``settings`` may replace samplers, and ``dataset`` is where the scene lies now.

    Everything else of a recipe is part of what was fitted: a UserError.
    """
    for setting in settings:
        if not SAMPLER.fullmatch(setting.partition("=")[0]):
            raise UserError(
                f"got --set '{setting}' for a fitted scene",
                "wanted levels.N.sampler, or an option of it",
                "write for example --set levels.0.sampler.n=128",
            )
    path, tensors, meta = snapshots.read_snapshot(run)
    if task_name(meta) != "fit":
        raise UserError(
            f"got '{path}', which holds no scene",
            "wanted a run of a scene recipe",
            "give a run made on a scene",
        )
    recipe = config.with_settings(meta["recipe"], list(settings))
    for i, node in enumerate(recipe["levels"]):  # what a sampler learned belongs to that sampler
        old = meta["recipe"]["levels"]
        if i < len(old) and node["sampler"] != old[i]["sampler"]:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(f"sampler.{i}.")}
    where = select_device(device)
    model = build_model(
        recipe,
        box=torch.tensor(meta["box"]),
        channels=meta["channels"],
        background=meta["background"],
        device=where,
        faint_color=faint_color(meta),
    )
    model.load({**model_defaults(model, tensors), **tensors})
    model.fields.requires_grad_(False).eval()
    lies = {} if dataset is None else {"dataset": str(dataset)}
    return Fit(model, {**meta, **lies, "recipe": recipe}, path, where, tensors.get("pose.twist"))


def faint_color(meta: Mapping[str, Any]) -> float:
    """The colour of samples too faint to be asked for theirs, as it was when the fit ended."""
    restarted = (meta.get("task_state") or {}).get("faint_color")
    return meta.get("faint_color", 0.0) if restarted is None else restarted


def model_defaults(model: Model, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of samplers that were put in after training."""
    return {k: v for k, v in model.state().items() if k.startswith("sampler.") and k not in tensors}


def render_views(
    fit: Fit, cameras: Cameras, *, depth: Tensor | None = None, chunk: int | None = None
) -> RenderedViews:
    """Pictures, depth and opacity of every camera.

    ``depth`` [V, H, W] is for samplers that look around a known depth.
    """
    return render_cameras(fit.model, cameras, depth=depth, chunk=chunk, device=fit.device)
