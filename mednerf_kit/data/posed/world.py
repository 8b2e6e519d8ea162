"""A scene's own space and the world of its files, which may lie far from its origin.

Poses and boxes are read in float64. Where a scene lies so far off that float32 would round them, it
is counted from the middle of its box; ``to_world`` leads back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from .types import Scene

#: Where what leaves is given: the world of the scene's files, or the space it was fitted in.
Frame = Literal["file", "normalised"]

FAR_OFF = 100.0  # half sizes of the box: float32 rounds to 6e-6 of one there


def in_own_frame(scene: Scene) -> Scene:
    """The scene in float32, counted from the middle of its box where it lies far off."""
    cameras, box = scene.cameras, scene.box.double()
    middle, half = box.mean(0), float((box[1] - box[0]).norm()) / 2
    facts = dict(scene.facts)
    if "points" in facts:
        facts["points"] = facts["points"].float()
    if cameras.ndc or float(middle.norm()) <= FAR_OFF * half:
        single = replace(cameras, c2w=cameras.c2w.float())
        return replace(scene, cameras=single, box=box.float(), facts=facts)
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = middle
    c2w = cameras.c2w.double().clone()
    c2w[:, :, 3] -= middle
    if "points" in facts:
        facts["points"] = (scene.facts["points"] - middle).float()
    place = ", ".join(f"{value:.10g}" for value in middle.tolist())
    return replace(
        scene,
        cameras=replace(cameras, c2w=c2w.float()),
        box=(box - middle).float(),
        facts=facts,
        to_world=shift if scene.to_world is None else scene.to_world @ shift,
        notes=(
            *scene.notes,
            f"the scene lies far from its origin: lengths are counted from ({place}), and what is "
            "exported goes back there",
        ),
    )


def world_points(points: Tensor, to_world: Tensor | None) -> Tensor:
    """Points [..., 3] of a scene's own space in the world of its files, float64.

    >>> to_world = torch.tensor([[2.0, 0, 0, 5e6], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    >>> world_points(torch.tensor([0.25, 1, 0]), to_world).tolist()
    [5000000.5, 2.0, 0.0]
    """
    if to_world is None:
        return points.double()
    matrix = to_world.to(points.device, torch.float64)
    return points.double() @ matrix[:3, :3].mT + matrix[:3, 3]


def world_scale(to_world: Tensor | None) -> float:
    """Lengths of the world of the files per length of the scene's own space."""
    if to_world is None:
        return 1.0
    return float(torch.linalg.det(to_world[:3, :3].double()).abs()) ** (1 / 3)


def file_length(scene: Scene) -> float:
    """Lengths of the scene's files per length along its rays; 1 in NDC, which has no lengths."""
    return 1.0 if scene.cameras.ndc else world_scale(scene.to_world)


def world_poses(c2w: Tensor, to_world: Tensor | None) -> Tensor:
    """Poses [V, 3, 4] in the world of the files, float64; their axes stay unit vectors."""
    if to_world is None:
        return c2w.double()
    turn = to_world[:3, :3].double() / world_scale(to_world)
    position = world_points(c2w[..., 3], to_world)
    return torch.cat([turn @ c2w[..., :3].double(), position[..., None]], -1)


def own_poses(c2w: Tensor, to_world: Tensor | None) -> Tensor:
    """Poses [V, 3, 4] of the world of the files in the scene's own space, float32.

    This is :func:`world_poses` undone.
    """
    if to_world is None:
        return c2w.float()
    return world_poses(c2w, torch.linalg.inv(to_world.double())).float()


def world_box(box: Tensor, to_world: Tensor | None) -> Tensor:
    """The axis-aligned box [2, 3] in the world about a box of the own space, float64."""
    corners = world_points(torch.cartesian_prod(*box.T), to_world)
    return torch.stack([corners.amin(0), corners.amax(0)])
