"""The pre-flight check of a scene: in sentences, what a person wants to know before a long fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.errors import UserError
from ...imaging.cameras import Cameras, box_span, nearest_to_axes
from .types import Scene

OFF_CENTRE = 0.2  # of a picture's side: principal points of whole photographs lie nearer
SAMPLED_PIXELS = 20000  # pixels, evenly spread over all views, that stand for all


@dataclass(frozen=True)
class Report:
    """Sentences about a scene: facts, and what looks wrong or was assumed."""

    facts: tuple[str, ...]
    warnings: tuple[str, ...]


def examine_scene(scene: Scene) -> Report:
    """Facts and warnings about counts, sizes, alpha, axes, near and far, box and depth.

    Raises UserError for a scene that no field could be fitted to.
    """
    facts: list[str] = []
    warnings: list[str] = []
    _fatal(scene)
    for part in (_pictures, _poses, _space, _depth):
        more_facts, more_warnings = part(scene)
        facts += more_facts
        warnings += more_warnings
    return Report(tuple(facts), tuple(warnings))


def _fatal(scene: Scene) -> None:
    """Raise UserError for what no field could be fitted to."""
    cameras = scene.cameras
    if cameras.count != len(scene.images) or cameras.count != len(scene.stems):
        raise UserError(
            f"got {len(scene.images)} pictures and {cameras.count} poses in '{scene.name}'",
            "wanted one pose per picture",
            "remove the surplus or run the reconstruction again",
        )
    if not bool(
        cameras.c2w.isfinite().all()
        and cameras.focal_px.isfinite().all()
        and cameras.centre_px.isfinite().all()
        and (cameras.focal_px > 0).all()
    ):
        raise UserError(
            f"got poses or focal lengths of '{scene.name}' that are not finite",
            "wanted numbers",
            "correct the poses",
        )
    if scene.valid is not None and not bool(scene.valid.any()):
        raise UserError(
            f"got masks of '{scene.name}' that cover every pixel of the {scene.split} views",
            "wanted pixels that count: white in a mask",
            "invert the masks, or leave them out with --set scene.masks=off",
        )
    near = float(torch.as_tensor(cameras.near).min())
    far = float(torch.as_tensor(cameras.far).max())
    if not (scene.box.isfinite().all() and far < torch.inf):
        raise UserError(
            f"got far {far:g} and box {scene.box.tolist()} for '{scene.name}'",
            "wanted lengths that single precision can hold",
            "check the points and poses, or give near, far and box",
        )
    if not near >= 0:
        raise UserError(
            f"got near {near:g} for '{scene.name}'",
            "wanted a distance, 0 or more",
            "correct the scene's near",
        )
    turns = cameras.c2w[:, :, :3]
    off = (turns.mT @ turns - torch.eye(3)).abs().amax((1, 2))
    if float(off.max()) > 1e-2:
        stem = scene.stems[int(off.argmax())]
        raise UserError(
            f"got a pose of '{stem}' whose axes are not perpendicular unit vectors "
            f"(off by {float(off.max()):.2g})",
            "wanted rotations",
            "take scale and shear out of the poses",
        )


def _pictures(scene: Scene) -> tuple[list[str], list[str]]:
    v, rows, cols, channels = scene.images.shape
    kind = (
        "line integrals"
        if scene.quantity == "line_integral"
        else "grey"
        if channels == 1
        else "colour"
    )
    facts = [f"{v} {scene.split} views of {cols}×{rows} pixels, {kind}, format {scene.format}"]
    warnings = []
    if scene.alpha is not None:
        cover = scene.alpha.float().mean((1, 2))
        facts.append(
            f"alpha covers {100 * float(cover.mean()):.0f} % of the pixels, the rest is "
            f"{'white' if scene.background else 'black'}"
        )
        empty = [stem for stem, c in zip(scene.stems, cover.tolist(), strict=True) if c < 1e-4]
        if empty:
            warnings.append(f"{len(empty)} views show nothing (the first is '{empty[0]}')")
    elif scene.quantity == "colour":
        facts.append("no alpha: the background belongs to the scene")
    flat = [
        stem
        for stem, image in zip(scene.stems, scene.images, strict=True)
        if float(image.float().std()) < 1e-4
    ]
    if flat and scene.alpha is None:
        warnings.append(f"{len(flat)} views are one flat colour (the first is '{flat[0]}')")
    return facts, warnings


def _poses(scene: Scene) -> tuple[list[str], list[str]]:
    cameras, c2w = scene.cameras, scene.cameras.c2w
    focal = cameras.focal_px.mean(0)
    wide = 2 * torch.rad2deg(torch.atan(0.5 * cameras.cols / focal[0]))
    facts = [f"focal length {float(focal[0]):.1f} px ({float(wide):.1f}° across)"]
    warnings = []
    point = nearest_to_axes(c2w)
    distance = (cameras.position - point).norm(dim=-1)
    ahead = float((((cameras.position - point) * c2w[:, :, 2]).sum(-1) > 0).float().mean())
    up = c2w[:, :, 1].mean(0)
    facts.append(
        f"cameras stand {float(distance.min()):.2f} to {float(distance.max()):.2f} from "
        f"({_numbers(point)}), "
        f"which {'they look at' if ahead > 0.5 else 'lies behind them'}; up is "
        f"{_direction(up)}"
    )
    middle = torch.tensor([cameras.cols - 1, cameras.rows - 1]) / 2
    off = (cameras.centre_px - middle) / torch.tensor([cameras.cols, cameras.rows])
    if scene.quantity == "colour" and float(off.abs().max()) > OFF_CENTRE:
        warnings.append(
            f"the principal point lies {100 * float(off.abs().max()):.0f} % of a side from the "
            "middle of the pictures: are the intrinsics those of these pictures?"
        )
    mirrored = int((torch.linalg.det(c2w[:, :, :3]) < 0).sum())
    if mirrored == cameras.count:
        facts.append("columns are mirrored, as on a radiograph")
    if mirrored and (mirrored < cameras.count or scene.quantity == "colour"):
        warnings.append(
            f"{mirrored} of {cameras.count} poses are mirrored: one axis may have the wrong sign"
        )
    if cameras.count > 1:
        gap = torch.pdist(torch.cat([c2w[:, :, 3], float(distance.mean()) * c2w[:, :, 2]], 1))
        if float(gap.min()) < 1e-6 * max(float(distance.mean()), 1e-6):
            warnings.append("two views have the same pose")
    return facts, warnings


def _space(scene: Scene) -> tuple[list[str], list[str]]:
    cameras, box = scene.cameras, scene.box
    near, far = (
        float(torch.as_tensor(cameras.near).min()),
        float(torch.as_tensor(cameras.far).max()),
    )
    facts = [
        f"near {near:.3g}, far "
        f"{far:.3g}{' (normalised device coordinates)' if cameras.ndc else ''}, "
        f"box ({_numbers(box[0])}) to ({_numbers(box[1])})"
    ]
    view, yx = _some_pixels(scene)
    past, hint = _past_the_box(scene, view, yx)
    shown = _shows(scene, view, yx)
    share = float(past[shown].float().mean()) if bool(shown.any()) else 0.0
    facts.append(
        f"{100 * float((~past).float().mean()):.0f} % of the rays meet the box between near and far"
    )
    warnings = []
    if bool(past.all()):
        warnings.append(f"no ray meets the box: {hint}")
    elif share > 0.01:
        warnings.append(
            f"{100 * share:.0f} % of the pixels that show something look past the box: give a "
            "larger box, near or far"
        )
    return facts, warnings


def check_seen(scene: Scene) -> None:
    """Raise UserError for a scene none of whose rays meets its box: nothing could be fitted."""
    past, hint = _past_the_box(scene, *_some_pixels(scene))
    if bool(past.all()):
        raise UserError(
            f"got '{scene.name}', none of whose {scene.split} rays meets the box: {hint}",
            "wanted a box that is seen between near and far",
            "correct the poses, or give near, far and box",
        )


def _past_the_box(scene: Scene, view: Tensor, yx: Tensor) -> tuple[Tensor, str]:
    """Which pixels' rays do not meet the box between near and far, and why if none does."""
    rays = replace(scene.cameras, box=None).rays(view, yx)
    enter, leave = box_span(rays.origin, rays.direction, scene.box)
    enter, leave = torch.maximum(enter, rays.near), torch.minimum(leave, rays.far)
    behind = box_span(rays.origin, -rays.direction, scene.box)[1] > 0
    hint = (
        "the cameras look away from it, as OpenCV poses read as OpenGL do"
        if float(behind.float().mean()) > 0.5
        else "near, far or the box are wrong"
    )
    return leave <= enter, hint


