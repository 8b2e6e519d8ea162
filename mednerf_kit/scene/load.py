"""Fitted scenes opened again: from a run folder to pictures, densities and colours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import config
from ..core.errors import UserError
from ..data.posed.scene import load_scene
from ..data.posed.types import Scene
from ..engine import run_folder
from ..engine.device import select_device
from ..fields.base import SceneField
from ..imaging.cameras import Cameras
from ..recon.field_volume import cell_axis, grid_points
from .fit import PoseCorrections
from .model import Chunks, Model, Views, build_model, render_cameras

# what may be changed in a recipe that was fitted
SAMPLER = re.compile(r"levels\.\d+\.sampler(\.\w+)*")
BLOCK = 4  # cells along each side of what a signed distance settles at once


def read_scene(
    dataset: str, recipe: Mapping[str, Any], split: str, views: int | None = None
) -> Scene:
    """A split of a recipe's scene; ``views`` keeps so many of its training pictures, evenly
    chosen.
    """
    options = dict(recipe["scene"]) | ({} if views is None else {"views": views})
    return load_scene(dataset, split=split, **options)


@dataclass(frozen=True)
class Fit:
    """A fitted scene, ready to be rendered."""

    model: Model
    meta: dict[str, Any]
    path: Path
    device: torch.device
    twist: Tensor | None = None  # [V, 6] corrections of the training poses, where they were refined

    def scene(self, split: str = "test") -> Scene:
        """A split of the scene it was fitted to; training views stand where the fit has put
        them.
        """
        scene = read_scene(self.meta["dataset"], self.meta["recipe"], split)
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


def load_fit(
    run: str | Path,
    *,
    settings: Sequence[str] = (),
    dataset: str | Path | None = None,
    device: str = "auto",
) -> Fit:
    """A fitted scene from a run folder, a unique prefix of its name, or a snapshot; ``settings``
    may replace samplers, and ``dataset`` says where the scene lies now.

    Everything else of a recipe is part of what was fitted: a UserError.
    """
    for setting in settings:
        if not SAMPLER.fullmatch(setting.partition("=")[0]):
            raise UserError(
                f"got --set '{setting}' for a fitted scene",
                "wanted levels.N.sampler, or an option of it",
                "write for example --set levels.0.sampler.n=128",
            )
    path, tensors, meta = run_folder.read_snapshot(run)
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
    )
    model.load({**model_defaults(model, tensors), **tensors})
    model.fields.requires_grad_(False).eval()
    lies = {} if dataset is None else {"dataset": str(dataset)}
    return Fit(model, {**meta, **lies, "recipe": recipe}, path, where, tensors.get("pose.twist"))


def model_defaults(model: Model, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of samplers that were put in after training."""
    return {k: v for k, v in model.state().items() if k.startswith("sampler.") and k not in tensors}


def is_scene_run(run: str | Path) -> bool:
    """Whether a run folder, its prefix or a snapshot holds a fitted scene (and not a prior)."""
    return (
        not str(run).startswith("bundled") and task_name(run_folder.read_snapshot(run)[2]) == "fit"
    )


def task_name(meta: Mapping[str, Any]) -> str:
    """The task a snapshot says it was made by."""
    return str(meta.get("recipe", {}).get("task", {}).get("name", ""))


def render_views(
    fit: Fit, cameras: Cameras, *, depth: Tensor | None = None, chunk: int | None = None
) -> Views:
    """Pictures, depth and opacity of every camera; ``depth`` [V, H, W] is for samplers that look
    around a known one.
    """
    return render_cameras(fit.model, cameras, depth=depth, chunk=chunk, device=fit.device)


def finest_field(fit: Fit) -> SceneField:
    """The field of the last level: what the pictures show."""
    field = fit.model.levels[-1].field
    assert isinstance(field, SceneField)
    return field


def signed_distance(fit: Fit) -> Callable[[Tensor], Tensor] | None:
    """The signed distance of that field, points [..., 3] -> [...]; None for one that has none."""
    return getattr(finest_field(fit), "sdf", None)


def density_grid(fit: Fit, size: int = 128) -> tuple[Tensor, Tensor]:
    """Density at the centres of size³ cells of the scene's box: values [D, H, W] = [z, y, x] and
    the box [2, 3].
    """
    x, box = cell_centres(fit, size)
    return over(fit, finest_field(fit).density, x.view(-1, 3)).view(size, size, size), box


def distance_grid(
    fit: Fit, sdf: Callable[[Tensor], Tensor], size: int = 128
) -> tuple[Tensor, Tensor]:
    """A signed distance at the same places.

    Blocks of cells whose middle is more than twice their half diagonal away from the surface are
    given the distance there: all of them lie on one side, as long as the slope is below 2.
    """
    x, box = cell_centres(fit, size)
    if size % BLOCK:
        return over(fit, sdf, x.view(-1, 3)).view(size, size, size), box
    few = size // BLOCK
    coarse = over(fit, sdf, cell_centres(fit, few)[0].view(-1, 3)).view(few, few, few)
    values = (
        coarse.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    )
    near = values.abs() < float((box[1] - box[0]).norm()) / few
    values[near] = over(fit, sdf, x[near])
    return values, box


def cell_centres(fit: Fit, size: int) -> tuple[Tensor, Tensor]:
    """Centres [size, size, size, 3] = [z, y, x] of the cells of the scene's box, and the box [2,
    3].
    """
    box = torch.tensor(fit.meta["box"])
    return box[0] + grid_points(cell_axis(size)) * (box[1] - box[0]), box


@torch.no_grad()
def over(
    fit: Fit, values_at: Callable[[Tensor], Tensor], x: Tensor, *, chunk: int = 1 << 16
) -> Tensor:
    """A function of points at x [N, 3], in chunks on the fit's device: [N] on the CPU."""
    return torch.cat(Chunks(chunk)(len(x), lambda rows: values_at(x[rows].to(fit.device)).cpu()))


@torch.no_grad()
def colour_at(fit: Fit, x: Tensor, d: Tensor, *, chunk: int = 1 << 16) -> Tensor:
    """Colour of points [N, 3] seen along unit directions [N, 3]: [N, C]."""
    field = finest_field(fit)

    def colours(rows: slice) -> Tensor:
        points, ahead = x[rows, None].to(fit.device), d[rows, None].to(fit.device)
        answer = field(points, ahead, torch.full(points.shape[:-1], 1e6, device=fit.device))
        if answer.color is None:
            raise UserError(
                "got a field without colour",
                "wanted a scene of photographs",
                "export its mesh without colours",
            )
        return answer.color[:, 0].cpu()

    return torch.cat(Chunks(chunk)(len(x), colours))
