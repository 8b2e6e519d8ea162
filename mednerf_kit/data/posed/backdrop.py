"""Backdrops: opaque pictures of something before a wall of one colour."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .types import Scene

SAME = 0.02  # of the levels of one colour
SHARE = 0.9  # of the pictures' borders


def with_backdrop(scene: Scene) -> Scene:
    """The scene on the background of its pictures, where these stand before one grey level.

    Pictures with transparency say themselves what is empty; line integrals have no backdrop.
    """
    if scene.alpha is not None or scene.quantity != "colour":
        return scene
    colour = border_colour(scene.images, scene.valid)
    if colour is None:
        return scene
    level = float(colour.mean())
    level = round(level) if abs(level - round(level)) <= SAME else level
    name = {0.0: "black", 1.0: "white"}.get(level, f"grey ({level:.2f})")
    facts = {**scene.facts, "backdrop": level}
    if float((colour - colour.mean()).abs().max()) > SAME:
        shown = ", ".join(f"{value:.2f}" for value in colour.tolist())
        note = (
            f"the pictures stand before a wall of colour ({shown}), which the field has to paint: "
            "a background is a grey level"
        )
        return replace(scene, notes=(*scene.notes, note))
    if abs(level - scene.background) <= SAME:
        return replace(scene, facts=facts)
    note = (
        f"the pictures stand before a {name} backdrop, which is taken for the background "
        "(backdrop: false leaves the background alone)"
    )
    return replace(scene, background=level, facts=facts, notes=(*scene.notes, note))


def border_colour(images: Tensor, valid: Tensor | None = None) -> Tensor | None:
    """The colour [C] of nearly all border pixels of pictures [V, H, W, C]; None without one."""
    edge = torch.ones(images.shape[1:3], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    where = edge.expand(images.shape[:3])
    border = images[where if valid is None else where & valid].float()
    if not len(border):
        return None
    colour = border.median(0).values
    same = ((border - colour).abs().amax(-1) <= SAME).float().mean()
    return colour if float(same) > SHARE else None