def _depth(scene: Scene) -> tuple[list[str], list[str]]:
    if scene.depth is None:
        return ["no depth"], []
    known = scene.depth.isfinite()
    if not bool(known.any()):
        return ["no depth"], ["depth was found, but is unknown everywhere"]
    low, high = float(scene.depth[known].min()), float(scene.depth[known].max())
    facts = [
        f"depth {low:.2f} to {high:.2f} on {100 * float(known.float().mean()):.0f} % of the pixels"
    ]
    near, far = (
        float(torch.as_tensor(scene.cameras.near).min()),
        float(torch.as_tensor(scene.cameras.far).max()),
    )
    outside = float(((scene.depth[known] < near) | (scene.depth[known] > far)).float().mean())
    wrong = outside > 0.01 and not scene.cameras.ndc
    return facts, [
        f"{100 * outside:.0f} % of the depth lies outside near and far: check its scale"
    ] if wrong else []


def _some_pixels(scene: Scene) -> tuple[Tensor, Tensor]:
    """Pixels spread evenly over all views."""
    cameras: Cameras = scene.cameras
    total = cameras.count * cameras.rows * cameras.cols
    index = torch.linspace(0, total - 1, min(total, SAMPLED_PIXELS), dtype=torch.float64).long()
    view, pixel = index // (cameras.rows * cameras.cols), index % (cameras.rows * cameras.cols)
    return view, torch.stack([pixel // cameras.cols, pixel % cameras.cols], -1).float()


def _shows(scene: Scene, view: Tensor, yx: Tensor) -> Tensor:
    """Which pixels show something: by alpha, by an X-ray's value, else all."""
    y, x = yx.long().unbind(-1)
    if scene.alpha is not None:
        return scene.alpha[view, y, x] > 0.5
    if scene.quantity == "line_integral":
        return scene.images[view, y, x, 0] > 0.05
    return torch.ones_like(view, dtype=torch.bool)


def _numbers(values: Tensor) -> str:
    return ", ".join(f"{value + 0.0:.3g}" for value in values.round(decimals=3).tolist())


def _direction(up: Tensor) -> str:
    """The axis a vector is nearest to, if it is near."""
    unit = up / up.norm().clamp_min(1e-9)
    i = int(unit.abs().argmax())
    name = f"{'+' if unit[i] > 0 else '-'}{'xyz'[i]}"
    return name if float(unit[i].abs()) > 0.9 else f"({_numbers(unit)})"
